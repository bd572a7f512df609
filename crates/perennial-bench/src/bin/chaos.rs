//! Pools on short certificates under steady load, while everything around them fails.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Parser;
use perennial_bench::chaos::account::{Account, Row};
use perennial_bench::chaos::client;
use perennial_bench::chaos::fault::Fault;
use perennial_bench::chaos::plan::{Plan, Step};
use perennial_bench::chaos::report::{Moment, Report};
use perennial_bench::chaos::stage::Stage;
use tokio::signal::ctrl_c;

/// From this length on, a run must meet the bars that a short run cannot.
const LONG: Duration = Duration::from_secs(25 * 60);
const MANY: usize = 10_000;

/// What a long run must show.
const HITS: usize = 10;
const INSIDE: usize = 300;
/// The largest part of the run in which a failed query is explained.
const EXCUSED: f64 = 0.2;

/// The time in which the last fault's consequences show.
const CALM: Duration = Duration::from_secs(6);

/// Hit everything around pools on certificates of 20 s with seeded faults, and account for each failed query.
///
/// A query may fail only if it began while Postgres itself was hit, or within five seconds after. A run of at
/// least 25 minutes or 10,000 rotations must also hit each fault ten times, see 300 rotations inside a fault,
/// and keep the time in which a failure is explained below a fifth.
#[derive(Parser)]
#[command(name = "chaos")]
struct Args {
    /// How long to run, such as 1h
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10m")]
    run_for: Duration,

    /// Run until Postgres has seen so many rotations instead
    #[arg(long, value_name = "N", conflicts_with = "run_for")]
    rotations: Option<usize>,

