//! Servers, lines and neighbours that are slow, dead, busy or odd: the bridge goes on, and sees what it must.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout::{Bus, Overflow, Pattern, Subscriber};
use fanout_redis::{BridgeBuilder, BridgeEvent, BridgeHandle, Codec, CodecError};
use support::{
    PATIENCE, Proxy, SILENCE, Server, await_event, eventually, free_port, impatient, quick, steady,
    subscribe,
};

type Text = Bus<Arc<str>>;

/// The server's buffer for a subscriber has no bounds.
const UNBOUNDED: [&str; 5] = ["--client-output-buffer-limit", "pubsub", "0", "0", "0"];

fn ready<P: Clone + Send + 'static, C: Codec<P>>(builder: BridgeBuilder<P, C>) -> BridgeHandle {
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bridge
}

/// Returns a subscriber to `c` that has room for one message, and holds up whoever publishes more.
fn blocking<P: Clone + Send + 'static>(bus: &Bus<P>) -> Subscriber<P> {
    bus.subscriber_builder()
        .capacity(1)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap()
}

fn await_channels(server: &Server, channels: &[&str]) {
    eventually("it is subscribed", || server.subscriptions().0 == channels);
}

/// Publishes in one round trip.
fn publish_all(server: &Server, channel: &str, bodies: impl IntoIterator<Item = String>) {
    let mut pipeline = redis::pipe();
    for body in bodies {
        pipeline.cmd("PUBLISH").arg(channel).arg(body).ignore();
    }
    pipeline.query::<()>(&mut server.client()).unwrap();
}

