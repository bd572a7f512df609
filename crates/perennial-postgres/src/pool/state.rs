use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;

use perennial::{LiveCert, Reporter, Rotations, Snapshot};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::{Client, Config};

use crate::error::ConnectError;
use crate::pool::accepted::AcceptedCerts;
use crate::pool::in_flight::InFlight;
use crate::pool::observe::{Observer, PoolStatus, RetireReason};
use crate::pool::session::{Driver, PoolSide};
use crate::pool::slot::{Place, Slot, Spares};
use crate::tls::Requests;

/// Runs on each new connection before the pool hands it out, replacements included.
pub(crate) type OnConnect = dyn for<'a> Fn(
        &'a Client,
    ) -> Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + 'a>>
    + Send
    + Sync;

/// How a pool connects and what it does with its connections.
#[derive(Clone)]
pub(crate) struct ManagerSettings {
    pub(crate) name: Arc<str>,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_ping: Duration,
    pub(crate) hard_limit: Option<Duration>,
    pub(crate) on_connect: Option<Arc<OnConnect>>,
}

/// What the connections of a pool and its background task share.
pub(crate) struct PoolState {
    pub(crate) live: LiveCert,
    pub(crate) config: Config,
    pub(crate) settings: ManagerSettings,
    pub(crate) reporter: Reporter,
    pub(crate) observer: Observer,
    pub(crate) accepted: AcceptedCerts,
    pub(crate) spares: Spares,
    pub(crate) in_flight: InFlight,
    pub(crate) requests: Requests,
    /// Wakes the rotation: something is to be replaced, or an old connection was returned.
    pub(crate) wake: Arc<Notify>,
    /// Makes the maintenance ping every idle session: one has learned that its server's role changed.
    pub(crate) role_changed: Arc<Notify>,
    /// Wakes the rotation and makes it forget earlier failures: a new generation, or a request.
    pub(crate) restart: Notify,
    /// Everything older than this generation is retired without regard to pace.
    pub(crate) urgent_until: AtomicU64,
    /// Whether the pool hands out no more connections.
    pub(crate) is_draining: AtomicBool,
    /// Logs once that connections were used before their check-out.
    pub(crate) early_use: Once,
    rotations: Rotations,
    slots: Mutex<Vec<Weak<Slot>>>,
    draining: Mutex<Vec<Arc<Driver>>>,
}

impl PoolState {
    pub(crate) fn new(live: LiveCert, config: Config, settings: ManagerSettings) -> Self {
        Self {
            rotations: live.subscribe(),
            reporter: live.reporter(Arc::clone(&settings.name)),
            observer: Observer::new(Arc::clone(&settings.name)),
            live,
            config,
            settings,
            accepted: AcceptedCerts::default(),
            spares: Spares::default(),
            in_flight: InFlight::default(),
            requests: Requests::default(),
            wake: Arc::default(),
            role_changed: Arc::default(),
            restart: Notify::new(),
            urgent_until: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            early_use: Once::new(),
            slots: Mutex::default(),
            draining: Mutex::default(),
        }
    }

    /// When a connect that begins now must have finished.
    pub(crate) fn connect_deadline(&self) -> Instant {
        instant_after(self.settings.connect_timeout)
    }

    pub(crate) fn timed_out(&self, problem: &'static str) -> ConnectError {
        ConnectError::TimedOut {
            after: self.settings.connect_timeout,
            problem,
            last: None,
        }
    }

    /// The newest published generation.
    pub(crate) fn newest(&self) -> Option<u64> {
        let latest = self.rotations.latest();
        latest.map(|snapshot| snapshot.generation())
    }

    /// Whether there is a newer generation than this one.
    pub(crate) fn is_old(&self, generation: u64) -> bool {
        self.newest().is_some_and(|newest| generation < newest)
    }

    /// Whether a session is to be exchanged as soon as it is idle, though it works.
    pub(crate) fn is_outdated(&self, driver: &Driver) -> bool {
        self.is_old(driver.generation()) || driver.role_changed()
    }

    /// What a new session's task needs.
    pub(crate) fn side(&self) -> PoolSide {
        PoolSide {
            wake: Arc::clone(&self.wake),
            role_changed: Arc::clone(&self.role_changed),
            wanted: self.config.get_target_session_attrs(),
        }
    }

