use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use perennial::{Events, Snapshot};
use tokio_postgres::{CancelToken, Client};

use crate::error::ConnectError;
use crate::pool::cancel::cancel;
use crate::pool::connect;
use crate::pool::new_session::NoSession;
use crate::pool::observe::RetireReason;
use crate::pool::session::{Notified, Session};
use crate::pool::slot::Slot;
use crate::pool::state::PoolState;

/// A pooled connection; derefs to [`tokio_postgres::Client`].
///
/// An idle connection is only a place in the pool: its client is *parked* there, and the pool may
/// exchange it for a client on a newer certificate. A check-out *claims* the client, and so does the
/// first deref of a connection that was not checked out, such as a dedicated one. From then on every
/// deref is a plain borrow of that one client, and the pool does not exchange or close it until the
/// connection is returned, except past the hard limit and by `retire_immediately`. Returning it
/// parks the client again, and the next check-out may get another one, so session state (`SET`,
/// temporary tables, advisory locks, `LISTEN`, prepared statements, an open transaction) must not be
/// relied on across check-outs. It is not reset either: if the client was not exchanged, the next
/// caller finds the session as the last one left it, an open transaction included. What every
/// session needs goes into [`on_connect`](crate::CertPoolBuilder::on_connect).
pub struct PgConnection {
    /// Empty while the client is parked in the slot.
    claimed: OnceLock<Session>,
    slot: Arc<Slot>,
    state: Arc<PoolState>,
}

impl PgConnection {
    pub(crate) fn new(session: Session, state: Arc<PoolState>) -> Self {
        Self {
            claimed: OnceLock::new(),
            slot: Arc::new(Slot::new(session)),
            state,
        }
    }

    /// The generation of this connection's certificate.
    ///
    /// Claims nothing: an unclaimed connection may be exchanged right after.
    pub fn generation(&self) -> u64 {
        self.slot.driver().generation()
    }

    /// The snapshot with this connection's certificate; claims nothing.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.slot.driver().snapshot)
    }

    /// Why the connection ended, if it is claimed and has ended with an error.
    pub fn driver_error(&self) -> Option<&tokio_postgres::Error> {
        self.claimed.get()?.driver.error()
    }

    /// Whether the connection is known to be closed; claims nothing, unlike the client's method.
    pub fn is_closed(&self) -> bool {
        match self.claimed.get() {
            Some(session) => session.client.is_closed(),
            None => self.slot.driver().is_finished(),
        }
    }

    /// Notifications for what this session listens to, from now on; claims the connection.
    ///
    /// They end with the session. For a listener that lasts, take a dedicated connection, and send
    /// `LISTEN` again after [`refresh`](Self::refresh).
    ///
    /// # Defaults
    /// A reader that is more than 256 notifications behind misses some.
    pub fn notifications(&self) -> Events<Notified> {
        self.session().driver.notifications()
    }

    /// Cancels what runs on this connection, from any task; claims the connection.
    ///
    /// Unlike the driver's own `cancel_token`, it needs no TLS connector: it uses the certificate
    /// that is current when it is called.
    pub fn canceller(&self) -> Cancel {
        let driver = &self.session().driver;
        Cancel {
            token: driver.cancel.clone(),
            server: Arc::clone(&driver.server),
            state: Arc::clone(&self.state),
        }
    }

    /// Moves a dedicated connection, which no pool moves, onto the newest certificate.
    ///
    /// Connects first; then the old session finishes what runs on it and closes. Session state is
    /// lost, `LISTEN` included. Does nothing if the session is open, on the newest generation, and at a
    /// server of the role that `target_session_attrs` asks for.
    ///
    /// # Errors
    /// Connecting with the newest certificate failed; the old session stays in use.
    ///
    /// # Cancel safety
    /// Cancelled, the old session stays in use.
    pub async fn refresh(&mut self) -> Result<(), ConnectError> {
        let current = self.state.live.current();
        let newest = current.map_err(ConnectError::Certificate)?.generation();
        let session = self.session();
        let is_outdated = session.generation() < newest || session.driver.role_changed();
        if !is_outdated && session.is_usable() {
            return Ok(());
        }
        let end = self.state.connect_deadline();
        let state = Arc::clone(&self.state);
        loop {
            let fresh = connect::connect_newest(&state, end).await?;
            let exchange = |session| drop(self.exchange(session, RetireReason::Requested));
            match fresh.hand_over(exchange) {
                Ok(()) => return Ok(()),
                Err(NoSession::Error(error)) => return Err(error),
                Err(NoSession::Forbidden) => {}
            }
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.claimed.get().is_some()
    }

    /// The session; claims it.
    pub(crate) fn session(&self) -> &Session {
        #[expect(clippy::expect_used, reason = "only this and `park` move it")]
        self.claimed
            .get_or_init(|| self.slot.claim().expect("parked unless claimed"))
    }

    fn session_mut(&mut self) -> &mut Session {
        self.session();
        #[expect(clippy::expect_used, reason = "the line above has filled it")]
        self.claimed.get_mut().expect("just claimed")
    }

    /// Puts `fresh` in the place of the claimed session, which is retired, and returns the old one.
    pub(crate) fn exchange(&mut self, fresh: Session, reason: RetireReason) -> Session {
        self.state.retire(&self.session().driver, reason);
        self.slot.claimed_is_now(&fresh);
        std::mem::replace(self.session_mut(), fresh)
    }

    /// Returns the claimed session to the slot, where it can be exchanged.
    pub(crate) fn park(&mut self) {
        if let Some(session) = self.claimed.take() {
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

/// Cancels what runs on one connection.
///
/// Connects with the current certificate, or with the newest accepted one while the server refuses
/// the current one.
#[derive(Clone)]
pub struct Cancel {
    token: CancelToken,
    server: Arc<str>,
    state: Arc<PoolState>,
}

impl Cancel {
    /// Asks the server to cancel the query that runs on the connection, if there is one.
    ///
    /// The server does not answer whether it did; a query that was cancelled fails with SQLSTATE
    /// 57014.
    ///
    /// # Errors
    /// The request did not reach the server within the connect timeout.
    ///
    /// # Cancel safety
    /// Cancelled, the query may be cancelled or not.
    pub async fn cancel_query(&self) -> Result<(), ConnectError> {
        cancel(&self.state, &self.token, &self.server).await
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").finish_non_exhaustive()
    }
}
