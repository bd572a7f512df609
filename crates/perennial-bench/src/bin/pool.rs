//! Pools under an open-loop load while their certificate rotates: ours beside stock bb8.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use perennial_bench::bars::Bars;
use perennial_bench::plot;
use perennial_bench::pool::{Contender, Course, LIFETIME, Settings, refusal, rotations};
use perennial_bench::stage::{LONG, Stage};
use perennial_bench::statistics::{median, quantile, tell};

/// p99 while the pool moves, over p99 before it.
const DISTURBANCE: f64 = 1.15;

/// Fewer rotations, or fewer requests in them, say nothing of a p99.
const POOLED: f64 = 20.0;
const REQUESTS: f64 = 1_000.0;

/// Seconds until the pool has moved, for each of its connections: 2 s for 20.
const MOVED: f64 = 0.1;

/// Those of all contenders that are ours: without a probe, and with one.
const OURS: usize = 2;

/// Logins side by side.
const AT_ONCE: f64 = 2.0;

/// Measure what a rotation does to requests, on a real Postgres.
///
/// Requests start on time whether or not earlier ones are done, take 10 ms on the server, and their
/// latency counts from when they should have started.
#[derive(Parser)]
#[command(name = "pool")]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Rotate again and again, to good certificates
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

        /// How long the load goes on after that
        #[arg(long = "for", value_name = "TIME", default_value = "6s", value_parser = humantime::parse_duration)]
        bad: Duration,
    },
}

#[derive(Args)]
struct LoadArgs {
    /// Connections in the pool
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=250))]
    size: u32,

    /// Requests a second; may be given several times
    #[arg(long = "rate", value_name = "N", default_values_t = [600, 1_200], value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rates: Vec<u32>,

    /// Leave the stock pools out
    #[arg(long)]
    only_ours: bool,

    /// Fail if ours misses a bar
    #[arg(long)]
    check: bool,

    /// Draw into this SVG
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
        What::Refusal { load, bad } => {
            refused(&stage, &load, bad, &mut bars).await?;
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
            std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
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
            "\nPostgreSQL {}, {} connections, {rate} requests a second of 10 ms, {count} rotations; \
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
        let mut courses = Vec::new();
        for &contender in load.contenders() {
            let course = rotations(stage, contender, load.at(rate), count).await?;
            say(row(&course))?;
            tell_failures(&course)?;
            courses.push(course);
        }
        let ours = &courses[0];
        bars.at_least("rotations pooled", count as f64, POOLED)?;
        let moving = ours.latencies(&ours.moving).len();
        bars.at_least("requests while moving", moving as f64, REQUESTS)?;
        let took = quantile(&ours.took(), 1.0);
        let (disturbance, sure) = ours.disturbance();
        let what = format_args!("p99 while moving, over calm ({})", tell(sure));
        bars.at_most(what, disturbance, DISTURBANCE)?;
        bars.at_most("slowest move, s", took, MOVED * f64::from(load.size))?;
        bars.at_most("logins at once", ours.logins_at_once as f64, AT_ONCE)?;
        bars.at_most("failed requests", ours.failures().count() as f64, 0.0)?;
        drawn.push((rate, courses));
    }
    load.draw(&plot::pool::rotations(load.size, &drawn)?)
}

/// One contender's line.
fn row(course: &Course) -> String {
    let (took, calm) = (course.took(), course.latencies(&course.calm));
    let moving = course.latencies(&course.moving);
    let at = |values: &[f64]| [0.5, 0.99, 0.999].map(|part| quantile(values, part));
    let ([a, b, c], [d, e, f]) = (at(&calm), at(&moving));
    format!(
        "{:<21} {:>6.3} s {:>5.3} s {:>6}     {a:>6.1} {b:>6.1} {c:>6.1}     {d:>6.1} {e:>6.1} \
         {f:>6.1} {:>6.1} {:>6.2} {:>7}   {} requests moving",
        course.contender.name(),
        median(&took),
        quantile(&took, 1.0),
        course.logins_at_once,
        quantile(&moving, 1.0),
        course.disturbance().0,
        course.failures().count(),
        moving.len(),
    )
}

async fn refused(
    stage: &Stage,
    load: &LoadArgs,
    bad: Duration,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let mut drawn = Vec::new();
    for &rate in &load.rates {
        say(format_args!(
            "\nPostgreSQL {}, {} connections, {rate} requests a second of 10 ms for {bad:?} after a \
             certificate that it refuses; max_lifetime {LIFETIME:?}",
            stage.postgres().version(),
            load.size,
        ))?;
        let mut courses = Vec::new();
        for &contender in load.contenders() {
            let course = refusal(stage, contender, load.at(rate), bad).await?;
            let published = course.moving[0].start;
            let after = course
                .samples
                .iter()
                .filter(|sample| sample.due >= published);
            say(format_args!(
                "{:<21} {:>6} of {:>6} requests failed, {:>5} logins tried",
                contender.name(),
                course.failures().count(),
                after.count(),
                course.logins,
            ))?;
            tell_failures(&course)?;
            courses.push(course);
        }
        for ours in &courses[..OURS] {
            let what = format_args!("failed requests, {}", ours.contender.name());
            bars.at_most(what, ours.failures().count() as f64, 0.0)?;
        }
        drawn.push((rate, courses));
    }
    load.draw(&plot::pool::refusal(load.size, &drawn)?)
}

/// Different errors, once each.
fn tell_failures(course: &Course) -> io::Result<()> {
    let errors = course
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