    /// Whether a certificate must not be offered any more.
    pub(crate) fn has_expired(&self, snapshot: &Snapshot) -> bool {
        self.live.has_ended(snapshot)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn check_not_draining(&self) -> Result<(), ConnectError> {
        if self.is_draining() {
            return Err(ConnectError::Draining);
        }
        Ok(())
    }

    pub(crate) fn add_slot(&self, slot: &Arc<Slot>) {
        let mut slots = lock(&self.slots);
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(slot));
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.slots).iter().filter_map(Weak::upgrade).collect()
    }

    /// Retires a session: counts it once, and observes it until it is closed.
    ///
    /// Every session that leaves the pool is retired here, before its client is dropped, and before
    /// another takes its place: so that it is always found, in its slot or among the draining ones.
    pub(crate) fn retire(&self, driver: &Arc<Driver>, reason: RetireReason) {
        {
            // Marked under the lock: a reader never finds it neither here nor in its slot.
            let mut draining = lock(&self.draining);
            if !driver.mark_retired() {
                return;
            }
            draining.retain(|driver| !driver.is_finished());
            draining.push(Arc::clone(driver));
        }
        self.observer.retired(driver.generation(), reason);
    }

    /// Retired sessions that are still open.
    pub(crate) fn draining(&self) -> Vec<Arc<Driver>> {
        let mut draining = lock(&self.draining);
        draining.retain(|driver| !driver.is_finished());
        draining.clone()
    }

    /// Slots whose session is open and not retired, each with that session's driver.
    pub(crate) fn open_slots(&self) -> Vec<(Arc<Slot>, Arc<Driver>)> {
        let open = |slot: Arc<Slot>| {
            let driver = slot.driver();
            (!driver.is_finished() && !driver.is_retired()).then_some((slot, driver))
        };
        self.slots().into_iter().filter_map(open).collect()
    }

    /// Every open session except the spares, each once.
    pub(crate) fn open_sessions(&self) -> Vec<Arc<Driver>> {
        let in_slots = self.open_slots();
        let mut sessions = self.draining();
        let drivers = in_slots.into_iter().map(|(_, driver)| driver);
        // One that was retired since then is in `draining` too.
        sessions.extend(drivers.filter(|driver| !driver.is_retired()));
        sessions
    }

    /// Open connections that are not idle.
    #[cfg(feature = "bb8")]
    pub(crate) fn in_use(&self) -> usize {
        let is_in_use = |(slot, _): &(Arc<Slot>, _)| !matches!(slot.place(), Place::Parked { .. });
        self.open_slots().into_iter().filter(is_in_use).count()
    }

    pub(crate) fn status(&self) -> PoolStatus {
        let newest = self.newest().unwrap_or_default();
        let mut status = self.observer.status();
        status.connecting = self.in_flight.older_than(u64::MAX);
        status.spares = self.spares.count(newest);
        status.refused_generation = self.accepted.refused_generation();
        let mut expiries = Vec::new();
        for (slot, driver) in self.open_slots() {
            expiries.push(driver.snapshot.not_after());
            let generation = driver.generation();
            *status.by_generation.entry(generation).or_default() += 1;
            // A parked session that is unusable waits for an answer, perhaps behind a stream.
            if slot.place() != (Place::Parked { usable: true }) {
                status.old_in_use += usize::from(generation < newest);
                status.expired_in_use += usize::from(self.has_expired(&driver.snapshot));
            }
        }
        for driver in self.draining() {
            expiries.push(driver.snapshot.not_after());
            status.draining += 1;
            status.expired_in_use += usize::from(self.has_expired(&driver.snapshot));
        }
        status.oldest_not_after = expiries.into_iter().min();
        status
    }
}

impl fmt::Debug for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("PoolState");
        fields.field("live", &self.live);
        fields
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ManagerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerSettings")
            .field("name", &self.name)
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_ping", &self.idle_ping)
            .field("hard_limit", &self.hard_limit)
            .finish_non_exhaustive()
    }
}

/// `now + wait`, capped at 30 years so that it cannot overflow.
pub(crate) fn instant_after(wait: Duration) -> Instant {
    const CAP: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    Instant::now() + wait.min(CAP)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
