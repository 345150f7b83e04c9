//! A filter for logs: reads lines of `channel payload` from stdin, publishes them, and prints what the
//! patterns given as arguments match, as `pattern`, `channel` and `payload` with tabs between them.
//!
//! The channel ends at the first space, and the payload is the rest of the line. Either may be empty:
//! `news ` is an empty message to `news`. A line without a space (an empty one is such a line) or one
//! that is not UTF-8 is malformed: it is reported on stderr with its number, and the run goes on. A
//! channel that several patterns match is printed once for each of them, as Redis would send it.
//!
//! ```text
//! printf 'game:7:events start\nuser:1:mail hi\n' | cargo run -q --example monitor -- 'game:*' 'user:?:*'
//! printf 'sensors/attic/temp 31\n' | cargo run -q --example monitor -- --glob 'sensors/**/{temp,hum}'
//! ```
//!
//! With the log of a Debian system's package manager, whose lines begin with a date and a time:
//!
//! ```text
//! sed -E 's/^(\S+) (\S+) (\S+) (\S+) /dpkg:\3:\4 \1T\2 /' /var/log/dpkg.log |
//!     cargo run -q --example monitor -- 'dpkg:status:installed' 'dpkg:upgrade:*'
//! ```

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use fanout::{Bus, Pattern, SubscribeError, Subscriber};

/// Prints those lines of `channel payload` on stdin whose channel matches a pattern.
#[derive(Parser)]
#[command(name = "monitor")]
struct Args {
    /// Redis globs, such as 'user:*:notifications' (quote them, or the shell expands them)
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,

    /// Read the patterns as shell globs, such as 'sensors/**/{temp,hum}': `/` separates levels
    #[arg(long)]
    glob: bool,
}

impl Args {
    fn patterns(&self) -> Result<Vec<Pattern>, fanout::PatternError> {
        let read = |text: &String| {
            if self.glob { Pattern::glob(text) } else { Ok(Pattern::redis(text)) }
        };
        self.patterns.iter().map(read).collect()
    }
}

fn main() -> ExitCode {
    let patterns = Args::parse().patterns().unwrap_or_else(|error| {
        Args::command().error(ErrorKind::ValueValidation, error).exit();
    });
    let mut monitor = match Monitor::new(patterns) {
        Ok(monitor) => monitor,
        Err(error) => return fail(&error.to_string()),
    };
    let outcome = monitor.run(&mut BufReader::new(io::stdin()), &mut BufWriter::new(io::stdout()));
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output, or the errors, has seen enough: `head` does that.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    };
    let Summary { lines, malformed, matched, printed } = monitor.summary;
    // If it cannot be written there is nobody to tell.
    let _ = report(format_args!(
        "{lines} lines, {malformed} malformed, {matched} matched, {printed} messages printed"
    ));
    code
}

struct Monitor {
    bus: Bus,
    inbox: Subscriber,
    summary: Summary,
}

#[derive(Default)]
struct Summary {
    lines: u64,
    malformed: u64,
    /// Number of lines whose channel matched a pattern.
    matched: u64,
    /// Number of messages: one for each matching pattern of each line.
    printed: u64,
}

impl Monitor {
    fn new(patterns: Vec<Pattern>) -> Result<Self, SubscribeError> {
        let bus = Bus::new();
        let inbox = bus
            .subscriber_builder()
            // A line is one message for each of its patterns, and is printed before the next is read:
            // the inbox cannot overflow.
            .capacity(patterns.len())
            .lifecycle_events(false)
            .build();
        inbox.psubscribe_many(patterns)?;
        Ok(Self { bus, inbox, summary: Summary::default() })
    }

    fn run<R: io::Read>(
        &mut self,
        input: &mut BufReader<R>,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            // With `tail -f` before it, what was printed must not wait for the buffer to be full; with a
            // file, flushing at each line would be slow. So: when no whole line is waiting to be read.
            if !input.buffer().contains(&b'\n') {
                output.flush()?;
            }
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                return output.flush();
            }
            self.summary.lines += 1;
            match parse(&line) {
                Ok((channel, payload)) => self.publish(channel, payload, output)?,
                Err(why) => {
                    self.summary.malformed += 1;
                    report(format_args!("line {}: {why}", self.summary.lines))?;
                }
            }
        }
    }

    fn publish(&mut self, channel: &str, payload: &str, output: &mut impl Write) -> io::Result<()> {
        // Most lines of a log match nothing: those are not copied.
        let receipt = self.bus.publish_with(channel, || Arc::from(payload));
        self.summary.matched += u64::from(receipt.matched > 0);
        for message in self.inbox.try_iter().filter_map(|event| event.into_message()) {
            let pattern = message.pattern().unwrap_or_default();
            writeln!(output, "{pattern}\t{}\t{}", message.channel(), message.payload)?;
            self.summary.printed += 1;
        }
        Ok(())
    }
}

/// Returns the channel and the payload of a line, or what is wrong with it.
fn parse(line: &[u8]) -> Result<(&str, &str), &'static str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = str::from_utf8(line).map_err(|_| "not UTF-8")?;
    line.split_once(' ').ok_or("no space between channel and payload")
}

fn fail(why: &str) -> ExitCode {
    // The exit code says it too.
    let _ = report(format_args!("error: {why}"));
    ExitCode::FAILURE
}

/// Writes to stderr; unlike `eprintln!`, does not panic where that is a pipe that nobody reads any more.
fn report(what: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stderr(), "{what}")
}
