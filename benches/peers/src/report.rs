//! The tables, on the terminal and as Markdown, and what they say in words.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::machine::Machine;
use crate::measure::{Figure, Line};
use crate::peers::PAYLOAD;
use crate::shapes::slow::{SlowLine, SlowOutcome};
use crate::shapes::{BATCH, CAPACITY, Effort, channels, patterns, polled, slow, tasks, threads};

/// Times that differ by less are called level: the machine's noise is about that.
const LEVEL: f64 = 0.1;

/// One shape for several numbers of receivers.
#[derive(Default)]
pub struct Grid {
    pub receivers: Vec<usize>,
    /// Lines of all contenders for each number of receivers, in the same order.
    pub lines: Vec<Vec<Line>>,
}

impl Grid {
    pub fn push(&mut self, receivers: usize, lines: Vec<Line>) {
        self.receivers.push(receivers);
        self.lines.push(lines);
    }

    /// The contenders' lines, each with one for each number of receivers.
    fn contenders(&self) -> Vec<Vec<&Line>> {
        let count = self.lines.first().map_or(0, Vec::len);
        (0..count).map(|index| self.lines.iter().map(|lines| &lines[index]).collect()).collect()
    }

    fn columns(&self) -> impl Iterator<Item = String> {
        self.receivers.iter().map(|&receivers| counted(receivers, "receiver"))
    }

    /// A table of one column of the samples, of these of the contenders; `none` is as in [`cell`].
    fn section(
        &self,
        title: impl Into<String>,
        text: impl Into<String>,
        contenders: &[Vec<&Line>],
        column: usize,
        none: &str,
    ) -> Section {
        let header = ["contender", "full queue"].map(str::to_owned).into_iter();
        let rows = contenders.iter().map(|lines| {
            let mut row = named(lines[0]);
            row.extend(lines.iter().map(|line| cell(line, column, none)));
            row.push(losses(lines));
            row
        });
        Section {
            title: title.into(),
            text: text.into(),
            header: header.chain(self.columns()).chain(["lost".to_owned()]).collect(),
            rows: rows.collect(),
        }
    }
}

