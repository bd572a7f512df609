use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use perennial::Snapshot;
use tokio_postgres::Client;

use crate::error::ConnectError;
use crate::pool::cancel::Cancel;
use crate::pool::dialer::Dialer;
use crate::pool::notifications::Notifications;
use crate::pool::session::Session;
use crate::pool::slot::Slot;
use crate::pool::status::RetireReason;

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
    dialer: Arc<Dialer>,
}

impl PgConnection {
    pub(crate) fn new(session: Session, dialer: Arc<Dialer>) -> Self {
        Self {
            held: OnceLock::new(),
            slot: Arc::new(Slot::new(session)),
            dialer,
        }
    }

    /// The generation of the certificate that this connection is built on.
    ///
    /// Claims nothing: an untouched connection may be exchanged right after.
    pub fn generation(&self) -> u64 {
        self.slot.driver().snapshot.generation()
    }

    /// The certificate that this connection is built on; claims nothing.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.slot.driver().snapshot)
    }

    /// Why the connection ended, if it was in use and has ended with an error.
    pub fn driver_error(&self) -> Option<&tokio_postgres::Error> {
        self.held.get()?.driver.error()
    }

    /// Whether the connection is known to be closed; claims nothing, unlike the client's own.
    pub fn is_closed(&self) -> bool {
        match self.held.get() {
            Some(session) => session.client.is_closed(),
            None => self.slot.is_parked_and_closed(),
        }
    }

    /// What `LISTEN` on this connection brings, from here on; claims it.
    pub fn notifications(&self) -> Notifications {
        self.session().driver.notifications()
    }

    /// Cancels what runs on this connection, from anywhere; claims it.
    ///
    /// Unlike the driver's own `cancel_token`, it needs no TLS connector: it takes the certificate
    /// that is current when it is used.
    pub fn canceller(&self) -> Cancel {
        Cancel {
            token: self.session().driver.cancel.clone(),
            dialer: Arc::clone(&self.dialer),
        }
    }

    /// Moves onto the newest certificate: for connections that no pool looks after.
    ///
    /// Connects first; then the old session finishes what runs on it and is closed. Session state
    /// is lost, `LISTEN` included. Does nothing on a session that is open and on the newest
    /// generation already.
    ///
    /// # Errors
    /// The newest certificate could not be connected with; the old session stays.
    ///
    /// # Cancel safety
    /// Cancelled, the old session stays.
    pub async fn refresh(&mut self) -> Result<(), ConnectError> {
        let current = self.dialer.live.current();
        let newest = current.map_err(ConnectError::Certificate)?.generation();
        if self.session().generation() >= newest && self.session().is_fit() {
            return Ok(());
        }
        let fresh = self.dialer.dial_newest(self.dialer.deadline()).await?;
        let old = self.exchange(fresh);
        self.dialer.let_go(&old.driver, RetireReason::Asked);
        Ok(())
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
            .get_or_init(|| self.slot.claim().expect("parked unless held"))
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        self.session();
        #[expect(clippy::expect_used, reason = "the line above has filled it")]
        self.held.get_mut().expect("just claimed")
    }

    /// Puts `fresh` in the place of the claimed session and returns the old one.
    pub(crate) fn exchange(&mut self, fresh: Session) -> Session {
        self.slot.now_built_on(&fresh);
        std::mem::replace(self.session_mut(), fresh)
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.held.get().is_some()
    }

    /// Gives the claimed session back to the slot, where it can be exchanged.
    pub(crate) fn park(&mut self) {
        if let Some(session) = self.held.take() {
            self.slot.park(session);
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
