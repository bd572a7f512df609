use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::LiveCert;
use tokio::time::Instant;

use crate::pool::session::{Driver, Ping, Session};

/// A session that no caller holds.
struct Idle {
    session: Session,
    /// When it became idle or was last pinged.
    quiet_since: Instant,
}

impl Idle {
    fn new(session: Session) -> Self {
        Self {
            session,
            quiet_since: Instant::now(),
        }
    }

    fn ping_if_quiet_for(&mut self, quiet: Duration) -> Option<Ping> {
        if !self.session.is_usable() || self.quiet_since.elapsed() < quiet {
            return None;
        }
        self.quiet_since = Instant::now();
        Some(self.session.ping())
    }
}

/// The place of one connection in a pool, shared with the background task.
///
/// An idle session is *parked* in its slot, where it can be exchanged. A check-out *claims* it:
/// then the caller has the session, and the slot knows only its driver.
pub(crate) struct Slot(Mutex<Contents>);

struct Contents {
    /// `None` while claimed.
    parked: Option<Idle>,
    /// Of the session of this slot, parked or claimed.
    driver: Arc<Driver>,
    /// Whether a pool has handed this connection out or taken it back; no pool has done so with a
    /// dedicated connection.
    pooled: bool,
}

/// Where the session of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Idle: it can be exchanged.
    Parked { usable: bool },
    /// Checked out: the caller returns it to the pool.
    CheckedOut,
    /// Claimed, and perhaps dedicated: it may never be returned.
    Dedicated,
}

impl Slot {
    pub(crate) fn new(session: Session) -> Self {
        Self(Mutex::new(Contents {
            driver: Arc::clone(&session.driver),
            parked: Some(Idle::new(session)),
            pooled: false,
        }))
    }

    /// The driver of the session of this slot, parked or claimed.
    pub(crate) fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.lock().driver)
    }

    pub(crate) fn place(&self) -> Place {
        let contents = self.lock();
        match (&contents.parked, contents.pooled) {
            (Some(parked), _) => Place::Parked {
                usable: parked.session.is_usable(),
            },
            (None, true) => Place::CheckedOut,
            (None, false) => Place::Dedicated,
        }
    }

    /// Records whether the connection will be returned to a pool.
    pub(crate) fn mark_pooled(&self, pooled: bool) {
        self.lock().pooled = pooled;
    }

    pub(crate) fn claim(&self) -> Option<Session> {
        self.lock().parked.take().map(|parked| parked.session)
    }

    /// Takes the claimed session back from a connection that was returned to its pool.
    pub(crate) fn park(&self, session: Session) {
        let mut contents = self.lock();
        contents.parked = Some(Idle::new(session));
        contents.pooled = true;
    }

    /// Records which session the caller has instead of the claimed one.
    pub(crate) fn claimed_is_now(&self, session: &Session) {
        self.lock().driver = Arc::clone(&session.driver);
    }

    /// Swaps the parked session with `spare`, if the parked one is older, unusable, or at a server
    /// whose role has changed.
    ///
    /// Calls `retire` with the old one before. `false` if it needs no exchange, or if a caller has
    /// claimed it meanwhile.
    pub(crate) fn exchange_parked(
        &self,
        spare: &mut Session,
        retire: impl FnOnce(&Session),
    ) -> bool {
        let contents = &mut *self.lock();
        let Some(parked) = &mut contents.parked else {
            return false;
        };
        let old = &parked.session;
        if old.generation() >= spare.generation() && old.is_usable() && !old.driver.role_changed() {
            return false;
        }
        retire(&parked.session);
        contents.driver = Arc::clone(&spare.driver);
        std::mem::swap(&mut parked.session, spare);
        parked.quiet_since = Instant::now();
        true
    }

    /// Marks a parked session as unusable and pings it: the answer comes when nothing runs on it.
    pub(crate) fn last_ping(&self) -> Option<Ping> {
        let contents = self.lock();
        let session = &contents.parked.as_ref()?.session;
        session.driver.mark_unusable();
        Some(session.ping())
    }

    /// Closes this session if it is still parked here: a caller that has claimed it keeps it.
    pub(crate) fn abort_if_parked(&self, driver: &Arc<Driver>) -> bool {
        let contents = self.lock();
        let is_parked = contents.parked.is_some() && Arc::ptr_eq(&contents.driver, driver);
        if is_parked {
            driver.abort();
        }
        is_parked
    }

    /// Pings the session if it is parked, usable and has been quiet for so long.
    pub(crate) fn ping_if_quiet_for(&self, quiet: Duration) -> Option<Ping> {
        self.lock().parked.as_mut()?.ping_if_quiet_for(quiet)
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sessions that are ready to be exchanged for old ones.
///
/// They have no slot of the pool, so that transactions that never end cannot block a rotation.
#[derive(Default)]
pub(crate) struct Spares(Mutex<Vec<Idle>>);

impl Spares {
    pub(crate) fn put(&self, session: Session) {
        self.lock().push(Idle::new(session));
    }

    /// A usable spare of this generation.
    pub(crate) fn take(&self, generation: u64) -> Option<Session> {
        self.of_generation(generation, Vec::pop)
            .map(|spare| spare.session)
    }

    /// The number of usable spares of this generation.
    pub(crate) fn count(&self, generation: u64) -> usize {
        self.of_generation(generation, |spares| spares.len())
    }

    /// The driver of each spare.
    #[cfg(test)]
    pub(crate) fn drivers(&self) -> Vec<Arc<Driver>> {
        let driver = |spare: &Idle| Arc::clone(&spare.session.driver);
        self.lock().iter().map(driver).collect()
    }

    pub(crate) fn clear(&self) {
        let spares = std::mem::take(&mut *self.lock());
        drop(spares);
    }

    /// Closes those whose certificate has surely ended.
    pub(crate) fn close_expired(&self, live: &LiveCert) {
        let has_expired = |spare: &mut Idle| live.has_surely_ended(&spare.session.driver.snapshot);
        let expired: Vec<_> = self.lock().extract_if(.., has_expired).collect();
        drop(expired);
    }

    /// Pings those that have been quiet for so long.
    pub(crate) fn ping_quiet(&self, quiet: Duration) -> Vec<Ping> {
        let ping = |spare: &mut Idle| spare.ping_if_quiet_for(quiet);
        self.lock().iter_mut().filter_map(ping).collect()
    }

    /// Calls `action` on the usable spares of this generation, and closes all others.
    fn of_generation<R>(&self, generation: u64, action: impl FnOnce(&mut Vec<Idle>) -> R) -> R {
        let is_other = |Idle { session, .. }: &mut Idle| {
            session.generation() != generation
                || !session.is_usable()
                || session.driver.role_changed()
        };
        let mut spares = self.lock();
        let others: Vec<_> = spares.extract_if(.., is_other).collect();
        let result = action(&mut spares);
        drop(spares);
        // Closed outside the lock.
        drop(others);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
