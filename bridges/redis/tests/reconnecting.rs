//! A server that goes away and comes back, in several ways: both sides recover, the gap is told, nothing is doubled, and
//! each channel keeps its order.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fanout::{Bus, Overflow, Subscriber};
use fanout_redis::{BridgeEvent, BridgeHandle, BridgeStats};
use support::{PATIENCE, Proxy, Server, await_event, eventually, quick, subscribe};

const CHANNELS: u64 = 5;

/// The patience of bridges that are to see soon that the server is lost.
const SHORT: Duration = Duration::from_millis(600);

/// One bus that forwards and one that accepts, with a publisher that does not pause.
struct World {
    server: Server,
    /// In front of the server, for the bridge that forwards and for the one that accepts.
    proxies: [Proxy; 2],
    bridges: [BridgeHandle; 2],
    events: [Subscriber<BridgeEvent>; 2],
    reader: Subscriber<Arc<[u8]>>,
    published: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    publisher: thread::JoinHandle<()>,
    here: Bus<Arc<[u8]>>,
    _there: Bus<Arc<[u8]>>,
}

impl World {
    /// `size`: bytes of each message, 8 at least. `patience`: of both bridges.
    fn new(size: usize, patience: Duration) -> Self {
        let server = Server::start();
        let proxies = [(); 2].map(|()| Proxy::to(server.port));
        let [here, there]: [Bus<Arc<[u8]>>; 2] = [Bus::new(), Bus::new()];
        let reader = subscribe(&there, 1_000_000, &["c*"]);
        let forwarding =
            quick(&here, &proxies[0].url()).forward("c*").own_origin(true).patience(patience);
        let accepting =
            quick(&there, &proxies[1].url()).accept("c*").own_origin(true).patience(patience);
        let events = [forwarding.events(), accepting.events()];
        let bridges = [forwarding.spawn().unwrap(), accepting.spawn().unwrap()];
        bridges.iter().for_each(|bridge| bridge.wait_ready(PATIENCE).unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicU64::new(0));
        let (bus, ends, count) = (here.clone(), Arc::clone(&is_over), Arc::clone(&published));
        let publisher = thread::spawn(move || {
            let mut body = vec![0; size];
            while !ends.load(Ordering::SeqCst) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                body[..8].copy_from_slice(&number.to_be_bytes());
                bus.publish(&format!("c{}", number % CHANNELS), &body[..]);
                thread::sleep(Duration::from_micros(50));
            }
        });
        Self {
            server,
            proxies,
            bridges,
            events,
            reader,
            published,
            is_over,
            publisher,
            here,
            _there: there,
        }
    }

    /// Waits until messages arrive.
    fn await_arrivals(&self) {
        let before = self.reader.len();
        eventually("messages arrive", || self.reader.len() > before + 100);
    }

    /// Ends publishing, and checks what has arrived. Returns the figures of both bridges.
    fn end(self) -> [BridgeStats; 2] {
        self.await_arrivals();
        self.is_over.store(true, Ordering::SeqCst);
        self.publisher.join().unwrap();
        let published = self.published.load(Ordering::SeqCst);
        eventually("everything is sent", || {
            let stats = self.bridges[0].stats();
            stats.sent + stats.not_sent == published
        });
        // The last message: everything before it has arrived, if it has.
        self.here.publish("c-last", &u64::MAX.to_be_bytes()[..]);
        let mut arrived = 0;
        let mut last = [None; CHANNELS as usize];
        loop {
            let message = self.reader.recv_message_timeout(PATIENCE).expect("the last one comes");
            let number = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
            if number == u64::MAX {
                break;
            }
            arrived += 1;
            let channel = (number % CHANNELS) as usize;
            assert_eq!(message.channel(), format!("c{channel}"));
            assert!(last[channel] < Some(number), "{number} after {:?}", last[channel]);
            last[channel] = Some(number);
        }
        // It goes on to the end: the last messages of all channels are there.
        assert!(last.iter().all(|last| last.is_some_and(|last| last + CHANNELS >= published)));
        assert_eq!(self.reader.missed(), 0);
        eventually("the last is confirmed", || {
            let stats = self.bridges[0].stats();
            stats.sent + stats.not_sent == published + 1
        });
        let lost = published - arrived;
        let stats = self.bridges.each_ref().map(BridgeHandle::stats);
        println!("{published} published, {lost} lost; {stats:?}");
        // No gap is silent.
        assert!(lost == 0 || stats[1].disconnects > 0 || stats[0].not_sent > 0);
        stats
    }

    /// Waits until the bridge `at` tells that it was away and is back. Returns `maybe_missed`.
    fn await_resumed(&self, at: usize) -> bool {
        let seen =
            await_event(&self.events[at], |event| matches!(event, BridgeEvent::Resumed { .. }));
        assert!(
            seen.iter().any(|event| matches!(event, BridgeEvent::Disconnected { .. })),
            "{seen:?}"
        );
        let Some(BridgeEvent::Resumed { away, maybe_missed }) = seen.last() else { unreachable!() };
        assert!(*away < PATIENCE);
        *maybe_missed
    }
}