/// A proxy whose connections are as fast as is wanted, and can be made to lose all that is sent, like a line that is
/// dead and does not say so.
struct Line {
    port: u16,
    /// Of each connection, if it is dead.
    dead: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Line {
    /// `rate`: bytes a second, in each direction of each connection.
    fn to(server: &Server, rate: f64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), server.port);
        let dead = Arc::new(Mutex::new(Vec::new()));
        let its_dead = Arc::clone(&dead);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let is_dead = Arc::new(AtomicBool::new(false));
                its_dead.lock().unwrap().push(Arc::clone(&is_dead));
                let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let also_dead = Arc::clone(&is_dead);
                thread::spawn(move || carry(from, to, rate, &also_dead));
                thread::spawn(move || carry(upstream, client, rate, &is_dead));
            }
        });
        Self { port, dead }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Loses all that is sent from now on by the first connection, which is the one that listens.
    fn kill_first(&self) {
        self.dead.lock().unwrap()[0].store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, rate: f64, is_dead: &AtomicBool) {
    let mut buffer = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if is_dead.load(Ordering::SeqCst) {
            continue;
        }
        thread::sleep(Duration::from_secs_f64(read as f64 / rate));
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn a_listening_connection_that_is_dead_is_noticed_while_publishing_goes_on() {
    let server = Server::start();
    let line = Line::to(&server, f64::INFINITY);
    let bus = Text::new();
    let builder = steady(&bus, &line.url()).forward("out").accept("c");
    let events = builder.events();
    let bridge = ready(builder);
    let sub = subscribe(&bus, 64, &["c"]);
    eventually("it is subscribed", || server.subscriptions().1 == 1);
    let is_over = Arc::new(AtomicBool::new(false));
    let (publishing, ends) = (bus.clone(), Arc::clone(&is_over));
    let publisher = thread::spawn(move || {
        while !ends.load(Ordering::SeqCst) {
            publishing.publish("out", "x");
            thread::sleep(Duration::from_millis(10));
        }
    });
    eventually("something is sent", || bridge.stats().sent > 0);
    line.kill_first();
    let resumed =
        |event: &BridgeEvent| matches!(event, BridgeEvent::Resumed { maybe_missed: true, .. });
    await_event(&events, resumed);
    is_over.store(true, Ordering::SeqCst);
    publisher.join().unwrap();
    server.publish("c", "hello");
    assert_eq!(&*sub.recv_message_timeout(PATIENCE).unwrap().payload, "hello");
    assert_eq!(bridge.stats().not_sent, 0);
}

#[test]
fn a_slow_subscriber_does_not_hide_that_the_line_is_dead() {
    const MESSAGES: u32 = 300;
    let server = Server::start();
    let line = Line::to(&server, f64::INFINITY);
    let bus = Text::new();
    let bridge = ready(steady(&bus, &line.url()).accept("*"));
    let sub = blocking(&bus);
    await_channels(&server, &["c"]);
    publish_all(&server, "c", (0..MESSAGES).map(|n| n.to_string()));
    let mut taken = 0;
    eventually("they have come", || bridge.stats().received > 0);
    thread::sleep(Duration::from_millis(100));
    line.kill_first();
    while bridge.stats().disconnects == 0 {
        // It takes some, and never all, until then.
        assert!(taken < MESSAGES, "not noticed");
        taken += u32::from(sub.recv_message_timeout(PATIENCE).is_ok());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_user_needs_no_right_but_to_use_pubsub() {
    let server = Server::start();
    let user = ["SETUSER", "bob", "on", ">secret", "resetchannels", "&*", "+@pubsub"];
    redis::cmd("ACL").arg(&user).query::<()>(&mut server.client()).unwrap();
    let bus = Text::new();
    let url = format!("redis://bob:secret@127.0.0.1:{}", server.port);
    let bridge = ready(steady(&bus, &url).accept("in").forward("out"));
    let sub = subscribe(&bus, 64, &["in"]);
    // It asks for signs of life, which is refused: that is one.
    let refused_pings = || {
        let stats: String =
            redis::cmd("INFO").arg("commandstats").query(&mut server.client()).unwrap();
        let line = stats.lines().find(|line| line.starts_with("cmdstat_ping:"));
        let (_, count) = line?.split_once("rejected_calls=")?;
        count.split(',').next()?.parse::<u32>().ok()
    };
    eventually("it asks several times", || refused_pings() > Some(8));
    bus.publish("out", "x");
    eventually("it is sent", || bridge.stats().sent == 1);
    server.publish("in", "x");
    eventually("it has come", || sub.len() == 1);
    assert_eq!(bridge.stats().disconnects, 0);
}

#[test]
fn a_connection_that_publishes_nothing_is_not_closed_by_the_server() {
    let server = Server::with(&["--timeout", "4"]);
    let bus = Text::new();
    // What it would lose with the connection, it could not send again.
    let bridge = ready(steady(&bus, &server.url()).accept("in").forward("out").plain(true));
    let mut idle = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "another one is closed");
    bus.publish("out", "x");
    eventually("it is sent", || bridge.stats().sent == 1);
    assert_eq!((bridge.stats().disconnects, bridge.stats().not_sent), (0, 0));
}

#[test]
fn a_server_that_is_busy_with_a_script_is_not_lost() {
    let server = Server::with(&["--busy-reply-threshold", "100"]);
    let bus = Text::new();
    let bridge = ready(steady(&bus, &server.url()).accept("c").forward("out"));
    let sub = subscribe(&bus, 64, &["c"]);
    eventually("it is subscribed", || server.subscriptions().1 == 1);
    let mut client = server.client();
    let script = thread::spawn(move || {
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut client)
    });
    // Longer than the bridge's patience.
    thread::sleep(SILENCE + Duration::from_secs(1));
    // A client of the crate would ask for more first, which is refused.
    let mut killer = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    killer.write_all(b"SCRIPT KILL\r\n").unwrap();
    assert!(script.join().unwrap().is_err());
    bus.publish("out", "x");
    eventually("it is sent", || bridge.stats().sent == 1);
    server.publish("c", "x");
    eventually("it has come", || sub.len() == 1);
    assert_eq!(bridge.stats().disconnects, 0);
}

#[test]
fn no_duration_is_too_long_or_too_short() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = ready(quick(&bus, &server.url()).accept("*").linger(Duration::MAX));
    let sub = bus.subscribe("a").unwrap();
    await_channels(&server, &["a"]);
    drop(sub);
    let _sub = bus.subscribe("b").unwrap();
    await_channels(&server, &["a", "b"]);
    assert!(bridge.is_connected());
    for patience in [Duration::MAX, Duration::ZERO, Duration::from_nanos(2)] {
        drop(ready(impatient(&bus, &server.url()).accept("*").patience(patience)));
    }
    let url = format!("redis://127.0.0.1:{}", free_port());
    let builder = impatient(&bus, &url).accept("*").back_off(Duration::MAX, Duration::MAX);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    await_event(&events, |event| matches!(event, BridgeEvent::Unreachable { .. }));
    bridge.stop();
    bridge.join().unwrap();
}

