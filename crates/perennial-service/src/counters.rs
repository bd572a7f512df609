//! The queries of the service, and their counters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_service::App;
use serde::Serialize;
use tokio::time::Instant;

/// Returns the serial number of the certificate that this session logged in with, after 2 ms of work.
const QUERY: &str = "select s.client_serial::text from pg_stat_ssl s, pg_sleep(0.002)
    where s.pid = pg_backend_pid()";
/// A failed query is retried for this long: it only reads, so it may run again.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// Wait before a retry.
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// Limit for [`Counters::serials_seen_by_server`].
const SERIALS: usize = 100;

/// Results of all queries since the start. Scripts rely on the field names.
#[derive(Clone, Default, Serialize)]
pub(crate) struct Counters {
    pub(crate) queries_ok: u64,
    /// Queries that still failed after [`RETRY_FOR`].
    pub(crate) queries_failed: u64,
    /// Failed attempts that were retried.
    pub(crate) queries_retried: u64,
    /// The cause of the most recent failed attempt.
    pub(crate) last_error: Option<String>,
    /// Decimal, oldest first, as reported by `pg_stat_ssl.client_serial`.
    pub(crate) serials_seen_by_server: VecDeque<String>,
}

/// Runs queries and counts their results; clones share the counters.
#[derive(Clone)]
pub(crate) struct Queries {
    app: App,
    counters: Arc<Mutex<Counters>>,
}

impl Queries {
    pub(crate) fn new(app: App) -> Self {
        Self {
            app,
            counters: Arc::default(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().clone()
    }

    /// Runs one query and retries it until it succeeds or [`RETRY_FOR`] is over.
    pub(crate) async fn run_one(self) {
        let deadline = Instant::now() + RETRY_FOR;
        loop {
            match self.attempt().await {
                Ok(serial) => return self.lock().succeeded(serial),
                Err(error) if Instant::now() < deadline => self.lock().retried(error),
                Err(error) => return self.lock().failed(error),
            }
            tokio::time::sleep(RETRY_WAIT).await;
        }
    }

    async fn attempt(&self) -> Result<String, String> {
        let row = self.app.query(QUERY).await?;
        row.try_get(0).map_err(|error| error.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn succeeded(&mut self, serial: String) {
        self.queries_ok += 1;
        count("ok");
        if !self.serials_seen_by_server.contains(&serial) {
            self.serials_seen_by_server.push_back(serial);
            if self.serials_seen_by_server.len() > SERIALS {
                self.serials_seen_by_server.pop_front();
            }
        }
    }

    fn retried(&mut self, error: String) {
        self.queries_retried += 1;
        self.last_error = Some(error);
        count("retried");
    }

    fn failed(&mut self, error: String) {
        self.queries_failed += 1;
        self.last_error = Some(error);
        count("failed");
    }
}

fn count(result: &'static str) {
    metrics::counter!("service_queries_total", "result" => result).increment(1);
}
