//! The console over a bus with a load of its own.
//!
//! ```text
//! cargo run --release -- --demo
//! cargo run --release -- --demo --once      # one table, as text
//! ```

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanout::{Bus, Overflow, SubscribeError};
use fanout_top::Top;

/// Shows what happens on a bus.
#[derive(Parser)]
struct Args {
    /// Publish a load to look at; without it the bus is empty
    #[arg(long)]
    demo: bool,

    /// Print one table as text, after two seconds, and end
    #[arg(long)]
    once: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let bus: Bus<u64> = Bus::new();
    if args.demo {
        demo(&bus)?;
    }
    if !args.once {
        return fanout_top::run(&bus).map_err(|error| {
            format!("the console needs a terminal ({error}); with --once it prints a table").into()
        });
    }
    let mut top = Top::new();
    top.look(&bus);
    thread::sleep(Duration::from_secs(2));
    top.look(&bus);
    io::stdout().write_all(top.to_text(100, 32).as_bytes())?;
    Ok(())
}

/// Games with players, a dashboard that cannot keep up, one that needs only the newest of each game, and one who has
/// stopped to read.
fn demo(bus: &Bus<u64>) -> Result<(), SubscribeError> {
    const GAMES: u64 = 12;
    for game in 0..GAMES {
        let player = bus.subscriber_builder().label(format!("player {game}"));
        player.subscribe(format!("game:{game}:events"))?.spawn("player", |_| ()).detach();
    }
    let dashboard = bus.subscriber_builder().label("dashboard").capacity(512);
    let dashboard = dashboard.psubscribe("game:*:events")?;
    let draw = |event: fanout::Event<u64>| {
        // Only for messages: each loss is an event, too.
        if event.message().is_some() {
            thread::sleep(Duration::from_millis(2));
        }
    };
    dashboard.spawn("dashboard", draw).detach();
    let scores = bus.subscriber_builder().label("scores").overflow(Overflow::Conflate);
    let show = |event: fanout::Event<u64>| {
        if event.message().is_some() {
            thread::sleep(Duration::from_millis(5));
        }
    };
    scores.psubscribe("game:*:events")?.spawn("scores", show).detach();
    let asleep = bus.subscriber_builder().label("asleep").overflow(Overflow::DropNewest);
    let asleep = asleep.subscribe("game:0:events")?;
    let publisher = bus.clone();
    thread::spawn(move || {
        let _asleep = asleep;
        for number in 0.. {
            // The first game is the busiest.
            let game = if number % 2 == 0 { 0 } else { number % GAMES };
            publisher.publish(&format!("game:{game}:events"), number);
            thread::sleep(Duration::from_micros(500));
        }
    });
    Ok(())
}
