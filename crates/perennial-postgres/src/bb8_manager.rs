use std::sync::Arc;

use bb8::{ErrorSink, ManageConnection, RunError};

use crate::error::{CheckoutError, ConnectError};
use crate::failure::FailureClass;
use crate::pool::connection::PgConnection;
use crate::pool::manager::CertConnectionManager;
use crate::pool::rotation::Rotation;

/// For bb8.
impl CertConnectionManager {
    /// A bb8 builder with what rotation needs: hand it a clone of this manager.
    ///
    /// # Defaults
    /// No `max_lifetime` and no `idle_timeout`, which would close connections that rotation keeps
    /// fresh anyway; `test_on_check_out`, which costs no round trip here; and an error sink that
    /// remembers why connects fail. The rest is bb8's.
    ///
    /// Leave `connection_customizer` alone: it does not run on replacements, and what it touches is
    /// out of a rotation's reach until it has been checked out once.
    /// [`on_connect`](crate::CertConnectionManagerBuilder::on_connect) is for that.
    pub fn pool_builder(&self) -> bb8::Builder<Self> {
        bb8::Pool::builder()
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(true)
            .error_sink(Box::new(Sink(Arc::clone(self.rotation()))))
    }

    /// Adds the cause to what `pool.get()` returned.
    ///
    /// # Example
    /// ```no_run
    /// # use perennial_postgres::{CertConnectionManager, CheckoutError};
    /// # async fn example(
    /// #     pool: bb8::Pool<CertConnectionManager>, manager: CertConnectionManager,
    /// # ) -> Result<(), CheckoutError> {
    /// let client = pool.get().await.map_err(|error| manager.explain(error))?;
    /// # Ok(()) }
    /// ```
    pub fn explain(&self, error: RunError<ConnectError>) -> CheckoutError {
        match error {
            RunError::TimedOut => CheckoutError::TimedOut {
                last: self.rotation().dialer.signals.counts().last_error,
            },
            RunError::User(error) => CheckoutError::Failed(error),
        }
    }
}

impl ManageConnection for CertConnectionManager {
    type Connection = PgConnection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<PgConnection, ConnectError> {
        self.running().connect().await
    }

    /// Costs no round trip: what the driver has read is known at once.
    async fn is_valid(&self, connection: &mut PgConnection) -> Result<(), ConnectError> {
        self.rotation().check_out(connection)
    }

    /// Called at return: exchanges an old client if a spare stands ready, and parks.
    fn has_broken(&self, connection: &mut PgConnection) -> bool {
        !self.rotation().take_back(connection)
    }
}

/// Keeps what bb8 would drop.
#[derive(Debug)]
struct Sink(Arc<Rotation>);

impl ErrorSink<ConnectError> for Sink {
    fn sink(&self, error: ConnectError) {
        match error.class() {
            // No failure to connect: the pool replaces what has ended.
            FailureClass::Ended => tracing::debug!(%error, "a pooled connection is replaced"),
            // Told when it happened, but bb8's next success may be far off.
            _ => self.0.dialer.signals.keep(error),
        }
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<ConnectError>> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}