/// Takes its time with each message that comes in.
struct Slow;

impl Codec<Bytes> for Slow {
    fn encode(&self, payload: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(payload);
        Ok(())
    }

    fn decode(&self, bytes: Bytes) -> Result<Bytes, CodecError> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(30) {}
        Ok(bytes)
    }
}

#[test]
fn a_flood_from_outside_holds_up_neither_what_goes_out_nor_new_subscriptions() {
    let server = Server::with(&UNBOUNDED);
    let bus: Bus<Bytes> = Bus::new();
    let builder = steady(&bus, &server.url());
    let bridge = ready(builder.accept("in:*").forward("out").codec(Slow));
    let _flooded = bus.subscriber_builder().capacity(16).subscribe("in:1").unwrap();
    await_channels(&server, &["in:1"]);
    let is_over = Arc::new(AtomicBool::new(false));
    let (ends, mut client) = (Arc::clone(&is_over), server.client());
    let flood = thread::spawn(move || {
        let mut pipeline = redis::pipe();
        for _ in 0..2_000 {
            pipeline.cmd("PUBLISH").arg("in:1").arg("x").ignore();
        }
        while !ends.load(Ordering::SeqCst) {
            pipeline.query::<()>(&mut client).unwrap();
        }
    });
    eventually("much has come", || bridge.stats().received > 5_000);
    for sent in 1..=20 {
        bus.publish("out", Bytes::from_static(b"x"));
        eventually("it is sent", || bridge.stats().sent == sent);
    }
    let _late = bus.subscribe("in:2").unwrap();
    await_channels(&server, &["in:1", "in:2"]);
    is_over.store(true, Ordering::SeqCst);
    flood.join().unwrap();
    assert_eq!(bridge.stats().disconnects, 0);
}

#[test]
fn what_waits_to_be_published_here_is_bounded_in_bytes() {
    const MESSAGES: usize = 80;
    const SIZE: usize = 500_000;
    let server = Server::with(&UNBOUNDED);
    let bus: Bus<Bytes> = Bus::new();
    let bridge = ready(quick(&bus, &server.url()).accept("*"));
    let sub = blocking(&bus);
    await_channels(&server, &["c"]);
    let (body, mut client) = (vec![b'x'; SIZE], server.client());
    for _ in 0..MESSAGES {
        redis::cmd("PUBLISH").arg("c").arg(&body).query::<()>(&mut client).unwrap();
    }
    // Time to read them all, if it did.
    thread::sleep(Duration::from_millis(500));
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
    let listening = clients.lines().find(|line| line.contains(" sub=1 ")).unwrap();
    let (_, waiting) = listening.split_once(" omem=").unwrap();
    let waiting: usize = waiting.split(' ').next().unwrap().parse().unwrap();
    // The sockets hold some megabytes, too.
    assert!(waiting > MESSAGES * SIZE / 2, "{waiting} bytes wait at the server");
    for _ in 0..MESSAGES {
        assert_eq!(sub.recv_message_timeout(PATIENCE).unwrap().payload.len(), SIZE);
    }
    assert_eq!(bridge.stats().disconnects, 0);
}

