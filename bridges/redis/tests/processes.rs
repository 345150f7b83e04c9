//! Two processes with a bus each, on one server.

mod support;

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fanout::Bus;
use support::{PATIENCE, Server, eventually, quick, subscribe};

const MESSAGES: u64 = 20_000;
const CHANNELS: u64 = 10;

/// Publishes on `{own}:{0..10}` and reads what comes on all channels, its own messages included.
fn exchange(url: &str, own: &str, others: &str) {
    let bus: Bus<Arc<str>> = Bus::new();
    let bridge = quick(&bus, url)
        .patience(Duration::from_secs(10))
        .forward("*")
        .accept("*")
        .spawn()
        .unwrap();
    let sub = subscribe(&bus, 1 << 20, &["ada:*", "bob:*"]);
    let hellos = subscribe(&bus, 64, &[&format!("hello:{others}")]);
    bridge.wait_ready(PATIENCE).unwrap();
    // Both are there when each has heard the other. What is said until then may be lost.
    let mut has_heard = false;
    eventually("the other is there", || {
        bus.publish(&format!("hello:{own}"), if has_heard { "heard" } else { "hello" });
        let mut is_heard = false;
        for message in hellos.try_messages() {
            has_heard = true;
            is_heard |= &*message.payload == "heard";
        }
        is_heard
    });
    bus.publish(&format!("hello:{own}"), "heard");
    for n in 0..MESSAGES {
        bus.publish(&format!("{own}:{}", n % CHANNELS), n.to_string());
    }
    let mut next: HashMap<String, u64> = HashMap::new();
    let mut left = 2 * MESSAGES;
    while left > 0 {
        let message = sub.recv_message_timeout(PATIENCE).expect("all come");
        let (whose, channel) = message.channel().split_once(':').unwrap();
        assert!(whose == own || whose == others);
        let expected = next.entry(message.channel().to_owned()).or_insert(channel.parse().unwrap());
        assert_eq!(message.payload.parse(), Ok(*expected), "on {}", message.channel());
        *expected += CHANNELS;
        left -= 1;
    }
    // All of ours is sent before we go.
    bridge.drain();
    bridge.join().unwrap();
    assert_eq!(sub.len(), 0, "nothing came twice");
}

#[test]
fn two_processes_get_each_other_s_messages_once_and_in_order() {
    let server = Server::start();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_other_process", "--ignored", "--nocapture"])
        .env("FANOUT_TEST_URL", server.url())
        .spawn()
        .unwrap();
    exchange(&server.url(), "ada", "bob");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_notification_typed_in_one_process_arrives_in_the_other() {
    let server = Server::start();
    // A test that is named alone has no examples built.
    let mut build = Command::new(env!("CARGO"));
    assert!(
        build.args(["build", "--locked", "--example", "two_processes"]).status().unwrap().success()
    );
    let target = env::current_exe().unwrap().parent().unwrap().join("../..");
    let example = target.join("debug/examples/two_processes");
    let start = |user: &str| {
        Command::new(&example)
            .args([user, "--url", &server.url()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = [start("ada"), start("bob")];
    eventually("both are subscribed", || server.subscriptions().0.len() == 2);
    let mut inputs = children.each_mut().map(|child| child.stdin.take().unwrap());
    inputs[0].write_all(b"bob hello, it is me\n").unwrap();
    let mut lines = BufReader::new(children[1].stdout.take().unwrap()).lines();
    let found = lines.any(|line| line.unwrap() == "ada: hello, it is me");
    assert!(found);
    drop(inputs);
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}

#[test]
#[ignore = "run by the test of two processes"]
fn the_other_process() {
    let url = env::var("FANOUT_TEST_URL").expect("the test of two processes sets it");
    exchange(&url, "bob", "ada");
}
