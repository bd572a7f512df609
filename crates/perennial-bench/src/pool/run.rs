//! A pool under load goes through rotations, or gets a certificate that the server refuses.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use anyhow::ensure;
use perennial::{LiveCert, RenewError};

use super::contender::{Contender, Pool, Retire};
use super::load::{Load, Sample};
use crate::stage::{Issuer, SOON, Stage, eventually, renew};
use crate::statistics::{Interval, ratio_of_quantiles};

/// How often the pool is checked during a rotation.
const POLL: Duration = Duration::from_millis(2);

/// Time after a rotation that does not count as undisturbed.
const SETTLE: Duration = Duration::from_millis(500);

/// Gap between an undisturbed window and the next rotation.
const GUARD: Duration = Duration::from_millis(50);

/// Shortest time between two rotations.
const CALM: Duration = Duration::from_millis(1_500);

/// A time span, counted from the start of the load.
pub type Window = Range<Duration>;

/// The size of the pool and of the load.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections in the pool.
    pub size: u32,
    /// Requests per second.
    pub rate: u32,
}

/// The results of one pool.
#[derive(Clone, Debug)]
pub struct PoolRun {
    /// The kind of pool.
    pub contender: Contender,
    /// The results of all requests.
    pub samples: Vec<Sample>,
    /// Each rotation, from the first replaced connection to the last.
    pub moving: Vec<Window>,
    /// Before each rotation an undisturbed window of the same length.
    pub calm: Vec<Window>,
    /// The most logins in progress at once, according to the server's log.
    pub logins_at_once: usize,
    /// The number of logins, according to the server's log.
    pub logins: usize,
}

impl PoolRun {
    /// The latencies, in milliseconds, of answered requests that were due in these windows.
    pub fn latencies(&self, windows: &[Window]) -> Vec<f64> {
        let inside = self.samples.iter().filter(|sample| {
            sample.failure.is_none() && windows.iter().any(|window| window.contains(&sample.due))
        });
        inside
            .map(|sample| 1e3 * sample.took.as_secs_f64())
            .collect()
    }

    /// The ratio of the p99 during rotations to the p99 before them, and its confidence interval.
    pub fn disturbance(&self) -> (f64, Option<Interval>) {
        let latencies = |window: &Window| self.latencies(std::slice::from_ref(window));
        let windows = self.moving.iter().zip(&self.calm);
        let pairs: Vec<_> = windows
            .map(|(moving, calm)| (latencies(moving), latencies(calm)))
            .collect();
        ratio_of_quantiles(&pairs, 0.99)
    }

    /// The failed requests.
    pub fn failures(&self) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(|sample| sample.failure.is_some())
    }

    /// The duration of each rotation in seconds.
    pub fn took(&self) -> Vec<f64> {
        let length = |window: &Window| (window.end - window.start).as_secs_f64();
        self.moving.iter().map(length).collect()
    }
}

/// Puts a pool through `count` rotations, after a first one that does not count.
///
/// # Errors
/// The setup fails, or a rotation does not end within [`SOON`].
pub async fn rotations(
    stage: &Stage,
    contender: Contender,
    settings: Settings,
    count: usize,
) -> anyhow::Result<PoolRun> {
    let (pool, live) = contender.pool(stage, settings.size).await?;
    let size = settings.size as usize;
    let load = Load::start(&pool, settings.rate);
    tokio::time::sleep(CALM).await;
    let first = rotate(contender, &pool, size, &live, &load).await?;
    let mut longest = first.end - first.start;
    let mut last_end = first.end;
    let log_before = stage.postgres().log().len();

    let (mut moving, mut calm) = (vec![], vec![]);
    for _ in 0..count {
        tokio::time::sleep(CALM.max(SETTLE + GUARD + longest.mul_f64(1.5))).await;
        let window = rotate(contender, &pool, size, &live, &load).await?;
        let length = window.end - window.start;
        longest = longest.max(length);
        // It is shorter only if this rotation took far longer than all previous ones.
        let until = window.start - GUARD;
        calm.push(until.saturating_sub(length).max(last_end + SETTLE)..until);
        last_end = window.end;
        moving.push(window);
    }
    tokio::time::sleep(CALM).await;
    let samples = load.finish().await?;
    let (logins, logins_at_once) = close(stage, pool, log_before).await?;
    Ok(PoolRun {
        contender,
        samples,
        moving,
        calm,
        logins_at_once,
        logins,
    })
}

