//! `Overflow::DropNewest`: a full inbox refuses the new message and keeps what it holds.

mod support;

use std::error::Error;

use fanout::{Bus, Overflow};
use support::{assert_books, assert_books_after_race, bounded, drain, receipt, text};

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn drop_newest_refuses_the_new_and_keeps_the_old() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 3, Overflow::DropNewest).subscribe("a")?;
    for n in 1..=5u32 {
        assert_eq!(bus.publish("a", n), if n <= 3 { receipt(1, 0) } else { receipt(0, 1) });
    }
    assert_eq!((sub.missed(), sub.len()), (2, 3));
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (5, 3, 2, 0));
    assert_books(&sub, 5);
    assert_eq!(drain(&sub), ["lagged 2", "message a 1", "message a 2", "message a 3"]);
    assert_books(&sub, 5);
    Ok(())
}

#[test]
fn lagged_comes_before_the_next_message_read() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 2, Overflow::DropNewest).subscribe("a")?;
    for n in 1..=3u32 {
        bus.publish("a", n);
    }
    // 1 and 2 were queued before 3 was refused, but the loss is reported first.
    assert_eq!(text(&sub.recv()?), "lagged 1");
    assert_eq!(text(&sub.recv()?), "message a 1");
    // 4 enters; 5 and 6 are refused, which one `Lagged` reports.
    for n in 4..=6u32 {
        bus.publish("a", n);
    }
    assert_eq!(drain(&sub), ["lagged 2", "message a 2", "message a 4"]);
    bus.publish("a", 7u32);
    assert_eq!(drain(&sub), ["message a 7"]);
    Ok(())
}

#[test]
fn the_books_balance_under_concurrent_refusals() {
    assert_books_after_race(Overflow::DropNewest, 1, 1, 20_000);
    assert_books_after_race(Overflow::DropNewest, 7, 3, 20_000);
}
