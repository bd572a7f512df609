use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use perennial::{LiveCert, Snapshot, with_causes};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Config};

use crate::error::{ConnectError, Phase};
use crate::tls::connector;

/// A logged-in client, and the certificate that it was built with.
///
/// Dropped, its client lets running queries and streams finish and then says good-bye.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) snapshot: Arc<Snapshot>,
    driver_error: Arc<OnceLock<tokio_postgres::Error>>,
}

impl Session {
    pub(crate) fn generation(&self) -> u64 {
        self.snapshot.generation()
    }

    /// Why the driver task ended, once it has ended with an error.
    pub(crate) fn driver_error(&self) -> Option<&tokio_postgres::Error> {
        self.driver_error.get()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("generation", &self.generation())
            .field("closed", &self.client.is_closed())
            .finish_non_exhaustive()
    }
}

/// Runs on each new connection before anybody gets it, replacements included.
pub(crate) type OnConnect = dyn for<'a> Fn(
        &'a Client,
    ) -> Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + 'a>>
    + Send
    + Sync;

/// Makes sessions: one snapshot each, within one timeout for everything.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) live: LiveCert,
    pub(crate) config: Config,
    pub(crate) connect_timeout: Duration,
    pub(crate) on_connect: Option<Arc<OnConnect>>,
}

impl Dialer {
    /// Connects, within one timeout for everything.
    ///
    /// tokio-postgres' own `connect_timeout` ends with TCP; a server that accepts and says nothing
    /// would hold a pool's slot for ever.
    pub(crate) async fn dial(&self) -> Result<Session, ConnectError> {
        let end = Instant::now() + self.connect_timeout;
        // Before the TCP connect: the server holds a forked process from there on.
        let snapshot = match timeout_at(end, self.live.valid()).await {
            Ok(snapshot) => snapshot.map_err(ConnectError::Certificate)?,
            Err(_elapsed) => return Err(self.timed_out(Phase::Certificate)),
        };
        let connecting = self.config.connect(connector(&snapshot));
        let (client, connection) = match timeout_at(end, connecting).await {
            Ok(connected) => connected.map_err(ConnectError::Postgres)?,
            Err(_elapsed) => return Err(self.timed_out(Phase::Server)),
        };

        let driver_error = Arc::new(OnceLock::new());
        let kept = Arc::clone(&driver_error);
        // Ends by itself once the client is dropped and what runs on it has been answered.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %with_causes(&error), "a connection ended with an error");
                let _first = kept.set(error);
            }
        });

        if let Some(on_connect) = &self.on_connect {
            // Its panic must not end the task that replaces connections.
            let hook = AssertUnwindSafe(on_connect(&client)).catch_unwind();
            match timeout_at(end, hook).await {
                Ok(Ok(done)) => done.map_err(ConnectError::OnConnect)?,
                Ok(Err(_panic)) => return Err(ConnectError::OnConnectPanicked),
                Err(_elapsed) => return Err(self.timed_out(Phase::OnConnect)),
            }
        }
        tracing::debug!(generation = snapshot.generation(), "connected");
        Ok(Session {
            client,
            snapshot,
            driver_error,
        })
    }

    fn timed_out(&self, phase: Phase) -> ConnectError {
        let last = match phase {
            Phase::Certificate => self.live.status().last_error,
            Phase::Server | Phase::OnConnect => None,
        };
        ConnectError::TimedOut {
            after: self.connect_timeout,
            phase,
            last,
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("live", &self.live)
            .field("hosts", &self.config.get_hosts())
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
