mod support;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout::{Bus, Overflow, TryRecvError};
use fanout_redis::{Bridge, BridgeError, BridgeEvent, Codec, CodecError};
use support::{PATIENCE, Proxy, Server, free_port, quick, subscribe};

type Text = Bus<Arc<str>>;
const SHORT: Duration = Duration::from_secs(5);

fn within(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

// 1
#[test]
fn d1_a_stopped_bridge_with_block_hangs_publishers() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url())
        .forward("*")
        .capacity(4)
        .overflow(Overflow::Block { timeout: None })
        .spawn()
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bridge.stop();
    within("ended", SHORT, || bridge.is_finished());
    println!("match_count after the end: {}", bus.match_count("c"));
    let done = Arc::new(AtomicBool::new(false));
    let (b, d) = (bus.clone(), done.clone());
    thread::spawn(move || {
        (0..10).for_each(|n| _ = b.publish("c", n.to_string()));
        d.store(true, Ordering::SeqCst)
    });
    within("the publisher goes on", SHORT, || done.load(Ordering::SeqCst));
}
#[test]
fn d1b_an_ended_bridge_keeps_filling_its_inbox() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url()).forward("*").spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bridge.stop();
    within("ended", SHORT, || bridge.is_finished());
    assert_eq!(bus.match_count("c"), 0);
}

// 2
#[test]
fn d2_join_after_the_runtime_is_gone() {
    let server = Server::start();
    let bus = Text::new();
    let rt =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bridge = {
        let _g = rt.enter();
        quick(&bus, &server.url()).forward("*").spawn().unwrap()
    };
    bridge.wait_ready(PATIENCE).unwrap();
    rt.shutdown_timeout(Duration::from_secs(1));
    println!(
        "connected: {} finished: {} matches {}",
        bridge.is_connected(),
        bridge.is_finished(),
        bus.match_count("c")
    );
    within("is finished", SHORT, || bridge.is_finished());
}

/// Proxy whose n-th connection can be stopped in both directions.
struct Black {
    port: u16,
    holes: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}
