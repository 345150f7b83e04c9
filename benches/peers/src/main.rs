//! `fanout` and its peers, side by side.
//!
//! ```text
//! cargo run --release                       # some minutes; writes benches/results/peers.md and peers.svg
//! cargo run --release -- --quick            # some seconds, to test that everything works; writes nothing
//! cargo run --release -- --only slow        # one shape; writes nothing, unless --out says where
//! ```

mod chart;
mod machine;
mod measure;
mod peers;
mod report;
mod shapes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::machine::Machine;
use crate::peers::redis::Server;
use crate::report::{Grid, Report};
use crate::shapes::{Effort, Redis, channels, patterns, polled, slow, tasks, threads};

/// Measures fanout and its peers in turns, prints the tables, and writes them with a chart.
#[derive(Parser)]
struct Args {
    /// Tiny sizes, to see that everything works; nothing is written unless --out is given
    #[arg(long)]
    quick: bool,

    /// Only these shapes; nothing is written unless --out is given
    #[arg(long, value_enum)]
    only: Vec<Shape>,

    /// Where to write peers.md and peers.svg [default: benches/results of the repository]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// One channel to many receivers that poll
    Polled,
    /// One channel to receivers that block in threads
    Threads,
    /// One channel to receivers that are tasks
    Tasks,
    /// Many channels with one receiver each
    Channels,
    /// Many patterns, of which one matches
    Patterns,
    /// One slow receiver among ten
    Slow,
}

impl Args {
    fn wants(&self, shape: Shape) -> bool {
        self.only.is_empty() || self.only.contains(&shape)
    }

    /// A partial run must not replace the results that are kept.
    fn out(&self) -> Option<PathBuf> {
        let kept = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../results");
        let whole = !self.quick && self.only.is_empty();
        self.out.clone().or_else(|| whole.then(kept))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let effort = Effort { quick: args.quick };
    // A connection for each of a thousand receivers, at both ends.
    rlimit::increase_nofile_limit(8_192).context("raising the limit of open files")?;

    let started = Instant::now();
    let server = Server::start().context("redis-server")?;
    let redis: Redis<'_> = server.as_ref().ok_or_else(|| "not run: no redis-server".to_owned());
    let machine = Machine::look(redis.as_ref().ok().map(|server| server.version()));
    let report = measure(&args, effort, &redis, machine)?;
    println!("{}", report.text());
    eprintln!("took {:.0} s", started.elapsed().as_secs_f64());

    if let Some(out) = args.out() {
        fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
        let tables = out.join("peers.md");
        fs::write(&tables, report.markdown())
            .with_context(|| format!("writing {}", tables.display()))?;
        let picture = out.join("peers.svg");
        let svg = chart::draw(&report).context("drawing the chart")?;
        fs::write(&picture, svg).with_context(|| format!("writing {}", picture.display()))?;
        eprintln!("wrote {} and {}", tables.display(), picture.display());
    }
    Ok(())
}

fn measure(args: &Args, effort: Effort, redis: &Redis<'_>, machine: Machine) -> Result<Report> {
    let mut report = Report::new(machine, effort);
    if args.wants(Shape::Polled) {
        let mut grid = Grid::default();
        for &receivers in polled::receivers(effort) {
            eprintln!("one channel to {receivers} receivers, polled");
            grid.push(receivers, polled::run(effort, receivers, redis)?);
        }
        report.polled = Some(grid);
    }
    if args.wants(Shape::Threads) {
        let mut grid = Grid::default();
        for &receivers in threads::receivers(effort) {
            eprintln!("one channel to {receivers} receivers, in threads");
            grid.push(receivers, threads::run(effort, receivers, redis)?);
        }
        report.threads = Some(grid);
    }
    if args.wants(Shape::Tasks) {
        let mut grid = Grid::default();
        for &receivers in tasks::receivers(effort) {
            eprintln!("one channel to {receivers} receivers, in tasks");
            grid.push(receivers, tasks::run(effort, receivers)?);
        }
        report.tasks = Some(grid);
    }
    if args.wants(Shape::Channels) {
        eprintln!("{} channels with one receiver each", channels::channels(effort));
        report.channels = Some(channels::run(effort, redis)?);
    }
    if args.wants(Shape::Patterns) {
        eprintln!("{} patterns and one publish", patterns::patterns(effort));
        let run = |form| Ok((form, patterns::run(effort, form, redis)?));
        let forms: Result<Vec<_>> = patterns::FORMS.into_iter().map(run).collect();
        report.patterns = Some(forms?);
    }
    if args.wants(Shape::Slow) {
        eprintln!("one slow receiver among {}", slow::RECEIVERS);
        report.slow = Some(slow::run(effort, redis)?);
    }
    Ok(report)
}