pub struct Report {
    machine: Machine,
    pub effort: Effort,
    pub polled: Option<Grid>,
    pub threads: Option<Grid>,
    pub tasks: Option<Grid>,
    pub channels: Option<Vec<Line>>,
    /// Lines by the form of the patterns.
    pub patterns: Option<Vec<(&'static str, Vec<Line>)>>,
    pub slow: Option<Vec<SlowLine>>,
}

/// A table with its heading and the meaning of its columns.
struct Section {
    title: String,
    text: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Section {
    fn table(&self, preset: &str) -> String {
        let mut table = Table::new();
        table.load_preset(preset).set_header(&self.header).add_rows(&self.rows);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

impl Report {
    pub fn new(machine: Machine, effort: Effort) -> Self {
        Self {
            machine,
            effort,
            polled: None,
            threads: None,
            tasks: None,
            channels: None,
            patterns: None,
            slow: None,
        }
    }

    /// Returns the report for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (what, is) in &self.machine.facts {
            let _ = writeln!(text, "{what}: {is}");
        }
        for section in self.sections() {
            let table = section.table(presets::UTF8_FULL_CONDENSED);
            let _ = writeln!(text, "\n{}\n{table}", section.title);
        }
        let _ = write!(text, "\nWho wins where\n{}", self.verdicts());
        text
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from("# fanout and its peers\n\n");
        let _ = writeln!(
            text,
            "Taken on {} by `cargo run --release` in `benches/peers`.\n",
            self.machine.date
        );
        if self.effort.quick {
            text +=
                "A quick run: it shows that everything works, and its figures mean nothing.\n\n";
        }
        text += "| | |\n| --- | --- |\n";
        for (what, is) in &self.machine.facts {
            let _ = writeln!(text, "| {what} | {is} |");
        }
        let _ = write!(
            text,
            "
All contenders of a shape run in one process and in turns, over several rounds after one to warm up. A cell
shows the median over the rounds and, in parentheses, the median of the round-by-round ratios to the `fanout`
that has 1.00× in its column: below 1 the peer is faster. The payload is an `Arc<[u8]>` of {PAYLOAD} bytes, cloned
for each publish. Every queue or ring has room for {CAPACITY} messages, unless stated otherwise. The messages that
arrive are counted: unless the table shows a loss, every message arrived, or the run would have failed.

- *full queue* says what happens when a receiver does not keep up: it loses its oldest or the newest message, the
  publisher waits, or a server buffers.
- *raw* is a hand-made `Vec` of plain crossbeam channels. `fanout` keeps such a channel in each inbox: it is the floor.
- redis-server is another process, over loopback: its figures include the kernel's share.

",
        );
        for section in self.sections() {
            let table = section.table(presets::ASCII_MARKDOWN);
            let _ = writeln!(text, "## {}\n\n{}\n\n{table}\n", section.title, section.text);
        }
        let _ = write!(
            text,
            "## Who wins where\n\nWithin {:.0} % counts as level. `raw` is the floor, not a peer.\n\n{}",
            LEVEL * 100.0,
            self.verdicts(),
        );
        text
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        if let Some(grid) = &self.polled {
            sections.extend(polled_sections(grid));
        }
        if let Some(grid) = &self.threads {
            sections.extend(threads_sections(grid));
        }
        if let Some(grid) = &self.tasks {
            sections.extend(tasks_sections(grid));
        }
        if let Some(lines) = &self.channels {
            sections.push(channels_section(lines, self.effort));
        }
        if let Some(forms) = &self.patterns {
            sections.push(patterns_section(forms, self.effort));
        }
        if let Some(lines) = &self.slow {
            sections.push(slow_section(lines));
        }
        sections
    }

    fn verdicts(&self) -> String {
        let mut text = String::new();
        let mut verdict = |what: &str, lines: &[Line], column: usize| {
            let _ = writeln!(text, "- {what}: {}.", compare(lines, column));
        };
        if let Some(grid) = &self.polled {
            for (receivers, lines) in grid.columns().zip(&grid.lines) {
                let what = format!("One channel to {receivers}, polled, publish and drain");
                verdict(&what, lines, polled::PUBLISH_AND_DRAIN);
            }
        }
        if let Some(grid) = &self.threads {
            for (receivers, lines) in grid.columns().zip(&grid.lines) {
                let (waiting, losing) = lines.split_at(threads::LOSSY);
                let what = format!("One channel to {receivers} in threads, nothing lost, delivery");
                verdict(&what, waiting, threads::DELIVERY);
                let what = format!("One channel to {receivers} in threads, with loss, publishing");
                verdict(&what, losing, threads::PUBLISH);
            }
        }
        if let Some(grid) = &self.tasks {
            for (receivers, lines) in grid.columns().zip(&grid.lines) {
                let what = format!("One channel to {receivers} in tasks, one message at a time");
                verdict(&what, lines, tasks::SINGLY);
                let what = format!(
                    "One channel to {receivers} in tasks, {} messages at a time",
                    tasks::BURST,
                );
                verdict(&what, lines, tasks::IN_BURSTS);
            }
        }
        if let Some(lines) = &self.channels {
            let what = format!(
                "{} channels, publish and drain",
                thousands(channels::channels(self.effort))
            );
            verdict(&what, lines, channels::PUBLISH_AND_DRAIN);
        }
        if let Some(forms) = &self.patterns {
            let count = thousands(patterns::patterns(self.effort));
            for (form, lines) in forms {
                verdict(&format!("{count} patterns `{form}`, a hot channel"), lines, patterns::HOT);
                verdict(&format!("{count} patterns `{form}`, new names"), lines, patterns::NEW);
            }
        }
        if let Some(lines) = &self.slow {
            text += &slow_verdict(lines);
        }
        text
    }
}

// ---- the shapes' tables --------------------------------------------------------------------------

fn polled_sections(grid: &Grid) -> [Section; 2] {
    let contenders = grid.contenders();
    [
        grid.section(
            "One channel, receivers that poll: publishing",
            format!(
                "One thread publishes {BATCH} messages, then takes them from each receiver in turn. Nanoseconds a \
                 delivery (one message to one receiver) until the last publish has returned; redis-server has \
                 answered by then. The broker's actors run on the same thread, so it has no figure of its own \
                 here. `fanout` publishes through a `Topic`, and by the channel's name in the second line.",
            ),
            &contenders,
            polled::PUBLISH,
            "handles too",
        ),
        grid.section(
            "One channel, receivers that poll: publishing and draining",
            "As above, until all messages are taken. Nanoseconds a delivery.",
            &contenders,
            polled::PUBLISH_AND_DRAIN,
            "",
        ),
    ]
}

fn threads_sections(grid: &Grid) -> [Section; 2] {
    let contenders = grid.contenders();
    let (waiting, losing) = contenders.split_at(threads::LOSSY);
    [
        grid.section(
            "One channel, receivers in threads: nothing lost",
            "Each receiver blocks in a thread of its own, and the publisher sends as fast as it can, waiting for \
             the slowest receiver. Nanoseconds a delivery until the last receiver has its last message.",
            waiting,
            threads::DELIVERY,
            "",
        ),
        grid.section(
            "One channel, receivers in threads: the publisher never waits",
            "As above, with contenders that lose messages instead. Nanoseconds a publish, to all receivers, and the \
             part of the deliveries that was lost, for each number of receivers. A faster publisher leaves its \
             receivers less time: read the time and the loss together.",
            losing,
            threads::PUBLISH,
            "",
        ),
    ]
}

fn tasks_sections(grid: &Grid) -> [Section; 2] {
    let contenders = grid.contenders();
    [
        grid.section(
            "One channel, receivers in tasks: one message at a time",
            "The receivers are tasks on a current-thread runtime of tokio's. The publisher runs there too: it \
             publishes a message, then gives way until all tasks have received it. Nanoseconds a delivery, most of it \
             for waking a task and for its turn. A task reads `fanout` by `into_message_stream`, and the others by \
             awaiting one receive after another. Neither crossbeam's channels nor `bus` can be awaited.",
            &contenders,
            tasks::SINGLY,
            "",
        ),
        grid.section(
            format!("One channel, receivers in tasks: {} messages at a time", tasks::BURST),
            "As above, but a task that is woken finds several messages. Nanoseconds a delivery.",
            &contenders,
            tasks::IN_BURSTS,
            "",
        ),
    ]
}

fn channels_section(lines: &[Line], effort: Effort) -> Section {
    let rows = lines.iter().map(|line| {
        let mut row = named(line);
        row.push(cell(line, channels::PUBLISH, "handles too"));
        row.push(cell(line, channels::PUBLISH_AND_DRAIN, ""));
        row.push(losses(&[line]));
        row
    });
    Section {
        title: format!("{} channels with one receiver each", thousands(channels::channels(effort))),
        text: format!(
            "Each channel is published to once, in random order, then all receivers are drained. Nanoseconds a \
             message. Receivers have room for {} messages. The maps made by hand are a `HashMap` from names to senders \
             under an `RwLock`, both of the standard library. `bus` starts a thread for each of its channels, and \
             takes no part. For redis-server one connection holds all subscriptions.",
            channels::CAPACITY,
        ),
        header: ["contender", "full queue", "publish", "publish and drain", "lost"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    }
}

fn patterns_section(forms: &[(&str, Vec<Line>)], effort: Effort) -> Section {
    let count = forms.first().map_or(0, |(_, lines)| lines.len());
    let rows = (0..count).map(|index| {
        let lines: Vec<&Line> = forms.iter().map(|(_, lines)| &lines[index]).collect();
        let mut row = named(lines[0]);
        for line in &lines {
            row.extend([cell(line, patterns::HOT, ""), cell(line, patterns::NEW, "")]);
        }
        row.push(losses(&lines));
        row
    });
    let header = ["contender", "full queue"].map(str::to_owned).into_iter();
    let columns =
        forms.iter().flat_map(|(form, _)| [format!("`{form}`, hot"), format!("`{form}`, new")]);
    Section {
        title: format!("{} patterns and one publish", thousands(patterns::patterns(effort))),
        text: "Each pattern has a receiver, and one of them matches. `{i}` is the pattern's number. Nanoseconds a \
               publish, to one channel all the time (hot) and to names that were never seen (new). By hand is \
               `globset` before plain crossbeam channels: one `GlobSet` of all patterns, or a `GlobMatcher` for \
               each. Patterns that begin with a literal are the best case of a `GlobSet`. The broker's figures \
               include handling; redis-server's are of pipelines, and one connection holds all patterns."
            .to_owned(),
        header: header.chain(columns).chain(["lost".to_owned()]).collect(),
        rows: rows.collect(),
    }
}

fn slow_section(lines: &[SlowLine]) -> Section {
    let rows = lines.iter().map(|line| {
        let mut row = vec![line.name.to_owned(), line.when_full.to_owned()];
        match &line.outcome {
            Ok(outcome) => row.extend([
                percent(outcome.fast_lost),
                micros(outcome.latency.value_at_quantile(0.5)),
                micros(outcome.latency.value_at_quantile(0.99)),
                percent(outcome.slow_lost),
                percent(outcome.published as f64 / outcome.planned as f64),
                format!("{} ms", digits(outcome.behind.as_secs_f64() * 1e3)),
            ]),
            Err(why) => row.push(why.clone()),
        }
        row
    });
    let pace = slow::PACE.as_secs_f64();
    Section {
        title: format!("One slow receiver among {}", slow::RECEIVERS),
        text: format!(
            "{} receivers block in threads of their own, and one of them, in the middle, sleeps {} ms after each \
             message. The publisher sends {} messages a second; it stops when it has been held up for so long that \
             {} s are over. *late* is from the call of publish to the return of the receiver's call, at the median \
             and the 99th percentile of the nine fast ones. *published* is the part of the planned messages that the \
             publisher sent, and *behind* the time by which it was behind its schedule at the end. Sums of all \
             rounds, without ratios.",
            slow::RECEIVERS,
            slow::SLEEP.as_millis(),
            thousands((1.0 / pace).round() as usize),
            slow::LIMIT.as_secs(),
        ),
        header: [
            "contender",
            "full queue",
            "fast: lost",
            "fast: late, p50",
            "fast: late, p99",
            "slow: lost",
            "published",
            "behind",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: rows.collect(),
    }
}

// ---- in words ------------------------------------------------------------------------------------

/// Names the contenders that are faster than the base of these lines, level with it, and slower.
fn compare(lines: &[Line], column: usize) -> String {
    let mut ran: Vec<(&str, Figure)> =
        lines.iter().filter_map(|line| Some((line.name, figure(line, column)?))).collect();
    let Some(&(base, own)) = ran.first() else { return "nothing was measured".to_owned() };
    ran.remove(0);
    ran.sort_by(|(_, one), (_, other)| one.ratio.total_cmp(&other.ratio));
    // Neither the floor nor another way to use the engine is a peer.
    let (others, peers): (Vec<_>, Vec<_>) = ran
        .into_iter()
        .partition(|(name, _)| name.starts_with("raw") || name.starts_with("fanout"));
    let list = |from: f64, to: f64| {
        let within = peers.iter().filter(|(_, figure)| figure.ratio >= from && figure.ratio < to);
        let texts: Vec<String> =
            within.map(|(name, figure)| format!("{name} {}×", ratio(figure.ratio))).collect();
        texts.join(", ")
    };
    let mut parts = vec![format!("{base} takes {} ns", digits(own.time))];
    let faster = list(0.0, 1.0 - LEVEL);
    parts.push(if faster.is_empty() {
        "no peer is faster".to_owned()
    } else {
        format!("faster: {faster}")
    });
    for (what, peers) in
        [("level", list(1.0 - LEVEL, 1.0 + LEVEL)), ("slower", list(1.0 + LEVEL, f64::INFINITY))]
    {
        if !peers.is_empty() {
            parts.push(format!("{what}: {peers}"));
        }
    }
    for (name, figure) in others {
        parts.push(format!("{name}: {}×", ratio(figure.ratio)));
    }
    parts.join("; ")
}

fn slow_verdict(lines: &[SlowLine]) -> String {
    let held = |outcome: &SlowOutcome| outcome.behind > slow::PACE * CAPACITY as u32;
    let list = |of: &dyn Fn(&SlowOutcome) -> bool| {
        let names = lines.iter().filter_map(|line| {
            let outcome = line.outcome.as_ref().ok()?;
            of(outcome).then_some(line.name)
        });
        let names: Vec<&str> = names.collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let lossless = |outcome: &SlowOutcome| outcome.fast_lost == 0.0;
    let mut text = String::new();
    for (what, names) in [
        (
            "the publisher keeps its pace and the fast ones lose nothing",
            list(&|outcome| !held(outcome) && lossless(outcome)),
        ),
        (
            "the publisher keeps its pace and the fast ones lose messages",
            list(&|outcome| !held(outcome) && !lossless(outcome)),
        ),
        ("the publisher falls behind its pace", list(&held)),
    ] {
        let _ = writeln!(text, "- One slow receiver among {}, {what}: {names}.", slow::RECEIVERS);
    }
    text
}

// ---- cells ---------------------------------------------------------------------------------------

fn named(line: &Line) -> Vec<String> {
    vec![line.name.to_owned(), line.when_full.to_owned()]
}

/// The figure of a column, if there is one.
pub fn figure(line: &Line, column: usize) -> Option<Figure> {
    let figure = line.outcome.as_ref().ok()?.figures.get(column)?;
    figure.time.is_finite().then_some(*figure)
}

/// `none` stands where a contender ran but has no figure in this column.
fn cell(line: &Line, column: usize, none: &str) -> String {
    match (&line.outcome, figure(line, column)) {
        (Err(why), _) => why.clone(),
        (_, Some(figure)) => format!("{} ({}×)", digits(figure.time), ratio(figure.ratio)),
        (_, None) => none.to_owned(),
    }
}

fn losses(lines: &[&Line]) -> String {
    let lost: Vec<f64> =
        lines.iter().filter_map(|line| Some(line.outcome.as_ref().ok()?.lost)).collect();
    if lost.is_empty() {
        "".to_owned()
    } else if lost.iter().all(|lost| *lost == 0.0) {
        "0".to_owned()
    } else {
        lost.into_iter().map(percent).collect::<Vec<_>>().join(" / ")
    }
}

/// Part of one; what is not nothing does not show as nothing.
fn percent(part: f64) -> String {
    match part {
        0.0 => "0".to_owned(),
        ..0.001 => "< 0.1 %".to_owned(),
        1.0 => "100 %".to_owned(),
        _ => format!("{:.1} %", part * 100.0),
    }
}

fn micros(nanos: u64) -> String {
    let micros = Duration::from_nanos(nanos).as_secs_f64() * 1e6;
    format!("{} µs", digits(micros))
}

/// Two decimals where they say something.
fn ratio(ratio: f64) -> String {
    if (0.095..10.0).contains(&ratio) { format!("{ratio:.2}") } else { digits(ratio) }
}

/// Three digits or so.
pub fn digits(value: f64) -> String {
    match value {
        ..0.00995 => format!("{value:.4}"),
        ..0.0995 => format!("{value:.3}"),
        ..9.95 => format!("{value:.2}"),
        ..99.5 => format!("{value:.1}"),
        _ => thousands(value.round() as usize),
    }
}

pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(count))
}
