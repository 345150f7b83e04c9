//! A bridge to a server that is there: what goes out, what comes in, and what does not.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout::{Bus, Overflow, Pattern, TryRecvError};
use fanout_redis::{Bridge, BridgeError, BridgeEvent, Codec, CodecError, Json};
use support::{PATIENCE, SILENCE, Server, await_event, eventually, quick, steady, subscribe};

type Text = Bus<Arc<str>>;

fn texts(sub: &fanout::Subscriber<Arc<str>>) -> Vec<(String, String)> {
    sub.try_messages().map(|it| (it.channel().to_owned(), it.payload.to_string())).collect()
}

/// Returns two buses that count as processes, each with a bridge for `patterns`.
fn pair(server: &Server, patterns: &[&str]) -> [(Text, fanout_redis::BridgeHandle); 2] {
    [(); 2].map(|()| {
        let bus = Text::new();
        let mut builder = quick(&bus, &server.url()).own_origin(true);
        for &pattern in patterns {
            builder = builder.forward(pattern).accept(pattern);
        }
        let bridge = builder.spawn().unwrap();
        bridge.wait_ready(PATIENCE).unwrap();
        (bus, bridge)
    })
}

#[test]
fn what_is_published_on_one_bus_arrives_on_the_other_once_and_in_order() {
    let server = Server::start();
    let [(here, forward), (there, accept)] = pair(&server, &["game:*:events"]);
    let (own, other) = (subscribe(&here, 5_000, &["*"]), subscribe(&there, 5_000, &["*"]));
    // The server counts a pattern of both once.
    for bridge in [&forward, &accept] {
        bridge.wait_subscribed(PATIENCE).unwrap();
    }
    for n in 0..3_000 {
        here.publish(&format!("game:{}:events", n % 7), n.to_string());
        here.publish("elsewhere", "stays here");
    }
    eventually("all have arrived", || other.len() == 3_000);
    let arrived = texts(&other);
    for game in 0..7 {
        let channel = format!("game:{game}:events");
        let of_game: Vec<_> =
            arrived.iter().filter(|(name, _)| *name == channel).map(|(_, n)| n.parse()).collect();
        assert!(of_game.into_iter().eq((0..3_000).filter(|n| n % 7 == game).map(Ok)));
    }
    // Nothing came back.
    assert_eq!(own.len(), 5_000);
    eventually("echoes are counted", || forward.stats().echoes == 3_000);
    eventually("all are confirmed", || forward.stats().sent == 3_000);
    assert_eq!(forward.stats().received, 0);
}

#[test]
fn only_what_somebody_wants_is_subscribed_upstream_and_let_go_after_a_pause() {
    let server = Server::start();
    let bus = Text::new();
    let early = subscribe(&bus, 16, &["game:1:*"]);
    let bridge = quick(&bus, &server.url())
        .accept("game:*")
        .accept("user:[0-9]*")
        .forward("game:*")
        .linger(Duration::from_millis(300))
        .spawn()
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    assert_eq!(server.subscriptions(), (vec![], 1));

    let sub = bus.subscriber();
    sub.subscribe_many(["game:7", "elsewhere", "user:1"]).unwrap();
    eventually("channels are subscribed", || server.subscriptions().0 == ["game:7", "user:1"]);
    // More than is accepted: both accepted patterns, in its place.
    sub.psubscribe("*").unwrap();
    eventually("patterns are subscribed", || server.subscriptions().1 == 3);
    // A shell glob, which the server does not know: the accepted patterns, which are there.
    sub.psubscribe(Pattern::glob("game:*").unwrap()).unwrap();
    // One that shares nothing with what is accepted.
    sub.psubscribe("nothing:*").unwrap();
    drop(early);
    eventually("a pattern is let go", || server.subscriptions().1 == 2);

    // Back within the pause: nothing changes upstream.
    sub.unsubscribe("game:7");
    sub.subscribe("game:7").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.subscriptions().0, ["game:7", "user:1"]);
    drop(sub);
    eventually("all are let go", || server.subscriptions() == (vec![], 0));
    eventually("none is counted", || bridge.stats().subscriptions == 0);
}

