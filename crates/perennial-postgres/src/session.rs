use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use perennial::{LiveCert, Snapshot};
use tokio_postgres::{Client, Config};

use crate::error::ConnectError;
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
    pub(crate) async fn dial(&self) -> Result<Session, ConnectError> {
        // tokio-postgres' own connect_timeout ends with TCP; a server that accepts and says
        // nothing would hold a pool's slot for ever.
        let after = self.connect_timeout;
        match tokio::time::timeout(after, self.dial_unbounded()).await {
            Ok(dialled) => dialled,
            Err(_elapsed) => Err(ConnectError::TimedOut { after }),
        }
    }

    async fn dial_unbounded(&self) -> Result<Session, ConnectError> {
        // Before the TCP connect: the server holds a forked process from there on.
        let snapshot = self.live.valid().await.map_err(ConnectError::Certificate)?;
        let connecting = self.config.connect(connector(&snapshot));
        let (client, connection) = connecting.await.map_err(ConnectError::Postgres)?;

        let driver_error = Arc::new(OnceLock::new());
        let kept = Arc::clone(&driver_error);
        // Ends by itself once the client is dropped and what runs on it has been answered.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection ended with an error");
                let _first = kept.set(error);
            }
        });

        if let Some(on_connect) = &self.on_connect {
            on_connect(&client).await.map_err(ConnectError::OnConnect)?;
        }
        tracing::debug!(generation = snapshot.generation(), "connected");
        Ok(Session {
            client,
            snapshot,
            driver_error,
        })
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
