use std::sync::Arc;

use tokio::runtime::Handle;

use crate::error::ConnectError;
use crate::pool::cancel::end_in_use;
use crate::pool::in_flight::Entry;
use crate::pool::observe::RetireReason;
use crate::pool::session::Session;
use crate::pool::state::PoolState;

/// A connect, from its beginning until its session is handed out.
///
/// Until then the pool counts it, and can cut it. If it is dropped before, by a caller that gives up
/// or by an error, what runs on the session is cancelled and the session is closed: a hook may wait
/// for a lock, and each try would leave one more session at the server.
pub(crate) struct NewSession {
    state: Arc<PoolState>,
    entry: Arc<Entry>,
    /// `None` until the login, and after the session was handed out.
    session: Option<Session>,
}

/// Why there is no new session.
pub(crate) enum NoSession {
    Error(ConnectError),
    /// `retire_immediately` has forbidden the generation: the connect begins again with a newer one.
    Forbidden,
}

impl From<ConnectError> for NoSession {
    fn from(error: ConnectError) -> Self {
        Self::Error(error)
    }
}

impl NewSession {
    /// Registers a connect with this generation, unless it is not allowed now.
    pub(crate) fn begin(state: &Arc<PoolState>, generation: u64) -> Result<Self, NoSession> {
        let new = Self {
            entry: state.in_flight.add(generation),
            state: Arc::clone(state),
            session: None,
        };
        // After it was registered: what is forbidden from now on is cut.
        state.check_not_draining()?;
        if !state.accepted.allows(generation) {
            return Err(NoSession::Forbidden);
        }
        Ok(new)
    }

    /// The output of `work`, unless the connect is cut before.
    pub(crate) async fn unless_cut<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, NoSession> {
        tokio::select! {
            biased;
            () = self.entry.cut() => Err(self.why_cut()),
            output = work => Ok(output),
        }
    }

    /// Keeps the session until it is handed out.
    pub(crate) fn log_in(&mut self, session: Session) {
        self.session = Some(session);
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Closes a session on which nothing runs.
    pub(crate) fn close(mut self) {
        drop(self.session.take());
    }

    /// Puts the session where `put` wants it.
    ///
    /// # Errors
    /// The connect was cut before.
    pub(crate) fn hand_over<R>(mut self, put: impl FnOnce(Session) -> R) -> Result<R, NoSession> {
        let (entry, session) = (&self.entry, &mut self.session);
        let mut result = None;
        self.state.in_flight.hand_over(entry, || {
            result = session.take().map(put);
        });
        result.ok_or_else(|| self.why_cut())
    }

    fn why_cut(&self) -> NoSession {
        match self.state.check_not_draining() {
            Err(draining) => NoSession::Error(draining),
            Ok(()) => NoSession::Forbidden,
        }
    }
}

impl Drop for NewSession {
    fn drop(&mut self) {
        if let Some(Session { client, driver }) = self.session.take() {
            // Counted as draining before it is removed from the connects in flight.
            self.state.retire(&driver, RetireReason::GivenUp);
            driver.mark_unusable();
            drop(client);
            let state = Arc::clone(&self.state);
            match Handle::try_current() {
                Ok(runtime) => {
                    let end =
                        async move { end_in_use(&state, &driver, RetireReason::GivenUp).await };
                    drop(runtime.spawn(end));
                }
                // No runtime can send the request to cancel.
                Err(_) => driver.abort(),
            }
        }
        self.state.in_flight.remove(&self.entry);
    }
}
