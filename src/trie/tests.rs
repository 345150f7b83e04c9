use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use super::channel::NewEntry;
use super::*;
use crate::bus::Bus;
use crate::pattern::Pattern;
use crate::publish::before_waiting;
use crate::stats::Receipt;
use crate::subscriber::Subscriber;

/// Returns the entry of a name that is published to.
fn enter(trie: &Trie<u32>, name: &str) -> Option<Arc<Channel<u32>>> {
    trie.entry_for_publish(name, trie.hash(name))
}

/// What a publish does with an entry, the messages apart.
fn publish(trie: &Trie<u32>, name: &str) -> Arc<Channel<u32>> {
    loop {
        let channel = enter(trie, name).unwrap();
        let entry = trie.guard(&channel);
        let mut turn = entry.turn();
        if !turn.is_detached() {
            turn.count_use();
            trie.refresh(&channel, &mut turn);
            drop(turn);
            drop(entry);
            return channel;
        }
    }
}

fn hold(trie: &Trie<u32>, pattern: &str) -> Arc<PatternEntry<u32>> {
    let pattern = Pattern::redis(pattern);
    trie.patterns.acquire(&pattern, trie.pattern_hash(&pattern))
}

#[test]
fn a_name_published_again_leaves_probation() {
    let trie = Trie::<u32>::new(4);
    publish(&trie, "name");
    assert!(trie.stripes.is_on_probation("name"));
    publish(&trie, "name");
    assert!(!trie.stripes.is_on_probation("name") && trie.find("name").is_some());
}

#[test]
fn a_name_published_again_after_its_eviction_skips_probation() {
    let trie = Trie::<u32>::new(1);
    publish(&trie, "name");
    let others = (0..).map(|i| publish(&trie, &format!("other:{i}")));
    _ = others.take_while(|_| trie.find("name").is_some()).count();
    publish(&trie, "name");
    assert!(!trie.stripes.is_on_probation("name") && trie.find("name").is_some());
}

#[test]
fn a_route_that_changes_is_accounted_for_when_its_publish_ends_or_unwinds() {
    for panics in [false, true] {
        let trie = Trie::<u32>::new(1);
        (0..3).for_each(|_| _ = publish(&trie, "name:1"));
        hold(&trie, "name:*");
        let channel = enter(&trie, "name:1").unwrap();
        let accounted = || channel.accounted.load(Ordering::Relaxed);
        assert!(channel.position().is_some() && accounted() == 0);
        let publishing = || {
            let entry = trie.guard(&channel);
            trie.refresh(&channel, &mut entry.turn());
            assert!(!panics, "a payload's Clone");
        };
        let panicked = catch_unwind(AssertUnwindSafe(publishing)).is_err();
        assert_eq!((panicked, accounted()), (panics, 1));
    }
}

#[test]
fn recent_names_are_bounded_in_bytes() {
    let trie = Trie::new(4);
    let most = recent::BYTES;
    for i in 0..100_000 {
        publish(&trie, &format!("once:{i}"));
    }
    let (entries, bytes) = trie.stripes.census();
    assert!(bytes <= most / 4, "{bytes}");
    assert_eq!(entries, recent::probation::NAMES);
    for i in 0..100_000 {
        publish(&trie, &format!("name:{i}"));
        publish(&trie, &format!("name:{i}"));
    }
    let (entries, bytes) = trie.stripes.census();
    assert!(bytes <= most && bytes > most / 2, "{bytes}");
    assert!(entries < 100_000, "{entries}");
    // Patterns that match count too.
    for i in 0..1_000 {
        hold(&trie, &format!("name:*{i}*"));
        hold(&trie, &format!("*{i}"));
    }
    for i in 0..100_000 {
        publish(&trie, &format!("name:{i}"));
    }
    let (fewer, bytes) = trie.stripes.census();
    assert!(bytes <= most, "{bytes}");
    assert!(fewer < entries, "{fewer}");
}

#[test]
fn a_route_that_grows_costs_more() {
    let trie = Trie::new(1);
    publish(&trie, "name");
    let (_, light) = trie.stripes.census();
    let entries: Vec<_> = (0..100).map(|i| hold(&trie, &format!("n*{}", "*e".repeat(i)))).collect();
    publish(&trie, "name");
    let (_, heavy) = trie.stripes.census();
    assert!(heavy > light, "{light} {heavy}");
    for entry in &entries {
        assert!(trie.patterns.release(entry));
    }
}

