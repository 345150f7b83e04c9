//! `Overflow::DropOldest`: a full inbox loses its oldest message, and the new one is delivered.

mod support;

use std::error::Error;

use fanout::{Bus, Overflow};
use support::{assert_books, assert_books_after_race, bounded, drain, receipt, text};

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn drop_oldest_evicts_the_oldest_and_delivers_the_new() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 3, Overflow::DropOldest).subscribe("a")?;
    for n in 1..=5u32 {
        // The new message counts as delivered although it evicts another.
        assert_eq!(bus.publish("a", n), receipt(1, 0));
    }
    assert_eq!((sub.missed(), sub.len()), (2, 3));
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (5, 5, 0, 2));
    assert_books(&sub, 5);
    assert_eq!(drain(&sub), ["lagged 2", "message a 3", "message a 4", "message a 5"]);
    assert_books(&sub, 5);
    assert_eq!(sub.info().received, 3);
    Ok(())
}

#[test]
fn lagged_comes_before_any_message_received_after_an_eviction() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    for n in 1..=4u32 {
        bus.publish("a", n);
    }
    assert_eq!(text(&sub.recv()?), "lagged 2");
    assert_eq!(text(&sub.recv()?), "message a 3");
    bus.publish("a", 5u32);
    // 4 is evicted after `Lagged` and before the next message.
    bus.publish("a", 6u32);
    assert_eq!(text(&sub.recv()?), "lagged 1");
    // 5 is evicted between the `Lagged` and the message that it announced.
    bus.publish("a", 7u32);
    assert_eq!(drain(&sub), ["lagged 1", "message a 6", "message a 7"]);
    assert_books(&sub, 7);
    Ok(())
}

#[test]
fn the_books_balance_under_concurrent_evictions() {
    assert_books_after_race(Overflow::DropOldest, 1, 1, 20_000);
    assert_books_after_race(Overflow::DropOldest, 7, 3, 20_000);
}
