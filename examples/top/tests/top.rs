//! The figures of the console, and what it draws.

use std::process::Command;
use std::thread;
use std::time::Duration;

use fanout::{Bus, Overflow};
use fanout_top::{Sort, Top};

#[test]
fn rates_are_those_since_the_look_before() {
    let bus: Bus<u32> = Bus::builder().capacity(10).build();
    let reader = bus.subscriber_builder().label("reader").lifecycle_events(false);
    let reader = reader.subscribe("a").unwrap();
    let slow = bus.subscriber_builder().label("slow").overflow(Overflow::DropNewest);
    let _slow = slow.capacity(1).subscribe("a").unwrap();
    let newest = bus.subscriber_builder().label("newest").overflow(Overflow::Conflate);
    let _newest = newest.subscribe("a").unwrap();
    let mut top = Top::new();
    bus.publish("a", 0_u32);
    top.look(&bus);
    assert!(top.inboxes().iter().all(|inbox| inbox.received == 0.0 && inbox.missed == 0.0));
    assert_eq!(top.channels()[0].published, 0.0);

    (0..5_u32).for_each(|n| _ = bus.publish("a", n));
    assert_eq!(reader.try_messages().count(), 6);
    thread::sleep(Duration::from_millis(20));
    top.look(&bus);
    let at = |label: &str| {
        top.inboxes().iter().find(|inbox| inbox.info.label.as_deref() == Some(label)).unwrap()
    };
    assert!(at("reader").received > 0.0 && at("reader").missed == 0.0);
    assert!(at("slow").missed > 0.0 && at("slow").received == 0.0);
    assert!(at("newest").missed == 0.0 && at("newest").info.conflated == 5);
    let channel = &top.channels()[0];
    assert_eq!((&*channel.name, channel.subscribers), ("a", 3));
    assert!(channel.published > 0.0 && channel.delivered > 0.0);
}

#[test]
fn inboxes_are_sorted_by_what_is_asked_for() {
    let bus: Bus<u32> = Bus::new();
    let label = |label: &str| bus.subscriber_builder().lifecycle_events(false).label(label);
    let full = label("z").capacity(4).subscribe("a").unwrap();
    let small = label("b").capacity(1).subscribe("a").unwrap();
    let newest = label("c").overflow(Overflow::Conflate).subscribe("a").unwrap();
    let mut top = Top::new();
    top.look(&bus);
    (0..4_u32).for_each(|n| _ = bus.publish("a", n));
    top.look(&bus);
    let first = |top: &Top| top.inboxes()[0].info.label.clone().unwrap();
    assert_eq!(&*first(&top), "z");
    let sorts = [
        (Sort::Depth, "z"),
        (Sort::HighWater, "z"),
        (Sort::Missed, "b"),
        (Sort::Conflated, "c"),
        (Sort::Received, "z"),
        (Sort::Label, "b"),
    ];
    for (sort, expected) in sorts {
        top.sort = sort;
        top.sort();
        assert_eq!(&*first(&top), expected, "{sort:?}");
    }
    let mut all = sorts.map(|(sort, _)| sort);
    assert_eq!(all.map(Sort::next), {
        all.rotate_left(1);
        all
    });
    drop((full, small, newest));
    top.look(&bus);
    assert!(top.inboxes().is_empty() && top.channels().is_empty());
}

#[test]
fn the_screen_shows_labels_depths_and_losses() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber_builder().label("slow reader").capacity(2).subscribe("news").unwrap();
    (0..5_u32).for_each(|n| _ = bus.publish("news", n));
    let mut top = Top::new();
    top.look(&bus);
    let text = top.to_text(100, 20);
    for shown in ["subscribers 1", "slow reader", "2 / 2", "DropOldest", "news", "inboxes by depth"]
    {
        assert!(text.contains(shown), "{shown} in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100));
    // However small the screen is.
    for (width, height) in [(1, 1), (5, 3), (30, 8)] {
        assert_eq!(top.to_text(width, height).lines().count(), usize::from(height));
    }
    drop(sub);
}

#[test]
fn the_program_prints_a_table_of_its_own_load() {
    let output = Command::new(env!("CARGO_BIN_EXE_fanout-top")).args(["--demo", "--once"]).output();
    let output = output.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for shown in
        ["dashboard", "player 11", "asleep", "DropNewest", "scores", "Conflate", "game:0:events"]
    {
        assert!(text.contains(shown), "{shown} in\n{text}");
    }
}
