//! A steady load, and what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::with_causes;
use perennial_postgres::CertConnectionManager;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

type Pool = bb8::Pool<CertConnectionManager>;

/// Postgres tells which certificate this session is logged in with.
const QUERY: &str = "select s.client_serial::text from pg_stat_ssl s, pg_sleep(0.002)
    where s.pid = pg_backend_pid()";
/// A read may be asked again when its session was ended, for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How many serial numbers are remembered.
const SERIALS: usize = 100;

/// What has come of the queries since the start. Field names are a contract with scripts.
#[derive(Clone, Default, Serialize)]
pub(crate) struct Counters {
    pub(crate) queries_ok: u64,
    /// Given up after [`PATIENCE`].
    pub(crate) queries_failed: u64,
    /// Asked again after an error; each attempt counts.
    pub(crate) queries_retried: u64,
    /// Why the last attempt failed that did.
    pub(crate) last_error: Option<String>,
    /// In base ten, oldest first, as `pg_stat_ssl.client_serial` has shown them.
    pub(crate) serials_seen_by_server: VecDeque<String>,
}

/// Queries on a pool, and their counters.
#[derive(Clone)]
pub(crate) struct Load {
    pool: Pool,
    manager: CertConnectionManager,
    counters: Arc<Mutex<Counters>>,
}

impl Load {
    pub(crate) fn new(pool: Pool, manager: CertConnectionManager) -> Self {
        Self {
            pool,
            manager,
            counters: Arc::default(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().clone()
    }

    /// Starts `rate` queries a second, whether or not earlier ones are done. Never ends.
    pub(crate) async fn drive(self, rate: u32) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // Whoever gives this up gives up what is under way.
        let mut running = JoinSet::new();
        loop {
            ticks.tick().await;
            running.spawn(self.clone().query());
            while running.try_join_next().is_some() {}
        }
    }

    async fn query(self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask().await {
                Ok(serial) => return self.lock().answered(serial),
                Err(error) if Instant::now() < deadline => self.lock().retried(error),
                Err(error) => return self.lock().failed(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask(&self) -> Result<String, String> {
        let checked_out = self.pool.get().await;
        let client =
            checked_out.map_err(|error| with_causes(&self.manager.explain(error)).to_string())?;
        let row = client.query_one(QUERY, &[]).await;
        row.and_then(|row| row.try_get(0))
            .map_err(|error| with_causes(&error).to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn answered(&mut self, serial: String) {
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
