//! Follows the rotations: which serial is which generation, and how long the pool took to move.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::{Event, Events, LiveCert, Rotations, with_causes};
use perennial_postgres::{CertConnectionManager, PoolEvent, PoolEvents};
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
    /// Follows `live` for as long as this process runs.
    pub(crate) fn follow(live: &LiveCert, manager: &CertConnectionManager) -> Self {
        let log = Self {
            generations: Arc::default(),
            events: Arc::default(),
            rotating: Arc::default(),
        };
        tokio::spawn(log.clone().number(live.rotations()));
        tokio::spawn(log.clone().time(live.rotations(), manager.clone()));
        log
    }

    /// Notes which serial is which generation, at once: the server may show it any moment.
    async fn number(self, mut rotations: Rotations) {
        while let Some(snapshot) = rotations.next().await {
            let (generation, serial) = (snapshot.generation(), snapshot.serial());
            lock(&self.generations).insert(serial.to_decimal(), generation);
            if generation > 1 {
                self.say(format!("generation {generation} is here, serial {serial}"));
            }
        }
    }

    /// Times how long the pool takes to move onto each.
    async fn time(self, mut rotations: Rotations, manager: CertConnectionManager) {
        while let Some(snapshot) = rotations.next().await {
            let generation = snapshot.generation();
            if generation == 1 {
                continue;
            }
            let began = Instant::now();
            self.rotating.store(true, Ordering::Relaxed);
            while !all_on(&manager, generation) {
                tokio::time::sleep(LOOK).await;
            }
            self.rotating.store(false, Ordering::Relaxed);
            let took = began.elapsed().as_millis();
            self.say(format!(
                "the pool has moved onto generation {generation} in {took} ms"
            ));
        }
    }

    /// Notes failures too, from here on.
    pub(crate) fn hear_failures(&self, live: &LiveCert, manager: &CertConnectionManager) {
        tokio::spawn(self.clone().renewals(live.events()));
        tokio::spawn(self.clone().connects(manager.events()));
    }

    async fn renewals(self, mut events: Events) {
        while let Some(event) = events.next().await {
            match event {
                Event::RenewalFailed { error, .. } => {
                    self.say(format!("renewal failed: {}", with_causes(&*error)));
                }
                Event::Expired { generation, .. } => {
                    self.say(format!("generation {generation} has expired"));
                }
                _ => {}
            }
        }
    }

    async fn connects(self, mut events: PoolEvents) {
        while let Some(event) = events.next().await {
            match event {
                PoolEvent::CertificateRefused { generation, error } => {
                    let error = with_causes(&error);
                    self.say(format!("generation {generation} is refused: {error}"));
                }
                PoolEvent::ConnectFailed { error } => self.say(with_causes(&error).to_string()),
                _ => {}
            }
        }
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

/// Whether no connection of the pool is older than this generation.
pub(crate) fn all_on(manager: &CertConnectionManager, generation: u64) -> bool {
    manager
        .status()
        .by_generation
        .keys()
        .all(|&built_on| built_on >= generation)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
