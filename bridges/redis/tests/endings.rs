//! How bridges end: by their handle, with their runtime, by an error. Nobody waits for one that has ended, and what it
//! did not send is counted.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fanout::{Bus, Overflow, RecvTimeoutError};
use fanout_redis::{
    Bridge, BridgeBuilder, BridgeError, BridgeEvent, BridgeHandle, Codec, CodecError, Raw,
};
use support::{PATIENCE, Proxy, Server, eventually, free_port, impatient};

type Text = Bus<Arc<str>>;

fn ready<P: Clone + Send + 'static, C: Codec<P>>(builder: BridgeBuilder<P, C>) -> BridgeHandle {
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bridge
}

/// Returns a builder of a bridge that forwards everything, and has room for `capacity` messages.
fn forwarding(
    bus: &Text,
    url: &str,
    capacity: usize,
    overflow: Overflow,
) -> BridgeBuilder<Arc<str>, Raw> {
    impatient(bus, url).forward("*").capacity(capacity).overflow(overflow)
}

/// Publishes `messages` on a thread of its own.
fn publish(bus: &Text, messages: u32) -> thread::JoinHandle<()> {
    let bus = bus.clone();
    thread::spawn(move || (0..messages).for_each(|n| _ = bus.publish("c", n.to_string())))
}

/// A server that answers all that it is sent by `reply`. Returns its URL.
fn always(reply: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(1..) = client.read(&mut buffer) {
                    if client.write_all(reply).is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[test]
fn a_stopped_bridge_leaves_the_bus() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = ready(impatient(&bus, &server.url()).forward("*").accept("*"));
    assert_eq!(bus.match_count("c"), 1);
    bridge.stop();
    eventually("it has ended", || bridge.is_finished());
    assert_eq!(bus.match_count("c"), 0);
}

#[test]
fn publishers_do_not_wait_for_room_in_a_bridge_that_has_ended() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = ready(forwarding(&bus, &server.url(), 4, Overflow::Block { timeout: None }));
    bridge.stop();
    eventually("it has ended", || bridge.is_finished());
    let publisher = publish(&bus, 10);
    eventually("the publisher goes on", || publisher.is_finished());
}

#[test]
fn publishers_that_wait_for_room_go_on_when_a_bridge_without_a_server_ends() {
    let ends: [fn(&Text, BridgeHandle) -> Option<BridgeHandle>; 4] = [
        |_, bridge| {
            bridge.stop();
            Some(bridge)
        },
        |_, bridge| {
            bridge.drain();
            Some(bridge)
        },
        |_, bridge| {
            drop(bridge);
            None
        },
        |bus, bridge| {
            bus.close();
            Some(bridge)
        },
    ];
    let mut server = Server::start();
    for end in ends {
        let bus = Text::new();
        let bridge = ready(forwarding(&bus, &server.url(), 2, Overflow::Block { timeout: None }));
        server.kill();
        eventually("it is away", || !bridge.is_connected());
        let publisher = publish(&bus, 1_000);
        // Then it waits for room.
        eventually("its inbox is full", || bus.subscribers().iter().any(|info| info.depth == 2));
        assert!(!publisher.is_finished());
        let bridge = end(&bus, bridge);
        eventually("the publisher goes on", || publisher.is_finished());
        eventually("it leaves the bus", || bus.match_count("c") == 0);
        if let Some(bridge) = bridge {
            eventually("it has ended", || bridge.is_finished());
            assert!(bridge.stats().not_sent >= 2, "{bridge:?}");
            assert!(bridge.join().is_ok());
        }
        server.restart();
    }
}

#[test]
fn a_bridge_ends_with_its_runtime() {
    let server = Server::start();
    let bus = Text::new();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let bridge = {
        let _entered = runtime.enter();
        ready(impatient(&bus, &server.url()).forward("*"))
    };
    runtime.shutdown_timeout(PATIENCE);
    eventually("it has ended", || bridge.is_finished());
    assert!(!bridge.is_connected());
    assert_eq!(bus.match_count("c"), 0);
    let error = bridge.join().unwrap_err();
    assert!(matches!(error, BridgeError::Runtime), "{error}");
}

#[test]
fn the_events_end_with_the_bridge() {
    let mut server = Server::start();
    let bus = Text::new();
    let builder = impatient(&bus, &server.url()).forward("*").attempts(Some(2));
    let events = builder.events();
    let bridge = ready(builder);
    server.kill();
    let mut last = None;
    let end = loop {
        match events.recv_message_timeout(PATIENCE) {
            Ok(message) => last = Some(message.payload),
            Err(end) => break end,
        }
    };
    assert_eq!(end, RecvTimeoutError::Closed);
    assert!(matches!(last, Some(BridgeEvent::Unreachable { attempts: 2, .. })), "{last:?}");
    assert!(bridge.is_finished());
    // Whoever asks for them later sees the same.
    let late = bridge.events();
    assert!(matches!(late.recv_message_timeout(PATIENCE), Err(RecvTimeoutError::Closed)));
}

/// Panics at a three.
struct NoThree;

impl Codec<u8> for NoThree {
    fn encode(&self, payload: &u8, out: &mut Vec<u8>) -> Result<(), CodecError> {
        assert_ne!(*payload, 3, "a three");
        out.push(*payload);
        Ok(())
    }

