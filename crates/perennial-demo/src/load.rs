//! A steady, open-loop load: queries start on time, whether or not earlier ones are done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use perennial::with_causes;
use perennial_postgres::CertConnectionManager;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

/// Five milliseconds of work on the server.
const QUERY: &str = "select 1 from pg_sleep(0.005)";

type Pool = bb8::Pool<CertConnectionManager>;

/// The load and what came of it. Latency counts from when a query should have started.
pub(crate) struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    driver: JoinHandle<()>,
}

/// What has come of the queries.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// Different errors, and how often each was seen.
    pub(crate) errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    during_rotation: Histogram<u64>,
    /// Since the last [`Load::take_second`].
    second: Histogram<u64>,
}

impl Load {
    /// Starts `rate` queries a second on `pool`; `rotating` marks those that meet a rotation.
    pub(crate) fn start(
        pool: Pool,
        manager: CertConnectionManager,
        rate: u32,
        rotating: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let tally = Arc::new(Mutex::new(Tally::new()?));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopping) = (Arc::clone(&tally), Arc::clone(&stop));
        let driver = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut running = JoinSet::new();
            while !stopping.load(Ordering::Relaxed) {
                let due = ticks.tick().await;
                let (pool, manager) = (pool.clone(), manager.clone());
                let (tally, rotating) = (Arc::clone(&seen), Arc::clone(&rotating));
                running.spawn(async move {
                    let met = rotating.load(Ordering::Relaxed);
                    let outcome = query(&pool, &manager).await;
                    let met = met || rotating.load(Ordering::Relaxed);
                    lock(&tally).note(outcome, due.elapsed(), met);
                });
                while running.try_join_next().is_some() {}
            }
            while running.join_next().await.is_some() {}
        });
        Ok(Self {
            tally,
            stop,
            driver,
        })
    }

    /// Queries that have failed so far.
    pub(crate) fn failed(&self) -> u64 {
        lock(&self.tally).failed
    }

    /// Queries answered since the last call, and their p50 and p99 in milliseconds.
    pub(crate) fn take_second(&self) -> (u64, f64, f64) {
        let mut tally = lock(&self.tally);
        let second = (
            tally.second.len(),
            milliseconds(&tally.second, 0.50),
            milliseconds(&tally.second, 0.99),
        );
        tally.second.reset();
        second
    }

    /// Starts no more queries and waits for those under way.
    pub(crate) async fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        // A panic in the driver would have lost queries: it must not pass for success.
        if let Err(error) = self.driver.await {
            lock(&self.tally).note(
                Err(format!("the load stopped: {error}")),
                Duration::ZERO,
                false,
            );
        }
        lock(&self.tally).clone()
    }
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3);
        Ok(Self {
            ok: 0,
            failed: 0,
            errors: BTreeMap::new(),
            latency: histogram()?,
            during_rotation: histogram()?,
            second: histogram()?,
        })
    }

    fn note(&mut self, outcome: Result<(), String>, took: Duration, met_a_rotation: bool) {
        if let Err(error) = outcome {
            self.failed += 1;
            *self.errors.entry(error).or_default() += 1;
            return;
        }
        self.ok += 1;
        let micros = took.as_micros().try_into().unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        self.second.saturating_record(micros);
        if met_a_rotation {
            self.during_rotation.saturating_record(micros);
        }
    }

    /// A quantile over the whole run, in milliseconds.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        milliseconds(&self.latency, quantile)
    }

    /// The same over queries that met a rotation; `None` if none did.
    pub(crate) fn rotation_latency_ms(&self, quantile: f64) -> Option<f64> {
        let met = &self.during_rotation;
        (!met.is_empty()).then(|| milliseconds(met, quantile))
    }
}

async fn query(pool: &Pool, manager: &CertConnectionManager) -> Result<(), String> {
    let checked_out = pool.get().await;
    let client = checked_out.map_err(|error| with_causes(&manager.explain(error)).to_string())?;
    let row = client.query_one(QUERY, &[]).await;
    row.map(|_row| ())
        .map_err(|error| with_causes(&error).to_string())
}

fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
