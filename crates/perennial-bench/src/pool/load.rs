//! An open-loop load on a pool, and the result of each request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_service::OpenLoop;
use tokio::time::Instant;

use super::Pool;

/// The result of one request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was due, counted from the start of the load.
    pub due: Duration,
    /// From then until it was answered or failed.
    pub took: Duration,
    /// The error and its causes, if it failed.
    pub failure: Option<String>,
}

/// Requests at a steady rate.
#[derive(Debug)]
pub struct Load {
    began: Instant,
    samples: Arc<Mutex<Vec<Sample>>>,
    requests: OpenLoop,
}

impl Load {
    /// Starts `rate` requests per second.
    pub fn start(pool: &Pool, rate: u32) -> Self {
        let began = Instant::now();
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (pool, noted) = (pool.clone(), Arc::clone(&samples));
        let requests = OpenLoop::start(rate, move |due| {
            let (pool, samples) = (pool.clone(), Arc::clone(&noted));
            async move {
                let failure = pool.request().await.err();
                lock(&samples).push(Sample {
                    due: due - began,
                    took: due.elapsed(),
                    failure,
                });
            }
        });
        Self {
            began,
            samples,
            requests,
        }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Starts no more requests, waits for those that are still running, and returns all results.
    ///
    /// # Errors
    /// A request panicked, so its result is missing.
    pub async fn finish(self) -> anyhow::Result<Vec<Sample>> {
        self.requests.finish().await?;
        Ok(std::mem::take(&mut *lock(&self.samples)))
    }
}

fn lock(samples: &Mutex<Vec<Sample>>) -> MutexGuard<'_, Vec<Sample>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}
