//! Raw clients, many of them and slow ones.

mod support;

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::Server;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn enter(server: &Server, room: &str, name: &str) -> Socket {
    let url = format!("ws://{}/room/{room}?name={name}", server.address);
    timeout(PATIENCE, connect_async(url)).await.expect("in time").expect("it may come in").0
}

async fn say(socket: &mut Socket, text: &str) {
    let frame = json!({"type": "say", "text": text}).to_string();
    socket.send(Message::text(frame)).await.expect("it is connected");
}

/// Returns the next thing that the client is sent.
async fn next(socket: &mut Socket) -> Value {
    loop {
        let frame = timeout(PATIENCE, socket.next()).await.expect("in time");
        if let Message::Text(text) = frame.expect("it is open").expect("it is connected") {
            return serde_json::from_str(&text).expect("it is JSON");
        }
    }
}

/// Returns the next thing of this type.
async fn next_of(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let event = next(socket).await;
        if event["type"] == kind {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_get_every_line_from_three_threads() {
    const ROOMS: usize = 20;
    const EACH: usize = 100;
    const LINES: usize = 30;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    // More than a room says while its clients come in.
    let server = Server::start(&["--capacity", "1024"]);
    let mut clients = Vec::new();
    for number in 0..ROOMS * EACH {
        let room = format!("room{}", number % ROOMS);
        clients.push(enter(&server, &room, &format!("guest{number}")).await);
    }
    assert_eq!(server.threads(), 3, "the main thread and two workers");
    let readers: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut socket)| {
            tokio::spawn(async move {
                // The first of each room says something, and all of the room hear it in order.
                if number < ROOMS {
                    for line in 0..LINES {
                        say(&mut socket, &format!("line {line}")).await;
                    }
                }
                for line in 0..LINES {
                    let heard = next_of(&mut socket, "line").await;
                    assert_eq!(heard["text"], format!("line {line}"));
                    assert_eq!(heard["from"], format!("guest{}", number % ROOMS));
                    assert_eq!(heard["room"], format!("room{}", number % ROOMS));
                }
                socket
            })
        })
        .collect();
    let mut sockets = Vec::new();
    for reader in readers {
        sockets.push(reader.await.unwrap());
    }
    assert_eq!(server.threads(), 3);
}

#[tokio::test]
async fn a_slow_client_is_told_how_much_it_missed_and_delays_nobody() {
    const LINES: usize = 10_000;
    let server = Server::start(&["--capacity", "16"]);
    let mut slow = enter(&server, "lobby", "slow").await;
    let mut ada = enter(&server, "lobby", "ada").await;
    // It waits for each of its own lines, so it misses none; `slow` reads nothing meanwhile.
    let filler = "x".repeat(1_000);
    for line in 0..LINES {
        say(&mut ada, &format!("{line} {filler}")).await;
        let heard = next_of(&mut ada, "line").await;
        assert!(heard["text"].as_str().unwrap().starts_with(&format!("{line} ")));
    }
    say(&mut ada, "the end").await;
    let (mut heard, mut missed) = (0, 0);
    loop {
        let event = next(&mut slow).await;
        match event["type"].as_str().unwrap() {
            "line" if event["text"] == "the end" => break,
            "line" => heard += 1,
            "missed" => missed += event["count"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert!(missed > 0);
    assert_eq!(heard + missed, LINES as u64);
}

#[tokio::test]
async fn people_come_in_type_and_leave() {
    let server = Server::start(&[]);
    let mut ada = enter(&server, "a%20b", "ada").await;
    assert_eq!(
        next(&mut ada).await,
        json!({"type": "joined", "room": "a b", "from": "ada", "people": 1})
    );
    let mut bob = enter(&server, "a%20b", "bob").await;
    assert_eq!(next(&mut ada).await["people"], 2);
    bob.send(Message::text(r#"{"type":"typing"}"#)).await.unwrap();
    assert_eq!(next(&mut ada).await, json!({"type": "typing", "room": "a b", "from": "bob"}));
    // What makes no sense is passed over.
    let long = json!({"type": "say", "text": "x".repeat(2_001)}).to_string();
    for nonsense in ["", "{", "[]", r#"{"type":"say"}"#, r#"{"type":"say","text":" "}"#, &long] {
        bob.send(Message::text(nonsense)).await.unwrap();
    }
    say(&mut bob, "hello").await;
    assert_eq!(next(&mut ada).await["text"], "hello");
    drop(bob);
    assert_eq!(
        next(&mut ada).await,
        json!({"type": "left", "room": "a b", "from": "bob", "people": 1})
    );
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let server = Server::start(&[]);
    let long = "n".repeat(41);
    for (room, name) in
        [("lobby", ""), ("lobby", long.as_str()), (long.as_str(), "ada"), ("lobby", "a%00")]
    {
        let url = format!("ws://{}/room/{room}?name={name}", server.address);
        match connect_async(url).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 400),
            other => panic!("{other:?}"),
        }
    }
}
