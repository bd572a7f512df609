//! Cancels what runs on a session, and ends sessions that are in use.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::CancelToken;

use crate::error::{ConnectError, NO_ANSWER};
use crate::pool::observe::RetireReason;
use crate::pool::session::Driver;
use crate::pool::state::PoolState;
use crate::tls::{Presenting, connector};

/// How long a cancelled query may take to end before its connection is closed.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// How often a waiting call looks at a session again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
        let accepted = state.accepted.instead_of(&newest, &state.live);
        let snapshot = accepted.unwrap_or(newest);
        let presenting = Presenting {
            snapshot: &snapshot,
            live: Some(&state.live),
            requests: None,
        };
        let answer = token.cancel_query(connector(presenting)).await;
        answer.map_err(|error| {
            ConnectError::postgres(error, server.to_owned(), snapshot.generation())
        })
    };
    let answer = timeout(state.settings.connect_timeout, request).await;
    answer.unwrap_or_else(|_elapsed| Err(state.timed_out(NO_ANSWER)))
}

/// Cancels what runs on a session, waits a moment for its end, and closes the connection.
pub(crate) async fn end_in_use(state: &PoolState, driver: &Arc<Driver>, reason: RetireReason) {
    driver.mark_unusable();
    state.retire(driver, reason);
    let end = Instant::now() + CANCEL_GRACE;
    // The connection is closed whether or not the request succeeds.
    let cancelled = cancel(state, &driver.cancel, &driver.server);
    let _ = timeout_at(end, cancelled).await;
    while !driver.is_finished() && Instant::now() < end {
        sleep(LOOK_AGAIN).await;
    }
    driver.abort();
}
