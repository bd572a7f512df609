use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use perennial::{Rotations, Snapshot};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::error::ConnectError;
use crate::pool::connection::PgConnection;
use crate::pool::dialer::Dialer;
use crate::pool::retirement::{
    FINISH_AT_MOST, Facts, Step, connect_wait, may_pass, next_step, retry_wait, time_to_finish,
};
use crate::pool::shelf::Shelf;
use crate::pool::slot::{LeftOver, Slot, Whereabouts};
use crate::pool::status::{PoolStatus, RetireReason};

mod ending;
pub use ending::CANCEL_GRACE;
mod upkeep;
pub use upkeep::PING_TIMEOUT;

/// How soon an unfinished rotation looks again, should no return have woken it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a manager and its background task share: every slot, the shelf, and how to connect.
pub(crate) struct Rotation {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) idle_ping: Duration,
    pub(crate) hard_limit: Option<Duration>,
    rotations: Rotations,
    slots: Mutex<Vec<Weak<Slot>>>,
    shelf: Shelf,
    /// Something old or unfit is there to be replaced, or an old one has come back.
    wake: Arc<Notify>,
    /// A new generation has appeared, or somebody is in a hurry: failures before do not count.
    afresh: Notify,
    /// Up to this generation, everything older is to be retired without regard to pace.
    hurry_to: AtomicU64,
    draining: AtomicBool,
}

/// What is to be replaced, counted at one moment.
#[derive(Default)]
struct Survey {
    /// Idle, and older than the newest generation or unfit.
    parked: Vec<Arc<Slot>>,
    /// Older ones that are checked out and will come back.
    claimed: usize,
    /// When the first certificate among the parked old ones expires.
    first_expiry: Option<SystemTime>,
}