impl Black {
    fn to(server: u16) -> Self {
        let l = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = l.local_addr().unwrap().port();
        let holes: Arc<Mutex<Vec<Arc<AtomicBool>>>> = Arc::default();
        let h = holes.clone();
        thread::spawn(move || {
            for c in l.incoming().map_while(Result::ok) {
                let Ok(u) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let hole = Arc::new(AtomicBool::new(false));
                h.lock().unwrap().push(hole.clone());
                let copy = |mut a: TcpStream, mut b: TcpStream, hole: Arc<AtomicBool>| {
                    thread::spawn(move || {
                        let mut buf = [0; 16384];
                        loop {
                            let Ok(n @ 1..) = a.read(&mut buf) else { break };
                            if hole.load(Ordering::SeqCst) {
                                continue;
                            }
                            if b.write_all(&buf[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = b.shutdown(std::net::Shutdown::Both);
                    });
                };
                copy(c.try_clone().unwrap(), u.try_clone().unwrap(), hole.clone());
                copy(u, c, hole);
            }
        });
        Self { port, holes }
    }
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

// 3
#[test]
fn d3_a_dead_listening_connection_while_publishing_is_busy() {
    let server = Server::start();
    let black = Black::to(server.port);
    let bus = Text::new();
    let bridge = quick(&bus, &black.url()).forward("out:*").accept("in:*").spawn().unwrap();
    let sub = subscribe(&bus, 1000, &["in:*"]);
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().1 == 1);
    server.publish("in:1", "a");
    within("came", SHORT, || sub.len() == 1);
    let over = Arc::new(AtomicBool::new(false));
    let (b, o) = (bus.clone(), over.clone());
    thread::spawn(move || {
        while !o.load(Ordering::SeqCst) {
            b.publish("out:1", "x");
            thread::sleep(Duration::from_millis(20));
        }
    });
    black.holes.lock().unwrap()[0].store(true, Ordering::SeqCst);
    thread::sleep(Duration::from_secs(6)); // 10 x patience
    println!("{:?} connected {}", bridge.stats(), bridge.is_connected());
    over.store(true, Ordering::SeqCst);
    assert!(bridge.stats().disconnects > 0, "never noticed");
}

// 4
#[test]
fn d4_a_user_with_pubsub_rights_only() {
    let server = Server::start();
    let user = ["ACL", "SETUSER", "bob", "on", ">secret", "resetchannels", "&*", "+@pubsub"];
    redis::cmd(user[0]).arg(&user[1..]).query::<()>(&mut server.client()).unwrap();
    let bus = Text::new();
    let url = format!("redis://bob:secret@127.0.0.1:{}", server.port);
    let bridge = quick(&bus, &url).accept("*").forward("*").spawn().unwrap();
    let _sub = bus.subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    thread::sleep(Duration::from_secs(2));
    println!("{bridge:?}");
    assert!(!bridge.is_finished());
}

// 5
#[test]
fn d5_an_idle_publishing_connection_that_the_server_closes() {
    let server = Server::with(&["--timeout", "1"]);
    let bus = Text::new();
    let builder = quick(&bus, &server.url()).accept("in").forward("out").plain(true);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    let _sub = bus.subscribe("in").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    thread::sleep(Duration::from_secs(4));
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.client()).unwrap();
    println!("{clients}");
    bus.publish("out", "x");
    thread::sleep(Duration::from_secs(1));
    println!(
        "{:?} {:?}",
        bridge.stats(),
        events.try_messages().map(|m| m.payload).collect::<Vec<_>>()
    );
    assert_eq!((bridge.stats().disconnects, bridge.stats().not_sent), (0, 0));
}

// 6
#[test]
fn d6_one_message_that_is_too_long_for_the_server() {
    let server = Server::with(&["--proto-max-bulk-len", "1mb"]);
    let bus: Bus<Vec<u8>> = Bus::new();
    let builder = quick(&bus, &server.url()).forward("*");
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bus.publish("c", vec![0; 20 << 20]);
    bus.publish("c", vec![0; 10]);
    thread::sleep(Duration::from_secs(4));
    println!("{:?} {}", bridge.stats(), events.len());
    let _ = events;
    assert!(bridge.stats().sent > 0, "stuck");
}

// 7
#[test]
fn d7_durations() {
    let server = Server::start();
    let bus = Text::new();
    let mut bad = Vec::new();
    let bridge = quick(&bus, &server.url()).accept("*").linger(Duration::MAX).spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let sub = bus.subscribe("c").unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    drop(sub);
    thread::sleep(Duration::from_millis(300));
    if bridge.is_finished() {
        bad.push(format!("linger MAX: {bridge:?}"))
    }
    for patience in [Duration::MAX, Duration::ZERO, Duration::from_nanos(2)] {
        let bridge = quick(&bus, &server.url()).accept("*").patience(patience).spawn().unwrap();
        let r = bridge.wait_ready(Duration::from_millis(700));
        if !matches!(r, Ok(())) {
            bad.push(format!("patience {patience:?}: {r:?} {bridge:?}"))
        }
    }
    let bridge = quick(&bus, &format!("redis://127.0.0.1:{}", free_port()))
        .accept("*")
        .back_off(Duration::MAX, Duration::MAX)
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    if bridge.is_finished() {
        bad.push(format!("back off MAX: {bridge:?}"))
    }
    println!("{bad:#?}");
    assert!(bad.is_empty());
}

struct Slow;
impl Codec<Bytes> for Slow {
    fn encode(&self, p: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(p);
        Ok(())
    }
    fn decode(&self, b: Bytes) -> Result<Bytes, CodecError> {
        let t = Instant::now();
        while t.elapsed() < Duration::from_micros(30) {}
        Ok(b)
    }
}

// 8
#[test]
fn d8_a_flood_from_outside_and_what_goes_out_meanwhile() {
    let server = Server::with(&["--client-output-buffer-limit", "pubsub", "0", "0", "0"]);
    let bus: Bus<Bytes> = Bus::new();
    let bridge = quick(&bus, &server.url())
        .patience(Duration::from_secs(3))
        .accept("in:*")
        .forward("out")
        .codec(Slow);
    let events = bridge.events();
    let bridge = bridge.spawn().unwrap();
    let _sub =
        bus.subscriber_builder().lifecycle_events(false).capacity(16).subscribe("in:1").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["in:1"]);
    let over = Arc::new(AtomicBool::new(false));
    let (o, mut client) = (over.clone(), server.client());
    let flood = thread::spawn(move || {
        while !o.load(Ordering::SeqCst) {
            let mut p = redis::pipe();
            for _ in 0..2000 {
                p.cmd("PUBLISH").arg("in:1").arg("x").ignore();
            }
            if p.query::<()>(&mut client).is_err() {
                break;
            }
        }
    });
    thread::sleep(Duration::from_secs(1));
    let mut worst = Duration::ZERO;
    let began = Instant::now();
    for n in 1..=20 {
        let t = Instant::now();
        bus.publish("out", Bytes::from_static(b"x"));
        while bridge.stats().sent < n && began.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        worst = worst.max(t.elapsed());
    }
    let t = Instant::now();
    let _s2 = bus.subscribe("in:2").unwrap();
    while server.subscriptions().0.len() < 2 && t.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
    println!("{:?}", events.try_messages().map(|m| m.payload).collect::<Vec<_>>());
    println!("worst outward {worst:?}; subscribe {:?}; {:?}", t.elapsed(), bridge.stats());
    over.store(true, Ordering::SeqCst);
    flood.join().unwrap();
    assert!(worst < Duration::from_secs(1));
}

// 9
#[test]
fn d9_a_server_that_is_busy_with_a_script() {
    let server = Server::with(&["--busy-reply-threshold", "100"]);
    let bus = Text::new();
    let builder = quick(&bus, &server.url()).accept("in").forward("out");
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    let _sub = bus.subscribe("in").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let mut client = server.client();
    let t = thread::spawn(move || {
        let _: redis::RedisResult<()> =
            redis::cmd("EVAL").arg("while true do end").arg(0).query(&mut client);
    });
    thread::sleep(Duration::from_secs(1));
    let mut killer = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    killer.write_all(b"SCRIPT KILL\r\n").unwrap();
    t.join().unwrap();
    thread::sleep(Duration::from_millis(500));
    println!(
        "{:?} {:?}",
        bridge.stats(),
        events.try_messages().map(|m| m.payload).collect::<Vec<_>>()
    );
    assert_eq!(bridge.stats().disconnects, 0);
}

// 10
#[test]
fn d10_events_of_a_bridge_that_has_ended() {
    let mut server = Server::start();
    let bus = Text::new();
    let builder = quick(&bus, &server.url()).forward("*").attempts(Some(2));
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    server.kill();
    within("ended", SHORT, || bridge.is_finished());
    while events.try_recv_message().is_ok() {}
    assert_eq!(events.try_recv_message(), Err(TryRecvError::Closed));
}

struct Panics;
impl Codec<u64> for Panics {
    fn encode(&self, p: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        assert_ne!(*p, 3);
        out.push(*p as u8);
        Ok(())
    }
    fn decode(&self, b: Bytes) -> Result<u64, CodecError> {
        Ok(b[0].into())
    }
}
// 11
#[test]
fn d11_the_books_after_a_panic() {
    let server = Server::start();
    server.pause();
    let bus: Bus<u64> = Bus::new();
    let bridge =
        quick(&bus, &server.url()).patience(PATIENCE).forward("*").codec(Panics).spawn().unwrap();
    (0..10_u64).for_each(|n| _ = bus.publish("a", n));
    server.resume();
    within("ended", SHORT, || bridge.is_finished());
    let s = bridge.stats();
    println!("{s:?}, matches {}", bus.match_count("a"));
    // The one at which the codec panics is not counted.
    assert_eq!(s.sent + s.not_sent + s.refused, 9);
}

// 12
#[test]
fn d12_bytes_of_an_envelope_of_another_version() {
    let server = Server::start();
    let bus = Text::new();
    let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let s = seen.clone();
    let bridge = quick(&bus, &server.url())
        .accept("*")
        .on_undecodable(move |_, b, _| s.lock().unwrap().push(b.to_vec()))
        .spawn()
        .unwrap();
    let _sub = bus.subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    server.publish("c", &b"\xFFfo\x02anything"[..]);
    within("told", SHORT, || seen.lock().unwrap().len() == 1);
    assert_eq!(seen.lock().unwrap()[0], b"\xFFfo\x02anything");
}

// 13
#[test]
fn d13_many_patterns() {
    let server = Server::start();
    let bus = Text::new();
    let mut before = Duration::ZERO;
    for n in [5_000, 20_000, 40_000] {
        let bridge = quick(&bus, &server.url())
            .patience(Duration::from_secs(60))
            .accept("*")
            .spawn()
            .unwrap();
        let sub = bus
            .subscriber_builder()
            .lifecycle_events(false)
            .psubscribe_many((0..n).map(|i| format!("p{i}:*")))
            .unwrap();
        let t = Instant::now();
        while server.subscriptions().1 < n && t.elapsed() < Duration::from_secs(120) {
            thread::sleep(Duration::from_millis(5));
        }
        let took = t.elapsed();
        // Messages
        let t2 = Instant::now();
        let mut p = redis::pipe();
        for _ in 0..1000 {
            p.cmd("PUBLISH").arg(format!("p{}:x", n - 1)).arg("x").ignore();
        }
        p.query::<()>(&mut server.client()).unwrap();
        let server_took = t2.elapsed();
        while bridge.stats().received < 1000 && t2.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(1));
        }
        println!(
            "{n} patterns: subscribed in {took:?}; 1000 messages {:?} (server {server_took:?}) {:?}",
            t2.elapsed(),
            bridge.stats()
        );
        let t = Instant::now();
        drop(sub);
        while server.subscriptions().1 > 0 && t.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(5));
        }
        println!("left in {:?}", t.elapsed());
        before = took;
    }
    let _ = before;
}

