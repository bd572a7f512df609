//! An open-loop load: requests start on time, whether or not earlier ones are done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::Pool;

/// What came of one request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it should have started, counted from the start of the load.
    pub due: Duration,
    /// From then until it was answered or had failed.
    pub took: Duration,
    /// What it failed of.
    pub failure: Option<String>,
}

/// Requests at a steady rate.
#[derive(Debug)]
pub struct Load {
    began: Instant,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    driver: JoinHandle<()>,
}

impl Load {
    /// Starts `rate` requests a second.
    pub fn start(pool: &Pool, rate: u32) -> Self {
        let began = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (stopping, seen, pool) = (Arc::clone(&stop), Arc::clone(&samples), pool.clone());
        let driver = tokio::spawn(async move {
            let mut ticks = tokio::time::interval_at(began, Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut running = JoinSet::new();
            while !stopping.load(Ordering::Relaxed) {
                let due = ticks.tick().await;
                let (pool, seen) = (pool.clone(), Arc::clone(&seen));
                running.spawn(async move {
                    let failure = pool.request().await.err();
                    let sample = Sample {
                        due: due - began,
                        took: due.elapsed(),
                        failure,
                    };
                    lock(&seen).push(sample);
                });
                while running.try_join_next().is_some() {}
            }
            while running.join_next().await.is_some() {}
        });
        Self {
            began,
            stop,
            samples,
            driver,
        }
    }

    /// Since its start.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Starts no more requests, waits for those under way, and returns all.
    ///
    /// # Errors
    /// The load itself failed, so that requests are missing.
    pub async fn finish(self) -> anyhow::Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        self.driver.await?;
        Ok(std::mem::take(&mut *lock(&self.samples)))
    }
}

fn lock(samples: &Mutex<Vec<Sample>>) -> MutexGuard<'_, Vec<Sample>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}