impl Rotation {
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        idle_ping: Duration,
        hard_limit: Option<Duration>,
    ) -> Self {
        Self {
            rotations: dialer.live.rotations(),
            wake: Arc::clone(&dialer.ended),
            dialer,
            idle_ping,
            hard_limit,
            slots: Mutex::default(),
            shelf: Shelf::default(),
            afresh: Notify::new(),
            hurry_to: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        }
    }

    /// A new connection, known to the background task from now on.
    ///
    /// Tries again by itself while waiting may help, within the connect timeout: bb8's own waits
    /// grow to half of its timeout, and nobody would notice meanwhile that the server is back.
    pub(crate) async fn connect(&self) -> Result<PgConnection, ConnectError> {
        let end = self.dialer.deadline();
        let mut failures = 0;
        let session = loop {
            if self.is_draining() {
                return Err(ConnectError::Draining);
            }
            let error = match self.dialer.dial(end).await {
                Ok(session) => break session,
                Err(error) => error,
            };
            self.dialer.signals.connect_failed(&error);
            failures += 1;
            let wait = connect_wait(failures, rand::random());
            if !may_pass(error.class()) || Instant::now() + wait >= end {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        };
        self.dialer.signals.connected();
        let connection = PgConnection::new(session, Arc::clone(&self.dialer));
        {
            let mut slots = lock(&self.slots);
            slots.retain(|slot| slot.strong_count() > 0);
            slots.push(Arc::downgrade(connection.slot()));
        }
        // A rotation may have come while the connect was under way: nobody else would notice.
        if self.is_old(&connection.snapshot()) {
            self.wake.notify_one();
        }
        Ok(connection)
    }

    /// Whether there is a newer generation than this one.
    fn is_old(&self, snapshot: &Snapshot) -> bool {
        self.newest()
            .is_some_and(|newest| snapshot.generation() < newest)
    }

    fn has_expired(&self, snapshot: &Snapshot) -> bool {
        self.dialer.live.now() >= snapshot.not_after()
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether this connection may be handed out; exchanges an old one first if a spare is ready.
    pub(crate) fn check_out(&self, connection: &mut PgConnection) -> Result<(), ConnectError> {
        if self.is_draining() {
            return Err(ConnectError::Draining);
        }
        connection.slot().mark_pooled(true);
        if !connection.session().is_fit() {
            return Err(ConnectError::Closed);
        }
        if self.is_old(&connection.snapshot()) {
            self.exchange_claimed(connection);
        }
        let snapshot = connection.snapshot();
        if self.has_expired(&snapshot) {
            let driver = connection.slot().driver();
            self.dialer.signals.retired(&driver, RetireReason::Expired);
            return Err(ConnectError::Expired {
                generation: snapshot.generation(),
                not_after: snapshot.not_after(),
            });
        }
        Ok(())
    }

    /// Parks a connection that comes back, exchanged first if it is old and a spare is ready;
    /// `false` if it must not be used again.
    pub(crate) fn take_back(&self, connection: &mut PgConnection) -> bool {
        connection.slot().mark_pooled(true);
        if self.is_draining() {
            return false;
        }
        if !connection.is_claimed() {
            let parked = connection.slot().whereabouts();
            return parked != Whereabouts::Parked { fit: false };
        }
        if !connection.session().is_fit() {
            return false;
        }
        if self.is_old(&connection.snapshot()) {
            self.exchange_claimed(connection);
        }
        if self.has_expired(&connection.snapshot()) {
            let driver = connection.slot().driver();
            self.dialer.signals.retired(&driver, RetireReason::Expired);
            return false;
        }
        connection.park();
        if self.is_old(&connection.snapshot()) {
            // It is idle now: a rotation may go on.
            self.wake.notify_one();
        }
        true
    }

    /// Exchanges a claimed, old session if a spare stands ready.
    fn exchange_claimed(&self, connection: &mut PgConnection) {
        if let Some(spare) = self.newest().and_then(|newest| self.shelf.take(newest)) {
            let old = connection.exchange(spare);
            self.dialer
                .signals
                .retired(&old.driver, RetireReason::Rotated);
            self.wake.notify_one();
        }
    }

    pub(crate) fn status(&self) -> PoolStatus {
        let counts = self.dialer.signals.counts();
        let newest = self.newest().unwrap_or_default();
        let now = self.dialer.live.now();
        let mut status = PoolStatus {
            by_generation: BTreeMap::new(),
            old_in_use: 0,
            expired_in_use: 0,
            oldest_not_after: None,
            spares: self.shelf.ready(newest),
            replacing: self.dialer.signals.replacing(),
            retired: counts.retired,
            connect_errors: counts.connect_errors,
            refused_generation: self.dialer.standing.refused_generation(),
            last_error: counts.last_error,
        };
        for slot in self.slots() {
            let driver = slot.driver();
            if driver.is_finished() {
                continue;
            }
            let snapshot = &driver.snapshot;
            let not_after = snapshot.not_after();
            *status
                .by_generation
                .entry(snapshot.generation())
                .or_default() += 1;
            let oldest = status.oldest_not_after.get_or_insert(not_after);
            *oldest = not_after.min(*oldest);
            if !matches!(slot.whereabouts(), Whereabouts::Parked { .. }) {
                status.old_in_use += usize::from(snapshot.generation() < newest);
                status.expired_in_use += usize::from(now >= not_after);
            }
        }
        status
    }

    /// The background task. Ends when it is aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.watch(), self.replace(), self.look_after());
    }

    async fn watch(&self) {
        let mut rotations = self.dialer.live.rotations();
        while rotations.next().await.is_some() {
            self.afresh.notify_one();
        }
    }

    /// Moves everything onto each new generation, and replaces what was found dead.
    async fn replace(&self) {
        loop {
            tokio::select! {
                () = self.afresh.notified() => {}
                () = self.wake.notified() => {}
            }
            self.move_over().await;
        }
    }

    async fn move_over(&self) {
        let began = Instant::now();
        let retired_before = *self.dialer.signals.retired_so_far().borrow();
        let mut deadline = None;
        let mut connect_takes = Duration::ZERO;
        let mut failures = 0;
        while let Some(newest) = self.newest().filter(|_| !self.is_draining()) {
            let old = self.survey(newest);
            let now = self.dialer.live.now();
            let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
            // Each generation has its own deadline, set by its first idle old connections: one that
            // never comes back must not make every later rotation late.
            deadline = deadline.filter(|(generation, _)| *generation == newest);
            if let (None, Some(expiry)) = (deadline, old.first_expiry) {
                deadline = Some((newest, now + time_to_finish(until(expiry))));
            }
            let time_left = if self.hurry_to.load(Ordering::Relaxed) >= newest {
                Duration::ZERO
            } else {
                deadline.map_or(FINISH_AT_MOST, |(_, at)| until(at))
            };
            let step = next_step(&Facts {
                old_parked: old.parked.len(),
                old_claimed: old.claimed,
                spares: self.shelf.ready(newest),
                connect_takes,
                time_left,
                failing: failures > 0,
            });
            match step {
                Step::Done => {
                    self.shelf.clear();
                    if *self.dialer.signals.retired_so_far().borrow() > retired_before {
                        self.dialer.signals.moved(newest, began.elapsed());
                    }
                    return;
                }
                Step::Exchange => self.exchange_parked(&old, newest),
                Step::Connect { spares, rest } => {
                    let began = Instant::now();
                    let pause = if self.connect_spares(spares).await {
                        failures = 0;
                        connect_takes = began.elapsed();
                        // Exchanged at once: the rest is for the server, not for the spare.
                        self.exchange_parked(&self.survey(newest), newest);
                        rest
                    } else {
                        failures += 1;
                        retry_wait(failures, time_left, rand::random())
                    };
                    if timeout(pause, self.afresh.notified()).await.is_ok() {
                        failures = 0;
                    }
                }
                Step::AwaitReturn => {
                    let _woken = timeout(LOOK_AGAIN, self.wake.notified()).await;
                }
            }
        }
    }

    /// Puts new spares on the shelf; `false` if not one could be connected.
    async fn connect_spares(&self, spares: usize) -> bool {
        let signals = &self.dialer.signals;
        let end = self.dialer.deadline();
        let mut any = false;
        signals.replacing_now(spares);
        for dialled in join_all((0..spares).map(|_| self.dialer.dial_newest(end))).await {
            match dialled {
                Ok(spare) => {
                    any = true;
                    signals.connected();
                    self.shelf.put(spare);
                }
                Err(error) => signals.connect_failed(&error),
            }
        }
        signals.replacing_now(0);
        any
    }

    fn exchange_parked(&self, old: &Survey, newest: u64) {
        for slot in &old.parked {
            let Some(spare) = self.shelf.take(newest) else {
                return;
            };
            match slot.exchange_parked(spare) {
                // Dropped here, outside the slot's lock: it drains, then says good-bye.
                LeftOver::Old(old) => {
                    let reason = if old.is_fit() {
                        RetireReason::Rotated
                    } else {
                        RetireReason::Dead
                    };
                    self.dialer.signals.retired(&old.driver, reason);
                }
                LeftOver::Spare(spare) => self.shelf.put(spare),
            }
        }
    }

    fn survey(&self, newest: u64) -> Survey {
        let mut survey = Survey::default();
        for slot in self.slots() {
            let snapshot = Arc::clone(&slot.driver().snapshot);
            let old = snapshot.generation() < newest;
            match slot.whereabouts() {
                Whereabouts::Parked { fit } if old || !fit => {
                    survey.parked.push(slot);
                    if fit {
                        let expiry = snapshot.not_after();
                        let first = survey.first_expiry.get_or_insert(expiry);
                        *first = expiry.min(*first);
                    }
                }
                Whereabouts::Claimed if old => survey.claimed += 1,
                _ => {}
            }
        }
        survey
    }

    fn newest(&self) -> Option<u64> {
        self.rotations
            .latest()
            .map(|snapshot| snapshot.generation())
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.slots).iter().filter_map(Weak::upgrade).collect()
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation")
            .field("dialer", &self.dialer)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