#[test]
fn a_server_that_is_killed_and_started_again() {
    let mut world = World::new(8, PATIENCE);
    world.await_arrivals();
    for _ in 0..2 {
        world.server.kill();
        thread::sleep(Duration::from_millis(200));
        world.server.restart();
        // The one that accepts had subscriptions, the other had none.
        assert!(world.await_resumed(1));
        assert!(!world.await_resumed(0));
        world.await_arrivals();
    }
    let [forwarding, accepting] = world.end();
    assert_eq!((forwarding.disconnects, accepting.disconnects), (2, 2));
}

#[test]
fn a_server_that_is_stopped_and_goes_on() {
    let world = World::new(8, SHORT);
    world.await_arrivals();
    world.server.pause();
    for events in &world.events {
        await_event(events, |event| matches!(event, BridgeEvent::Disconnected { .. }));
    }
    thread::sleep(Duration::from_millis(300));
    world.server.resume();
    for events in &world.events {
        await_event(events, |event| matches!(event, BridgeEvent::Resumed { .. }));
    }
    world.end();
}

#[test]
fn a_short_silence_is_no_gap() {
    let world = World::new(8, PATIENCE);
    world.await_arrivals();
    world.server.pause();
    thread::sleep(Duration::from_millis(100));
    world.server.resume();
    let stats = world.end();
    assert_eq!(stats.map(|stats| stats.disconnects), [0, 0]);
    assert_eq!(stats[0].sent, stats[1].received);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_message() {
    let world = World::new(200, PATIENCE);
    for bytes in [1, 77, 150, 1_000] {
        world.await_arrivals();
        world.proxies[1].cut_after(bytes);
        eventually("it is cut", || world.proxies[1].has_cut());
        assert!(world.await_resumed(1));
    }
    assert_eq!(world.end().map(|stats| stats.disconnects), [0, 4]);
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_reply_loses_nothing_that_is_sent() {
    let world = World::new(8, PATIENCE);
    for bytes in [1, 2, 5, 100] {
        world.await_arrivals();
        world.proxies[0].cut_after(bytes);
        eventually("it is cut", || world.proxies[0].has_cut());
        world.await_resumed(0);
    }
    let [forwarding, accepting] = world.end();
    // What was on its way is sent again, and known by its number.
    assert_eq!(forwarding.not_sent, 0);
    assert_eq!(forwarding.sent, accepting.received);
}

#[test]
fn a_client_that_the_server_cuts_off_because_it_is_too_slow() {
    let world = World::new(2_000, PATIENCE);
    let limit = ["SET", "client-output-buffer-limit", "pubsub 200kb 200kb 0"];
    redis::cmd("CONFIG").arg(&limit).query::<()>(&mut world.server.client()).unwrap();
    world.await_arrivals();
    world.proxies[1].pause();
    // The sockets between them hold some megabytes.
    eventually("the server cuts it off", || world.server.subscriptions().1 == 0);
    world.proxies[1].resume();
    assert!(world.await_resumed(1));
    world.end();
}

#[test]
fn what_is_published_while_the_server_is_away_waits_and_what_finds_no_room_is_told() {
    let mut server = Server::start();
    let [here, there]: [Bus<Arc<str>>; 2] = [Bus::new(), Bus::new()];
    let builder = quick(&here, &server.url()).forward("*").capacity(100);
    let builder = builder.overflow(Overflow::DropNewest);
    let events = builder.events();
    let forwarding = builder.spawn().unwrap();
    let accepting = quick(&there, &server.url()).own_origin(true).accept("*").spawn().unwrap();
    let reader = subscribe(&there, 1_000, &["*"]);
    forwarding.wait_ready(PATIENCE).unwrap();
    accepting.wait_ready(PATIENCE).unwrap();
    server.kill();
    await_event(&events, |event| matches!(event, BridgeEvent::Disconnected { .. }));
    (0..150).for_each(|n| _ = here.publish("c", n.to_string()));
    server.restart();
    let seen = await_event(&events, |event| matches!(event, BridgeEvent::NotSent { .. }));
    assert_eq!(seen.last(), Some(&BridgeEvent::NotSent { messages: 50 }));
    eventually("the rest is sent", || forwarding.stats().sent == 100);
    assert_eq!(forwarding.stats().not_sent, 50);
    // It may be sent before the other has come back, and then is lost: that is told there.
    accepting.wait_ready(PATIENCE).unwrap();
    here.publish("c", "after it");
    eventually("what comes later arrives", || {
        reader.try_messages().any(|message| &*message.payload == "after it")
    });
}

#[test]
fn a_conflating_bridge_sends_the_newest_of_each_channel_when_the_server_is_back() {
    let mut server = Server::start();
    let bus: Bus<Arc<str>> = Bus::new();
    let builder = quick(&bus, &server.url()).forward("*").capacity(10);
    let builder = builder.overflow(Overflow::Conflate);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    server.kill();
    await_event(&events, |event| matches!(event, BridgeEvent::Disconnected { .. }));
    (0..150).for_each(|n| _ = bus.publish(&format!("c{}", n % 3), n.to_string()));
    server.restart();
    eventually("the newest are sent", || bridge.stats().sent == 3);
    assert_eq!(bridge.stats().not_sent, 0);
}

#[test]
fn a_plain_bridge_does_not_send_again_what_may_have_arrived_and_says_so() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let bus: Bus<Arc<str>> = Bus::new();
    let builder = quick(&bus, &proxy.url()).forward("*").plain(true);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let mut client = server.client();
    let mut reader = client.as_pubsub();
    reader.subscribe("c").unwrap();
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut next = || reader.get_message().unwrap().get_payload::<String>().unwrap();
    bus.publish("c", "first");
    assert_eq!(next(), "first");
    eventually("it is confirmed", || bridge.stats().sent == 1);
    // The reply to the next one is cut off.
    proxy.pause();
    bus.publish("c", "second");
    assert_eq!(next(), "second");
    proxy.cut();
    proxy.resume();
    await_event(&events, |event| *event == BridgeEvent::NotSent { messages: 1 });
    bus.publish("c", "third");
    assert_eq!(next(), "third");
    eventually("it is confirmed", || bridge.stats().sent == 2);
    assert_eq!(bridge.stats().not_sent, 1);
}

#[test]
fn a_bus_that_is_closed_while_the_server_is_away_ends_the_bridge() {
    let mut server = Server::start();
    for drains in [false, true] {
        let bus: Bus<Arc<str>> = Bus::new();
        let bridge = quick(&bus, &server.url()).forward("*").spawn().unwrap();
        bridge.wait_ready(PATIENCE).unwrap();
        server.kill();
        eventually("it is away", || !bridge.is_connected());
        bus.publish("c", "lost");
        if drains {
            bridge.drain();
        } else {
            bus.close();
        }
        eventually("it has ended", || bridge.is_finished());
        assert_eq!(bridge.stats().not_sent, 1);
        assert!(bridge.join().is_ok());
        server.restart();
    }
}