// 15
#[test]
fn d15_subscriptions_while_away() {
    let mut server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url()).accept("*").spawn().unwrap();
    let _sub = bus.subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || bridge.stats().subscriptions == 1);
    server.kill();
    within("away", SHORT, || !bridge.is_connected());
    println!("{:?}", bridge.stats());
    assert_eq!(bridge.stats().subscriptions, 0);
}

// 16
#[test]
fn d16_disconnect_policy() {
    let server = Server::start();
    let bus = Text::new();
    let builder =
        quick(&bus, &server.url()).forward("*").capacity(4).overflow(Overflow::Disconnect);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    server.pause();
    for n in 0..300 {
        bus.publish("a", n.to_string());
    }
    server.resume();
    within("ended", SHORT, || bridge.is_finished());
    println!(
        "{:?} {:?}",
        bridge.stats(),
        events.try_messages().map(|m| m.payload).collect::<Vec<_>>()
    );
    println!("{:?}", bridge.join());
}
#[test]
fn d16b_disconnect_policy_while_away() {
    let mut server = Server::start();
    let bus = Text::new();
    let builder =
        quick(&bus, &server.url()).forward("*").capacity(4).overflow(Overflow::Disconnect);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    server.kill();
    within("away", SHORT, || !bridge.is_connected());
    for n in 0..300 {
        bus.publish("a", n.to_string());
    }
    thread::sleep(Duration::from_secs(1));
    println!(
        "finished {} {:?} {:?}",
        bridge.is_finished(),
        bridge.stats(),
        events.try_messages().map(|m| m.payload).collect::<Vec<_>>()
    );
    assert!(bridge.is_finished());
}

