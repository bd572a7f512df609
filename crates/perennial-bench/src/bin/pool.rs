//! Pools under an open-loop load while their certificate rotates: ours compared with stock bb8.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use perennial_bench::bars::Bars;
use perennial_bench::plot;
use perennial_bench::pool::{Contender, MAX_LIFETIME, PoolRun, Settings, refusal, rotations};
use perennial_bench::stage::{LONG, Stage};
use perennial_bench::statistics::{describe, median, quantile};

/// Bar: p99 during rotations, over p99 before them.
const DISTURBANCE: f64 = 1.15;

/// Bars: with fewer rotations, or fewer requests in them, a p99 has no meaning.
const ROTATIONS: f64 = 20.0;
const REQUESTS: f64 = 1_000.0;

/// Bar: seconds per connection until the pool has moved, so 2 s for 20 connections.
const MOVED: f64 = 0.1;

/// The number of contenders that are ours: without and with a probe.
const OURS: usize = 2;

/// Bar: logins in progress at once.
const AT_ONCE: f64 = 2.0;

/// Measure the effect of a rotation on requests, with a real Postgres.
///
/// Requests start on time even if earlier ones are still running, and take 10 ms on the server. Their
/// latency counts from when they were due.
#[derive(Parser)]
#[command(name = "pool")]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Rotate repeatedly, to certificates that the server accepts
    Rotation {
        #[command(flatten)]
        load: LoadArgs,

        /// Rotations of each pool
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        rotations: u16,
    },
    /// Rotate once, to a certificate that the server refuses
    Refusal {
        #[command(flatten)]
        load: LoadArgs,

        /// How long the load continues after that
        #[arg(long = "for", value_name = "TIME", default_value = "6s", value_parser = humantime::parse_duration)]
        duration: Duration,
    },
}

#[derive(Args)]
struct LoadArgs {
    /// Connections in the pool
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=250))]
    size: u32,

    /// Requests per second; repeat the option for several rates
    #[arg(long = "rate", value_name = "N", default_values_t = [600, 1_200], value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rates: Vec<u32>,

    /// Measure only our pools
    #[arg(long)]
    only_ours: bool,

    /// Fail if our pool misses a bar
    #[arg(long)]
    check: bool,

    /// Draw the results into this SVG file
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let stage = Stage::set(LONG).await?;
    let mut bars = Bars::default();
    let check = match command.what {
        What::Rotation { load, rotations } => {
            rotation(&stage, &load, rotations.into(), &mut bars).await?;
            load.check
        }
        What::Refusal { load, duration } => {
            refused(&stage, &load, duration, &mut bars).await?;
            load.check
        }
    };
    bars.finish(check)
}

impl LoadArgs {
    fn contenders(&self) -> &'static [Contender] {
        if self.only_ours {
            &Contender::ALL[..OURS]
        } else {
            &Contender::ALL
        }
    }

    fn at(&self, rate: u32) -> Settings {
        Settings {
            size: self.size,
            rate,
        }
    }

    fn draw(&self, svg: &str) -> anyhow::Result<()> {
        let write = |path: &Path| {
            std::fs::write(path, svg).with_context(|| format!("failed to write {}", path.display()))
        };
        self.plot.as_deref().map_or(Ok(()), write)
    }
}

async fn rotation(
    stage: &Stage,
    load: &LoadArgs,
    count: usize,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let mut drawn = Vec::new();
    for &rate in &load.rates {
        say(format_args!(
            "\nPostgreSQL {}, {} connections, {rate} requests per second of 10 ms, {count} rotations; \
             ms\n{:<21} {:>15} {:>6}   {:>22}   {:>31} {:>6} {:>7}",
            stage.postgres().version(),
            load.size,
            "",
            "moved in (most)",
            "logins",
            "calm p50   p99  p99.9",
            "moving p50   p99  p99.9    max",
            "p99 ×",
            "failed",
        ))?;
        let mut runs = Vec::new();
        for &contender in load.contenders() {
            let run = rotations(stage, contender, load.at(rate), count).await?;
            say(row(&run))?;
            print_failures(&run)?;
            runs.push(run);
        }
        let ours = &runs[0];
        bars.at_least("rotations", count as f64, ROTATIONS)?;
        let moving = ours.latencies(&ours.moving).len();
        bars.at_least("requests during rotations", moving as f64, REQUESTS)?;
        let took = quantile(&ours.took(), 1.0);
        let (disturbance, interval) = ours.disturbance();
        let what = format_args!(
            "p99 during rotations, over p99 before ({})",
            describe(interval)
        );
        bars.at_most(what, disturbance, DISTURBANCE)?;
        bars.at_most("slowest rotation, s", took, MOVED * f64::from(load.size))?;
        bars.at_most("logins at once", ours.logins_at_once as f64, AT_ONCE)?;
        bars.at_most("failed requests", ours.failures().count() as f64, 0.0)?;
        drawn.push((rate, runs));
    }
    load.draw(&plot::pool::rotations(load.size, &drawn)?)
}

/// The line of one contender.
fn row(run: &PoolRun) -> String {
    let (took, calm) = (run.took(), run.latencies(&run.calm));
    let moving = run.latencies(&run.moving);
    let at = |values: &[f64]| [0.5, 0.99, 0.999].map(|part| quantile(values, part));
    let ([a, b, c], [d, e, f]) = (at(&calm), at(&moving));
    format!(
        "{:<21} {:>6.3} s {:>5.3} s {:>6}     {a:>6.1} {b:>6.1} {c:>6.1}     {d:>6.1} {e:>6.1} \
         {f:>6.1} {:>6.1} {:>6.2} {:>7}   {} requests moving",
        run.contender.name(),
        median(&took),
        quantile(&took, 1.0),
        run.logins_at_once,
        quantile(&moving, 1.0),
        run.disturbance().0,
        run.failures().count(),
        moving.len(),
    )
}

async fn refused(
    stage: &Stage,
    load: &LoadArgs,
    duration: Duration,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let mut drawn = Vec::new();
    for &rate in &load.rates {
        say(format_args!(
            "\nPostgreSQL {}, {} connections, {rate} requests per second of 10 ms, for {duration:?} after a \
             certificate that the server refuses; max_lifetime {MAX_LIFETIME:?}",
            stage.postgres().version(),
            load.size,
        ))?;
        let mut runs = Vec::new();
        for &contender in load.contenders() {
            let run = refusal(stage, contender, load.at(rate), duration).await?;
            let published = run.moving[0].start;
            let after = run.samples.iter().filter(|sample| sample.due >= published);
            say(format_args!(
                "{:<21} {:>6} of {:>6} requests failed, {:>5} logins",
                contender.name(),
                run.failures().count(),
                after.count(),
                run.logins,
            ))?;
            print_failures(&run)?;
            runs.push(run);
        }
        for ours in &runs[..OURS] {
            let what = format_args!("failed requests, {}", ours.contender.name());
            bars.at_most(what, ours.failures().count() as f64, 0.0)?;
        }
        drawn.push((rate, runs));
    }
    load.draw(&plot::pool::refusal(load.size, &drawn)?)
}

/// Prints up to three different errors.
fn print_failures(run: &PoolRun) -> io::Result<()> {
    let errors = run
        .failures()
        .filter_map(|sample| sample.failure.as_deref());
    let errors: std::collections::BTreeSet<_> = errors.collect();
    errors
        .iter()
        .take(3)
        .try_for_each(|error| say(format_args!("    {error}")))
}

fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