#[test]
fn an_envelope_of_an_unknown_version_is_told_with_all_its_bytes() {
    let server = Server::start();
    let bus = Text::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let builder =
        impatient(&bus, &server.url()).accept("*").on_undecodable(move |_, bytes, error| {
            told.lock().unwrap().push((bytes.to_vec(), error.to_string()));
        });
    let bridge = ready(builder);
    let _sub = bus.subscribe("c").unwrap();
    await_channels(&server, &["c"]);
    server.publish("c", &b"\xFFfo\x02anything"[..]);
    eventually("it is told", || bridge.stats().undecodable == 1);
    eventually("it is heard", || !heard.lock().unwrap().is_empty());
    let heard = heard.lock().unwrap();
    assert_eq!(heard[0].0, b"\xFFfo\x02anything");
    assert!(heard[0].1.contains("version 2"), "{}", heard[0].1);
}

#[test]
fn channels_that_are_not_utf8_are_told_and_those_of_the_server_s_own_events_come() {
    let server = Server::with(&["--notify-keyspace-events", "KEA"]);
    let bus = Text::new();
    let builder = impatient(&bus, &server.url()).accept("*").accept("__key*").accept("a*");
    let events = builder.events();
    let bridge = ready(builder);
    let builder = bus.subscriber_builder().lifecycle_events(false).dedupe(true);
    let sub = builder.psubscribe_many(["*", "__keyspace*", "é*"]).unwrap();
    eventually("it is subscribed", || server.subscriptions().1 == 3);
    redis::cmd("SET").arg("k").arg("v").query::<()>(&mut server.client()).unwrap();
    server.publish("", "x");
    redis::cmd("PUBLISH").arg(&b"a\xFF"[..]).arg("x").query::<()>(&mut server.client()).unwrap();
    server.publish("étude", "x");
    let told = await_event(&events, |event| matches!(event, BridgeEvent::Undecodable { .. }));
    let Some(BridgeEvent::Undecodable { channel, error }) = told.last() else { unreachable!() };
    assert_eq!(&**channel, "a\u{FFFD}");
    assert!(error.contains("UTF-8"), "{error}");
    eventually("the last has come", || bridge.stats().received == 3);
    let came: Vec<_> = sub.try_messages().map(|it| it.channel().to_owned()).collect();
    assert_eq!(came, ["__keyspace@0__:k", "__keyevent@0__:set", "étude"]);
    assert_eq!(bridge.stats().undecodable, 1);
}

#[test]
fn nothing_counts_as_subscribed_while_the_server_is_away() {
    let mut server = Server::start();
    let bus = Text::new();
    let bridge = ready(impatient(&bus, &server.url()).accept("*"));
    let _sub = bus.subscribe("c").unwrap();
    eventually("it is subscribed", || bridge.stats().subscriptions == 1);
    server.kill();
    eventually("it is away", || !bridge.is_connected());
    assert_eq!(bridge.stats().subscriptions, 0);
    server.restart();
    eventually("it is subscribed again", || bridge.stats().subscriptions == 1);
}

#[test]
fn what_was_received_before_the_server_went_away_is_still_published() {
    const MESSAGES: u32 = 1_000;
    let mut server = Server::start();
    let bus = Text::new();
    let bridge = ready(quick(&bus, &server.url()).accept("*"));
    let sub = blocking(&bus);
    await_channels(&server, &["c"]);
    publish_all(&server, "c", (0..MESSAGES).map(|n| n.to_string()));
    // They are read here, and wait.
    eventually("the first has come", || bridge.stats().received > 0);
    thread::sleep(Duration::from_millis(300));
    server.kill();
    // Longer than it takes to see that.
    thread::sleep(Duration::from_millis(300));
    for n in 0..MESSAGES {
        let message = sub.recv_message_timeout(PATIENCE).unwrap();
        assert_eq!(*message.payload, *n.to_string());
    }
    eventually("it is away", || bridge.stats().disconnects == 1);
}

