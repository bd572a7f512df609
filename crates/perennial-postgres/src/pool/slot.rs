use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pool::session::{Answer, Driver, Session};

/// One place in a pool, shared between its connection and whoever looks after the pool.
pub(crate) struct Slot(Mutex<Place>);

struct Place {
    /// Empty while claimed.
    parked: Option<Session>,
    /// Of the session in this place, parked or claimed.
    driver: Arc<Driver>,
    /// When it was parked or last pinged.
    quiet_since: Instant,
    /// A pool waits for it to come back: it is known not to be a dedicated connection.
    pooled: bool,
}

/// Where the session of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Idle: it can be exchanged.
    Parked { fit: bool },
    /// Checked out: it comes back.
    Claimed,
    /// Claimed, and no pool is known to wait for it: dedicated.
    Unknown,
}

/// What an exchange leaves over.
pub(crate) enum LeftOver {
    /// The session that stood there before.
    Old(Session),
    /// The spare itself: the place was claimed meanwhile, or needs none.
    Spare(Session),
}

impl Slot {
    pub(crate) fn new(session: Session) -> Self {
        Self(Mutex::new(Place {
            driver: Arc::clone(&session.driver),
            parked: Some(session),
            quiet_since: Instant::now(),
            pooled: false,
        }))
    }

    /// Of the session in this place, parked or claimed.
    pub(crate) fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.lock().driver)
    }

    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let place = self.lock();
        match (&place.parked, place.pooled) {
            (Some(parked), _) => Whereabouts::Parked {
                fit: parked.is_fit(),
            },
            (None, true) => Whereabouts::Claimed,
            (None, false) => Whereabouts::Unknown,
        }
    }

    /// Says whether a pool waits for this place's connection to come back.
    pub(crate) fn mark_pooled(&self, pooled: bool) {
        self.lock().pooled = pooled;
    }

    pub(crate) fn claim(&self) -> Option<Session> {
        self.lock().parked.take()
    }

    pub(crate) fn park(&self, session: Session) {
        let mut place = self.lock();
        place.parked = Some(session);
        place.quiet_since = Instant::now();
    }

    /// Says which session this place stands for, while it is claimed.
    pub(crate) fn now_built_on(&self, fresh: &Session) {
        self.lock().driver = Arc::clone(&fresh.driver);
    }

    /// Puts `fresh` in the place of a parked session that is older or unfit.
    pub(crate) fn exchange_parked(&self, fresh: Session) -> LeftOver {
        let mut place = self.lock();
        match &mut place.parked {
            Some(parked) if parked.generation() < fresh.generation() || !parked.is_fit() => {
                let driver = Arc::clone(&fresh.driver);
                let old = std::mem::replace(parked, fresh);
                place.driver = driver;
                place.quiet_since = Instant::now();
                LeftOver::Old(old)
            }
            _ => LeftOver::Spare(fresh),
        }
    }

    /// Gives a parked session up and asks for one last answer, which comes when nothing runs on it.
    pub(crate) fn last_ping(&self) -> Option<(Arc<Driver>, Answer)> {
        let place = self.lock();
        let parked = place.parked.as_ref().filter(|parked| parked.is_fit())?;
        parked.driver.give_up();
        Some((Arc::clone(&parked.driver), parked.ping()))
    }

    /// Closes the session of this driver if it is still parked here: whoever claims it first, has it.
    pub(crate) fn cut_if_parked(&self, driver: &Arc<Driver>) -> bool {
        let place = self.lock();
        let is_parked = place.parked.is_some() && Arc::ptr_eq(&place.driver, driver);
        if is_parked {
            driver.cut();
        }
        is_parked
    }

    /// Whether the session is closed, if it is parked.
    pub(crate) fn is_parked_and_closed(&self) -> bool {
        let parked = |session: &Session| session.client.is_closed();
        self.lock().parked.as_ref().is_some_and(parked)
    }

    /// Pings a parked session that has been quiet for so long; what is returned waits for the answer.
    pub(crate) fn ping_if_quiet_for(&self, quiet: Duration) -> Option<Answer> {
        let mut place = self.lock();
        let parked = place.parked.as_ref()?;
        if !parked.is_fit() || place.quiet_since.elapsed() < quiet {
            return None;
        }
        let answer = parked.ping();
        place.quiet_since = Instant::now();
        Some(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