// 17
fn fake(reply: &'static [u8]) -> u16 {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = l.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut c in l.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut b = [0; 4096];
                while let Ok(1..) = c.read(&mut b) {
                    if c.write_all(reply).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}
#[test]
fn d17_other_servers() {
    let bus = Text::new();
    for (name, reply) in [
        ("redis 5", &b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n-ERR Unknown\r\n-ERR Unknown\r\n"[..]),
        ("redis 4", b"-ERR unknown command 'HELLO'\r\n-ERR Unknown\r\n-ERR Unknown\r\n"),
        ("http", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("silent", b""),
        ("garbage", b"\x00\x01\x02\x03"),
        ("maxclients", b"-ERR max number of clients reached\r\n-ERR x\r\n-ERR x\r\n"),
        ("ok", b"+OK\r\n+OK\r\n+OK\r\n"),
    ] {
        let port = fake(reply);
        let bridge = quick(&bus, &format!("redis://127.0.0.1:{port}")).accept("*").forward("*").attempts(Some(3)).spawn().unwrap();
        println!("{name}: {:?}", bridge.wait_ready(SHORT));
        thread::sleep(Duration::from_millis(800));
        println!("   {:?}", bridge);
    }
}

// 18
#[test]
fn d18_gate_by_bytes() {
    let server = Server::with(&["--client-output-buffer-limit", "pubsub", "0", "0", "0"]);
    let bus: Bus<Bytes> = Bus::new();
    let bridge = quick(&bus, &server.url()).accept("*").spawn().unwrap();
    let _sub = bus
        .subscriber_builder()
        .capacity(1)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    let rss = || {
        let s = std::fs::read_to_string("/proc/self/status").unwrap();
        s.lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned()
    };
    println!("{}", rss());
    let body = vec![b'x'; 500_000];
    let mut client = server.client();
    for _ in 0..1000 {
        let _: usize = redis::cmd("PUBLISH").arg("c").arg(&body).query(&mut client).unwrap();
    }
    thread::sleep(Duration::from_secs(1));
    println!("{} {:?}", rss(), bridge.stats());
}

// 20
#[test]
fn d20_bus_dropped_while_a_publish_waits() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url()).accept("*").spawn().unwrap();
    let _sub = bus
        .subscriber_builder()
        .capacity(1)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    for _ in 0..3 {
        server.publish("c", "x");
    }
    within("waits", SHORT, || bridge.stats().received == 2);
    drop(bus);
    within("ended", SHORT, || bridge.is_finished());
}

// 21
#[test]
fn d21_what_was_received_before_the_server_went() {
    let mut server = Server::start();
    let bus: Bus<Bytes> = Bus::new();
    let bridge = quick(&bus, &server.url()).accept("*").spawn().unwrap();
    let sub = bus
        .subscriber_builder()
        .capacity(1)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    for n in 0..1000 {
        server.publish("c", n);
    }
    thread::sleep(Duration::from_millis(300));
    server.kill();
    thread::sleep(Duration::from_millis(1000));
    let mut got = 0;
    while sub.recv_message_timeout(Duration::from_millis(500)).is_ok() {
        got += 1;
    }
    println!("got {got} {:?}", bridge.stats());
    assert_eq!(got, 1000);
}

// 22
#[test]
fn d22_connections_after_the_end() {
    let server = Server::start();
    let rt =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let count = || -> usize {
        let s: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.client()).unwrap();
        s.lines().count() - 1
    };
    for own in [true, false] {
        let bus = Text::new();
        let _sub = bus.subscribe("c").unwrap();
        for _ in 0..20 {
            let _g = if own { None } else { Some(rt.enter()) };
            let b = quick(&bus, &server.url()).accept("*").forward("*").spawn().unwrap();
            b.wait_ready(PATIENCE).unwrap();
            drop(b);
        }
        within("connections gone", SHORT, || count() == 0);
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    println!("threads {threads}");
}

// idle busy loop
#[test]
fn d23_idle_cpu() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url())
        .patience(Duration::from_secs(3))
        .accept("*")
        .forward("*")
        .spawn()
        .unwrap();
    let _sub = bus.subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let cpu = || {
        let s = std::fs::read_to_string("/proc/self/stat").unwrap();
        let f: Vec<_> = s.rsplit(')').next().unwrap().split_whitespace().collect();
        f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap()
    };
    let a = cpu();
    thread::sleep(Duration::from_secs(3));
    println!("cpu ticks {}", cpu() - a);
    bus.close();
    let a = cpu();
    thread::sleep(Duration::from_secs(1));
    println!("cpu ticks {}", cpu() - a);
}

