//! A game's events as a typed payload, to its players and to a spectator of all games.
//!
//! Each game has the channel `game:{id}:events`. Its referee says whose turn it is, that player rolls
//! the die, and the first to reach the goal wins. Referee and players are threads that talk through the
//! channel alone, and one spectator watches every game through the pattern `game:*:events`. Everybody in
//! a game sees the same events in the same order, whichever thread published them.
//!
//! The program prints what each saw, and exits 1 if anybody missed an event.
//!
//! ```text
//! cargo run --example game_events
//! cargo run --example game_events -- --games 2 --players 4
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanout::{Bus, Subscriber};

const GOAL: u32 = 20;

/// Time that a referee waits for a roll before it calls the game off.
const PATIENCE: Duration = Duration::from_secs(10);

/// Plays some games of dice at once and prints what each player and a spectator saw.
#[derive(Parser)]
struct Args {
    /// Games, played at the same time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    games: u32,

    /// Players of each game
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=6))]
    players: u32,
}

/// The payload. It is cloned for each receiver, so it is small and owns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GameEvent {
    Started { players: u32 },
    Turn { player: u32 },
    Rolled { player: u32, pips: u32 },
    Won { player: u32, score: u32 },
}

impl fmt::Display for GameEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { players } => write!(f, "start({players})"),
            Self::Turn { player } => write!(f, "turn({player})"),
            Self::Rolled { player, pips } => write!(f, "{player} rolls {pips}"),
            Self::Won { player, score } => write!(f, "{player} wins({score})"),
        }
    }
}

/// The events of a game that somebody saw, in the order in which they arrived.
type Log = Vec<GameEvent>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let bus: Bus<GameEvent> = Bus::new();
    // A game of six has fewer than 256 events, which is what an inbox holds by default: even a player
    // that is late to read misses nothing. The spectator gets all games' events.
    let spectator = bus
        .subscriber_builder()
        .label("spectator")
        .capacity(256 * args.games as usize)
        .psubscribe("game:*:events")?;

    // Everybody has subscribed before the first event: what is published while nobody listens is gone.
    let mut games = Vec::new();
    for game in 1..=args.games {
        let channel = format!("game:{game}:events");
        let referee = bus.subscribe(&channel)?;
        let players = (0..args.players)
            .map(|player| {
                let label = format!("game {game} player {player}");
                Ok((player, bus.subscriber_builder().label(label).subscribe(&channel)?))
            })
            .collect::<Result<Vec<_>, fanout::SubscribeError>>()?;
        games.push((game, channel, referee, players));
    }

    let bus = &bus;
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&spectator));
        let mut referees = Vec::new();
        let mut playing = Vec::new();
        for (game, channel, referee, players) in &games {
            for (player, inbox) in players {
                let die = Die(game * 1_000 + player);
                playing.push((
                    channel,
                    inbox,
                    scope.spawn(move || play(bus, channel, *player, inbox, die)),
                ));
            }
            let players = args.players;
            referees.push((channel, scope.spawn(move || lead(bus, channel, players, referee))));
        }

        let outcomes: Vec<_> =
            referees.into_iter().map(|(channel, referee)| (channel, referee.join())).collect();
        // Even if a game failed: everybody else reads on until the bus is closed, and then drains.
        bus.close();

        let mut seen_by_referee: HashMap<&str, Log> = HashMap::new();
        for (channel, outcome) in outcomes {
            let log = outcome.map_err(|_| format!("{channel}: the referee panicked"))??;
            seen_by_referee.insert(channel, log);
        }

        let mut out = io::stdout().lock();
        let mut audit = Audit::default();
        for (channel, inbox, player) in playing {
            let name = inbox.label().unwrap_or_default();
            let log = player.join().map_err(|_| format!("{name} panicked"))?;
            audit.compare(name, inbox, &log, &seen_by_referee[channel.as_str()]);
            show(&mut out, name, &log)?;
        }
        let seen_by_spectator = watching.join().map_err(|_| "the spectator panicked")?;
        for (_, channel, ..) in &games {
            let log = seen_by_spectator.get(channel).map_or(&[][..], Vec::as_slice);
            let name = format!("spectator of {channel}");
            audit.compare(&name, &spectator, log, &seen_by_referee[channel.as_str()]);
            show(&mut out, &name, log)?;
        }
        audit.verdict()
    })
}

/// Leads a game: gives each player its turn, and ends the game when one has reached the goal.
fn lead(
    bus: &Bus<GameEvent>,
    channel: &str,
    players: u32,
    inbox: &Subscriber<GameEvent>,
) -> Result<Log, String> {
    // Publishes to one channel only: resolved once.
    let events = bus.topic(channel);
    let mut log = Log::new();
    let mut scores = vec![0; players as usize];
    events.publish(GameEvent::Started { players });
    for player in (0..players).cycle() {
        events.publish(GameEvent::Turn { player });
        loop {
            let event = inbox
                .recv_message_timeout(PATIENCE)
                .map_err(|error| format!("{channel}: no roll from player {player}: {error}"))?
                .payload;
            log.push(event);
            if let GameEvent::Rolled { player, pips } = event {
                scores[player as usize] += pips;
                break;
            }
        }
        let score = scores[player as usize];
        if score >= GOAL {
            events.publish(GameEvent::Won { player, score });
            break;
        }
    }
    log.extend(inbox.try_iter().filter_map(|event| Some(event.into_message()?.payload)));
    Ok(log)
}

/// Plays a game: rolls when it is this player's turn, and watches the rest until the bus is closed.
fn play(
    bus: &Bus<GameEvent>,
    channel: &str,
    me: u32,
    inbox: &Subscriber<GameEvent>,
    mut die: Die,
) -> Log {
    let mut log = Log::new();
    for message in inbox.messages() {
        log.push(message.payload);
        if message.payload == (GameEvent::Turn { player: me }) {
            bus.publish(channel, GameEvent::Rolled { player: me, pips: die.roll() });
        }
    }
    log
}

/// Watches all games until the bus is closed. Between games no order is promised, so each has its log.
fn watch(inbox: &Subscriber<GameEvent>) -> HashMap<String, Log> {
    let mut logs: HashMap<String, Log> = HashMap::new();
    for message in inbox.messages() {
        logs.entry(message.channel().to_owned()).or_default().push(message.payload);
    }
    logs
}

/// A linear congruential generator: the same games each time.
struct Die(u32);

impl Die {
    fn roll(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The low bits of such a generator repeat soon.
        (self.0 >> 16) % 6 + 1
    }
}

/// Returns a report of what somebody missed, by the inbox's own account or by the referee's log.
#[derive(Default)]
struct Audit(Vec<String>);

impl Audit {
    fn compare(
        &mut self,
        name: &str,
        inbox: &Subscriber<GameEvent>,
        log: &[GameEvent],
        expected: &[GameEvent],
    ) {
        if inbox.missed() > 0 {
            self.0.push(format!("{name} missed {} events", inbox.missed()));
        }
        if log != expected {
            self.0.push(format!(
                "{name} saw {} events that are not the referee's {}",
                log.len(),
                expected.len()
            ));
        }
    }

    fn verdict(self) -> Result<(), Box<dyn Error>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("; ").into()) }
    }
}

fn show(out: &mut impl Write, name: &str, log: &[GameEvent]) -> io::Result<()> {
    let events: Vec<String> = log.iter().map(GameEvent::to_string).collect();
    writeln!(out, "{name} saw {} events: {}", log.len(), events.join(", "))
}
