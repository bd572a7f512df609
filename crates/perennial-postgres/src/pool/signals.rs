//! Tells what happens to a pool: log lines, events, metrics, counts. Decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::{EVENT_BACKLOG, with_causes};
use tokio::sync::{broadcast, watch};

use crate::error::ConnectError;
use crate::failure::FailureClass;
use crate::pool::events::PoolEvent;
use crate::pool::metrics;
use crate::pool::session::Driver;
use crate::pool::status::RetireReason;

/// Failures in a row that are logged as warnings before they fall to debug.
const LOUD_FAILURES: u32 = 3;

/// One pool's voice; `name` tells it from others in the same process.
#[derive(Debug)]
pub(crate) struct Signals {
    name: Arc<str>,
    events: broadcast::Sender<PoolEvent>,
    failures_in_a_row: AtomicU32,
    replacing: AtomicUsize,
    counts: Mutex<Counts>,
    /// Connections retired in all, to wait on.
    retired: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) retired: BTreeMap<RetireReason, u64>,
    pub(crate) connect_errors: BTreeMap<FailureClass, u64>,
    pub(crate) last_error: Option<ConnectError>,
}

impl Signals {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            events: broadcast::Sender::new(EVENT_BACKLOG),
            failures_in_a_row: AtomicU32::new(0),
            replacing: AtomicUsize::new(0),
            counts: Mutex::default(),
            retired: watch::Sender::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<PoolEvent> {
        self.events.subscribe()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub(crate) fn retired_so_far(&self) -> watch::Receiver<u64> {
        self.retired.subscribe()
    }

    pub(crate) fn replacing(&self) -> usize {
        self.replacing.load(Ordering::Relaxed)
    }

    pub(crate) fn replacing_now(&self, connects: usize) {
        self.replacing.store(connects, Ordering::Relaxed);
        metrics::replacing(&self.name, connects);
    }

    pub(crate) fn connected(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.lock().last_error = None;
    }

    pub(crate) fn connect_failed(&self, error: &ConnectError) {
        let class = error.class();
        {
            let mut counts = self.lock();
            *counts.connect_errors.entry(class).or_default() += 1;
            counts.last_error = Some(error.clone());
        }
        metrics::connect_failed(&self.name, class);
        let causes = with_causes(error);
        if self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) < LOUD_FAILURES {
            tracing::warn!(pool = &*self.name, %class, error = %causes, "a connect failed");
        } else {
            tracing::debug!(pool = &*self.name, %class, error = %causes, "a connect failed");
        }
        self.tell(PoolEvent::ConnectFailed {
            error: error.clone(),
        });
    }

    /// Keeps an error that was told before, or is nobody's failure to connect.
    #[cfg(feature = "bb8")]
    pub(crate) fn keep(&self, error: ConnectError) {
        self.lock().last_error = Some(error);
    }

    pub(crate) fn certificate_refused(&self, generation: u64, error: &ConnectError) {
        tracing::warn!(pool = &*self.name, generation, error = %with_causes(error), "postgres refuses the certificate");
        self.tell(PoolEvent::CertificateRefused {
            generation,
            error: error.clone(),
        });
    }

    /// Counts a session as retired, for the first reason that is given.
    pub(crate) fn retired(&self, driver: &Driver, reason: RetireReason) {
        if !driver.retire() {
            return;
        }
        let generation = driver.snapshot.generation();
        tracing::debug!(pool = &*self.name, generation, %reason, "retired");
        *self.lock().retired.entry(reason).or_default() += 1;
        metrics::retired(&self.name, reason);
        self.retired.send_modify(|retired| *retired += 1);
        self.tell(PoolEvent::Retired { generation, reason });
    }

    pub(crate) fn moved(&self, generation: u64, took: Duration) {
        tracing::info!(pool = &*self.name, generation, ?took, "pool moved");
        self.tell(PoolEvent::Moved { generation, took });
    }

    fn tell(&self, event: PoolEvent) {
        // An error says that nobody listens.
        let _nobody = self.events.send(event);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