    fn decode(&self, bytes: Bytes) -> Result<u8, CodecError> {
        Ok(bytes[0])
    }
}

#[test]
fn what_is_left_when_a_codec_panics_counts_as_not_sent() {
    let server = Server::start();
    // All ten wait until it is connected.
    server.pause();
    let bus: Bus<u8> = Bus::new();
    let builder = impatient(&bus, &server.url()).patience(PATIENCE).forward("*").codec(NoThree);
    let bridge = builder.spawn().unwrap();
    (0..10_u8).for_each(|n| _ = bus.publish("c", n));
    server.resume();
    eventually("it has ended", || bridge.is_finished());
    let stats = bridge.stats();
    // The three itself is told by the error.
    assert_eq!(stats.sent + stats.not_sent, 9, "{stats:?}");
    assert_eq!(bus.match_count("c"), 0);
    let error = bridge.join().unwrap_err();
    assert!(matches!(&error, BridgeError::Panicked(text) if text.contains("a three")), "{error}");
}

#[test]
fn a_full_inbox_that_disconnects_ends_the_bridge() {
    let mut server = Server::start();
    for is_away in [false, true] {
        let bus = Text::new();
        let bridge = ready(forwarding(&bus, &server.url(), 4, Overflow::Disconnect));
        if is_away {
            server.kill();
            eventually("it is away", || !bridge.is_connected());
        } else {
            server.pause();
        }
        (0..300).for_each(|n| _ = bus.publish("c", n.to_string()));
        assert_eq!(bus.match_count("c"), 0);
        if !is_away {
            server.resume();
        }
        eventually("it has ended", || bridge.is_finished());
        // The one that found no room, at least.
        assert!(bridge.stats().not_sent > 0, "{bridge:?}");
        let error = bridge.join().unwrap_err();
        assert!(matches!(error, BridgeError::Overflow), "{error}");
    }
}

#[test]
fn a_password_that_was_changed_ends_the_bridge_when_it_connects_again() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let bus = Text::new();
    let bridge = ready(impatient(&bus, &proxy.url()).accept("*").forward("*"));
    let change = ["SET", "requirepass", "new"];
    redis::cmd("CONFIG").arg(&change).query::<()>(&mut server.client()).unwrap();
    // Connections that are there stay as they are.
    bus.publish("c", "still sent");
    eventually("it is sent", || bridge.stats().sent == 1);
    proxy.cut();
    eventually("it has ended", || bridge.is_finished());
    let error = bridge.join().unwrap_err();
    assert!(matches!(error, BridgeError::Authentication(_)), "{error}");
}

#[test]
fn what_a_bridge_holds_when_it_is_drained_before_it_is_connected_is_sent() {
    let server = Server::start();
    for closes in [false, true] {
        let bus = Text::new();
        let bridge = Bridge::builder(&bus, server.url()).forward("*").spawn().unwrap();
        (0..10).for_each(|n| _ = bus.publish("c", n.to_string()));
        if closes {
            bus.close();
        } else {
            bridge.drain();
        }
        eventually("it has ended", || bridge.is_finished());
        let stats = bridge.stats();
        assert_eq!((stats.sent, stats.not_sent), (10, 0));
        assert!(bridge.join().is_ok());
    }
}

#[test]
fn a_server_that_does_not_speak_resp3_is_an_error_at_once() {
    let bus = Text::new();
    for reply in [
        // Redis 5, and Redis 4.
        &b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n-ERR x\r\n-ERR x\r\n"[..],
        b"-ERR unknown command 'HELLO'\r\n-ERR x\r\n-ERR x\r\n",
    ] {
        let bridge = impatient(&bus, &always(reply)).accept("*").forward("*").spawn().unwrap();
        let error = bridge.wait_ready(PATIENCE).unwrap_err();
        assert!(matches!(error, BridgeError::Protocol(_)), "{error}");
        assert!(bridge.is_finished());
    }
}

#[test]
fn what_is_no_redis_server_is_tried_as_often_as_one_that_is_not_there() {
    let bus = Text::new();
    for reply in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x00\x01\x02\x03",
        b"-ERR max number of clients reached\r\n-ERR x\r\n-ERR x\r\n",
        // One that never answers.
        b"",
    ] {
        let builder = impatient(&bus, &always(reply)).patience(Duration::from_millis(200));
        let builder = builder.accept("*").forward("*").attempts(Some(3));
        let error = builder.spawn().unwrap().wait_ready(PATIENCE).unwrap_err();
        assert!(matches!(error, BridgeError::Unreachable { attempts: 3, .. }), "{error}");
    }
}

#[test]
fn who_waits_for_a_server_that_is_not_there_is_told_why_and_what_was_not_sent() {
    let bus = Text::new();
    let url = format!("redis://127.0.0.1:{}", free_port());
    let bridge = impatient(&bus, &url).forward("*").spawn().unwrap();
    eventually("it has tried", || {
        let error = bridge.wait_ready(Duration::from_millis(10)).unwrap_err();
        assert!(matches!(error, BridgeError::NotReady { .. }), "{error:?}");
        error.to_string().contains("Connection refused")
    });
    bus.publish("c", "x");
    assert!(!bridge.wait_finished(Duration::ZERO));
    bridge.drain();
    assert!(bridge.wait_finished(PATIENCE));
    assert_eq!(bridge.stats().not_sent, 1);
    bridge.join().unwrap();
}
