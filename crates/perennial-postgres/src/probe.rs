use std::fmt;

use perennial::{Gate, Snapshot, Verdict};
use tokio_postgres::Config;

use crate::error::{ConfigError, ConnectError};
use crate::failure::FailureClass;
use crate::tls::{connector, with_tls};

/// A gate that logs in to Postgres with each new certificate before it is published.
///
/// - Refused by the server, or the server is not trusted by the roots that came with it: the
///   certificate in use stays, and its status says why in Postgres' words. The candidate is tried
///   again, not fetched again.
/// - It cannot be told, as while the database is down: published all the same, since that must not
///   let the certificate expire.
///
/// # Example
/// ```no_run
/// # async fn example(source: perennial::FileSource) -> Result<(), Box<dyn std::error::Error>> {
/// use perennial::LiveCert;
/// use perennial_postgres::{CertConnectionManager, ConnectProbe};
///
/// let config: tokio_postgres::Config = "host=db.example user=app".parse()?;
/// let live = LiveCert::builder()
///     .gate(ConnectProbe::new(config.clone())?)
///     .start(source)
///     .await?;
/// let manager = CertConnectionManager::new(live, config)?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ConnectProbe {
    config: Config,
}

impl ConnectProbe {
    /// Logs in as `config` says; `sslmode` prefer is raised to require.
    ///
    /// # Errors
    /// [`ConfigError::NoHost`], [`ConfigError::PlainTcp`] for `sslmode=disable`,
    /// [`ConfigError::UnixSocket`] for a host that is one.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let config = with_tls(config)?;
        Ok(Self { config })
    }
}

impl Gate for ConnectProbe {
    async fn check(&self, candidate: &Snapshot) -> Verdict {
        match self.config.connect(connector(candidate, None)).await {
            Ok((client, connection)) => {
                drop(client);
                // Says good-bye; what comes of that is no matter.
                let _end = connection.await;
                Verdict::Accept
            }
            Err(error) => {
                let error = ConnectError::postgres(error, candidate.generation());
                match error.class() {
                    FailureClass::CertificateRefused | FailureClass::ServerNotTrusted => {
                        Verdict::refuse(error)
                    }
                    _ => Verdict::cannot_tell(error),
                }
            }
        }
    }
}

impl fmt::Debug for ConnectProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectProbe")
            .field("hosts", &self.config.get_hosts())
            .finish_non_exhaustive()
    }
}
