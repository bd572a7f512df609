use std::sync::Arc;

use bb8::{ErrorSink, ManageConnection, RunError};

use crate::error::{ConnectError, FailureClass};
use crate::pool::checkout;
use crate::pool::connection::PgConnection;
use crate::pool::manager::CertConnectionManager;
use crate::pool::state::PoolState;

/// For bb8.
impl CertConnectionManager {
    /// A bb8 builder with the settings that rotation needs; give a clone of this manager to `build`.
    ///
    /// Do not set a `connection_customizer`: it does not run on replacements, and a rotation cannot
    /// move a connection that it has used until that was checked out once. Use
    /// [`on_connect`](crate::CertPoolBuilder::on_connect).
    ///
    /// # Defaults
    /// No `max_lifetime` and no `idle_timeout`, which would close connections that rotation keeps
    /// fresh; `test_on_check_out`, which costs no round trip here; an error sink that keeps why
    /// connects fail. The rest is bb8's.
    pub fn bb8_builder(&self) -> bb8::Builder<Self> {
        bb8::Pool::builder()
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(true)
            .error_sink(Box::new(Sink(Arc::clone(self.state()))))
    }

    /// Adds the cause to the error of bb8's `get()`.
    pub fn explain(&self, error: RunError<ConnectError>) -> ConnectError {
        match error {
            RunError::User(error) => error,
            RunError::TimedOut => ConnectError::NoneFree {
                in_use: self.state().in_use(),
                connecting: self.status().connecting,
                last: self.status().last_error.map(Arc::new),
            },
        }
    }
}

impl ManageConnection for CertConnectionManager {
    type Connection = PgConnection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<PgConnection, ConnectError> {
        self.dedicated_connection().await
    }

    /// Costs no round trip: what the driver has read is known.
    async fn is_valid(&self, connection: &mut PgConnection) -> Result<(), ConnectError> {
        checkout::check_out(self.state(), connection)
    }

    /// Called when a connection is returned.
    fn has_broken(&self, connection: &mut PgConnection) -> bool {
        !checkout::take_back(self.state(), connection)
    }
}

/// Keeps the errors that bb8 would drop.
#[derive(Debug)]
struct Sink(Arc<PoolState>);

impl ErrorSink<ConnectError> for Sink {
    fn sink(&self, error: ConnectError) {
        match error.class() {
            // Not a failed connect: the pool replaces a connection that has ended.
            FailureClass::Ended => tracing::debug!(%error, "replacing a pooled connection"),
            // Reported already, but bb8's next try may be far away.
            _ => self.0.observer.keep(error),
        }
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<ConnectError>> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}