#[test]
fn a_flood_of_names_does_not_drive_out_those_in_use() {
    let trie = Trie::new(4);
    let hot: Vec<_> = (0..100).map(|i| format!("hot:{i}")).collect();
    (0..2).for_each(|_| hot.iter().for_each(|name| drop(publish(&trie, name))));
    for (i, name) in (0..300_000).zip(hot.iter().cycle()) {
        publish(&trie, &format!("once:{i}"));
        assert!(trie.find(name).is_some(), "after {i}");
        publish(&trie, name);
    }
}

#[test]
fn names_in_use_stay_though_each_comes_late() {
    let trie = Trie::new(4);
    let names: Vec<_> = (0..3_000).map(|i| format!("name:{i}")).collect();
    // Each has been evicted before it comes again.
    (0..4).for_each(|_| names.iter().for_each(|name| drop(publish(&trie, name))));
    let stay = names.iter().filter(|name| trie.find(name).is_some()).count();
    assert!(stay > 2_000, "{stay}");
}

#[test]
fn a_name_whose_room_is_taken_by_a_publish_under_way_is_published_to_at_once() {
    let trie = Trie::<u32>::new(1);
    let long = |c: char| c.to_string().repeat(recent::BYTES * 2 / 3);
    let first = publish(&trie, &long('a'));
    let entry = trie.guard(&first);
    let under_way = entry.turn();
    let second = enter(&trie, &long('b')).unwrap();
    assert!(!second.turn().is_detached(), "evicted before its publish");
    drop(under_way);
    drop(trie.guard(&second));
    drop(second);
    // The memory is within bounds again when another name comes.
    publish(&trie, "c");
    assert!(trie.stripes.census().1 <= recent::BYTES);
}

#[test]
fn names_that_are_all_published_to_at_once_have_their_entries() {
    let trie = Trie::<u32>::new(1);
    let names: Vec<_> = (0..2 * recent::probation::NAMES).map(|i| format!("name:{i}")).collect();
    let entries: Vec<_> = names.iter().map(|name| enter(&trie, name).unwrap()).collect();
    for (name, entry) in names.iter().zip(&entries) {
        // Another publisher of the name, and whoever looks it up, comes to the same turn.
        assert!(Arc::ptr_eq(&enter(&trie, name).unwrap(), entry));
        assert!(Arc::ptr_eq(&trie.find(name).unwrap(), entry));
    }
    drop(entries);
    assert_eq!(trie.stripes.census().0, names.len());
    (0..100_000).for_each(|i| drop(publish(&trie, &format!("once:{i}"))));
    assert!(trie.stripes.census().1 <= recent::BYTES);
}

#[test]
fn a_fresh_name_is_subscribed_or_held_by_a_topic_as_it_is() {
    let trie = Trie::<u32>::new(1);
    let published = publish(&trie, "name");
    let pinned = trie.pin("name");
    assert!(Arc::ptr_eq(&published, &pinned));
    drop(published);
    // It does not go with those that came with it.
    (0..10_000).for_each(|i| drop(publish(&trie, &format!("once:{i}"))));
    assert!(Arc::ptr_eq(&trie.find("name").unwrap(), &pinned));
    trie.unpin(&pinned);
    assert!(trie.find("name").is_none());
}

#[test]
fn closing_takes_fresh_names_too() {
    let trie = Trie::<u32>::new(4);
    hold(&trie, "name:*");
    let names: Vec<_> = (0..100).map(|i| format!("name:{i}")).collect();
    names.iter().for_each(|name| drop(publish(&trie, name)));
    let late = enter(&trie, "name:1").unwrap();
    let entry = trie.guard(&late);
    let turn = entry.turn();
    trie.begin_closing();
    trie.finish_closing();
    assert_eq!(trie.stripes.census().0, 1, "whose turn is taken");
    drop(turn);
    drop(entry);
    assert_eq!(trie.stripes.census(), (0, 0));
    assert!(enter(&trie, "name:2").is_none());
}

#[test]
fn a_name_beyond_the_budget_does_not_stay() {
    let trie = Trie::new(1);
    let name = "n".repeat(recent::BYTES + 1);
    publish(&trie, &name);
    assert_eq!(trie.stripes.census(), (0, 0));
}

#[test]
fn a_route_that_outgrows_the_budget_does_not_stay() {
    let trie = Trie::new(16);
    let names: Vec<_> = (0..64).map(|i| format!("name{i}")).collect();
    names.iter().for_each(|name| drop(publish(&trie, name)));
    for i in 0..2_000 {
        hold(&trie, &format!("n*{}", "*".repeat(i)));
    }
    names.iter().for_each(|name| drop(publish(&trie, name)));
    assert!(trie.stripes.census().1 <= recent::BYTES);
}

