//! A console over a bus in the same process: what is published, and which subscriber is slow.
//!
//! [`Top`] takes the figures and draws them as a widget, for a program of one's own; [`run`] is a whole screen with
//! keys.
//!
//! ```no_run
//! let bus: fanout::Bus = fanout::Bus::new();
//! // … the program, in other threads …
//! fanout_top::run(&bus)?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::{Bus, Stats, SubscriberInfo};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Widget};

/// Channels that are shown, at most. All of the bus's are looked at for the busiest.
const CHANNELS: usize = 200;

/// What the inboxes are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sort {
    /// Messages in the inbox.
    #[default]
    Depth,
    /// The largest number of messages that the inbox has held.
    HighWater,
    /// Messages lost a second, then in all.
    Missed,
    /// Messages replaced by newer ones of their channel.
    Conflated,
    /// Messages received a second.
    Received,
    /// The label.
    Label,
}

impl Sort {
    /// Returns the one that comes after it.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Depth => Self::HighWater,
            Self::HighWater => Self::Missed,
            Self::Missed => Self::Conflated,
            Self::Conflated => Self::Received,
            Self::Received => Self::Label,
            Self::Label => Self::Depth,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::HighWater => "high water",
            Self::Missed => "missed",
            Self::Conflated => "conflated",
            Self::Received => "received",
            Self::Label => "label",
        }
    }
}

/// One inbox, with what changed since the look before.
#[derive(Clone, Debug)]
pub struct Inbox {
    /// The figures of now.
    pub info: SubscriberInfo,
    /// Messages received a second.
    pub received: f64,
    /// Messages lost a second.
    pub missed: f64,
}

/// One channel, with what changed since the look before.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its name.
    pub name: Arc<str>,
    /// Subscribers of its own.
    pub subscribers: usize,
    /// Publishes a second.
    pub published: f64,
    /// Messages delivered a second.
    pub delivered: f64,
}

/// The figures of a bus, taken by [`look`](Self::look) and drawn as a widget.
#[derive(Default)]
pub struct Top {
    /// What the inboxes are sorted by.
    pub sort: Sort,
    looked: Option<Instant>,
    stats: Stats,
    published: f64,
    delivered: f64,
    lost: f64,
    inboxes: Vec<Inbox>,
    channels: Vec<Channel>,
    seen_channels: HashMap<Arc<str>, (u64, u64)>,
}

impl Top {
    /// Returns one that has not looked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the figures of now. Rates are those since the look before; the first has none.
    pub fn look<P: Clone + Send + 'static>(&mut self, bus: &Bus<P>) {
        let now = Instant::now();
        let seconds = self.looked.replace(now).map(|before| (now - before).as_secs_f64());
        let rate = |now: u64, before: u64| {
            seconds.map_or(0.0, |seconds| now.saturating_sub(before) as f64 / seconds.max(1e-3))
        };
        let stats = bus.stats();
        self.published = rate(stats.published, self.stats.published);
        self.delivered = rate(stats.delivered, self.stats.delivered);
        self.lost = rate(stats.dropped + stats.evicted, self.stats.dropped + self.stats.evicted);
        self.stats = stats;

        let before: HashMap<u64, SubscriberInfo> =
            self.inboxes.drain(..).map(|inbox| (inbox.info.id, inbox.info)).collect();
        self.inboxes.extend(bus.subscribers().into_iter().map(|info| {
            let before = before.get(&info.id).cloned().unwrap_or_default();
            let received = rate(info.received, before.received);
            let missed = rate(info.missed, before.missed);
            Inbox { info, received, missed }
        }));
        self.sort();

