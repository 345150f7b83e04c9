//! `Lagged`: no loss is silent, whatever the policy.

mod support;

use std::error::Error;

use fanout::{Bus, Overflow, RecvError, TryRecvError};
use support::{REFUSE, WATCHDOG, assert_books, bounded, drain, text};

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn lagged_comes_even_when_no_message_follows() -> Outcome {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, REFUSE] {
        let bus: Bus<u32> = Bus::new();
        let sub = bounded(&bus, 1, overflow).subscribe("a")?;
        bus.publish("a", 1u32);
        bus.publish("a", 2u32);
        // `receiver()` yields messages only; its reader must look at `missed`.
        assert_eq!(sub.receiver().len(), 1);
        sub.receiver().try_recv()?;
        assert_eq!((sub.missed(), sub.len()), (1, 0));
        assert_eq!(text(&sub.recv()?), "lagged 1", "{overflow:?}");
        assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
        assert_books(&sub, 2);
    }
    Ok(())
}

#[test]
fn lagged_comes_before_closed() -> Outcome {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, REFUSE] {
        for by_bus in [false, true] {
            let bus: Bus<u32> = Bus::new();
            let sub = bounded(&bus, 1, overflow).subscribe("a")?;
            bus.publish("a", 1u32);
            bus.publish("a", 2u32);
            sub.receiver().try_recv()?;
            if by_bus {
                bus.close();
            } else {
                sub.close();
            }
            assert_eq!(drain(&sub), ["lagged 1", "closed"], "{overflow:?}");
            assert_eq!(sub.recv(), Err(RecvError::Closed));
        }
    }
    Ok(())
}

#[test]
fn recv_message_skips_lagged_and_missed_counts_the_loss() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    for n in 1..=5u32 {
        bus.publish("a", n);
    }
    assert_eq!(sub.recv_message()?.payload, 4);
    assert_eq!(sub.recv_message_timeout(WATCHDOG)?.payload, 5);
    assert_eq!(sub.try_recv_message(), Err(TryRecvError::Empty));
    assert_eq!(sub.missed(), 3);
    assert_books(&sub, 5);
    Ok(())
}

#[test]
fn each_lagged_event_goes_to_one_clone() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    let clone = sub.clone();
    for n in 1..=5u32 {
        bus.publish("a", n);
    }
    assert_eq!(text(&clone.recv()?), "lagged 3");
    assert_eq!(text(&sub.recv()?), "message a 4");
    assert_eq!(text(&clone.recv()?), "message a 5");
    assert_eq!((sub.missed(), clone.missed()), (3, 3));
    assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    Ok(())
}
