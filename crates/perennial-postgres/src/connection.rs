use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use perennial::Snapshot;
use tokio_postgres::Client;

use crate::session::Session;

/// A pooled connection; derefs to [`tokio_postgres::Client`].
///
/// While it is idle its client is *parked* where the manager can exchange it for one on a newer
/// certificate. The first touch *claims* the client: from then on nobody exchanges it until it
/// goes back to the pool.
///
/// Session state (`SET`, temporary tables, advisory locks, `LISTEN`, prepared statements, an open
/// transaction) lasts for one check-out, as it does at bb8's own `max_lifetime`: the next one may
/// get another session. What every session needs goes into
/// [`on_connect`](crate::CertConnectionManagerBuilder::on_connect).
pub struct PgConnection {
    /// Claimed. Empty while the client is parked in the slot.
    held: OnceLock<Session>,
    slot: Arc<Slot>,
}

impl PgConnection {
    pub(crate) fn new(session: Session) -> Self {
        let slot = Slot(Mutex::new(Place {
            built_on: Arc::clone(&session.snapshot),
            parked: Some(session),
            pooled: false,
        }));
        Self {
            held: OnceLock::new(),
            slot: Arc::new(slot),
        }
    }

    /// The generation of the certificate that this connection is built on.
    ///
    /// Claims nothing: an untouched connection may be exchanged right after.
    pub fn generation(&self) -> u64 {
        self.slot.built_on().generation()
    }

    /// The certificate that this connection is built on; claims nothing.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.slot.built_on()
    }

    /// Why the connection ended, if it was in use and has ended with an error.
    pub fn driver_error(&self) -> Option<&tokio_postgres::Error> {
        self.held.get()?.driver_error()
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The client's session, claimed by this call if nobody touched it before.
    pub(crate) fn session(&self) -> &Session {
        #[expect(
            clippy::expect_used,
            reason = "only this get_or_init and `park` move it"
        )]
        self.held
            .get_or_init(|| self.slot.lock().parked.take().expect("parked unless held"))
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        self.session();
        #[expect(clippy::expect_used, reason = "the line above has filled it")]
        self.held.get_mut().expect("just claimed")
    }

    /// Puts `fresh` in the place of the claimed session and returns the old one.
    pub(crate) fn exchange(&mut self, fresh: Session) -> Session {
        self.slot.lock().built_on = Arc::clone(&fresh.snapshot);
        std::mem::replace(self.session_mut(), fresh)
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.held.get().is_some()
    }

    /// Gives the claimed session back to the slot, where it can be exchanged.
    pub(crate) fn park(&mut self) {
        if let Some(session) = self.held.take() {
            self.slot.lock().parked = Some(session);
        }
    }
}

impl Deref for PgConnection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.session().client
    }
}

impl DerefMut for PgConnection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.session_mut().client
    }
}

impl fmt::Debug for PgConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnection")
            .field("generation", &self.generation())
            .field("claimed", &self.is_claimed())
            .finish_non_exhaustive()
    }
}

/// One place in a pool, shared with the manager.
pub(crate) struct Slot(Mutex<Place>);

struct Place {
    /// Empty while claimed.
    parked: Option<Session>,
    /// Of the session in this place, parked or claimed.
    built_on: Arc<Snapshot>,
    /// Seen at a check-out or a return, so not a dedicated connection.
    pooled: bool,
}

/// Where the session of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Idle: it can be exchanged.
    Parked,
    /// Checked out: it comes back.
    Claimed,
    /// Claimed and never seen by the pool: dedicated, or still to be known.
    Unknown,
}

impl Slot {
    pub(crate) fn built_on(&self) -> Arc<Snapshot> {
        Arc::clone(&self.lock().built_on)
    }

    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let place = self.lock();
        match (&place.parked, place.pooled) {
            (Some(_), _) => Whereabouts::Parked,
            (None, true) => Whereabouts::Claimed,
            (None, false) => Whereabouts::Unknown,
        }
    }

    pub(crate) fn mark_pooled(&self) {
        self.lock().pooled = true;
    }

    /// Whether the parked session is closed; `false` while it is claimed.
    pub(crate) fn is_parked_and_closed(&self) -> bool {
        self.lock()
            .parked
            .as_ref()
            .is_some_and(|session| session.client.is_closed())
    }

    /// Puts `fresh` in the place of a parked, older session.
    ///
    /// Returns the session that is left over: the old one, or `fresh` itself if the place was
    /// claimed meanwhile or is as new.
    pub(crate) fn exchange_parked(&self, fresh: Session) -> Session {
        let mut place = self.lock();
        let built_on = Arc::clone(&fresh.snapshot);
        match &mut place.parked {
            Some(parked) if parked.generation() < fresh.generation() => {
                let old = std::mem::replace(parked, fresh);
                place.built_on = built_on;
                old
            }
            _ => fresh,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