/// Recent names, many patterns that match them all, and `grow` for each: within bounds after that.
fn names_with_routes_that_grow(grow: impl Fn(&Trie<u32>, &str)) {
    let trie = Trie::new(1);
    let names: Vec<_> = (0..100).map(|i| format!("name{i}")).collect();
    names.iter().for_each(|name| drop(publish(&trie, name)));
    (0..1_000).for_each(|i| drop(hold(&trie, &format!("n*{}", "*".repeat(i)))));
    names.iter().for_each(|name| grow(&trie, name));
    let routes: usize = names
        .iter()
        .filter_map(|name| trie.find(name))
        .map(|channel| channel.turn().patterns.len())
        .sum();
    assert!(routes > 0 && routes * size_of::<usize>() * 6 <= recent::BYTES, "{routes}");
    assert!(trie.stripes.census().1 <= recent::BYTES);
}

#[test]
fn a_route_that_grows_in_a_look_at_what_matches_is_accounted_for() {
    names_with_routes_that_grow(|trie, name| {
        // One whose set was full has gone.
        let Some(channel) = trie.find(name) else { return };
        let entry = trie.guard(&channel);
        trie.refresh(&channel, &mut entry.turn());
    });
}

#[test]
fn a_route_that_grows_in_a_publish_that_panics_is_accounted_for() {
    names_with_routes_that_grow(|trie, name| {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let channel = enter(trie, name).unwrap();
            let entry = trie.guard(&channel);
            let mut turn = entry.turn();
            turn.count_use();
            trie.refresh(&channel, &mut turn);
            // As a payload's `Clone` does.
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(unwound.is_err());
    });
}

#[test]
fn an_entry_that_is_out_of_the_table_does_not_come_into_the_clock() {
    let trie = Trie::<u32>::new(1);
    let pinned = trie.pin("x");
    let one = enter(&trie, "x").unwrap();
    let other = enter(&trie, "x").unwrap();
    trie.unpin(&pinned);
    assert_eq!(trie.stripes.census(), (0, 0));
    // Another publisher looks whether it is detached while the first one lets go of it.
    let looking = other.turn();
    one.request_reaccount();
    drop(trie.guard(&one));
    drop(looking);
    assert_eq!(trie.stripes.census(), (0, 0));
    drop(trie.guard(&other));
    // The hand goes around.
    (0..10_000).for_each(|i| drop(publish(&trie, &format!("name:{i}"))));
}

#[test]
fn entries_whose_turn_is_taken_when_they_are_given_up_are_bounded_too() {
    let trie = Trie::<u32>::new(1);
    let give_up = |name: &str| {
        let pinned = trie.pin(name);
        let channel = enter(&trie, name).unwrap();
        let entry = trie.guard(&channel);
        let turn = entry.turn();
        trie.unpin(&pinned);
        drop(turn);
    };
    (0..20_000).for_each(|i| give_up(&format!("topic:{i}")));
    assert!(trie.stripes.census().1 <= recent::BYTES);
    // The last of those that are too large stays until another name comes, no more of them; one that is held
    // drives out nobody either.
    let long = "n".repeat(recent::BYTES);
    // Names in use, which are past the ring of the new ones.
    let names: Vec<_> = (0..100).map(|i| format!("name:{i}")).collect();
    (0..2).for_each(|_| names.iter().for_each(|name| drop(publish(&trie, name))));
    (0..5_000).for_each(|i| drop(publish(&trie, &format!("once:{i}"))));
    let before = trie.stripes.census().0;
    (0..20).for_each(|i| give_up(&format!("{i}{long}")));
    assert_eq!(trie.stripes.census().0, before + 1);
    assert!(names.iter().all(|name| trie.find(name).is_some()), "driven out by one too large");
    let held: Vec<_> = trie.find(&format!("19{long}")).into_iter().collect();
    assert_eq!(held.len(), 1);
    (0..5_000).for_each(|i| drop(publish(&trie, &format!("again:{i}"))));
    assert!(names.iter().all(|name| trie.find(name).is_some()), "driven out by one that is held");
    drop(held);
    publish(&trie, "another");
    assert!(trie.stripes.census().1 <= recent::BYTES);
}

#[test]
fn tables_follow_what_is_there() {
    let trie = Trie::<u32>::new(4);
    let topics: Vec<_> = (0..20_000).map(|i| trie.pin(&format!("topic:{i}"))).collect();
    assert!(trie.stripes.capacity() >= 20_000);
    topics.iter().for_each(|channel| trie.unpin(channel));
    assert!(trie.stripes.capacity() < 10_000, "{}", trie.stripes.capacity());
}

