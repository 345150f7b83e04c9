//! Notifications between processes: run it twice, in two terminals, and type in either.
//!
//! ```text
//! redis-server                                                # or any other Redis, 6 or later
//! cargo run --release --example two_processes -- ada
//! cargo run --release --example two_processes -- bob
//! > ada Hello, it is me                                       # typed in the second, shown in the first
//! ```
//!
//! Nothing in the two handlers knows of Redis: the one publishes on its bus, the other has subscribed on its own. Kill
//! the server and start it again: both say so, and go on.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fanout::{Bus, Event};
use fanout_redis::Bridge;

/// Sends notifications to the users of other processes, and shows those for one's own.
#[derive(Parser)]
struct Args {
    /// Who reads here
    user: String,

    /// The Redis server
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    url: String,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let bus: Bus = Bus::new();
    let builder = Bridge::builder(&bus, &*args.url)
        .forward("user:*:notifications")
        .accept("user:*:notifications")
        .attempts(Some(8));
    let bridge_events = builder.events();
    let bridge = builder.spawn()?;
    let watcher = bridge_events.spawn("bridge", |event| {
        if let Event::Message(message) = event {
            eprintln!("bridge: {:?}", message.payload);
        }
    });

    let own = format!("user:{}:notifications", args.user);
    let reader = bus.subscribe(&own)?.spawn("reader", |event| match event {
        Event::Message(message) => println!("{}", message.payload),
        Event::Lagged { missed } => eprintln!("{missed} notifications were missed"),
        _ => {}
    });

    println!("Type a user and a text, such as `{} hello`; an empty line ends.", args.user);
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if bridge.is_finished() {
            // It tells why.
            return Ok(bridge.join()?);
        }
        match line.split_once(' ') {
            Some((to, text)) => {
                let channel = format!("user:{to}:notifications");
                bus.publish(&channel, format!("{}: {text}", args.user));
            }
            None => eprintln!("a user, a space, and a text"),
        }
        io::stdout().flush()?;
    }

    // What was typed is sent before we go, if the server is there.
    bridge.drain();
    if bridge.wait_finished(Duration::from_secs(10)) && bridge.stats().not_sent > 0 {
        eprintln!("{} messages could not be sent", bridge.stats().not_sent);
    }
    bridge.join()?;
    drop(bus);
    let _ = (reader.join(), watcher.join());
    Ok(())
}
