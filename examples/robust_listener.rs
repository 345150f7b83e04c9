//! A subscriber's whole life, as a service would handle it: it subscribes to a channel and a pattern,
//! handles every kind of event, survives payloads that do not parse, and ends in an orderly way: when
//! nothing is subscribed any more (another thread unsubscribes it), or when Ctrl-C closes the bus.
//! Either way it has read every message that was published to it, and says so.
//!
//! ```text
//! cargo run --example robust_listener               # ends by itself after half a second
//! cargo run --example robust_listener -- --forever  # until Ctrl-C
//! ```

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanout::crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use fanout::{Bus, CloseReason, Event, Message, Subscriber};
use serde::Deserialize;

const CHANNEL: &str = "alerts";
const PATTERN: &str = "orders:*";

/// Listens to a channel and a pattern, and counts what comes.
#[derive(Parser)]
struct Args {
    /// Go on until Ctrl-C
    #[arg(long)]
    forever: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Payload {
    Order { cents: u64 },
    Alert { text: String },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`, which panics if nobody reads stderr any more.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let bus: Bus = Bus::new();

    let inbox = bus.subscriber_builder().label("listener").capacity(1_024).build();
    inbox.subscribe(CHANNEL)?;
    inbox.psubscribe(PATTERN)?;

    // A weak handle: the handler lives as long as the process, and must not keep the bus open so long.
    // It runs on a thread of its own, not in the signal's context, so it may close the bus.
    let weak = bus.downgrade();
    ctrlc::set_handler(move || {
        if let Some(bus) = weak.upgrade() {
            bus.close();
        }
    })?;

    // The publisher owns the bus from here on: it closes when publishing ends, whatever ends it.
    let publisher = thread::Builder::new().name("publisher".into()).spawn(move || publish(&bus))?;

    let (ended, has_ended) = bounded::<()>(0);
    let unsubscriber = {
        let (inbox, forever) = (inbox.clone(), args.forever);
        thread::Builder::new()
            .name("unsubscriber".into())
            .spawn(move || unsubscribe_later(&inbox, forever, &has_ended))?
    };

    let mut tally = Tally::default();
    let mut out = io::stdout().lock();
    let end = listen(&inbox, &mut tally, &mut out)?;
    drop(ended);

    unsubscriber.join().map_err(|_| "the unsubscriber panicked")?;
    let delivered = publisher.join().map_err(|_| "the publisher panicked")?;
    // A publish that overlapped the unsubscribing may have delivered behind the last event.
    for event in inbox.try_iter() {
        match event {
            Event::Message(message) | Event::PMessage(message) => tally.handle(&message),
            Event::Lagged { missed } => tally.missed += missed,
            _ => {}
        }
    }

    writeln!(out, "{end}: {tally}")?;
    let accounted = tally.handled() + tally.missed;
    if accounted != delivered {
        return Err(format!("{delivered} messages were delivered, but {accounted} came").into());
    }
    Ok(())
}

/// The reason why the loop ended.
enum End {
    Unsubscribed,
    Closed(Option<CloseReason>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsubscribed => f.write_str("nothing subscribed any more"),
            Self::Closed(Some(CloseReason::Bus)) => f.write_str("bus closed"),
            Self::Closed(Some(CloseReason::Overflow)) => f.write_str("too slow, disconnected"),
            Self::Closed(_) => f.write_str("closed"),
        }
    }
}

/// The loop: one arm for each kind of event.
fn listen(inbox: &Subscriber, tally: &mut Tally, out: &mut impl Write) -> io::Result<End> {
    // Ends when the bus is closed and the inbox is drained.
    for event in inbox {
        match event {
            Event::Subscribe { channel, count } => {
                writeln!(out, "subscribed to {channel}, {count} held")?;
            }
            Event::PSubscribe { pattern, count } => {
                writeln!(out, "subscribed to pattern {pattern}, {count} held")?;
            }
            Event::Message(message) | Event::PMessage(message) => tally.handle(&message),
            // Not an error of the inbox: the publisher was faster. A service would reload its state.
            Event::Lagged { missed } => {
                tally.missed += missed;
                writeln!(out, "lagged, {missed} messages missed")?;
            }
            Event::Unsubscribe { channel, count } => {
                writeln!(out, "unsubscribed from {channel}, {count} held")?;
                if count == 0 {
                    return Ok(End::Unsubscribed);
                }
            }
            Event::PUnsubscribe { pattern, count } => {
                writeln!(out, "unsubscribed from pattern {pattern}, {count} held")?;
                if count == 0 {
                    return Ok(End::Unsubscribed);
                }
            }
            // `Event` may grow: a kind that is not known yet is no reason to stop.
            _ => {}
        }
    }
    Ok(End::Closed(inbox.close_reason()))
}

/// Unsubscribes from everything after half a second, unless the listener has ended by then.
fn unsubscribe_later(inbox: &Subscriber, forever: bool, has_ended: &Receiver<()>) {
    let patience = Duration::from_millis(500);
    if !forever && has_ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        inbox.unsubscribe(CHANNEL);
        inbox.punsubscribe(PATTERN);
    }
}

/// Publishes until nobody listens; returns the number of messages that entered the inbox.
fn publish(bus: &Bus) -> u64 {
    let mut delivered = 0;
    for number in 0_u64.. {
        let order = format!("orders:{}", ["eu", "us"][number as usize % 2]);
        let (channel, payload): (&str, Arc<str>) = match number % 10 {
            3 => (CHANNEL, Arc::from(r#"{"type":"alert","text":"stock is low"}"#)),
            // Payloads of the real world: cut short, of an unknown type, with a wrong field, empty.
            5 => (&order, Arc::from(r#"{"type":"order","cents":"#)),
            6 => (CHANNEL, Arc::from(r#"{"type":"gossip"}"#)),
            7 => (&order, Arc::from(r#"{"type":"order","cents":-1}"#)),
            8 => (CHANNEL, Arc::from("")),
            _ => (&order, Arc::from(format!(r#"{{"type":"order","cents":{}}}"#, number * 100))),
        };
        delivered += bus.publish(channel, payload).delivered as u64;
        // A receipt of zeros is no error, and one of this channel says nothing of the other.
        if bus.match_count(CHANNEL) + bus.match_count(&order) == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    delivered
}

/// The account of what was received.
#[derive(Default)]
struct Tally {
    orders: u64,
    cents: u64,
    alerts: u64,
    last_alert: Option<String>,
    bad: u64,
    last_error: Option<String>,
    missed: u64,
}

impl Tally {
    fn handle(&mut self, message: &Message) {
        match serde_json::from_str(&message.payload) {
            Ok(Payload::Order { cents }) => {
                self.orders += 1;
                self.cents += cents;
            }
            Ok(Payload::Alert { text }) => {
                self.alerts += 1;
                self.last_alert = Some(text);
            }
            // A publisher's fault is counted, and kept for the log; it does not end the listener.
            Err(error) => {
                self.bad += 1;
                self.last_error = Some(format!("{}: {error}", message.channel()));
            }
        }
    }

    fn handled(&self) -> u64 {
        self.orders + self.alerts + self.bad
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orders, cents, alerts, bad, missed, .. } = self;
        write!(f, "{orders} orders of {}.{:02} in all, {alerts} alerts", cents / 100, cents % 100)?;
        if let Some(text) = &self.last_alert {
            write!(f, " (the last: {text})")?;
        }
        write!(f, ", {bad} bad payloads")?;
        if let Some(error) = &self.last_error {
            write!(f, " (the last: {error})")?;
        }
        write!(f, ", {missed} missed")
    }
}
