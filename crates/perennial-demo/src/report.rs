//! The printed lines, and the summary for people and for scripts.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Results, Second};
use crate::rotations::Sessions;

/// One second of the demo on one line.
pub(crate) struct Line<'a> {
    pub(crate) elapsed: Duration,
    pub(crate) generation: u64,
    pub(crate) remaining: Duration,
    pub(crate) ttl: Duration,
    pub(crate) sessions: &'a Sessions,
    pub(crate) load: Second,
    pub(crate) failed: u64,
    pub(crate) rotating: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs();
        let pool = Pool(self.sessions).to_string();
        write!(
            f,
            "{:02}:{:02}  cert #{} {} {:>3} s left   pool {pool:<12}{}  {:>5} q/s  p50 {:>5.1} ms  p99 {:>5.1} ms  failed {}",
            seconds / 60,
            seconds % 60,
            self.generation,
            bar(self.remaining, self.ttl),
            self.remaining.as_secs(),
            if self.rotating { "↻" } else { " " },
            self.load.queries,
            self.load.p50_ms,
            self.load.p99_ms,
            self.failed,
        )
    }
}

/// The sessions by generation: `20×#3`, or `4×#2 16×#3` during a rotation.
struct Pool<'a>(&'a Sessions);

impl fmt::Display for Pool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self
            .0
            .by_generation
            .iter()
            .map(|(generation, count)| format!("{count}×#{generation}"));
        let unknown = (self.0.unknown > 0).then(|| format!("{}×?", self.0.unknown));
        f.write_str(&known.chain(unknown).collect::<Vec<_>>().join(" "))
    }
}

/// The remaining part of a lifetime in ten cells.
fn bar(remaining: Duration, lifetime: Duration) -> String {
    let cells = (remaining.as_secs_f64() / lifetime.as_secs_f64() * 10.0)
        .round()
        .clamp(0.0, 10.0) as usize;
    format!("{}{}", "█".repeat(cells), "░".repeat(10 - cells))
}

/// The whole run. Scripts rely on the field names.
#[derive(Serialize)]
pub(crate) struct Summary {
    /// Generations after the first.
    pub(crate) rotations: u64,
    pub(crate) queries_ok: u64,
    pub(crate) queries_failed: u64,
    /// Decimal, as in `pg_stat_ssl.client_serial`.
    pub(crate) serials_seen_by_server: Vec<String>,
    /// How many of these serials this run did not issue.
    pub(crate) serials_unknown: usize,
    /// The oldest generation that Postgres still reported at the end; null if there was no session.
    pub(crate) oldest_generation_left: Option<u64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of the queries that overlapped with a rotation; null if there were none.
    pub(crate) p99_ms_during_rotation: Option<f64>,
    /// Certificates for this app, as counted by the CA.
    pub(crate) issued_by_ca: u64,
}

impl Summary {
    /// Why the run failed; `None` if it succeeded.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.queries_failed > 0 {
            return Some(format!("{} queries failed", self.queries_failed));
        }
        if self.serials_unknown > 0 {
            let unknown = self.serials_unknown;
            return Some(format!(
                "Postgres saw {unknown} serial numbers that this run did not issue"
            ));
        }
        if self.rotations == 0 {
            return Some("no rotation in the given time".to_owned());
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
            Some(p99) => write!(f, ", p99 during rotations {p99:.1} ms"),
            None => Ok(()),
        }
    }
}

/// Different errors with their counts, the most frequent first.
pub(crate) fn errors(results: &Results) -> String {
    let mut errors: Vec<_> = results.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    errors
        .iter()
        .map(|(error, count)| format!("{count} × {error}"))
        .collect::<Vec<_>>()
        .join("\n")
}