#[test]
fn a_message_of_another_client_comes_in_as_it_is_and_once() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url())
        .accept("game:*")
        .accept("game:*:events")
        .accept("*:events")
        .forward("*")
        .spawn()
        .unwrap();
    let subs = [
        bus.subscriber_builder().lifecycle_events(false).subscribe("game:7:events").unwrap(),
        subscribe(&bus, 64, &["game:*:events"]),
        subscribe(&bus, 64, &["*:events"]),
        subscribe(&bus, 64, &["game:?:events"]),
    ];
    bridge.wait_ready(PATIENCE).unwrap();
    eventually("all is subscribed", || server.subscriptions() == (vec!["game:7:events".into()], 3));
    for n in 0..5 {
        // The same bytes twice are two messages.
        assert_eq!(server.publish("game:7:events", "checkmate"), 4, "{n}");
    }
    server.publish("user:events", "other");
    eventually("all have come", || subs[2].len() == 6);
    let mate = ("game:7:events".to_owned(), "checkmate".to_owned());
    for at in [0, 1, 3] {
        assert_eq!(texts(&subs[at]), vec![mate.clone(); 5]);
    }
    assert_eq!(bridge.stats().received, 6);
    assert_eq!(bridge.stats().duplicates, 15);
    // What the bridge brings in, it does not send out again.
    assert_eq!(bridge.stats().sent, 0);
}

#[test]
fn subscriptions_that_come_and_go_never_double_a_message_nor_lose_one() {
    let server = Server::start();
    let bus: Bus<Arc<str>> = Bus::new();
    let bridge = quick(&bus, &server.url()).accept("a*").spawn().unwrap();
    let steady = subscribe(&bus, 100_000, &["a?"]);
    bridge.wait_ready(PATIENCE).unwrap();
    let url = server.url();
    let publisher = std::thread::spawn(move || {
        let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
        for n in 0..8_000 {
            redis::cmd("PUBLISH").arg("ab").arg(n).query::<()>(&mut client).unwrap();
        }
    });
    let sub = bus.subscriber();
    while !publisher.is_finished() {
        sub.subscribe("ab").unwrap();
        sub.psubscribe_many(["a*", "[ab]b"]).unwrap();
        sub.punsubscribe("a*");
        std::thread::sleep(Duration::from_millis(1));
        sub.unsubscribe("ab");
        sub.punsubscribe_all();
    }
    publisher.join().unwrap();
    eventually("all have come", || steady.len() == 8_000);
    let numbers: Vec<i32> = texts(&steady).into_iter().map(|(_, n)| n.parse().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..8_000));
}

#[test]
fn a_plain_bridge_sends_what_any_client_reads() {
    let server = Server::start();
    let bus: Bus<Bytes> = Bus::new();
    let bridge =
        quick(&bus, &server.url()).forward("out:*").accept("in:*").plain(true).spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    let mut client = server.client();
    let mut reader = client.as_pubsub();
    reader.subscribe("out:1").unwrap();
    reader.set_read_timeout(Some(PATIENCE)).unwrap();
    bus.publish("out:1", Bytes::from_static(b"\x00\xFF"));
    assert_eq!(reader.get_message().unwrap().get_payload_bytes(), b"\x00\xFF");
}

#[test]
fn a_plain_bridge_must_not_accept_what_it_forwards() {
    let bus = Text::new();
    let builder = || Bridge::builder(&bus, "redis://127.0.0.1:1").plain(true);
    let error = builder().forward("game:*").accept("*:events").spawn().unwrap_err();
    assert!(matches!(error, BridgeError::Loop { .. }), "{error}");
    assert!(error.to_string().contains("game:*") && error.to_string().contains("*:events"));
    assert!(builder().forward("game:*").accept("user:*").spawn().is_ok());
}

#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
enum Move {
    Play(u8, u8),
    Resign,
}