#[test]
fn a_topic_leaves_nothing() {
    let trie = Trie::<u32>::new(4);
    for i in 0..1_000 {
        let channel = trie.pin(&format!("topic:{i}"));
        assert_eq!(trie.stripes.census().0, 1);
        trie.unpin(&channel);
    }
    assert_eq!(trie.stripes.census(), (0, 0));
}

#[test]
fn a_pattern_of_another_beginning_spoils_no_route() {
    let trie = Trie::<u32>::new(4);
    let generation = || trie.patterns.generation(b"hot:channel");
    hold(&trie, "hot:*");
    let before = generation();
    // A beginning whose row of counters is another's: with 64 rows, most are.
    let unrelated = (0..20).filter(|i| {
        let old = generation();
        (0..500).for_each(|j| drop(hold(&trie, &format!("{i:02}churn:{j}:*"))));
        old.is_valid_in(generation())
    });
    assert!(unrelated.count() > 10);
    assert!(!trie.patterns.unchanged_since(before));
    for related in ["*", "?ot*", "h*", "ho?", "hot:chan*", "hot:channel"] {
        let old = generation();
        hold(&trie, related);
        assert!(!old.is_valid_in(generation()), "{related}");
    }
}

/// A payload whose `Clone` panics if it is odd.
struct Brittle(u32);

impl Clone for Brittle {
    fn clone(&self) -> Self {
        assert!(self.0.is_multiple_of(2), "a clone");
        Self(self.0)
    }
}

/// A bus on which `name` has been published to recently.
fn bus_with_recent(name: &str) -> Bus<Brittle> {
    let bus = Bus::builder().capacity(1).stripes(1).build();
    (0..3).for_each(|_| _ = bus.publish(name, Brittle(0)));
    assert_eq!(accounted(&bus, name), 0);
    bus
}

/// Returns how many patterns a recent name is accounted for with.
fn accounted(bus: &Bus<Brittle>, name: &str) -> usize {
    let channel = bus.engine.trie.find(name).unwrap();
    assert!(channel.position().is_some(), "not a recent name");
    channel.accounted.load(Ordering::Relaxed)
}

/// A subscriber of this number of patterns that match `name`.
fn subscribe_patterns(bus: &Bus<Brittle>, count: usize) -> Subscriber<Brittle> {
    let sub = bus.subscriber();
    (0..count).for_each(|i| _ = sub.psubscribe(format!("n*{}", "*".repeat(i))).unwrap());
    sub
}

/// Calls `publish` while another thread has the turn of `name`, which gives it up once the publish has found it
/// taken and has run `meanwhile`.
fn publish_when_the_turn_is_taken<T>(
    bus: &Bus<Brittle>,
    name: &str,
    meanwhile: impl FnOnce() + 'static,
    publish: impl FnOnce() -> T,
) -> T {
    let channel = bus.engine.trie.find(name).unwrap();
    let ((taken, is_taken), (wanted, is_wanted)) = (mpsc::channel(), mpsc::channel::<()>());
    let holder = thread::spawn(move || {
        let turn = channel.turn();
        taken.send(()).unwrap();
        is_wanted.recv().unwrap();
        drop(turn);
    });
    is_taken.recv().unwrap();
    before_waiting::set(move || {
        meanwhile();
        wanted.send(()).unwrap();
    });
    let published = publish();
    assert!(before_waiting::has_run(), "the turn was not found taken");
    holder.join().unwrap();
    published
}

#[test]
fn a_publish_by_name_accounts_for_patterns_that_have_come_and_gone_since_the_last() {
    type Publish = fn(&Bus<Brittle>);
    let publishes: [(&str, Publish); 5] = [
        ("plain", |bus| _ = bus.publish("name", Brittle(0))),
        ("into full inboxes", |bus| {
            (0..3).for_each(|_| _ = bus.publish("name", Brittle(0)));
        }),
        ("with a closure", |bus| _ = bus.publish_with("name", || Brittle(0))),
        ("when the turn is taken", |bus| {
            let publish = || bus.publish("name", Brittle(0));
            publish_when_the_turn_is_taken(bus, "name", || (), publish);
        }),
        ("not published, but counted", |bus| _ = bus.match_count("name")),
    ];
    for (how, publish) in publishes {
        for count in [1, 2, 7] {
            let bus = bus_with_recent("name");
            let sub = subscribe_patterns(&bus, count);
            publish(&bus);
            assert_eq!(accounted(&bus, "name"), count, "{how}");
            // Nothing has changed.
            publish(&bus);
            assert_eq!(accounted(&bus, "name"), count, "{how}");
            let other = subscribe_patterns(&bus, count + 1);
            publish(&bus);
            assert_eq!(accounted(&bus, "name"), count + 1, "{how}");
            drop((sub, other));
            publish(&bus);
            let holds = bus.engine.trie.find("name").unwrap().turn().patterns.len();
            assert_eq!(accounted(&bus, "name"), holds, "{how}: they have gone");
            // A publish that reaches nobody lets go of them.
            bus.publish("name", Brittle(0));
            publish(&bus);
            assert_eq!(accounted(&bus, "name"), 0, "{how}: they have been let go");
        }
    }
}