// churn: bookkeeping drift
#[test]
fn d24_churn_and_reconnects() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let bus = Text::new();
    let bridge = quick(&bus, &proxy.url())
        .accept("a*")
        .accept("*b")
        .accept("a*")
        .linger(Duration::from_millis(20))
        .spawn()
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let over = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..2)
        .map(|t| {
            let (b, o) = (bus.clone(), over.clone());
            thread::spawn(move || {
                let mut r = fastrand_like(t);
                let mut held = Vec::new();
                while o.load(Ordering::SeqCst) == 0 {
                    let n = r();
                    let s = match n % 5 {
                        0 => b.subscribe(format!("a{}", n / 5 % 7)),
                        1 => b.psubscribe("a*"),
                        2 => b.psubscribe("*"),
                        3 => b.psubscribe(format!("a{}*b", n % 3)),
                        _ => b.psubscribe(fanout::Pattern::glob("a*").unwrap()),
                    }
                    .unwrap();
                    held.push(s);
                    if held.len() > 6 {
                        held.remove((n / 11 % 6) as usize);
                    }
                    if n % 50 == 0 {
                        held.clear();
                        thread::sleep(Duration::from_millis(n / 50 % 30));
                    }
                    thread::sleep(Duration::from_micros(300));
                }
            })
        })
        .collect();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(150));
        proxy.cut();
    }
    over.store(1, Ordering::SeqCst);
    threads.into_iter().for_each(|t| t.join().unwrap());
    within("nothing is left", SHORT, || {
        let s = server.subscriptions();
        s.0.is_empty() && s.1 == 0 && bridge.stats().subscriptions == 0
    });
    println!("{bridge:?}");
    assert!(!bridge.is_finished());
    let sub = subscribe(&bus, 100, &["*"]);
    within("two", SHORT, || server.subscriptions().1 == 2);
    server.publish("aXb", "once");
    within("came", SHORT, || !sub.is_empty());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(sub.len(), 1);
}
fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed * 7919 + 88172645463325252;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x >> 8
    }
}

#[allow(unused)]
fn unused() {
    let _: Option<(BridgeError, BridgeEvent)> = None;
}