#[test]
fn typed_payloads_go_by_a_codec_and_those_that_do_not_decode_are_told() {
    let server = Server::start();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let [here, there]: [Bus<Move>; 2] = [Bus::new(), Bus::new()];
    let told = Arc::clone(&heard);
    let builder = quick(&there, &server.url()).own_origin(true).accept("*").codec(Json);
    let builder = builder.on_undecodable(move |channel, bytes, error| {
        told.lock().unwrap().push((channel.to_owned(), bytes.to_vec(), error.to_string()));
    });
    let events = builder.events();
    let accepting = builder.spawn().unwrap();
    let sub = subscribe(&there, 16, &["*"]);
    let forwarding = quick(&here, &server.url()).codec(Json).forward("*").spawn().unwrap();
    accepting.wait_ready(PATIENCE).unwrap();
    forwarding.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().1 == 1);
    here.publish("game", Move::Play(4, 4));
    eventually("the first has come", || sub.len() == 1);
    server.publish("game", "no JSON");
    server.publish("game", &b"\xFFfo\x09of a later version"[..]);
    server.publish("game", "\"Resign\"");
    eventually("the second has come", || sub.len() == 2);
    let moves: Vec<_> = sub.try_messages().map(|message| message.payload).collect();
    assert_eq!(moves, [Move::Play(4, 4), Move::Resign]);
    assert_eq!(accepting.stats().undecodable, 2);
    let heard = heard.lock().unwrap();
    assert_eq!((&*heard[0].0, &*heard[0].1), ("game", &b"no JSON"[..]));
    await_event(
        &events,
        |event| matches!(event, BridgeEvent::Undecodable { channel, .. } if &**channel == "game"),
    );
}

/// Encodes nothing that is odd, and decodes nothing that is zero.
struct Choosy;

impl Codec<u64> for Choosy {
    fn encode(&self, payload: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        if payload % 2 == 1 {
            return Err("odd".into());
        }
        out.extend_from_slice(&payload.to_be_bytes());
        Ok(())
    }

    fn decode(&self, bytes: Bytes) -> Result<u64, CodecError> {
        match u64::from_be_bytes(bytes[..].try_into()?) {
            0 => panic!("a zero"),
            number => Ok(number),
        }
    }
}

#[test]
fn a_payload_that_does_not_encode_is_refused_and_the_rest_goes_on() {
    let server = Server::start();
    let [here, there]: [Bus<u64>; 2] = [Bus::new(), Bus::new()];
    let builder = quick(&here, &server.url()).codec(Choosy).forward("*");
    let events = builder.events();
    let forwarding = builder.spawn().unwrap();
    let accepting =
        quick(&there, &server.url()).own_origin(true).codec(Choosy).accept("*").spawn().unwrap();
    let sub = subscribe(&there, 16, &["n"]);
    forwarding.wait_ready(PATIENCE).unwrap();
    accepting.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().1 == 1);
    (1..=4_u64).for_each(|n| _ = here.publish("n", n));
    eventually("both have come", || sub.len() == 2);
    eventually("both are confirmed", || forwarding.stats().sent == 2);
    assert_eq!(forwarding.stats().refused, 2);
    let refused = BridgeEvent::Refused { channel: "n".into(), error: "odd".to_owned() };
    await_event(&events, |event| *event == refused);
    // A panic in a codec ends the bridge, and no other.
    here.publish("n", 0_u64);
    let error = accepting.join().unwrap_err();
    assert!(matches!(&error, BridgeError::Panicked(text) if text == "a zero"), "{error}");
    assert!(forwarding.is_connected());
}

#[test]
fn a_full_inbox_that_blocks_holds_messages_up_and_loses_none() {
    let server = Server::start();
    let bus: Bus<Arc<str>> = Bus::new();
    let bridge = quick(&bus, &server.url()).accept("*").spawn().unwrap();
    let sub = bus
        .subscriber_builder()
        .capacity(2)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().0 == ["c"]);
    (0..100).for_each(|n| _ = server.publish("c", n));
    for n in 0..100 {
        let message = sub.recv_message_timeout(PATIENCE).unwrap();
        assert_eq!(*message.payload, *n.to_string());
    }
}

