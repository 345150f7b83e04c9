//! `Overflow::Disconnect`: a full inbox refuses the new message, is unsubscribed everywhere, and can be read to
//! its end.

mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fanout::{Bus, CloseReason, Overflow, RecvError, RecvTimeoutError, SubscribeError, Subscriber};
use support::{
    WATCHDOG, assert_books, assert_books_after_race, bounded, drain, emptied_during_a_publish,
    payloads, receipt, text, watched,
};

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn disconnect_unsubscribes_everywhere_and_leaves_the_queue_to_be_read() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let other = bounded(&bus, 9, Overflow::DropOldest).subscribe("a")?;
    let sub = bounded(&bus, 2, Overflow::Disconnect).subscribe("a")?;
    sub.subscribe("b")?;
    sub.psubscribe("c*")?;
    let clone = sub.clone();
    assert_eq!(bus.publish("b", 1u32), receipt(1, 0));
    assert_eq!(bus.publish("c1", 2u32), receipt(1, 0));
    assert_eq!((sub.is_closed(), sub.close_reason()), (false, None));
    assert_eq!(bus.publish("a", 3u32), receipt(1, 1));

    assert_eq!((sub.is_closed(), sub.close_reason()), (true, Some(CloseReason::Overflow)));
    assert_eq!(clone.close_reason(), Some(CloseReason::Overflow));
    assert_eq!(["a", "b"].map(|name| bus.subscriber_count(name)), [1, 0]);
    assert_eq!(["a", "b", "c1"].map(|name| bus.match_count(name)), [1, 0, 0]);
    assert_eq!(bus.channels(), [Arc::from("a")]);
    assert_eq!((bus.pattern_count(), bus.subscribers().len()), (0, 1));
    assert_eq!((bus.stats().subscribers, bus.stats().channels, bus.stats().patterns), (1, 1, 0));
    assert_eq!((sub.channels().len(), sub.patterns().len()), (0, 0));
    assert_eq!(["a", "b", "c1"].map(|name| bus.publish(name, 4u32).matched), [1, 0, 0]);

    assert_eq!(sub.subscribe("d"), Err(SubscribeError::Closed));
    assert_eq!(sub.psubscribe("d"), Err(SubscribeError::Closed));
    assert_eq!((sub.unsubscribe("a"), sub.punsubscribe("c*"), sub.unsubscribe_all()), (0, 0, 0));
    assert!(matches!(sub.resubscribe(), Err(SubscribeError::Closed)));
    assert_books(&sub, 3);
    // No event reports the end; `Closed` does, for good.
    assert_eq!(drain(&sub), ["lagged 1", "message b 1", "pmessage c* c1 2", "closed"]);
    assert_eq!(sub.recv(), Err(RecvError::Closed));
    assert_eq!(clone.recv_timeout(WATCHDOG), Err(RecvTimeoutError::Closed));
    assert_books(&sub, 3);
    // The first reason stays.
    sub.close();
    bus.close();
    assert_eq!(sub.close_reason(), Some(CloseReason::Overflow));
    assert_eq!(payloads(&other), [3, 4]);
    Ok(())
}

#[test]
fn disconnect_ends_a_blocked_clone_and_the_receiver() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 1, Overflow::Disconnect).subscribe("a")?;
    let seen = {
        let (bus, sub) = (bus.clone(), sub.clone());
        watched(move || {
            let reader = sub.clone();
            let reader = thread::spawn(move || reader.iter().map(|event| text(&event)).collect());
            let mut sent = 0;
            while !sub.is_closed() {
                sent += bus.publish("a", sent as u32).matched;
            }
            let seen: Vec<String> = reader.join().unwrap();
            (sent, seen)
        })
    };
    let (sent, seen) = seen;
    let messages = seen.iter().filter(|text| text.starts_with("message")).count();
    assert_eq!((messages + 1, seen.contains(&"lagged 1".to_owned())), (sent, true));
    let end = watched(move || sub.receiver().recv());
    assert!(end.is_err(), "the queue is disconnected");
    Ok(())
}

#[test]
fn disconnect_accounts_for_every_message_when_room_comes_during_a_publish() {
    let (seen, receipt, full) = watched(|| emptied_during_a_publish(Overflow::Disconnect));
    assert_eq!(receipt.matched, 3);
    assert_books(&full, 4);
    assert_eq!(seen.last().map(String::as_str), Some("closed"));
    let messages = seen.iter().filter(|text| text.contains("message")).count();
    let lagged = seen.iter().filter_map(|text| text.strip_prefix("lagged "));
    let lagged: usize = lagged.map(|missed| missed.parse::<usize>().unwrap()).sum();
    // 4.3: when a publish returns, what it delivered can be read. 4.5: no loss is silent.
    assert_eq!((messages, full.len()), (1 + receipt.delivered, 0), "{seen:?} but {receipt:?}");
    assert_eq!((lagged as u64, lagged), (full.missed(), receipt.dropped), "{seen:?}");
}

#[test]
fn the_books_balance_when_the_reader_is_disconnected() {
    for round in 0..300 {
        assert_books_after_race(Overflow::Disconnect, 1 + round % 3, 1 + round % 2, 50);
    }
}

/// A payload that reads the inbox in its second `Clone`, when the first message has been refused.
struct Reads(Arc<AtomicUsize>, Option<Subscriber<Reads>>);

impl Clone for Reads {
    fn clone(&self) -> Self {
        let nth = self.0.fetch_add(1, Ordering::Relaxed);
        if let (1, Some(sub)) = (nth, &self.1) {
            assert!(sub.try_recv_message().is_ok());
        }
        Self(Arc::clone(&self.0), None)
    }
}

#[test]
fn a_disconnected_inbox_gets_nothing_more_of_the_publish_even_if_room_comes() -> Outcome {
    let bus: Bus<Reads> = Bus::new();
    let sub = bounded(&bus, 1, Overflow::Disconnect).subscribe("a")?;
    sub.psubscribe("a*")?;
    let _last = bus.psubscribe("*")?;
    let quiet = Reads(Arc::default(), None);
    // The exact message fills it, in a publish that its pattern does not match yet.
    sub.punsubscribe("a*");
    assert_eq!(bus.publish("a", quiet).delivered, 2);
    sub.psubscribe("a*")?;
    let receipt = bus.publish("a", Reads(Arc::default(), Some(sub.clone())));
    assert_eq!((receipt.matched, receipt.delivered, receipt.dropped), (3, 1, 2));
    assert_eq!((sub.close_reason(), sub.missed()), (Some(CloseReason::Overflow), 2));
    assert!(sub.is_empty());
    Ok(())
}
