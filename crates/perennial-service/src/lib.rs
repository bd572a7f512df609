//! What the service, `cargo demo` and the benchmarks share: an app with a pool on a live certificate, and a steady load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use perennial::{CertSource, LiveCert, LiveCertBuilder, with_causes};
use perennial_postgres::CertPool;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::{Config, Row};

/// A live certificate and a pool that logs in with it; clones share both.
#[derive(Clone, Debug)]
pub struct App {
    /// The certificate.
    pub live: LiveCert,
    /// The pool, whose connections are all open from the start.
    pub pool: CertPool,
}

impl App {
    /// Obtains the first certificate from `source` and opens `size` connections to the database.
    ///
    /// # Errors
    /// Obtaining the first certificate or filling the pool fails.
    ///
    /// # Cancel safety
    /// Cancelling stops the certificate and closes the connections.
    pub async fn start(
        live: LiveCertBuilder,
        source: impl CertSource + 'static,
        database: Config,
        size: u32,
    ) -> anyhow::Result<Self> {
        let live = live.start(source).await?;
        let pool = CertPool::builder(live.clone(), database)
            .name("app")
            .max_size(size)
            .min_idle(size)
            .build()
            .await
            .context("failed to fill the pool")?;
        Ok(Self { live, pool })
    }

    /// Runs a query that returns one row.
    ///
    /// # Errors
    /// The check-out or the query fails: the error and its causes in one line.
    ///
    /// # Cancel safety
    /// The query may still run on the server.
    pub async fn query(&self, sql: &str) -> Result<Row, String> {
        let client = self.pool.get().await;
        let client = client.map_err(|error| with_causes(&error).to_string())?;
        let row = client.query_one(sql, &[]).await;
        row.map_err(|error| with_causes(&error).to_string())
    }
}

/// An open-loop load: requests start at a steady rate, on time even if earlier ones are still running.
///
/// Dropping it cancels the requests that are still running.
#[derive(Debug)]
#[must_use = "dropping a load ends it"]
pub struct OpenLoop {
    stop: Arc<AtomicBool>,
    driver: JoinHandle<Result<(), JoinError>>,
}

impl OpenLoop {
    /// Starts `rate` requests per second; `request` takes the time at which the request is due.
    ///
    /// # Panics
    /// If `rate` is 0, or outside a tokio runtime.
    pub fn start<F>(rate: u32, request: impl Fn(Instant) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let period = Duration::from_secs(1) / rate;
        let driver = tokio::spawn(drive(period, request, Arc::clone(&stop)));
        Self { stop, driver }
    }

    /// Starts no more requests and waits for those that are still running.
    ///
    /// # Errors
    /// A request panicked, so its result is missing.
    ///
    /// # Cancel safety
    /// Cancelling also cancels the requests that are still running.
    pub async fn finish(mut self) -> Result<(), JoinError> {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.driver).await?
    }
}

impl Drop for OpenLoop {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn drive<F>(
    period: Duration,
    request: impl Fn(Instant) -> F,
    stop: Arc<AtomicBool>,
) -> Result<(), JoinError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = JoinSet::new();
    let mut outcome = Ok(());
    while !stop.load(Ordering::Relaxed) {
        let due = ticks.tick().await;
        running.spawn(request(due));
        while let Some(ended) = running.try_join_next() {
            outcome = outcome.and(ended);
        }
    }
    while let Some(ended) = running.join_next().await {
        outcome = outcome.and(ended);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_requests_do_not_delay_later_ones_and_are_awaited() {
        let (started, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let counts = (Arc::clone(&started), Arc::clone(&ended));
        let load = OpenLoop::start(10, move |due| {
            let (started, ended) = counts.clone();
            async move {
                assert_eq!(due.elapsed(), Duration::ZERO);
                started.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(60)).await;
                ended.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::time::sleep(Duration::from_millis(950)).await;
        assert_eq!(started.load(Ordering::Relaxed), 10);
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        load.finish().await.unwrap();
        // The request that is already due when the load is stopped still starts.
        assert_eq!(ended.load(Ordering::Relaxed), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn panic_in_a_request_is_reported_at_the_end() {
        let load = OpenLoop::start(10, |_due| async { panic!("as a broken request does") });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(load.finish().await.unwrap_err().is_panic());
    }
}
