//! What a person reads, and what a script reads.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::Tally;
use crate::witness::Sight;

/// One second of the demo on one line.
pub(crate) struct Line<'a> {
    pub(crate) elapsed: Duration,
    pub(crate) generation: u64,
    pub(crate) remaining: Duration,
    pub(crate) ttl: Duration,
    pub(crate) sight: &'a Sight,
    pub(crate) per_second: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) failed: u64,
    pub(crate) rotating: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs();
        let pool = Pool(self.sight).to_string();
        write!(
            f,
            "{:02}:{:02}  cert #{} {} {:>3} s left   pool {pool:<12}{}  {:>5} q/s  p50 {:>5.1} ms  p99 {:>5.1} ms  failed {}",
            seconds / 60,
            seconds % 60,
            self.generation,
            bar(self.remaining, self.ttl),
            self.remaining.as_secs(),
            if self.rotating { "↻" } else { " " },
            self.per_second,
            self.p50_ms,
            self.p99_ms,
            self.failed,
        )
    }
}

/// The pool by generation, as Postgres sees it: `20×#3`, or `4×#2 16×#3` on the way.
struct Pool<'a>(&'a Sight);

impl fmt::Display for Pool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self
            .0
            .by_generation
            .iter()
            .map(|(generation, count)| format!("{count}×#{generation}"));
        let strangers = (self.0.strangers > 0).then(|| format!("{}×?", self.0.strangers));
        f.write_str(&ours.chain(strangers).collect::<Vec<_>>().join(" "))
    }
}

/// The part of a life that is left, in ten cells.
fn bar(remaining: Duration, life: Duration) -> String {
    let cells = (remaining.as_secs_f64() / life.as_secs_f64() * 10.0)
        .round()
        .clamp(0.0, 10.0) as usize;
    format!("{}{}", "█".repeat(cells), "░".repeat(10 - cells))
}

/// The whole run. Field names are a contract with scripts.
#[derive(Serialize)]
pub(crate) struct Summary {
    /// Generations after the first.
    pub(crate) rotations: u64,
    pub(crate) queries_ok: u64,
    pub(crate) queries_failed: u64,
    /// In base ten, as `pg_stat_ssl.client_serial` shows them.
    pub(crate) serials_seen_by_server: Vec<String>,
    /// Of those serials, how many are none of ours.
    pub(crate) serials_unknown: usize,
    /// The oldest generation that Postgres still saw at the end; null if the pool was empty.
    pub(crate) oldest_generation_left: Option<u64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Over queries that were under way while the pool was moving; null if none was.
    pub(crate) p99_ms_during_rotation: Option<f64>,
    /// Certificates for this service, by the CA's own record.
    pub(crate) issued_by_ca: u64,
}

impl Summary {
    /// Why this run does not count as a success.
    pub(crate) fn complaint(&self) -> Option<String> {
        if self.queries_failed > 0 {
            return Some(format!("{} queries failed", self.queries_failed));
        }
        if self.serials_unknown > 0 {
            return Some(format!(
                "{} serial numbers are none of ours",
                self.serials_unknown
            ));
        }
        if self.rotations == 0 {
            return Some("no rotation in the time given".to_owned());
        }
        None
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{} rotations; {} certificates issued by the CA; {} serial numbers seen by Postgres",
            self.rotations,
            self.issued_by_ca,
            self.serials_seen_by_server.len(),
        )?;
        writeln!(
            f,
            "{} queries answered, {} failed",
            self.queries_ok, self.queries_failed
        )?;
        write!(
            f,
            "latency p50 {:.1} ms, p99 {:.1} ms",
            self.p50_ms, self.p99_ms
        )?;
        match self.p99_ms_during_rotation {
            Some(p99) => write!(f, ", p99 while the pool was moving {p99:.1} ms"),
            None => Ok(()),
        }
    }
}

/// Different errors with their counts, the most frequent first.
pub(crate) fn errors(tally: &Tally) -> String {
    let mut errors: Vec<_> = tally.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    errors
        .iter()
        .map(|(error, count)| format!("{count} × {error}"))
        .collect::<Vec<_>>()
        .join("\n")
}
