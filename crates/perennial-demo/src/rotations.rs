//! Follows the rotations from both sides: the app's events, and the sessions that Postgres reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::{Event, Events, Rotations, with_causes};
use perennial_postgres::{CertPool, PoolEvent};
use perennial_service::App;
use tokio::time::Instant;
use tokio_postgres::Client;

/// How often the pool is checked during a rotation.
const POLL: Duration = Duration::from_millis(2);

/// The app's sessions by the serial number of their certificate.
const SERIALS: &str = "select s.client_serial::text, count(*)
    from pg_stat_activity a join pg_stat_ssl s using (pid)
    where a.usename = 'app' and s.client_serial is not null
    group by 1";

/// The generations so far, and the events that were not shown yet; clones are one log.
#[derive(Clone)]
pub(crate) struct Log {
    generations: Arc<Mutex<BTreeMap<String, u64>>>,
    events: Arc<Mutex<Vec<String>>>,
    rotating: Arc<AtomicBool>,
}

impl Log {
    /// Follows the app's certificate until the process ends.
    pub(crate) fn follow(app: &App) -> Self {
        let log = Self {
            generations: Arc::default(),
            events: Arc::default(),
            rotating: Arc::default(),
        };
        tokio::spawn(log.clone().note_serials(app.live.subscribe()));
        let rotations = app.live.subscribe();
        tokio::spawn(log.clone().time_rotations(rotations, app.pool.clone()));
        log
    }

    /// Notes each generation's serial number at once, because Postgres may report it at any moment.
    async fn note_serials(self, mut rotations: Rotations) {
        while let Some(snapshot) = rotations.next().await {
            let (generation, serial) = (snapshot.generation(), snapshot.serial());
            lock(&self.generations).insert(serial.to_decimal(), generation);
            if generation > 1 {
                self.add(format!(
                    "generation {generation} published, serial {serial}"
                ));
            }
        }
    }

    /// Measures how long the pool takes to move onto each generation.
    async fn time_rotations(self, mut rotations: Rotations, pool: CertPool) {
        while let Some(snapshot) = rotations.next().await {
            let generation = snapshot.generation();
            if generation == 1 {
                continue;
            }
            let began = Instant::now();
            self.rotating.store(true, Ordering::Relaxed);
            while !has_moved(&pool, generation) {
                tokio::time::sleep(POLL).await;
            }
            self.rotating.store(false, Ordering::Relaxed);
            let took = began.elapsed().as_millis();
            self.add(format!(
                "pool moved onto generation {generation} in {took} ms"
            ));
        }
    }

    /// From now on also notes failures.
    pub(crate) fn follow_failures(&self, app: &App) {
        tokio::spawn(self.clone().note_renewal_failures(app.live.events()));
        tokio::spawn(self.clone().note_connect_failures(app.pool.events()));
    }

    async fn note_renewal_failures(self, mut events: Events<Event>) {
        while let Some(event) = events.next().await {
            match event {
                Event::RenewalFailed { error, .. } => {
                    self.add(format!("renewal failed: {}", with_causes(&*error)));
                }
                Event::Expired { generation, .. } => {
                    self.add(format!("generation {generation} expired"));
                }
                _ => {}
            }
        }
    }

    async fn note_connect_failures(self, mut events: Events<PoolEvent>) {
        while let Some(event) = events.next().await {
            match event {
                PoolEvent::CertificateRefused { generation, error } => {
                    let error = with_causes(&error);
                    self.add(format!("Postgres refused generation {generation}: {error}"));
                }
                PoolEvent::ConnectFailed { error } => self.add(with_causes(&error).to_string()),
                _ => {}
            }
        }
    }

    /// Whether a rotation is under way now.
    pub(crate) fn rotating(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.rotating)
    }

    /// The generation of this serial number (decimal); `None` if this run did not issue it.
    pub(crate) fn generation(&self, serial: &str) -> Option<u64> {
        lock(&self.generations).get(serial).copied()
    }

    /// The number of generations so far.
    pub(crate) fn count(&self) -> u64 {
        lock(&self.generations).values().max().copied().unwrap_or(0)
    }

    fn add(&self, event: String) {
        lock(&self.events).push(event);
    }

    /// The events since the last call.
    pub(crate) fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.events))
    }
}

/// Whether no connection of the pool is older than this generation.
pub(crate) fn has_moved(pool: &CertPool, generation: u64) -> bool {
    let by_generation = pool.status().by_generation;
    by_generation.keys().all(|&used| used >= generation)
}

/// Asks Postgres which certificates the app's sessions use.
pub(crate) struct Witness {
    admin: Client,
    log: Log,
    seen: BTreeSet<String>,
}

/// The app's sessions at one moment, as Postgres reports them.
#[derive(Default)]
pub(crate) struct Sessions {
    /// By the generation of their certificate.
    pub(crate) by_generation: BTreeMap<u64, i64>,
    /// Sessions with a serial number that this run did not issue.
    pub(crate) unknown: i64,
}

impl Witness {
    /// `admin` is a superuser, who may see all sessions.
    pub(crate) fn new(admin: Client, log: &Log) -> Self {
        Self {
            admin,
            log: log.clone(),
            seen: BTreeSet::new(),
        }
    }

    pub(crate) async fn sessions(&mut self) -> anyhow::Result<Sessions> {
        let mut sessions = Sessions::default();
        for row in self.admin.query(SERIALS, &[]).await? {
            let (serial, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            match self.log.generation(&serial) {
                Some(generation) => *sessions.by_generation.entry(generation).or_default() += count,
                None => sessions.unknown += count,
            }
            self.seen.insert(serial);
        }
        Ok(sessions)
    }

    /// Every serial number that Postgres has reported so far, in decimal.
    pub(crate) fn serials(&self) -> Vec<String> {
        self.seen.iter().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
