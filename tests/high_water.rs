//! `high_water`: the largest depth that was seen at a receive, at an overflow, or by `info`.

mod support;

use std::error::Error;
use std::thread;

use fanout::{Bus, Overflow};
use support::{BLOCK, bounded, step, watched};

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn high_water_is_the_largest_depth_seen() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 10, Overflow::DropOldest).subscribe("a")?;
    assert_eq!(sub.info().high_water, 0);
    for n in 0..4u32 {
        bus.publish("a", n);
    }
    sub.recv()?;
    assert_eq!(sub.info().high_water, 4);
    while sub.try_recv().is_ok() {}
    bus.publish("a", 4u32);
    sub.recv()?;
    assert_eq!((sub.info().depth, sub.info().high_water), (0, 4), "it does not sink");
    for n in 0..12u32 {
        bus.publish("a", n);
    }
    while sub.receiver().try_recv().is_ok() {}
    assert_eq!((sub.info().depth, sub.info().high_water), (0, 10), "an overflow was seen");
    Ok(())
}

#[test]
fn high_water_reaches_the_capacity_without_an_overflow() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 3, Overflow::DropOldest).subscribe("a")?;
    (0..2).for_each(|n| _ = bus.publish("a", n as u32));
    sub.recv()?;
    (0..2).for_each(|n| _ = bus.publish("a", n as u32));
    sub.recv()?;
    assert_eq!(sub.info().high_water, 3);
    Ok(())
}

/// 4.10: not every receive samples the depth of a long queue, and little may be missed by that.
#[test]
fn high_water_understates_the_peak_by_at_most_an_eighth() -> Outcome {
    let mut random = 1_u64;
    for most in [3, 7, 8, 20, 100, 1000] {
        let bus: Bus<u32> = Bus::new();
        let sub = bounded(&bus, 2000, Overflow::DropOldest).subscribe("a")?;
        let (mut depth, mut deepest) = (0, 0);
        for _ in 0..10_000 {
            // Bursts of publishes; now and then the inbox is drained.
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let burst = (random >> 33) as usize % (most - depth + 1);
            (0..burst).for_each(|_| _ = bus.publish("a", 0u32));
            depth += burst;
            let reads = (random >> 45) as usize % (depth + 2);
            for _ in 0..reads.min(depth) {
                deepest = deepest.max(depth);
                sub.try_recv()?;
                depth -= 1;
            }
            // `info` samples the depth.
            if random >> 60 == 0 {
                deepest = deepest.max(depth);
                let seen = sub.info().high_water;
                assert!(seen <= deepest && seen >= deepest - deepest / 8, "{seen} of {deepest}");
            }
        }
        assert!(deepest > most - most / 8 - 1);
    }
    Ok(())
}

/// 4.10: a depth above the capacity never exists, so none is sampled.
#[test]
fn high_water_never_exceeds_the_capacity() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, BLOCK] {
        let high_water = watched(move || {
            let bus: Bus<u32> = Bus::new();
            let sub = bounded(&bus, 1, overflow).subscribe("a").unwrap();
            let publisher = {
                let bus = bus.clone();
                thread::spawn(move || {
                    for n in 0..20_000u32 {
                        bus.publish("a", n);
                    }
                    bus.close();
                })
            };
            while sub.recv().is_ok() {
                step();
            }
            publisher.join().unwrap();
            sub.info().high_water
        });
        assert_eq!(high_water, 1, "{overflow:?}");
    }
}