    /// The seed of the plan of faults
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// Certificates, each with its own login and pool
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..=59))]
    certificates: u16,

    /// Only these faults
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<Fault>,

    /// Run the load that this file describes
    #[arg(long, value_name = "FILE", hide = true)]
    client: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(setup) = &args.client {
        client::run(setup).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let failures = run(&args).await?;
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs, prints the summary, and returns why the run failed.
async fn run(args: &Args) -> anyhow::Result<Vec<String>> {
    let mut out = io::stdout();
    let program = std::env::current_exe()?;
    say(format_args!(
        "starting the servers and {} pools",
        args.certificates
    ))?;
    let stage = tokio::select! {
        stage = Box::pin(Stage::set(args.certificates.into(), &program)) => stage?,
        stopped = ctrl_c() => return stopped.map(|()| vec!["stopped".to_owned()]).map_err(Into::into),
    };
    let skipped = |fault: &Fault| {
        stage
            .skipped
            .iter()
            .any(|(faults, _)| faults.contains(fault))
    };
    let wanted = |fault: &Fault| args.only.is_empty() || args.only.contains(fault);
    let faults = Fault::all().iter().copied();
    let faults: Vec<_> = faults
        .filter(|fault| wanted(fault) && !skipped(fault))
        .collect();
    let began = Moment::now();
    let mut shown = 0;
    let mut broken = None;
    for step in Plan::new(args.seed, &faults) {
        if is_over(args, &stage, began, &faults) {
            break;
        }
        announce(&step, began)?;
        let ran = tokio::select! {
            ran = Box::pin(stage.run(&step)) => ran.and_then(|()| stage.check()),
            stopped = ctrl_c() => stopped.map_err(Into::into).and(Err(anyhow!("stopped"))),
        };
        progress(&stage)?;
        shown = show_unexplained(&stage, began, shown)?;
        // The figures up to then are worth the summary.
        if let Err(error) = ran {
            broken = Some(format!("{error:#}"));
            break;
        }
    }
    if broken.is_none() {
        tokio::time::sleep(CALM).await;
    }
    let last = stage.finish().await;
    let record = stage.record();
    let account = record.account();
    let issued = stage.issued().await;
    let seconds = Moment::now().since(began).as_secs_f64();
    writeln!(
        out,
        "{}",
        summary(args, &stage, &account, last.as_ref().ok(), seconds)
    )?;
    if let Ok(issued) = &issued {
        writeln!(out, "OpenBao issued {issued} certificates.")?;
    }
    show_unexplained(&stage, began, shown)?;
    let mut failures = failures(args, &account, &faults, seconds);
    failures.extend(broken);
    let ends = [last.err(), issued.err()].into_iter().flatten();
    failures.extend(ends.map(|error| format!("{error:#}")));
    for failure in &failures {
        writeln!(out, "FAILED: {failure}")?;
    }
    Ok(failures)
}

/// Whether the run is long enough.
fn is_over(args: &Args, stage: &Stage, began: Moment, faults: &[Fault]) -> bool {
    let Some(rotations) = args.rotations else {
        return Moment::now().since(began) >= args.run_for;
    };
    let account = stage.record().account();
    // So many rotations alone would not show what a long run must.
    let is_enough =
        rotations < MANY || (least_hits(&account, faults) >= HITS && account.excused <= EXCUSED);
    account.rotations >= rotations && is_enough
}

fn least_hits(account: &Account, faults: &[Fault]) -> usize {
    let hits = |fault| account.rows.get(fault).map_or(0, |row| row.hits);
    faults.iter().map(hits).min().unwrap_or_default()
}

fn failures(args: &Args, account: &Account, faults: &[Fault], seconds: f64) -> Vec<String> {
    let Account {
        rotations,
        inside,
        excused,
        unexplained,
        ..
    } = account;
    let is_long = seconds >= LONG.as_secs_f64() || *rotations >= MANY;
    let least = least_hits(account, faults);
    let wanted = args.rotations.unwrap_or(1);
    [
        (
            *unexplained > 0,
            format!("{unexplained} failed queries are not explained"),
        ),
        (
            *rotations < wanted,
            format!("{rotations} rotations, not {wanted}"),
        ),
        (
            is_long && least < HITS,
            format!("a fault was hit only {least} times, not {HITS}"),
        ),
        (
            is_long && *inside < INSIDE,
            format!("{inside} rotations inside a fault, not {INSIDE}"),
        ),
        (
            is_long && *excused > EXCUSED,
            format!(
                "a failure was explained in {:.0} % of the run",
                excused * 100.0
            ),
        ),
    ]
    .into_iter()
    .filter_map(|(is_missed, failure)| is_missed.then_some(failure))
    .collect()
}

/// The whole run as Markdown.
fn summary(
    args: &Args,
    stage: &Stage,
    account: &Account,
    last: Option<&Report>,
    seconds: f64,
) -> String {
    let mut lines = vec![format!(
        "Seed {}, {seconds:.0} s, {} certificates of {} s, PostgreSQL {}. {} rotations that Postgres saw, {} of them \
         inside a fault and {} with the client's clock wrong; {} certificates were replaced before a session needed them.",
        args.seed,
        args.certificates,
        client::LIFETIME.as_secs(),
        stage.postgres_version(),
        account.rotations,
        account.inside,
        account.off,
        account.unseen,
    )];
    if account.unseen > 0 {
        let unseen = account.unseen_in.iter();
        let unseen: Vec<_> = unseen
            .map(|(fault, times)| format!("{} {times}", fault.name()))
            .collect();
        lines.push(format!(
            "Replaced before a session needed them, by fault: {}.",
            unseen.join(", ")
        ));
    }
    if let Some(Report::Done {
        answered,
        connects,
        longest,
    }) = last
    {
        lines.push(format!(
            "{answered} queries and {connects} connects answered, the slowest after {:.1} s. {} failed where a fault \
             at Postgres explains it (in {:.1} % of the run), {} without.",
            longest.as_secs_f64(),
            account.explained,
            account.excused * 100.0,
            account.unexplained,
        ));
    }
    if seconds < LONG.as_secs_f64() && account.rotations < MANY {
        lines.push(
            "Too short for the bars on hits, on rotations inside a fault and on the explained part."
                .to_owned(),
        );
    }
    lines.push(String::new());
    lines.push("| fault | hits | rotations inside | failed, explained | unexplained |".to_owned());
    lines.push("|---|---|---|---|---|".to_owned());
    let none = Row::default();
    for fault in Fault::all() {
        let row = account.rows.get(fault).unwrap_or(&none);
        lines.push(format!(
            "| {} | {} | {} | {} | {} |",
            fault.name(),
            row.hits,
            row.rotations,
            by_cause(&row.explained),
            by_cause(&row.unexplained),
        ));
    }
    if !account.outside.is_empty() {
        lines.push(format!("| none | | | | {} |", by_cause(&account.outside)));
    }
    lines.push(String::new());
    for (faults, why) in &stage.skipped {
        let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
        lines.push(format!("Not run: {}: {why}", names.join(", ")));
    }
    lines.push(
        "Not run: a step of OpenBao's clock: it is written in Go, which libfaketime does not reach."
            .to_owned(),
    );
    lines.join("\n")
}

fn by_cause(causes: &std::collections::BTreeMap<String, usize>) -> String {
    let causes: Vec<_> = (causes.iter())
        .map(|(cause, times)| format!("{times} × {cause}"))
        .collect();
    if causes.is_empty() {
        "0".to_owned()
    } else {
        causes.join("; ")
    }
}

/// The step that begins now.
fn announce(step: &Step, began: Moment) -> io::Result<()> {
    let names: Vec<_> = step.hits.iter().map(|hit| hit.fault.name()).collect();
    let seconds = Moment::now().since(began).as_secs();
    say(format_args!("{seconds:>5} s  {}", names.join(" + ")))
}

/// The figures up to now.
fn progress(stage: &Stage) -> io::Result<()> {
    let account = stage.record().account();
    say(format_args!(
        "         {} rotations, {} inside a fault; failed: {} explained, {} not; {:.0} % excused",
        account.rotations,
        account.inside,
        account.explained,
        account.unexplained,
        account.excused * 100.0
    ))
}

/// Prints each unexplained failure after the first `shown`; returns how many there are.
///
/// A failure within a fault at Postgres is shown only after it, when its window is known.
fn show_unexplained(stage: &Stage, began: Moment, shown: usize) -> io::Result<usize> {
    let unexplained = stage.unexplained();
    for (began_at, text) in unexplained.iter().skip(shown) {
        let seconds = began_at.since(began).as_secs_f64();
        say(format_args!("unexplained at {seconds:.1} s, {text}"))?;
    }
    Ok(unexplained.len())
}

/// A line about the progress.
fn say(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stderr();
    if out.is_terminal() {
        writeln!(out, "\x1b[2m{line}\x1b[0m")
    } else {
        writeln!(out, "{line}")
    }
}