        let mut seen = HashMap::new();
        self.channels.clear();
        for name in bus.channels() {
            let stats = bus.topic(&name).stats();
            let now = (stats.published, stats.delivered);
            // One that is new has counted from its beginning.
            let (published, delivered) = self.seen_channels.get(&name).copied().unwrap_or(now);
            self.channels.push(Channel {
                subscribers: stats.subscribers,
                published: rate(now.0, published),
                delivered: rate(now.1, delivered),
                name: Arc::clone(&name),
            });
            seen.insert(name, now);
        }
        self.seen_channels = seen;
        self.channels
            .sort_by(|a, b| b.published.total_cmp(&a.published).then_with(|| a.name.cmp(&b.name)));
        self.channels.truncate(CHANNELS);
    }

    /// Sorts the inboxes again, by [`sort`](Self::sort).
    pub fn sort(&mut self) {
        let sort = self.sort;
        self.inboxes.sort_by(|a, b| {
            let by = match sort {
                Sort::Depth => b.info.depth.cmp(&a.info.depth),
                Sort::HighWater => b.info.high_water.cmp(&a.info.high_water),
                Sort::Conflated => b.info.conflated.cmp(&a.info.conflated),
                Sort::Missed => {
                    b.missed.total_cmp(&a.missed).then_with(|| b.info.missed.cmp(&a.info.missed))
                }
                Sort::Received => b.received.total_cmp(&a.received),
                Sort::Label => a.info.label.cmp(&b.info.label),
            };
            by.then_with(|| a.info.id.cmp(&b.info.id))
        });
    }

    /// Returns the inboxes, sorted.
    #[must_use]
    pub fn inboxes(&self) -> &[Inbox] {
        &self.inboxes
    }

    /// Returns the busiest channels, the busiest first.
    #[must_use]
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Returns what is drawn on a screen of this size, as text.
    #[must_use]
    pub fn to_text(&self, width: u16, height: u16) -> String {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        self.render(area, &mut buffer);
        let line = |y| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        (0..height).map(line).collect()
    }

    fn summary(&self) -> Vec<Line<'static>> {
        let Stats { published, delivered, dropped, evicted, conflated, channels, patterns, .. } =
            self.stats;
        vec![
            Line::from(format!(
                "subscribers {}   channels {channels}   patterns {patterns}",
                self.stats.subscribers
            )),
            Line::from(format!(
                "published {} /s ({})   delivered {} /s ({})   lost {} /s ({})   conflated ({})",
                short(self.published),
                short(published as f64),
                short(self.delivered),
                short(delivered as f64),
                short(self.lost),
                short((dropped + evicted) as f64),
                short(conflated as f64),
            )),
        ]
    }

    fn inbox_row(inbox: &Inbox) -> Row<'static> {
        let info = &inbox.info;
        let label = info.label.as_deref().map_or_else(|| format!("#{}", info.id), str::to_owned);
        let style = if inbox.missed > 0.0 {
            Style::new().fg(Color::Red)
        } else if 2 * info.depth > info.capacity {
            Style::new().fg(Color::Yellow)
        } else {
            Style::new()
        };
        Row::new(vec![
            label,
            format!("{} / {}", info.depth, info.capacity),
            info.high_water.to_string(),
            short(inbox.received),
            short(inbox.missed),
            short(info.missed as f64),
            short(info.conflated as f64),
            format!("{:?}", info.overflow).split(' ').next().unwrap_or_default().to_owned(),
        ])
        .style(style)
    }

    fn channel_row(channel: &Channel) -> Row<'static> {
        Row::new(vec![
            channel.name.to_string(),
            channel.subscribers.to_string(),
            short(channel.published),
            short(channel.delivered),
        ])
    }
}

/// A number in at most five characters.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

impl Widget for &Top {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let inbox_rows = u16::try_from(self.inboxes.len()).unwrap_or(u16::MAX);
        // At least a third for the channels, if the inboxes need that much.
        let inboxes = inbox_rows.saturating_add(3).min(area.height.saturating_sub(4) * 2 / 3);
        let [top, middle, bottom] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(inboxes.max(4)),
            Constraint::Min(0),
        ])
        .areas(area);
        Paragraph::new(self.summary())
            .block(Block::bordered().title(" fanout "))
            .render(top, buffer);
        let head = |names: &[&'static str]| {
            let bold = Style::new().add_modifier(Modifier::BOLD);
            Row::new(names.iter().map(|&name| Cell::from(name)).collect::<Vec<_>>()).style(bold)
        };
        let widths = [
            Constraint::Min(12),
            Constraint::Length(15),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Length(11),
        ];
        let columns =
            ["inbox", "depth", "high", "received/s", "missed/s", "missed", "conflated", "policy"];
        Table::new(self.inboxes.iter().map(Top::inbox_row), widths)
            .header(head(&columns))
            .block(Block::bordered().title(format!(" inboxes by {} ", self.sort.name())))
            .render(middle, buffer);
        let widths = [
            Constraint::Min(12),
            Constraint::Length(11),
            Constraint::Length(11),
            Constraint::Length(11),
        ];
        Table::new(self.channels.iter().map(Top::channel_row), widths)
            .header(head(&["channel", "subscribers", "published/s", "delivered/s"]))
            .block(Block::bordered().title(" busiest channels "))
            .render(bottom, buffer);
    }
}

/// Shows the console until `q`, `Esc` or Ctrl-C is pressed. `s` sorts the inboxes by something else.
///
/// # Errors
///
/// Returns the error of the terminal.
pub fn run<P: Clone + Send + 'static>(bus: &Bus<P>) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let result = run_in(&mut terminal, bus);
    ratatui::restore();
    result
}

fn run_in<P: Clone + Send + 'static>(
    terminal: &mut ratatui::DefaultTerminal,
    bus: &Bus<P>,
) -> io::Result<()> {
    let mut top = Top::new();
    loop {
        top.look(bus);
        let until = Instant::now() + Duration::from_secs(1);
        // Keys are answered at once, the figures are those of each second.
        loop {
            terminal.draw(|frame| {
                let [body, keys] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)])
                    .areas(frame.area());
                frame.render_widget(&top, body);
                frame.render_widget(Line::from(" s: sort   q: quit"), keys);
            })?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left)? {
                break;
            }
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let control = key.modifiers.contains(event::KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('c') if control => return Ok(()),
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('s') => {
                    top.sort = top.sort.next();
                    top.sort();
                }
                _ => {}
            }
        }
    }
}
