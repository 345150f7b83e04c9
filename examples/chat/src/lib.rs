//! Chat rooms over fanout. A room is a channel, `room:{name}`; a client is a WebSocket, a subscriber of its room, and
//! one task, which waits for both at once. There is no other queue: a client that reads slowly fills its inbox, loses
//! the oldest lines, and is told how many.
//!
//! What a client is sent is encoded once, when it is published. The payload of the bus is the text of a WebSocket
//! frame, of which all clients share one copy.

use std::future::ready;

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use fanout::{Bus, Event, EventStream, Subscriber};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

/// The longest name of a room or a person, in characters.
const MAX_NAME: usize = 40;

/// The longest line, in characters.
const MAX_LINE: usize = 2_000;

/// The most that a client may send at once, in bytes.
const MAX_FRAME: usize = 16 << 10;

/// What the bus carries: the text of a frame, as clients get it.
pub type Payload = Utf8Bytes;

/// What a client is sent.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToClient<'a> {
    Line {
        room: &'a str,
        from: &'a str,
        text: &'a str,
    },
    Typing {
        room: &'a str,
        from: &'a str,
    },
    Joined {
        room: &'a str,
        from: &'a str,
        people: usize,
    },
    Left {
        room: &'a str,
        from: &'a str,
        people: usize,
    },
    /// The client was too slow for this many of the above.
    Missed {
        count: u64,
    },
}

impl ToClient<'_> {
    fn encode(&self) -> Payload {
        serde_json::to_string(self).expect("it has string keys and finite numbers").into()
    }
}

/// What a client sends.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromClient {
    Say { text: String },
    Typing,
}

#[derive(Deserialize)]
struct Who {
    name: String,
}

#[derive(Serialize)]
struct Room {
    name: String,
    people: usize,
}

/// Returns the routes of the chat, whose rooms are channels of `bus`.
pub fn router(bus: Bus<Payload>) -> Router {
    Router::new()
        .route("/", get(|| ready(Html(include_str!("page.html")))))
        .route("/admin", get(|| ready(Html(include_str!("admin.html")))))
        .route("/rooms", get(rooms))
        .route("/room/{room}", get(enter))
        .route("/all", get(watch_all))
        .with_state(bus)
}

/// Lists the rooms that somebody is in.
async fn rooms(State(bus): State<Bus<Payload>>) -> Json<Vec<Room>> {
    let mut rooms: Vec<Room> = bus
        .channels()
        .iter()
        .filter_map(|channel| {
            let name = channel.strip_prefix("room:")?.to_owned();
            Some(Room { people: bus.subscriber_count(channel), name })
        })
        .collect();
    rooms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Json(rooms)
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

/// Lets a client into a room.
async fn enter(
    State(bus): State<Bus<Payload>>,
    Path(room): Path<String>,
    Query(Who { name }): Query<Who>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !is_name(&room) || !is_name(&name) {
        return (StatusCode::BAD_REQUEST, "a name has 1 to 40 characters").into_response();
    }
    // Before the handshake is answered: whoever is connected misses nothing that is said from then on.
    let channel = format!("room:{room}");
    let subscriber = bus.subscriber_builder().lifecycle_events(false).subscribe(&channel);
    let Ok(subscriber) = subscriber else { return closing() };
    let client = Client { bus, channel, room, name };
    upgrade
        .max_message_size(MAX_FRAME)
        .on_upgrade(move |socket| async move { client.run(socket, subscriber).await })
}

/// What a client is told that comes when the bus is closed.
fn closing() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the server is closing").into_response()
}

/// A person in a room.
struct Client {
    bus: Bus<Payload>,
    channel: String,
    room: String,
    name: String,
}

impl Client {
    async fn run(self, mut socket: WebSocket, subscriber: Subscriber<Payload>) {
        let Self { bus, channel, room, name: from } = &self;
        let people = bus.subscriber_count(channel);
        bus.publish(channel, ToClient::Joined { room, from, people }.encode());
        let mut events = subscriber.into_stream();
        serve(&mut socket, &mut events, |frame| {
            if let Some(event) = self.encode(frame) {
                bus.publish(channel, event);
            }
        })
        .await;
        drop(events);
        let people = bus.subscriber_count(channel);
        bus.publish(channel, ToClient::Left { room, from, people }.encode());
    }

    /// Returns what to publish for what the client has sent; nothing if that makes no sense.
    fn encode(&self, frame: &str) -> Option<Payload> {
        let Self { room, name: from, .. } = self;
        match serde_json::from_str(frame).ok()? {
            FromClient::Say { text } => {
                let text = text.trim();
                let is_line = (1..=MAX_LINE).contains(&text.chars().count());
                is_line.then(|| ToClient::Line { room, from, text }.encode())
            }
            FromClient::Typing => Some(ToClient::Typing { room, from }.encode()),
        }
    }
}

/// Sends a client all that is said in any room.
async fn watch_all(State(bus): State<Bus<Payload>>, upgrade: WebSocketUpgrade) -> Response {
    let subscriber = bus.subscriber_builder().lifecycle_events(false).psubscribe("room:*");
    let Ok(subscriber) = subscriber else { return closing() };
    upgrade.max_message_size(MAX_FRAME).on_upgrade(move |mut socket| async move {
        serve(&mut socket, &mut subscriber.into_stream(), |_| ()).await;
    })
}

/// Serves one client until it goes, or the bus is closed. `read` is called with what the client sends.
async fn serve(
    socket: &mut WebSocket,
    events: &mut EventStream<'static, Payload>,
    read: impl Fn(&str) + Send,
) {
    loop {
        tokio::select! {
            event = events.next() => {
                let text = match event {
                    Some(Event::Lagged { missed }) => ToClient::Missed { count: missed }.encode(),
                    Some(event) => match event.into_message() {
                        Some(message) => message.payload,
                        None => continue,
                    },
                    None => return,
                };
                if socket.send(Message::Text(text)).await.is_err() {
                    return;
                }
            }
            frame = socket.recv() => match frame {
                Some(Ok(Message::Text(text))) => read(&text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}