#[test]
fn a_bridge_is_drained_stopped_and_ended_by_closing() {
    let server = Server::start();
    let bus = Text::new();
    let other = Text::new();
    let accepting = quick(&other, &server.url()).own_origin(true).accept("*").spawn().unwrap();
    let sub = subscribe(&other, 10_000, &["*"]);
    accepting.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().1 == 1);

    let spawn = || {
        let bridge = quick(&bus, &server.url()).forward("*").spawn().unwrap();
        bridge.wait_ready(PATIENCE).unwrap();
        bridge
    };
    let drained = spawn();
    (0..1_000).for_each(|n| _ = bus.publish("c", n.to_string()));
    drained.drain();
    assert!(drained.join().is_ok());
    eventually("all have come", || sub.len() == 1_000);
    bus.publish("c", "after it");

    let stopped = spawn();
    stopped.stop();
    eventually("it has ended", || stopped.is_finished());
    assert!(matches!(stopped.wait_ready(Duration::ZERO), Err(BridgeError::NotReady { .. })));
    drop(spawn());

    let closed = spawn();
    (0..1_000).for_each(|n| _ = bus.publish("d", n.to_string()));
    drop(bus);
    assert!(closed.join().is_ok());
    eventually("all have come", || sub.len() == 2_000);
}

#[test]
fn a_detached_bridge_runs_until_the_bus_is_closed() {
    let server = Server::start();
    let bus = Text::new();
    quick(&bus, &server.url()).accept("*").spawn().unwrap().detach();
    let _sub = bus.subscribe("c").unwrap();
    eventually("it is subscribed", || server.subscriptions().0 == ["c"]);
    bus.close();
    eventually("it is gone", || server.subscriptions().0.is_empty());
}

#[tokio::test]
async fn in_a_runtime_a_bridge_is_a_task() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url()).accept("*").forward("*").spawn().unwrap();
    let sub = bus.subscribe("c").unwrap();
    bridge.subscribed().await.unwrap();
    assert_eq!(server.subscriptions().0, ["c"]);
    server.publish("c", "hello");
    assert_eq!(&*sub.recv_message_async().await.unwrap().payload, "hello");
    bridge.stop();
    bridge.finished().await.unwrap();
    assert_eq!(sub.try_recv_message(), Err(TryRecvError::Empty));
}

#[test]
fn whoever_waits_until_it_is_subscribed_misses_nothing_that_comes_then() {
    let server = Server::start();
    let bus = Text::new();
    let bridge = quick(&bus, &server.url()).accept("*").spawn().unwrap();
    let sub = bus.subscriber_builder().lifecycle_events(false).build();
    for n in 0..50 {
        sub.subscribe(format!("c{n}")).unwrap();
        bridge.wait_subscribed(PATIENCE).unwrap();
        assert_eq!(server.publish(&format!("c{n}"), "hello"), 1);
    }
    eventually("all have come", || sub.len() == 50);
    bridge.stop();
    assert!(matches!(bridge.wait_subscribed(PATIENCE), Err(BridgeError::NotReady { .. })));
}

#[test]
fn nothing_counts_as_subscribed_before_the_server_has_confirmed_it() {
    let server = Server::start();
    let bus: Bus<Bytes> = Bus::new();
    let bridge = steady(&bus, &server.url()).accept("*").spawn().unwrap();
    let block = Overflow::Block { timeout: None };
    let slow = bus.subscriber_builder().capacity(1).overflow(block).lifecycle_events(false);
    let slow = slow.subscribe("flood").unwrap();
    bridge.wait_subscribed(PATIENCE).unwrap();
    // More than waits here and in the sockets between: the server's replies wait behind it.
    let big = vec![0_u8; 1 << 20];
    (0..20).for_each(|_| _ = server.publish("flood", &big));
    let _sub = bus.subscribe("later").unwrap();
    // Longer than the bridge waits for a reply.
    let asked = bridge.wait_subscribed(SILENCE + Duration::from_secs(1));
    assert!(matches!(asked, Err(BridgeError::NotReady { .. })), "{asked:?}");
    (0..20).for_each(|_| _ = slow.recv_message_timeout(PATIENCE).unwrap());
    bridge.wait_subscribed(PATIENCE).unwrap();
    assert_eq!(server.publish("later", "hello"), 1);
    assert_eq!(bridge.stats().disconnects, 0);
}