/// Rotates once and returns the window in which the pool moved.
async fn rotate(
    contender: Contender,
    pool: &Pool,
    size: usize,
    live: &LiveCert,
    load: &Load,
) -> anyhow::Result<Window> {
    let newest = renew(live).await?.generation();
    let renewed = load.elapsed();
    let mut began = renewed;
    loop {
        let count = pool.by_generation();
        let now = load.elapsed();
        let old: usize = count.range(..newest).map(|(_, old)| old).sum();
        let new: usize = count.range(newest..).map(|(_, new)| new).sum();
        if old == 0 && new >= size {
            return Ok(began..now);
        }
        if contender == Contender::Stock(Retire::ByAge) && old >= size {
            // Nothing happens before the first connection reaches its maximum age.
            began = now;
        }
        ensure!(
            now - renewed < SOON,
            "the pool did not move within {SOON:?}: {count:?}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Gives a pool a certificate that the server refuses, and continues the load for `duration`.
///
/// `moving` is the one window with that certificate, `calm` the one before it.
///
/// # Errors
/// The setup fails.
pub async fn refusal(
    stage: &Stage,
    contender: Contender,
    settings: Settings,
    duration: Duration,
) -> anyhow::Result<PoolRun> {
    stage.ca.issue_from(Issuer::Trusted);
    let (pool, live) = contender.pool(stage, settings.size).await?;
    let load = Load::start(&pool, settings.rate);
    tokio::time::sleep(CALM).await;
    let log_before = stage.postgres().log().len();
    stage.ca.issue_from(Issuer::Untrusted);
    match contender {
        Contender::Probed => wait_refused_by_probe(&live).await?,
        _ => drop(renew(&live).await?),
    }
    let began = load.elapsed();
    tokio::time::sleep(duration).await;
    let ended = load.elapsed();
    let samples = load.finish().await?;
    stage.ca.issue_from(Issuer::Trusted);
    let (logins, logins_at_once) = close(stage, pool, log_before).await?;
    Ok(PoolRun {
        contender,
        samples,
        moving: vec![began..ended],
        calm: vec![began.saturating_sub(CALM)..began],
        logins_at_once,
        logins,
    })
}

/// Renews until the probe has refused a certificate.
async fn wait_refused_by_probe(live: &LiveCert) -> anyhow::Result<()> {
    eventually("the probe refuses the certificate", async || {
        Ok(matches!(
            live.renew().await,
            Err(RenewError::Refused { .. })
        ))
    })
    .await
}

/// Closes the pool, and returns its logins since `log_before`: all, and the most at once.
async fn close(stage: &Stage, pool: Pool, log_before: usize) -> anyhow::Result<(usize, usize)> {
    let log = stage.postgres().log().split_off(log_before);
    drop(pool);
    stage.no_backend_left().await?;
    Ok((logins_begun(&log), most_at_once(&log)))
}

/// The most TCP logins in progress at one moment, according to the server's log.
///
/// A login begins with `connection received` and ends with the backend's verdict, usually
/// `connection authorized`.
fn most_at_once(log: &str) -> usize {
    let mut in_progress = BTreeSet::new();
    let mut most = 0;
    for line in log.lines() {
        let Some(pid) = pid(line) else { continue };
        if line.contains("connection received: host=127.0.0.1") {
            in_progress.insert(pid);
            most = most.max(in_progress.len());
        } else if !line.contains("connection authenticated") {
            in_progress.remove(pid);
        }
    }
    most
}

/// The number of TCP logins that began, according to the server's log.
fn logins_begun(log: &str) -> usize {
    log.matches("connection received: host=127.0.0.1").count()
}

/// The process number in a line such as `2026-11-22 21:30:30.123 UTC [4711] …`.
fn pid(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" [")?;
    let (pid, _) = rest.split_once(']')?;
    Some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-22 21:30:30.001 UTC [1] LOG:  connection received: host=127.0.0.1 port=4
2026-11-22 21:30:30.002 UTC [1] app@app LOG:  connection authenticated: identity=\"CN=app\"
2026-11-22 21:30:30.002 UTC [2] LOG:  connection received: host=127.0.0.1 port=5
2026-11-22 21:30:30.003 UTC [1] app@app LOG:  connection authorized: user=app database=app SSL
2026-11-22 21:30:30.004 UTC [3] LOG:  connection received: host=[local]
2026-11-22 21:30:30.004 UTC [4] LOG:  connection received: host=127.0.0.1 port=6
2026-11-22 21:30:30.005 UTC [2] LOG:  could not accept SSL connection: certificate verify failed
2026-11-22 21:30:30.006 UTC [5] LOG:  connection received: host=127.0.0.1 port=7
\tcontinued
";

    #[test]
    fn tcp_logins_are_counted_from_connection_received_to_the_verdict() {
        assert_eq!(most_at_once(LOG), 2);
        assert_eq!(logins_begun(LOG), 4);
    }
}
