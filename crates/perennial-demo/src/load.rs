//! The load of the demo, and its results.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use perennial_service::{App, OpenLoop};

/// Five milliseconds of work on the server.
const QUERY: &str = "select 1 from pg_sleep(0.005)";

/// A steady load on the pool. A query's latency counts from when the query was due.
pub(crate) struct Load {
    results: Arc<Mutex<Results>>,
    requests: OpenLoop,
}

/// The results of all queries so far.
#[derive(Clone)]
pub(crate) struct Results {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// Different errors, and how often each occurred.
    pub(crate) errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    during_rotation: Histogram<u64>,
    /// Since the last [`Load::take_second`].
    second: Histogram<u64>,
}

/// The answered queries of one second.
#[derive(Clone, Copy, Default)]
pub(crate) struct Second {
    pub(crate) queries: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Load {
    /// Starts `rate` queries per second; `rotating` marks those that overlap with a rotation.
    pub(crate) fn start(app: &App, rate: u32, rotating: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let results = Arc::new(Mutex::new(Results::new()?));
        let (app, noted) = (app.clone(), Arc::clone(&results));
        let requests = OpenLoop::start(rate, move |due| {
            let (app, results, rotating) = (app.clone(), Arc::clone(&noted), Arc::clone(&rotating));
            async move {
                let at_start = rotating.load(Ordering::Relaxed);
                let outcome = app.query(QUERY).await.map(drop);
                let overlaps = at_start || rotating.load(Ordering::Relaxed);
                lock(&results).note(outcome, due.elapsed(), overlaps);
            }
        });
        Ok(Self { results, requests })
    }

    /// The number of failed queries so far.
    pub(crate) fn failed(&self) -> u64 {
        lock(&self.results).failed
    }

    /// The queries answered since the last call.
    pub(crate) fn take_second(&self) -> Second {
        let mut results = lock(&self.results);
        let second = Second {
            queries: results.second.len(),
            p50_ms: milliseconds(&results.second, 0.50),
            p99_ms: milliseconds(&results.second, 0.99),
        };
        results.second.reset();
        second
    }

    /// Starts no more queries and waits for those that are still running.
    pub(crate) async fn finish(self) -> Results {
        // After a panic, results are missing: the run must not count as a success.
        if let Err(error) = self.requests.finish().await {
            let failure = format!("a query of the load panicked: {error}");
            lock(&self.results).note(Err(failure), Duration::ZERO, false);
        }
        lock(&self.results).clone()
    }
}

impl Results {
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

    fn note(&mut self, outcome: Result<(), String>, took: Duration, overlaps_rotation: bool) {
        if let Err(error) = outcome {
            self.failed += 1;
            *self.errors.entry(error).or_default() += 1;
            return;
        }
        self.ok += 1;
        let micros = took.as_micros().try_into().unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        self.second.saturating_record(micros);
        if overlaps_rotation {
            self.during_rotation.saturating_record(micros);
        }
    }

    /// A quantile of the whole run, in milliseconds.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        milliseconds(&self.latency, quantile)
    }

    /// The same quantile of the queries that overlapped with a rotation; `None` if there were none.
    pub(crate) fn rotation_latency_ms(&self, quantile: f64) -> Option<f64> {
        let during = &self.during_rotation;
        (!during.is_empty()).then(|| milliseconds(during, quantile))
    }
}

fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

fn lock(results: &Mutex<Results>) -> MutexGuard<'_, Results> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}