#[test]
fn sharded_channels_go_by_commands_of_their_own() {
    let server = Server::start();
    let [here, there] = [Text::new(), Text::new()];
    let builder = |bus| quick(bus, &server.url()).own_origin(true).sharded(true);
    let accepting = builder(&there).accept("*");
    let events = accepting.events();
    let accepting = accepting.spawn().unwrap();
    let forwarding = builder(&here).forward("*").spawn().unwrap();
    let sub = there.subscriber_builder().lifecycle_events(false).subscribe("c").unwrap();
    sub.psubscribe("unfetched:*").unwrap();
    accepting.wait_ready(PATIENCE).unwrap();
    forwarding.wait_ready(PATIENCE).unwrap();
    let sharded = || -> Vec<String> {
        redis::cmd("PUBSUB").arg("SHARDCHANNELS").query(&mut server.client()).unwrap()
    };
    eventually("it is subscribed", || sharded() == ["c"]);
    here.publish("c", "hello");
    eventually("it has come", || sub.len() == 1);
    assert_eq!(server.publish("c", "by PUBLISH"), 0);
    let unfetched = Pattern::redis("unfetched:*");
    await_event(
        &events,
        |event| matches!(event, BridgeEvent::NotFetched { pattern } if *pattern == unfetched),
    );
    drop(sub);
    eventually("it is let go", || sharded().is_empty());
}

#[test]
fn a_wrong_password_is_an_error_at_once() {
    let server = Server::with(&["--requirepass", "right"]);
    let bus = Text::new();
    let at = |password: &str| format!("redis://{password}127.0.0.1:{}", server.port);
    for wrong in ["", ":wrong@", "ada:right@"] {
        let bridge = quick(&bus, &at(wrong)).accept("*").spawn().unwrap();
        let error = bridge.wait_ready(PATIENCE).unwrap_err();
        assert!(matches!(error, BridgeError::Authentication(_)), "{error}");
        assert!(error.to_string().contains("refused the user name or the password"), "{error}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
        assert!(bridge.is_finished());
        assert!(bridge.join().is_err());
    }
    quick(&bus, &at(":right@")).spawn().unwrap().wait_ready(PATIENCE).unwrap();
}

#[test]
fn a_user_s_rights_are_the_server_s_to_check() {
    let server = Server::start();
    let user = ["ACL", "SETUSER", "bob", "on", ">secret", "resetchannels", "&open:*", "+@all"];
    redis::cmd(user[0]).arg(&user[1..]).query::<()>(&mut server.client()).unwrap();
    let bus = Text::new();
    let url = format!("redis://bob:secret@127.0.0.1:{}", server.port);
    let builder = quick(&bus, &url).accept("*").forward("*");
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    bus.publish("closed:1", "one message is refused");
    bus.publish("open:1", "another is not");
    await_event(
        &events,
        |event| matches!(event, BridgeEvent::Refused { channel, .. } if &**channel == "closed:1"),
    );
    eventually("the other is sent", || bridge.stats().sent == 1);
    let _sub = bus.subscribe("closed:1").unwrap();
    let error = bridge.join().unwrap_err();
    assert!(matches!(error, BridgeError::Permission(_)), "{error}");
}

#[test]
fn what_is_no_url_is_an_error_of_spawn() {
    let bus = Text::new();
    for url in ["", "http://127.0.0.1", "redis://", "redis://127.0.0.1:port"] {
        let error = Bridge::builder(&bus, url).spawn().unwrap_err();
        assert!(matches!(error, BridgeError::Url(_)), "{url}: {error}");
    }
}

#[test]
fn a_server_that_is_not_there_is_tried_as_often_as_is_wanted() {
    let bus = Text::new();
    let url = format!("redis://127.0.0.1:{}", support::free_port());
    let builder = quick(&bus, &url).forward("*").attempts(Some(3));
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    bus.publish("c", "lost");
    let error = bridge.wait_ready(PATIENCE).unwrap_err();
    assert!(matches!(error, BridgeError::Unreachable { attempts: 3, .. }), "{error}");
    assert_eq!(bridge.stats().not_sent, 1);
    let mut seen: Vec<_> = events.try_messages().map(|event| event.payload).collect();
    assert_eq!(seen.pop(), Some(BridgeEvent::NotSent { messages: 1 }));
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|event| matches!(event, BridgeEvent::Unreachable { .. })));
}

