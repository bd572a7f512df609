//! What happens to a connection at check-out and at return.

use std::sync::atomic::Ordering;

use super::Rotation;
use crate::error::ConnectError;
use crate::pool::connection::PgConnection;
use crate::pool::slot::Whereabouts;
use crate::pool::status::RetireReason;

impl Rotation {
    /// Whether this connection may be handed out; exchanges an old one first if a spare is ready.
    pub(crate) fn check_out(&self, connection: &mut PgConnection) -> Result<(), ConnectError> {
        if self.is_draining() {
            return Err(ConnectError::Draining);
        }
        if connection.is_claimed() {
            self.touched_before_check_out();
        }
        connection.slot().mark_pooled(true);
        if !connection.session().is_fit() {
            self.give_back(connection, RetireReason::Dead);
            return Err(ConnectError::Closed);
        }
        if self.is_old(&connection.snapshot()) {
            self.exchange_claimed(connection);
        }
        let snapshot = connection.snapshot();
        if self.has_expired(&snapshot) {
            self.give_back(connection, RetireReason::Expired);
            return Err(ConnectError::Expired {
                generation: snapshot.generation(),
                not_after: snapshot.not_after(),
            });
        }
        Ok(())
    }

    /// Parks a connection that comes back, exchanged first if it is old and a spare is ready;
    /// `false` if it must not be used again.
    pub(crate) fn take_back(&self, connection: &mut PgConnection) -> bool {
        connection.slot().mark_pooled(true);
        if !connection.is_claimed() {
            let is_fit = connection.slot().whereabouts() != Whereabouts::Parked { fit: false };
            if !is_fit {
                self.give_back(connection, RetireReason::Dead);
            }
            return is_fit;
        }
        if !connection.session().is_fit() {
            self.give_back(connection, RetireReason::Dead);
            return false;
        }
        if self.is_draining() {
            // Not refused: bb8 would connect another in its place. It is closed where it is parked.
            connection.park();
            return true;
        }
        if self.is_old(&connection.snapshot()) {
            self.exchange_claimed(connection);
        }
        if self.has_expired(&connection.snapshot()) {
            self.give_back(connection, RetireReason::Expired);
            return false;
        }
        connection.park();
        if self.is_old(&connection.snapshot()) {
            // It is idle now: a rotation may go on.
            self.wake.notify_one();
        }
        true
    }

    /// Counts a connection that its pool is about to drop.
    fn give_back(&self, connection: &PgConnection, reason: RetireReason) {
        self.dialer.let_go(&connection.slot().driver(), reason);
    }

    /// A pool's own hook has claimed it, so that it was out of reach until now.
    fn touched_before_check_out(&self) {
        if !self.hook_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                pool = self.dialer.signals.name(),
                "a connection was used before its first check-out, as by bb8's connection_customizer: until it has come back once it cannot be moved; use on_connect"
            );
        }
    }

    /// Exchanges a claimed, old session if a spare stands ready.
    fn exchange_claimed(&self, connection: &mut PgConnection) {
        if let Some(spare) = self.newest().and_then(|newest| self.shelf.take(newest)) {
            let old = connection.exchange(spare);
            self.dialer.let_go(&old.driver, RetireReason::Rotated);
            self.wake.notify_one();
        }
    }
}
