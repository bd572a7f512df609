//! Connects sessions: one snapshot each, with one deadline for everything.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use perennial::{Renewed, Snapshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::CancelToken;

use crate::dial::{self, LoggedIn};
use crate::error::{ConnectError, NO_ANSWER};
use crate::pool::session::Session;
use crate::pool::state::PoolState;
use crate::tls::connector;

/// How long a cancelled query may take to end before its connection is closed.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// Connects with the newest certificate that the server accepts.
///
/// When the server refuses the newest, this forces one renewal and tries once more. While the newest
/// is refused, the newest that was accepted before stays in use, as long as it is valid.
pub(crate) async fn connect(state: &PoolState, end: Instant) -> Result<Session, ConnectError> {
    let newest = certificate(state, end).await?;
    // Refused before: the rotation keeps trying it, at a pace that the server can bear.
    if let Some(accepted) = state.accepted.instead_of(&newest, state.live.now()) {
        match log_in(state, &accepted, end).await {
            Err(error) if error.is_refusal() => {}
            other => return other,
        }
    }
    let mut refusal = match log_in(state, &newest, end).await {
        Err(error) if error.is_refusal() => error,
        other => return other,
    };
    if let Some(newer) = renewed(state, &newest, end).await {
        refusal = match log_in(state, &newer, end).await {
            Err(error) if error.is_refusal() => error,
            other => return other,
        };
    }
    match state.accepted.instead_of(&newest, state.live.now()) {
        Some(accepted) => log_in(state, &accepted, end).await,
        None => Err(refusal),
    }
}

/// Connects with the newest certificate or fails: what a rotation needs.
pub(crate) async fn connect_newest(
    state: &PoolState,
    end: Instant,
) -> Result<Session, ConnectError> {
    let newest = certificate(state, end).await?;
    let session = log_in(state, &newest, end).await;
    if session.as_ref().is_err_and(ConnectError::is_refusal) {
        // The next try takes the renewed certificate.
        let _ = renewed(state, &newest, end).await;
    }
    session
}

/// Asks the server to cancel what runs on a session, with a certificate that it accepts now.
///
/// The token dials the address of the session, whatever its host's name says now.
pub(crate) async fn cancel(
    state: &PoolState,
    token: &CancelToken,
    server: &str,
) -> Result<(), ConnectError> {
    let request = async {
        let newest = state.live.current().map_err(ConnectError::Certificate)?;
        let accepted = state.accepted.instead_of(&newest, state.live.now());
        let snapshot = accepted.unwrap_or(newest);
        let connector = connector(&snapshot, Some(&state.live));
        let answer = token.cancel_query(connector).await;
        answer.map_err(|error| {
            ConnectError::postgres(error, server.to_owned(), snapshot.generation())
        })
    };
    let answer = timeout(state.settings.connect_timeout, request).await;
    answer.unwrap_or_else(|_elapsed| Err(timed_out(state, NO_ANSWER)))
}

/// A certificate that is valid now.
///
/// Obtained before the TCP connect, because the server holds a forked process from then on. Shortly
/// before the certificate expires this waits for its renewal, but leaves enough time to connect with
/// the current one.
async fn certificate(state: &PoolState, end: Instant) -> Result<Arc<Snapshot>, ConnectError> {
    let live = &state.live;
    if let Ok(renewed) = timeout(half_until(end), live.wait_valid()).await {
        return renewed.map_err(ConnectError::Certificate);
    }
    if let Ok(current) = live.current() {
        return Ok(current);
    }
    match timeout_at(end, live.wait_valid()).await {
        Ok(snapshot) => snapshot.map_err(ConnectError::Certificate),
        Err(_elapsed) => Err(ConnectError::TimedOut {
            after: state.settings.connect_timeout,
            problem: "there was no valid certificate",
            last: live.status().last_error,
        }),
    }
}

/// A newer certificate than this refused one, if one forced renewal returns it in time.
async fn renewed(state: &PoolState, refused: &Snapshot, end: Instant) -> Option<Arc<Snapshot>> {
    let renewal = state.reporter.refused(refused.generation());
    match timeout(half_until(end), renewal).await {
        Ok(Ok(Renewed::Newer(newer))) => Some(newer),
        _ => None,
    }
}

/// Connects with this certificate and prepares the session.
async fn log_in(
    state: &PoolState,
    snapshot: &Arc<Snapshot>,
    end: Instant,
) -> Result<Session, ConnectError> {
    let generation = snapshot.generation();
    let after = state.settings.connect_timeout;
    let logged_in = dial::log_in(&state.config, snapshot, Some(&state.live), end, after).await;
    let LoggedIn {
        client,
        connection,
        server,
    } = match logged_in {
        Ok(logged_in) => logged_in,
        Err(error) => {
            if error.is_refusal() && state.accepted.refused(generation) {
                state.observer.certificate_refused(generation, &error);
            }
            return Err(error);
        }
    };
    let (snapshot_of_session, wake) = (Arc::clone(snapshot), Arc::clone(&state.wake));
    let session = Session::new(client, connection, server.into(), snapshot_of_session, wake);
    state.accepted.logged_in(snapshot);
    state.reporter.accepted(generation);
    if let Err(error) = prepare(state, &session, end).await {
        if !matches!(error, ConnectError::OnConnect(_)) {
            // The hook may wait for a lock: without this, each try would leave one more session.
            let request = cancel(state, &session.driver.cancel, &session.driver.server);
            // The connection is closed whether or not the request succeeds.
            let _ = timeout(CANCEL_GRACE, request).await;
            session.driver.abort();
        }
        return Err(error);
    }
    tracing::debug!(pool = state.observer.pool(), generation, "connected");
    Ok(session)
}

/// Runs the `on_connect` hook.
async fn prepare(state: &PoolState, session: &Session, end: Instant) -> Result<(), ConnectError> {
    let Some(on_connect) = &state.settings.on_connect else {
        return Ok(());
    };
    // A panic, in the call or in the future, must not end the background task.
    let hook = AssertUnwindSafe(async { on_connect(&session.client).await }).catch_unwind();
    match timeout_at(end, hook).await {
        Ok(Ok(result)) => result.map_err(|error| ConnectError::OnConnect(Arc::new(error))),
        Ok(Err(_panic)) => Err(ConnectError::OnConnectPanicked),
        Err(_elapsed) => Err(timed_out(state, "on_connect did not finish")),
    }
}

fn timed_out(state: &PoolState, problem: &'static str) -> ConnectError {
    ConnectError::TimedOut {
        after: state.settings.connect_timeout,
        problem,
        last: None,
    }
}

/// Half of the time left: the other half is for connecting.
fn half_until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()) / 2
}
