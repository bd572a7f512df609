use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use perennial_postgres::deadpool::managed::Pool;
use perennial_postgres::{CertConnectionManager, CertPool, DeadpoolConnection};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Workers that query until [`finish`](Self::finish); each keeps its first failure.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    /// This many workers, each of which checks out a connection for each query.
    pub fn on(pool: &CertPool, workers: usize) -> Self {
        let pool = pool.clone();
        Self::of(workers, move || {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.map_err(in_words)?;
                short_query(&client).await
            }
        })
    }

    /// Like [`on`](Self::on), with a deadpool pool.
    pub fn on_deadpool(
        pool: &Pool<CertConnectionManager, DeadpoolConnection>,
        workers: usize,
    ) -> Self {
        let pool = pool.clone();
        Self::of(workers, move || {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.map_err(in_words)?;
                short_query(&client).await
            }
        })
    }

    fn of<F, Answer>(workers: usize, query: F) -> Self
    where
        F: Fn() -> Answer + Clone + Send + 'static,
        Answer: Future<Output = Result<(), String>> + Send,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let worker = |_| {
            let (query, stop, answered) = (query.clone(), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    query().await?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        Self {
            workers: (0..workers).map(worker).collect(),
            stop,
            answered,
        }
    }

    /// Stops the workers, and returns how many queries were answered.
    ///
    /// # Panics
    /// If a query failed.
    pub async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            let outcome = worker.await.expect("a worker does not panic");
            outcome.expect("no query failed");
        }
        self.answered.load(Ordering::Relaxed)
    }
}

async fn short_query(client: &Client) -> Result<(), String> {
    let query = client.query_one("select 1 from pg_sleep(0.005)", &[]);
    query.await.map(drop).map_err(in_words)
}

fn in_words(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
