use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use perennial::{Rotations, Snapshot, with_causes};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::{PgConnection, Slot, Whereabouts};
use crate::error::ConnectError;
use crate::retirement::{FINISH_AT_MOST, Facts, Step, next_step, retry_wait, time_to_finish};
use crate::session::{Dialer, Session};
use crate::shelf::Shelf;

/// How soon an unfinished rotation looks again, should no return have woken it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Failures in a row that are logged as warnings before they fall to debug.
const LOUD_FAILURES: u32 = 3;

/// What a manager and its replacer task share: every slot, the shelf, and how to connect.
pub(crate) struct Rotation {
    dialer: Dialer,
    rotations: Rotations,
    slots: Mutex<Vec<Weak<Slot>>>,
    shelf: Shelf,
    wake: Notify,
    retired: AtomicU64,
    last_error: Mutex<Option<Arc<ConnectError>>>,
}

/// What is old, counted at one moment.
#[derive(Default)]
struct Survey {
    parked: Vec<Arc<Slot>>,
    claimed: usize,
    /// When the first certificate among the parked ones expires.
    first_expiry: Option<SystemTime>,
}

impl Rotation {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self {
            rotations: dialer.live.rotations(),
            dialer,
            slots: Mutex::default(),
            shelf: Shelf::default(),
            wake: Notify::new(),
            retired: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    /// A new connection, known to the replacer from now on.
    pub(crate) async fn connect(&self) -> Result<PgConnection, ConnectError> {
        let session = self.dialer.dial().await?;
        *lock(&self.last_error) = None;
        let connection = PgConnection::new(session);
        {
            let mut slots = lock(&self.slots);
            slots.retain(|slot| slot.strong_count() > 0);
            slots.push(Arc::downgrade(connection.slot()));
        }
        // A rotation may have come while the connect was under way: nobody else would notice.
        if self.is_old(&connection.slot().built_on()) {
            self.wake.notify_one();
        }
        Ok(connection)
    }

    /// Whether there is a newer generation than this one.
    pub(crate) fn is_old(&self, snapshot: &Snapshot) -> bool {
        self.newest()
            .is_some_and(|newest| snapshot.generation() < newest)
    }

    pub(crate) fn has_expired(&self, snapshot: &Snapshot) -> bool {
        self.dialer.live.now() >= snapshot.not_after()
    }

    /// Exchanges a claimed, old session if a spare stands ready.
    pub(crate) fn exchange_claimed(&self, connection: &mut PgConnection) {
        if let Some(spare) = self.newest().and_then(|newest| self.shelf.take(newest)) {
            self.note_retired(connection.exchange(spare));
            self.wake.notify_one();
        }
    }

    /// Says that an old session is idle now.
    pub(crate) fn old_one_is_parked(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn note_error(&self, error: ConnectError) -> Arc<ConnectError> {
        let error = Arc::new(error);
        *lock(&self.last_error) = Some(Arc::clone(&error));
        error
    }

    pub(crate) fn last_error(&self) -> Option<Arc<ConnectError>> {
        lock(&self.last_error).clone()
    }

    pub(crate) fn retired(&self) -> u64 {
        self.retired.load(Ordering::Relaxed)
    }

    /// Connections by generation, dedicated ones included, spares not.
    pub(crate) fn by_generation(&self) -> BTreeMap<u64, usize> {
        let mut count = BTreeMap::new();
        for slot in self.slots() {
            *count.entry(slot.built_on().generation()).or_default() += 1;
        }
        count
    }

    pub(crate) fn spares(&self) -> usize {
        self.newest().map_or(0, |newest| self.shelf.ready(newest))
    }

    /// The replacer: moves everything onto each new generation. Ends when it is aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut rotations = self.dialer.live.rotations();
        let mut renewer_runs = true;
        loop {
            tokio::select! {
                next = rotations.next(), if renewer_runs => renewer_runs = next.is_some(),
                () = self.wake.notified() => {}
            }
            self.move_over().await;
        }
    }

    async fn move_over(&self) {
        let mut deadline = None;
        let mut connect_takes = Duration::ZERO;
        let mut failures = 0;
        while let Some(newest) = self.newest() {
            let old = self.survey(newest);
            let now = self.dialer.live.now();
            let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
            // Each generation has its own deadline, set by its first idle old connections: one that
            // never comes back must not make every later rotation late.
            deadline = deadline.filter(|(generation, _)| *generation == newest);
            if let (None, Some(expiry)) = (deadline, old.first_expiry) {
                deadline = Some((newest, now + time_to_finish(until(expiry))));
            }
            let time_left = deadline.map_or(FINISH_AT_MOST, |(_, at)| until(at));
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
                    return;
                }
                Step::Exchange => self.exchange_parked(&old, newest),
                Step::Connect { spares, rest } => {
                    let began = Instant::now();
                    let pause = if self.connect_spares(spares, failures).await {
                        failures = 0;
                        connect_takes = began.elapsed();
                        // Exchanged at once: the rest is for the server, not for the spare.
                        self.exchange_parked(&self.survey(newest), newest);
                        rest
                    } else {
                        failures += 1;
                        retry_wait(failures, time_left, rand::random())
                    };
                    tokio::time::sleep(pause).await;
                }
                Step::AwaitReturn => {
                    let _woken = tokio::time::timeout(LOOK_AGAIN, self.wake.notified()).await;
                }
            }
        }
    }

    /// Puts new spares on the shelf; `false` if not one could be connected.
    async fn connect_spares(&self, spares: usize, failures: u32) -> bool {
        let mut any = false;
        for dialled in join_all((0..spares).map(|_| self.dialer.dial())).await {
            match dialled {
                Ok(spare) => {
                    any = true;
                    *lock(&self.last_error) = None;
                    self.shelf.put(spare);
                }
                Err(error) => {
                    let error = self.note_error(error);
                    let error = with_causes(&*error);
                    if failures < LOUD_FAILURES {
                        tracing::warn!(%error, "a replacement could not be connected");
                    } else {
                        tracing::debug!(%error, "a replacement could not be connected");
                    }
                }
            }
        }
        any
    }

    fn exchange_parked(&self, old: &Survey, newest: u64) {
        for slot in &old.parked {
            let Some(spare) = self.shelf.take(newest) else {
                return;
            };
            let left_over = slot.exchange_parked(spare);
            if left_over.generation() < newest {
                // Dropped here, outside the slot's lock: it drains, then says good-bye.
                self.note_retired(left_over);
            } else {
                self.shelf.put(left_over);
            }
        }
    }

    fn note_retired(&self, session: Session) {
        tracing::debug!(generation = session.generation(), "retired");
        self.retired.fetch_add(1, Ordering::Relaxed);
    }

    fn survey(&self, newest: u64) -> Survey {
        let mut survey = Survey::default();
        for slot in self.slots() {
            let built_on = slot.built_on();
            if built_on.generation() >= newest {
                continue;
            }
            match slot.whereabouts() {
                Whereabouts::Parked => {
                    survey.parked.push(slot);
                    let expiry = built_on.not_after();
                    let first = survey
                        .first_expiry
                        .map_or(expiry, |first| first.min(expiry));
                    survey.first_expiry = Some(first);
                }
                Whereabouts::Claimed => survey.claimed += 1,
                Whereabouts::Unknown => {}
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
            .field("by_generation", &self.by_generation())
            .field("spares", &self.spares())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
