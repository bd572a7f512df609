//! Connects sessions: one snapshot each, with one deadline for everything.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use perennial::{Renewed, Snapshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::dial::{self, LoggedIn};
use crate::error::ConnectError;
use crate::pool::new_session::{NewSession, NoSession};
use crate::pool::session::Session;
use crate::pool::state::PoolState;
use crate::tls::Presenting;

/// Connects with the newest certificate that the server accepts.
///
/// When the server refuses the newest, this forces one renewal and tries once more. While the newest
/// is refused, the newest that was accepted before stays in use, as long as it is valid.
pub(crate) async fn connect(
    state: &Arc<PoolState>,
    end: Instant,
) -> Result<NewSession, ConnectError> {
    while_forbidden(|| async {
        let newest = certificate(state, end).await?;
        // Refused before: the rotation keeps trying it, at a pace that the server can bear.
        if let Some(accepted) = state.accepted.instead_of(&newest, &state.live) {
            match log_in(state, &accepted, end).await {
                Err(NoSession::Error(error)) if error.is_refusal() => {}
                other => return other,
            }
        }
        let mut refusal = match log_in(state, &newest, end).await {
            Err(NoSession::Error(error)) if error.is_refusal() => error,
            other => return other,
        };
        if let Some(newer) = renewed(state, &newest, end).await {
            refusal = match log_in(state, &newer, end).await {
                Err(NoSession::Error(error)) if error.is_refusal() => error,
                other => return other,
            };
        }
        match state.accepted.instead_of(&newest, &state.live) {
            Some(accepted) => log_in(state, &accepted, end).await,
            None => Err(refusal.into()),
        }
    })
    .await
}

/// Connects with the newest certificate or fails: what a rotation needs.
pub(crate) async fn connect_newest(
    state: &Arc<PoolState>,
    end: Instant,
) -> Result<NewSession, ConnectError> {
    while_forbidden(|| async {
        let newest = certificate(state, end).await?;
        let session = log_in(state, &newest, end).await;
        if matches!(&session, Err(NoSession::Error(error)) if error.is_refusal()) {
            // The next try takes the renewed certificate.
            let _ = renewed(state, &newest, end).await;
        }
        session
    })
    .await
}

/// Tries again as long as the generation is forbidden meanwhile: each try takes a newer one.
pub(crate) async fn while_forbidden<T, F>(attempt: impl Fn() -> F) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, NoSession>>,
{
    loop {
        match attempt().await {
            Ok(output) => return Ok(output),
            Err(NoSession::Error(error)) => return Err(error),
            Err(NoSession::Forbidden) => {}
        }
    }
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
    state: &Arc<PoolState>,
    snapshot: &Arc<Snapshot>,
    end: Instant,
) -> Result<NewSession, NoSession> {
    let generation = snapshot.generation();
    let mut new = NewSession::begin(state, generation)?;
    let after = state.settings.connect_timeout;
    // Boxed, because callers' futures contain this one several times over.
    let presenting = Presenting {
        snapshot,
        live: Some(&state.live),
        requests: Some(&state.requests),
    };
    let dialling = Box::pin(dial::log_in(&state.config, presenting, end, after));
    let LoggedIn {
        client,
        connection,
        server,
    } = match new.unless_cut(dialling).await? {
        Ok(logged_in) => logged_in,
        Err(error) => {
            if error.is_refusal() && state.accepted.refused(generation) {
                state.observer.certificate_refused(generation, &error);
            }
            return Err(error.into());
        }
    };
    state.accepted.logged_in(snapshot);
    state.reporter.accepted(generation);
    let was_asked = state.requests.was_asked(generation);
    state.observer.certificate_requested(was_asked);
    let snapshot = Arc::clone(snapshot);
    let session = Session::new(client, connection, server.into(), snapshot, state.side());
    new.log_in(session);
    if let Some(session) = new.session() {
        match new.unless_cut(prepare(state, session, end)).await? {
            Err(error @ ConnectError::OnConnect(_)) => {
                // The hook has ended, so nothing runs that would have to be cancelled.
                new.close();
                return Err(error.into());
            }
            prepared => prepared?,
        }
        session.driver.accept_role();
    }
    tracing::debug!(pool = state.observer.pool(), generation, "connected");
    Ok(new)
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
        Err(_elapsed) => Err(state.timed_out("on_connect did not finish")),
    }
}

/// Half of the time left: the other half is for connecting.
fn half_until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()) / 2
}