#[test]
fn subscriptions_that_come_and_go_while_the_line_breaks_leave_nothing_behind() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let bus = Text::new();
    let builder = impatient(&bus, &proxy.url()).linger(Duration::from_millis(20));
    let bridge = ready(builder.accept("a*").accept("*b").accept("a*"));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (bus, is_over) = (&bus, &is_over);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut held = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    let sub = match random.u8(..5) {
                        0 => bus.subscribe(format!("a{}", random.u8(..7))),
                        1 => bus.psubscribe("a*"),
                        2 => bus.psubscribe("*"),
                        3 => bus.psubscribe(format!("a{}*b", random.u8(..3))),
                        _ => bus.psubscribe(Pattern::glob("a*").unwrap()),
                    };
                    held.push(sub.unwrap());
                    if held.len() > 6 {
                        drop(held.swap_remove(random.usize(..6)));
                    }
                    if random.u8(..50) == 0 {
                        held.clear();
                        thread::sleep(Duration::from_millis(random.u64(..30)));
                    }
                    thread::sleep(Duration::from_micros(300));
                }
            });
        }
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(120));
            proxy.cut();
        }
        is_over.store(true, Ordering::SeqCst);
    });
    eventually("nothing is left", || {
        server.subscriptions() == (vec![], 0) && bridge.stats().subscriptions == 0
    });
    assert!(bridge.stats().disconnects > 0);
    let sub = subscribe(&bus, 64, &["*"]);
    eventually("it is subscribed", || server.subscriptions().1 == 2);
    server.publish("a-b", "once");
    server.publish("a-b", "last");
    for expected in ["once", "last"] {
        assert_eq!(&*sub.recv_message_timeout(PATIENCE).unwrap().payload, expected);
    }
}

#[test]
fn what_a_slow_line_does_not_carry_in_one_go_is_sent_in_parts() {
    const MESSAGES: u64 = 200;
    let server = Server::start();
    // The bytes of a full batch take longer than the patience.
    let line = Line::to(&server, 2e5);
    let bus: Bus<Vec<u8>> = Bus::new();
    let bridge = ready(steady(&bus, &line.url()).forward("*"));
    (0..MESSAGES).for_each(|_| _ = bus.publish("c", vec![0; 10_000]));
    eventually("all is sent", || bridge.stats().sent == MESSAGES);
    assert_eq!(bridge.stats().not_sent, 0);
}

#[test]
fn a_message_that_is_too_long_for_a_slow_line_does_not_hold_up_the_next_for_ever() {
    let server = Server::start();
    let line = Line::to(&server, 8e5);
    let bus: Bus<Vec<u8>> = Bus::new();
    let builder = quick(&bus, &line.url()).patience(Duration::from_secs(1)).forward("*");
    let events = builder.events();
    let bridge = ready(builder);
    bus.publish("c", vec![0; 4_000_000]);
    bus.publish("c", vec![0; 10]);
    await_event(&events, |event| *event == BridgeEvent::NotSent { messages: 1 });
    eventually("the next is sent", || bridge.stats().sent == 1);
    assert_eq!(bridge.stats().not_sent, 1);
}

#[test]
fn a_server_that_is_lost_again_and_again_meets_growing_pauses() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let bus = Text::new();
    let builder = quick(&bus, &proxy.url());
    let builder = builder.back_off(Duration::from_millis(20), PATIENCE).accept("*").forward("*");
    let events = builder.events();
    let _bridge = ready(builder);
    let mut pause = Duration::ZERO;
    for _ in 0..6 {
        proxy.cut();
        let seen = await_event(&events, |event| matches!(event, BridgeEvent::Resumed { .. }));
        let Some(BridgeEvent::Resumed { away, .. }) = seen.last() else { unreachable!() };
        pause = *away;
    }
    // The first one was 20 milliseconds at most.
    assert!(pause > Duration::from_millis(200), "{pause:?}");
}