// 25
fn throttled(server: u16, bytes_a_second: usize) -> u16 {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = l.local_addr().unwrap().port();
    thread::spawn(move || {
        for c in l.incoming().map_while(Result::ok) {
            let Ok(u) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            let copy = |mut a: TcpStream, mut b: TcpStream| {
                thread::spawn(move || {
                    let mut buf = [0; 16384];
                    loop {
                        let Ok(n @ 1..) = a.read(&mut buf) else { break };
                        thread::sleep(Duration::from_secs_f64(n as f64 / bytes_a_second as f64));
                        if b.write_all(&buf[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = b.shutdown(std::net::Shutdown::Both);
                    let _ = a.shutdown(std::net::Shutdown::Both);
                });
            };
            copy(c.try_clone().unwrap(), u.try_clone().unwrap());
            copy(u, c);
        }
    });
    port
}
#[test]
fn d25_a_slow_line() {
    let server = Server::start();
    let bus: Bus<Vec<u8>> = Bus::new();
    // A second of it takes longer than the patience; with the defaults: 1 MiB in 3 s, a line of 350 kB/s.
    let port = throttled(server.port, 1_000_000);
    let bridge = quick(&bus, &format!("redis://127.0.0.1:{port}")).forward("*").spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    for _ in 0..400 {
        bus.publish("c", vec![0; 10_000]);
    }
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(2));
        println!("{:?}", bridge.stats());
        if bridge.stats().sent == 400 {
            break;
        }
    }
    assert!(bridge.stats().sent == 400, "stuck");
}
#[test]
fn d25b_one_long_message_on_a_slow_line() {
    let server = Server::start();
    let bus: Bus<Vec<u8>> = Bus::new();
    let port = throttled(server.port, 1_000_000);
    let bridge = quick(&bus, &format!("redis://127.0.0.1:{port}")).forward("*").spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bus.publish("c", vec![0; 3_000_000]);
    bus.publish("c", vec![0; 10]);
    for _ in 0..12 {
        thread::sleep(Duration::from_secs(1));
        if bridge.stats().sent > 0 {
            break;
        }
    }
    println!("{:?}", bridge.stats());
    assert!(bridge.stats().sent > 0, "stuck");
}

// 26
fn two(urls: &str, publishes: bool) {
    let bus = Text::new();
    let bridges: Vec<_> = urls
        .split(' ')
        .map(|url| quick(&bus, url).forward("*").accept("*").spawn().unwrap())
        .collect();
    let sub = subscribe(&bus, 1 << 20, &["*"]);
    bridges.iter().for_each(|b| b.wait_ready(PATIENCE).unwrap());
    thread::sleep(Duration::from_secs(2));
    if publishes {
        bus.publish("c", "once");
    }
    thread::sleep(Duration::from_secs(3));
    println!(
        "{} saw {} copies; {:?}",
        if publishes { "publisher" } else { "other" },
        sub.len(),
        bridges.iter().map(|b| b.stats()).collect::<Vec<_>>()
    );
}
fn loops(urls: &str) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_process", "--ignored", "--nocapture"])
        .env("FT", urls)
        .spawn()
        .unwrap();
    two(urls, true);
    child.wait().unwrap();
}
#[test]
fn d26_two_processes_on_two_servers() {
    let (a, b) = (Server::start(), Server::start());
    loops(&format!("{} {}", a.url(), b.url()));
}
#[test]
fn d26b_two_bridges_of_a_bus_on_one_server() {
    let a = Server::start();
    loops(&format!("{} {}", a.url(), a.url()));
}
#[test]
#[ignore]
fn other_process() {
    two(&std::env::var("FT").unwrap(), false);
}

// 27
#[test]
fn d27_interest_wakeups() {
    let bus: Text = Bus::builder().limits(fanout::Limits::default().max_patterns(2)).build();
    let watch = bus.watch_interest();
    let (tx, rx) = std::sync::mpsc::channel();
    thread::spawn(move || {
        while let Ok(i) = watch.recv() {
            if tx.send(Some(i)).is_err() {
                return;
            }
        }
        let _ = tx.send(None);
    });
    let next = |what: &str| {
        let i = rx
            .recv_timeout(Duration::from_secs(2))
            .unwrap_or_else(|_| panic!("no wake-up: {what}"));
        println!("{what}: {i:?}");
    };
    let nothing = || assert!(rx.recv_timeout(Duration::from_millis(50)).is_err());
    thread::sleep(Duration::from_millis(50));
    let sub = bus.subscribe("a").unwrap();
    next("subscribe");
    sub.unsubscribe("a");
    next("unsubscribe");
    sub.subscribe("a").unwrap();
    next("subscribe");
    sub.close();
    next("close");
    let sub =
        bus.subscriber_builder().capacity(1).overflow(Overflow::Disconnect).subscribe("b").unwrap();
    next("subscribe");
    sub.psubscribe("b*").unwrap();
    next("psubscribe");
    bus.publish("b", "1");
    bus.publish("b", "2");
    next("disconnect");
    next("disconnect");
    let sub = bus.psubscribe("p*").unwrap();
    next("psub");
    let failed = bus.subscriber_builder().psubscribe_many(["q*", "r*", "s*"]);
    println!("{:?}", failed.is_err());
    drop(failed);
    thread::sleep(Duration::from_millis(50));
    while let Ok(i) = rx.try_recv() {
        println!("rollback {i:?}");
    }
    drop(sub);
    next("drop");
    let sub = bus.subscriber_builder().interest(false).subscribe("x").unwrap();
    nothing();
    let sub2 = bus.subscribe("x").unwrap();
    next("second, that counts");
    drop(sub2);
    next("gone");
    drop(sub);
    nothing();
    let topic = bus.topic("t");
    nothing();
    let s = topic.subscribe().unwrap();
    next("topic.subscribe");
    let re = s.resubscribe().unwrap();
    nothing();
    drop(s);
    nothing();
    drop(re);
    next("resub gone");
    let s = bus.subscribe("l").unwrap();
    next("listener");
    let l = s.spawn("x", |_| {});
    drop(s);
    nothing();
    l.drain();
    l.join().unwrap();
    next("drained");
    bus.close();
    next("closed");
}

