//! What happens to a pool while its load goes on: rotations, or a certificate that is refused.

use std::ops::Range;
use std::time::Duration;

use anyhow::ensure;
use perennial::{LiveCert, Renewal};

use super::logins::{begun, most_at_once};
use super::stock::Retire;
use super::{Contender, Load, Pool, Sample};
use crate::stage::{Issuer, SOON, Stage, eventually, renew};
use crate::statistics::{Interval, ratio_of_quantiles};

/// How finely the end of a rotation is timed.
const LOOK: Duration = Duration::from_millis(2);

/// After a rotation, until it no longer counts as disturbed.
const SETTLE: Duration = Duration::from_millis(500);

/// Between an undisturbed window and the rotation after it.
const GUARD: Duration = Duration::from_millis(50);

/// The shortest time between two rotations.
const CALM: Duration = Duration::from_millis(1_500);

/// Since the load began.
pub type Window = Range<Duration>;

/// How a pool is put to the test.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections.
    pub size: u32,
    /// Requests a second.
    pub rate: u32,
}

/// What was seen of one pool.
#[derive(Clone, Debug)]
pub struct Course {
    /// Whose.
    pub contender: Contender,
    /// Every request.
    pub samples: Vec<Sample>,
    /// From the first replacement of each rotation to its last.
    pub moving: Vec<Window>,
    /// As long, each before its rotation.
    pub calm: Vec<Window>,
    /// Logins side by side, at most, by the server's log.
    pub logins_at_once: usize,
    /// Logins begun, by the server's log.
    pub logins: usize,
}

impl Course {
    /// Milliseconds that answered requests took which were due in these windows.
    pub fn latencies(&self, windows: &[Window]) -> Vec<f64> {
        let inside = self.samples.iter().filter(|sample| {
            sample.failure.is_none() && windows.iter().any(|window| window.contains(&sample.due))
        });
        inside
            .map(|sample| 1e3 * sample.took.as_secs_f64())
            .collect()
    }

    /// p99 while moving over p99 of as long before, and how sure that is.
    pub fn disturbance(&self) -> (f64, Option<Interval>) {
        let latencies = |window: &Window| self.latencies(std::slice::from_ref(window));
        let windows = self.moving.iter().zip(&self.calm);
        let pairs: Vec<_> = windows
            .map(|(moving, calm)| (latencies(moving), latencies(calm)))
            .collect();
        ratio_of_quantiles(&pairs, 0.99)
    }

    /// Requests that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(|sample| sample.failure.is_some())
    }

    /// Seconds that each rotation took.
    pub fn took(&self) -> Vec<f64> {
        let length = |window: &Window| (window.end - window.start).as_secs_f64();
        self.moving.iter().map(length).collect()
    }
}

/// A pool that goes through so many rotations, the first of which is left out.
///
/// # Errors
/// What cannot be set up, or a rotation that does not end within [`SOON`].
pub async fn rotations(
    stage: &Stage,
    contender: Contender,
    settings: Settings,
    count: usize,
) -> anyhow::Result<Course> {
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
        // Shorter only if this one took far longer than all before.
        let until = window.start - GUARD;
        calm.push(until.saturating_sub(length).max(last_end + SETTLE)..until);
        last_end = window.end;
        moving.push(window);
    }
    tokio::time::sleep(CALM).await;
    let samples = load.finish().await?;
    let log = stage.postgres().log().split_off(log_before);
    drop(pool);
    stage.no_backend_left().await?;
    Ok(Course {
        contender,
        samples,
        moving,
        calm,
        logins_at_once: most_at_once(&log),
        logins: begun(&log),
    })
}

/// Rotates once, and returns from when to when the pool was on its way.
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
            // Nothing happens before the first is too old.
            began = now;
        }
        ensure!(now - renewed < SOON, "not moved: {count:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A pool whose next certificate is refused by the server; `calm` before, `bad` after.
///
/// `moving` is the one window of the bad certificate.
///
/// # Errors
/// What cannot be set up.
pub async fn refusal(
    stage: &Stage,
    contender: Contender,
    settings: Settings,
    bad: Duration,
) -> anyhow::Result<Course> {
    stage.ca.issue_from(Issuer::Trusted);
    let (pool, live) = contender.pool(stage, settings.size).await?;
    let load = Load::start(&pool, settings.rate);
    tokio::time::sleep(CALM).await;
    let log_before = stage.postgres().log().len();
    stage.ca.issue_from(Issuer::Stranger);
    match contender {
        Contender::Probed => not_published(&live).await?,
        _ => drop(renew(&live).await?),
    }
    let began = load.elapsed();
    tokio::time::sleep(bad).await;
    let ended = load.elapsed();
    let samples = load.finish().await?;
    stage.ca.issue_from(Issuer::Trusted);
    let log = stage.postgres().log().split_off(log_before);
    drop(pool);
    stage.no_backend_left().await?;
    Ok(Course {
        contender,
        samples,
        moving: vec![began..ended],
        calm: vec![began.saturating_sub(CALM)..began],
        logins_at_once: most_at_once(&log),
        logins: begun(&log),
    })
}

/// Renews until a certificate was fetched and refused by the probe.
async fn not_published(live: &LiveCert) -> anyhow::Result<()> {
    eventually("the probe refuses the certificate", async || {
        Ok(matches!(live.renew_now().await, Renewal::Failed(_)))
    })
    .await
}