#[test]
fn a_server_may_listen_on_a_unix_socket() {
    let path = format!("{}/{}.sock", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let server = Server::with(&["--unixsocket", &path]);
    let bus = Text::new();
    let bridge = quick(&bus, &format!("unix://{path}")).accept("*").spawn().unwrap();
    let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().0 == ["c"]);
    server.publish("c", "hello");
    eventually("it has come", || sub.len() == 1);
}

#[test]
fn a_burst_that_this_process_cannot_take_at_once_waits_at_the_server() {
    const MESSAGES: usize = 100_000;
    let server = Server::start();
    let bus: Bus<Bytes> = Bus::new();
    let builder = steady(&bus, &server.url()).accept("*");
    let events = builder.events();
    let bridge = builder.spawn().unwrap();
    let sub = bus
        .subscriber_builder()
        .capacity(16)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .subscribe("c")
        .unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().0 == ["c"]);
    let mut client = server.client();
    for first in (0..MESSAGES).step_by(1_000) {
        let mut pipeline = redis::pipe();
        for number in first..first + 1_000 {
            pipeline.cmd("PUBLISH").arg("c").arg(format!("{number:0100}"));
        }
        pipeline.query::<()>(&mut client).unwrap();
    }
    // Longer than the server may be silent. It is not: nothing is read from it.
    std::thread::sleep(SILENCE + Duration::from_secs(1));
    for number in 0..MESSAGES {
        let Ok(message) = sub.recv_message_timeout(PATIENCE) else {
            let seen: Vec<_> = events.try_messages().map(|event| event.payload).collect();
            panic!("{number} does not come; {seen:?}");
        };
        assert_eq!(message.payload, format!("{number:0100}"));
    }
    assert_eq!(bridge.stats().disconnects, 0);
}

#[cfg(feature = "tls")]
#[test]
fn a_server_may_be_reached_by_tls() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) =
        (format!("{directory}/certificate.pem"), format!("{directory}/key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = support::free_port();
    let server = Server::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let bus = Text::new();
    let builder =
        || quick(&bus, &format!("rediss://127.0.0.1:{port}")).accept("*").attempts(Some(1));
    let error = builder().spawn().unwrap().wait_ready(PATIENCE).unwrap_err();
    assert!(matches!(error, BridgeError::Unreachable { .. }), "{error}");
    let bridge = builder().certificate_authority(made.cert.pem()).spawn().unwrap();
    let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    eventually("it is subscribed", || server.subscriptions().0 == ["c"]);
    server.publish("c", "hello");
    eventually("it has come", || sub.len() == 1);
}

#[cfg(feature = "sentinel")]
#[test]
fn a_master_is_found_by_sentinels() {
    let server = Server::start();
    let sentinel = support::Sentinel::of(&server, "main");
    let bus = Text::new();
    let builder = |name| quick(&bus, "redis://unused").accept("*").sentinel([sentinel.url()], name);
    let bridge = builder("main").attempts(Some(20)).spawn().unwrap();
    let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("c").unwrap();
    bridge.wait_ready(PATIENCE).unwrap();
    // The sentinel has subscribed to something, too.
    eventually("it is subscribed", || server.subscriptions().0.contains(&"c".to_owned()));
    server.publish("c", "hello");
    eventually("it has come", || sub.len() == 1);
    let unknown = builder("other").attempts(Some(1)).spawn().unwrap();
    let error = unknown.wait_ready(PATIENCE).unwrap_err();
    assert!(matches!(error, BridgeError::Unreachable { .. }), "{error}");
}
