//! What happens to a connection when it is connected, checked out and returned.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use crate::error::ConnectError;
use crate::pool::connect;
use crate::pool::connection::PgConnection;
use crate::pool::policy::{connect_wait, exchange_reason};
use crate::pool::session::Session;
use crate::pool::slot::Place;
use crate::pool::state::PoolState;

/// Connects a new connection, which the background task observes from then on.
///
/// Retries within the connect timeout while a failure may pass: bb8's own waits grow to half of its
/// timeout, and a server that is back would go unnoticed that long.
pub(crate) async fn open(state: &Arc<PoolState>) -> Result<PgConnection, ConnectError> {
    let end = state.connect_deadline();
    let mut failures = 0;
    let connection = loop {
        state.check_not_draining()?;
        let error = match connect::connect(state, end).await {
            Ok(new) => match new.hand_over(|session| add(state, session)) {
                Ok(connection) => break connection,
                // Forbidden since its login, or the pool is draining.
                Err(_) => continue,
            },
            Err(error) => error,
        };
        state.observer.connect_failed(&error);
        failures += 1;
        let wait = connect_wait(failures, rand::random());
        if !error.class().may_pass() || Instant::now() + wait >= end {
            return Err(error);
        }
        sleep(wait).await;
    };
    state.observer.connected();
    let generation = connection.generation();
    // A rotation may have finished during the connect: it has not seen this connection.
    if state.is_old(generation) {
        state.wake.notify_one();
    }
    Ok(connection)
}

/// A connection with a slot, which the background task observes.
pub(crate) fn add(state: &Arc<PoolState>, session: Session) -> PgConnection {
    let connection = PgConnection::new(session, Arc::clone(state));
    state.add_slot(connection.slot());
    connection
}

/// Claims a connection that is about to be handed out, exchanged first if it is outdated and a
/// spare is ready.
///
/// # Errors
/// The connection must not be used.
pub(crate) fn check_out(
    state: &PoolState,
    connection: &mut PgConnection,
) -> Result<(), ConnectError> {
    state.check_not_draining()?;
    if connection.is_claimed() {
        // The pool's own hook has claimed it, which kept it from being moved until now.
        state.early_use.call_once(|| {
            tracing::warn!(
                pool = state.observer.pool(),
                "a connection was used before its first check-out, as by bb8's connection_customizer: it cannot be moved until it has been returned once; use on_connect"
            );
        });
    }
    connection.slot().mark_pooled(true);
    if !connection.session().is_usable() {
        return_unusable(state, connection);
        return Err(ConnectError::Closed);
    }
    exchange_if_outdated(state, connection);
    let snapshot = &connection.session().driver.snapshot;
    if state.live.has_surely_ended(snapshot) {
        let error = ConnectError::Expired {
            generation: snapshot.generation(),
            not_after: snapshot.not_after(),
        };
        return_unusable(state, connection);
        return Err(error);
    }
    Ok(())
}

/// Parks a connection that is returned, exchanged first if it is outdated and a spare is ready.
///
/// `false` if the connection must not be used again.
pub(crate) fn take_back(state: &PoolState, connection: &mut PgConnection) -> bool {
    if !connection.is_claimed() {
        connection.slot().mark_pooled(true);
        let is_usable = connection.slot().place() != (Place::Parked { usable: false });
        if !is_usable {
            return_unusable(state, connection);
        }
        return is_usable;
    }
    if !connection.session().is_usable() {
        return_unusable(state, connection);
        return false;
    }
    if state.is_draining() {
        // Not refused: bb8 would connect another in its place. `drain` closes it where it is parked.
        connection.park();
        return true;
    }
    exchange_if_outdated(state, connection);
    let driver = &connection.session().driver;
    if state.live.has_surely_ended(&driver.snapshot) {
        return_unusable(state, connection);
        return false;
    }
    let is_outdated = state.is_outdated(driver);
    connection.park();
    if is_outdated {
        // It is idle now: a rotation can exchange it.
        state.wake.notify_one();
    }
    true
}

/// Retires a connection that its pool is about to drop.
fn return_unusable(state: &PoolState, connection: &PgConnection) {
    let driver = connection.slot().driver();
    // One that died after its certificate had expired, as in a suspend, ended for that reason.
    let reason = exchange_reason(false, false, state.has_expired(&driver.snapshot));
    state.retire(&driver, reason);
}

/// Exchanges a claimed session if it is outdated and a spare is ready.
fn exchange_if_outdated(state: &PoolState, connection: &mut PgConnection) {
    let Some(newest) = state.newest() else {
        return;
    };
    let driver = &connection.session().driver;
    if !state.is_outdated(driver) {
        return;
    }
    let reason = exchange_reason(driver.generation() < newest, true, false);
    if let Some(spare) = state.spares.take(newest) {
        drop(connection.exchange(spare, reason));
        state.wake.notify_one();
    }
}