#[test]
fn a_publish_accounts_for_patterns_that_its_closure_has_subscribed() {
    let bus = bus_with_recent("name");
    let _sub = subscribe_patterns(&bus, 1);
    let mut more = None;
    bus.publish_with("name", || {
        more = Some(subscribe_patterns(&bus, 5));
        Brittle(0)
    });
    assert_eq!(accounted(&bus, "name"), 5);
}

#[test]
fn a_publish_whose_payload_s_clone_panics_accounts_for_the_patterns() {
    let bus = bus_with_recent("name");
    let _subs = [subscribe_patterns(&bus, 5), subscribe_patterns(&bus, 5)];
    let unwound = catch_unwind(AssertUnwindSafe(|| bus.publish("name", Brittle(1))));
    assert!(unwound.is_err());
    assert_eq!(accounted(&bus, "name"), 5);
}

#[test]
fn a_publish_that_waits_for_its_turn_while_the_bus_is_closed_reaches_nobody_and_is_counted() {
    type Publish = fn(&Bus<Brittle>) -> Receipt;
    let publishes: [(&str, Publish); 2] = [
        ("by name", |bus| bus.publish("name", Brittle(0))),
        ("through a topic", |bus| bus.topic("name").publish(Brittle(0))),
    ];
    for (how, publish) in publishes {
        let bus = bus_with_recent("name");
        let sub = bus.subscribe("name").unwrap();
        let queue = sub.receiver().clone();
        let before = bus.stats().published;
        let closing = bus.clone();
        let meanwhile = move || closing.close();
        let receipt = publish_when_the_turn_is_taken(&bus, "name", meanwhile, || publish(&bus));
        assert_eq!(receipt, Receipt::default(), "{how}");
        assert!(bus.is_closed() && queue.is_empty());
        assert_eq!(bus.stats().published, before + 1, "{how}");
    }
}

#[test]
fn a_publish_that_finds_the_turn_taken_on_a_closed_bus_does_not_wait_and_is_counted() {
    let bus = bus_with_recent("name");
    let topic = bus.topic("name");
    let channel = bus.engine.trie.find("name").unwrap();
    let before = bus.stats().published;
    let turn = channel.turn();
    bus.close();
    assert_eq!(topic.publish(Brittle(0)), Receipt::default());
    drop(turn);
    assert_eq!(bus.stats().published, before + 1);
}

#[test]
fn whoever_has_the_turn_when_the_bus_is_closed_detaches_the_entry_at_its_end() {
    let bus: Bus<Brittle> = Bus::new();
    let trie = &bus.engine.trie;
    let sub = bus.subscribe("name").unwrap();
    let queue = sub.receiver().clone();
    let channel = trie.find("name").unwrap();
    let entry = trie.guard(&channel);
    let turn = entry.turn();
    bus.close();
    let is_disconnected =
        || matches!(queue.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
    assert!(!is_disconnected(), "closing waits for no turn");
    drop(turn);
    drop(entry);
    assert!(is_disconnected());
    assert_eq!(trie.stripes.census(), (0, 0));
}

#[test]
fn two_that_both_found_no_entry_come_to_one() {
    let hasher = RandomState::default();
    let stripes = Stripes::<u32>::new(1, hasher.clone());
    let patterns = Patterns::new(hasher);
    let purposes = [Purpose::Publish, Purpose::Topic, Purpose::Subscribe];
    for (i, first) in purposes.into_iter().enumerate() {
        for (j, second) in purposes.into_iter().enumerate() {
            let name = format!("{i}:{j}");
            let hash = stripes.hash(&name);
            let entry = || {
                let mut new = NewEntry::new(hash);
                new.derive(&name, &patterns);
                new
            };
            let [one, other] =
                [first, second].map(|purpose| stripes.insert(&mut entry(), purpose).unwrap());
            assert!(Arc::ptr_eq(&one, &other));
            let topics =
                usize::from(first == Purpose::Topic) + usize::from(second == Purpose::Topic);
            assert_eq!(one.pins.load(Ordering::Relaxed), topics);
        }
    }
    assert_eq!(stripes.census().0, 9);
}