// 29
#[test]
fn d29_slow_consumer_and_a_half_open_line() {
    let server = Server::start();
    let black = Black::to(server.port);
    let bus = Text::new();
    let bridge = quick(&bus, &black.url()).accept("*").spawn().unwrap();
    let sub = bus
        .subscriber_builder()
        .capacity(1)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    for n in 0..60 {
        server.publish("c", n);
    }
    thread::sleep(Duration::from_millis(200));
    black.holes.lock().unwrap()[0].store(true, Ordering::SeqCst);
    let t = Instant::now();
    while bridge.stats().disconnects == 0 && t.elapsed() < Duration::from_secs(20) {
        let _ = sub.recv_message_timeout(Duration::from_millis(200));
        thread::sleep(Duration::from_millis(200));
    }
    println!("noticed after {:?} {:?}", t.elapsed(), bridge.stats());
}

// 30: interest churn while a PING waits; sharded channels that the server lets go
#[test]
fn d30_sharded_channels_that_the_server_lets_go() {
    let dir = format!("/tmp/advc{}", std::process::id());
    std::fs::create_dir_all(&dir).unwrap();
    let server = Server::with(&["--cluster-enabled", "yes", "--dir", &dir]);
    redis::cmd("CLUSTER")
        .arg("ADDSLOTSRANGE")
        .arg(0)
        .arg(16383)
        .query::<()>(&mut server.client())
        .unwrap();
    thread::sleep(Duration::from_secs(3));
    let bus = Text::new();
    let builder = quick(&bus, &server.url()).accept("*").sharded(true);
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let sharded = || -> Vec<String> {
        redis::cmd("PUBSUB").arg("SHARDCHANNELS").query(&mut server.client()).unwrap()
    };
    within("subscribed", SHORT, || sharded() == ["c"]);
    let slot: u32 =
        redis::cmd("CLUSTER").arg("KEYSLOT").arg("c").query(&mut server.client()).unwrap();
    redis::cmd("CLUSTER").arg("DELSLOTS").arg(slot).query::<()>(&mut server.client()).unwrap();
    within("let go", SHORT, || sharded().is_empty());
    redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slot).query::<()>(&mut server.client()).unwrap();
    thread::sleep(Duration::from_secs(3));
    println!(
        "{:?} {:?} {:?}",
        sharded(),
        bridge,
        events.try_messages().map(|m| m.payload).collect::<Vec<_>>()
    );
    let _ = sub;
    let _ = std::fs::remove_dir_all(&dir);
    assert!(!sharded().is_empty(), "a silent gap");
}
// 31
#[test]
fn d31_memory_of_linger() {
    let server = Server::start();
    let bus = Text::new();
    let bridge =
        quick(&bus, &server.url()).accept("*").linger(Duration::from_secs(3600)).spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let rss = || {
        let s = std::fs::read_to_string("/proc/self/status").unwrap();
        s.lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned()
    };
    println!("{}", rss());
    let t = Instant::now();
    let mut n = 0;
    while t.elapsed() < Duration::from_secs(6) {
        drop(bus.subscribe("c").unwrap());
        n += 1;
        for _ in 0..20 {
            thread::yield_now()
        }
    }
    println!("{n} times: {} {:?}", rss(), bridge.stats());
}
// 32: a callback that panics
#[test]
fn d32_callback_panics() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url())
        .accept("*")
        .on_undecodable(|_, _, _| panic!("in it"))
        .spawn()
        .unwrap();
    let _sub = bus.subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().0 == ["c"]);
    server.publish("c", &b"\xff\xff"[..]);
    within("ended", SHORT, || bridge.is_finished());
    println!("{bridge:?}");
}
// 33: the password changes
#[test]
fn d33_password_changes() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let bus = Text::new();
    let builder = quick(&bus, &proxy.url()).accept("*").forward("*");
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("requirepass")
        .arg("new")
        .query::<()>(&mut server.client())
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    println!("{bridge:?}");
    proxy.cut();
    within("ended", SHORT, || bridge.is_finished());
    println!("{bridge:?} {:?}", events.try_messages().map(|m| m.payload).collect::<Vec<_>>());
}
// 34: non-UTF-8 channels, keyspace notifications
#[test]
fn d34_odd_channels() {
    let server = Server::with(&["--notify-keyspace-events", "KEA"]);
    let bus = Text::new();
    let bridge =
        quick(&bus, &server.url()).accept("*").accept("__key*").accept("a*").spawn().unwrap();
    let sub = subscribe(&bus, 100, &["*", "__keyspace*", "\u{e9}*", "?*"]);
    bridge.wait_ready(PATIENCE).unwrap();
    within("subscribed", SHORT, || server.subscriptions().1 == 4);
    redis::cmd("SET").arg("k").arg("v").query::<()>(&mut server.client()).unwrap();
    redis::cmd("PUBLISH").arg(&b"a\xff"[..]).arg("v").query::<()>(&mut server.client()).unwrap();
    redis::cmd("PUBLISH").arg(&b""[..]).arg("v").query::<()>(&mut server.client()).unwrap();
    server.publish("\u{e9}x", "once");
    thread::sleep(Duration::from_millis(300));
    println!(
        "{:?} {:?}",
        bridge.stats(),
        sub.try_messages().map(|m| (m.channel().to_owned(), m.payload)).collect::<Vec<_>>()
    );
}
// 35: a flapping server
#[test]
fn d35_flapping_back_off() {
    let server = Server::with(&["--proto-max-bulk-len", "1mb"]);
    let proxy = Proxy::to(server.port);
    let bus = Text::new();
    let builder = quick(&bus, &proxy.url())
        .back_off(Duration::from_millis(20), Duration::from_secs(10))
        .accept("*")
        .forward("*");
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let t = Instant::now();
    while t.elapsed() < Duration::from_secs(3) {
        if bridge.is_connected() {
            proxy.cut();
        }
        thread::sleep(Duration::from_millis(2));
    }
    println!(
        "{} disconnects in 3 s, events kept {} missed {}",
        bridge.stats().disconnects,
        events.len(),
        events.missed()
    );
}
// 36
#[test]
fn d36_drained_before_it_is_connected() {
    let server = Server::start();
    let bus = Text::new();
    let mut not_sent = Vec::new();
    for closes in [false, true] {
        let bus = if closes { Text::new() } else { bus.clone() };
        let bridge = Bridge::builder(&bus, server.url()).forward("*").spawn().unwrap();
        (0..10).for_each(|n| _ = bus.publish("c", n.to_string()));
        if closes {
            bus.close()
        } else {
            bridge.drain()
        }
        within("ended", SHORT, || bridge.is_finished());
        println!("{bridge:?}");
        not_sent.push(bridge.stats().not_sent);
    }
    assert_eq!(not_sent, [0, 0]);
}
// 37
#[test]
fn d37_a_runtime_without_io() {
    let bus = Text::new();
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let _g = rt.enter();
    let bridge = quick(&bus, "redis://127.0.0.1:1").forward("*").spawn().unwrap();
    println!("{:?}", bridge.wait_ready(SHORT).map_err(|e| e.to_string()));
}
// 38: publishers do not hang while a Block bridge is away and is stopped, drained, dropped
#[test]
fn d38_block_while_away() {
    for how in 0..4 {
        let mut server = Server::start();
        let bus = Text::new();
        let bridge = quick(&bus, &server.url())
            .forward("*")
            .capacity(2)
            .overflow(Overflow::Block { timeout: None })
            .spawn()
            .unwrap();
        bridge.wait_ready(PATIENCE).unwrap();
        server.kill();
        let (b, done) = (bus.clone(), Arc::new(AtomicBool::new(false)));
        let d = done.clone();
        thread::spawn(move || {
            (0..1000).for_each(|n| _ = b.publish("c", n.to_string()));
            d.store(true, Ordering::SeqCst)
        });
        thread::sleep(Duration::from_millis(200));
        let mut kept = None;
        match how {
            0 => {
                bridge.stop();
                kept = Some(bridge)
            }
            1 => {
                bridge.drain();
                kept = Some(bridge)
            }
            2 => drop(bridge),
            _ => {
                bus.close();
                kept = Some(bridge)
            }
        }
        within("published", SHORT, || done.load(Ordering::SeqCst));
        println!("{how} {kept:?}");
    }
}
