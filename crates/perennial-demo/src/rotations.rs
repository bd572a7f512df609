//! Follows the rotations: which serial is which generation, and how long the pool took to move.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::LiveCert;
use perennial_postgres::CertConnectionManager;
use tokio::time::Instant;

/// How finely the end of a rotation is timed.
const LOOK: Duration = Duration::from_millis(2);

/// What has rotated so far.
#[derive(Clone)]
pub(crate) struct Log {
    generations: Arc<Mutex<BTreeMap<String, u64>>>,
    events: Arc<Mutex<Vec<String>>>,
    rotating: Arc<AtomicBool>,
}

impl Log {
    /// Follows `live` in a task of its own, which ends with it.
    pub(crate) fn follow(live: &LiveCert, manager: &CertConnectionManager) -> Self {
        let log = Self {
            generations: Arc::default(),
            events: Arc::default(),
            rotating: Arc::default(),
        };
        let (this, manager) = (log.clone(), manager.clone());
        let mut rotations = live.rotations();
        tokio::spawn(async move {
            while let Some(snapshot) = rotations.next().await {
                let generation = snapshot.generation();
                lock(&this.generations).insert(snapshot.serial().to_decimal(), generation);
                if generation == 1 {
                    continue;
                }
                this.rotating.store(true, Ordering::Relaxed);
                this.say(format!(
                    "generation {generation} is here, serial {}",
                    snapshot.serial()
                ));
                let began = Instant::now();
                while !all_on(&manager, generation) {
                    tokio::time::sleep(LOOK).await;
                }
                this.rotating.store(false, Ordering::Relaxed);
                this.say(format!(
                    "the pool has moved onto generation {generation} in {} ms",
                    began.elapsed().as_millis()
                ));
            }
        });
        log
    }

    /// Whether the pool is moving now.
    pub(crate) fn rotating(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.rotating)
    }

    /// The generation of this serial number in base ten, if it is one of ours.
    pub(crate) fn generation(&self, serial: &str) -> Option<u64> {
        lock(&self.generations).get(serial).copied()
    }

    /// How many generations there have been.
    pub(crate) fn count(&self) -> u64 {
        lock(&self.generations).values().max().copied().unwrap_or(0)
    }

    /// Notes something for the next line.
    pub(crate) fn say(&self, event: String) {
        lock(&self.events).push(event);
    }

    /// What has happened since the last call.
    pub(crate) fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.events))
    }
}

fn all_on(manager: &CertConnectionManager, generation: u64) -> bool {
    manager
        .status()
        .by_generation
        .keys()
        .all(|&built_on| built_on >= generation)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
