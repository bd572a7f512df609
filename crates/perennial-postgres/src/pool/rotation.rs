use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use perennial::{Rotations, Snapshot};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::error::ConnectError;
use crate::failure::FailureClass;
use crate::pool::connection::PgConnection;
use crate::pool::dialer::Dialer;
use crate::pool::retirement::{
    FINISH_AT_MOST, Facts, Step, connect_wait, exchanged_for, may_pass, next_step, retry_wait,
    time_to_finish,
};
use crate::pool::shelf::Shelf;
use crate::pool::slot::{LeftOver, Slot};

mod ending;
pub use ending::CANCEL_GRACE;
mod handover;
mod survey;
use survey::Survey;
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
    hook_told: AtomicBool,
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
            hook_told: AtomicBool::new(false),
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
        if self.is_draining() {
            return Err(ConnectError::Draining);
        }
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
        // What there is at first has been connected with from the start.
        let mut told = self.newest().unwrap_or_default();
        loop {
            tokio::select! {
                () = self.afresh.notified() => {}
                () = self.wake.notified() => {}
            }
            let began = Instant::now();
            if let Some(newest) = self.move_over().await
                && newest > told
            {
                if told > 0 {
                    self.dialer.signals.moved(newest, began.elapsed());
                }
                told = newest;
            }
            self.shelf.clear();
        }
    }

    /// Goes on until everything is on the newest generation, and returns that.
    async fn move_over(&self) -> Option<u64> {
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
                Step::Done => return Some(newest),
                Step::Exchange => self.exchange_parked(&old, newest),
                Step::Connect { spares, rest } => {
                    let began = Instant::now();
                    let pause = match self.connect_spares(spares).await {
                        Ok(()) => {
                            failures = 0;
                            connect_takes = began.elapsed();
                            // At once: the rest is for the server, not for the spare.
                            self.exchange_parked(&self.survey(newest), newest);
                            rest
                        }
                        Err(class) => {
                            failures += 1;
                            if may_pass(class) {
                                connect_wait(failures, rand::random())
                            } else {
                                retry_wait(failures, time_left, rand::random())
                            }
                        }
                    };
                    if timeout(pause, self.afresh.notified()).await.is_ok() {
                        failures = 0;
                    }
                }
                Step::AwaitReturn => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = self.afresh.notified() => {}
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                }
            }
        }
        None
    }

    /// Puts new spares on the shelf.
    ///
    /// # Errors
    /// Not one could be connected, for this reason.
    async fn connect_spares(&self, spares: usize) -> Result<(), FailureClass> {
        let signals = &self.dialer.signals;
        let end = self.dialer.deadline();
        let mut outcome = Err(FailureClass::Draining);
        signals.replacing_now(spares);
        for dialled in join_all((0..spares).map(|_| self.dialer.dial_newest(end))).await {
            match dialled {
                Ok(spare) => {
                    signals.connected();
                    self.shelf.put(spare);
                    outcome = Ok(());
                }
                Err(error) => {
                    signals.connect_failed(&error);
                    if outcome.is_err() {
                        outcome = Err(error.class());
                    }
                }
            }
        }
        signals.replacing_now(0);
        outcome
    }

    fn exchange_parked(&self, old: &Survey, newest: u64) {
        for slot in &old.parked {
            let Some(spare) = self.shelf.take(newest) else {
                return;
            };
            match slot.exchange_parked(spare) {
                LeftOver::Old(old) => {
                    let expired = self.has_expired(&old.driver.snapshot);
                    let reason = exchanged_for(old.is_fit(), expired);
                    self.dialer.let_go(&old.driver, reason);
                    // Dropped outside the slot's lock: it drains, then says good-bye.
                    drop(old);
                }
                LeftOver::Spare(spare) => self.shelf.put(spare),
            }
        }
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
