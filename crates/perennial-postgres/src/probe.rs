use std::time::Duration;

use perennial::{Gate, Snapshot, Verdict};
use tokio::time::Instant;
use tokio_postgres::Config;

use crate::dial::{LoggedIn, log_in};
use crate::error::{ConnectError, FailureClass};
use crate::tls::{Presenting, with_tls};

/// Less than the 10 s that the core gives a gate: a refusal by one host must be known by then, though
/// another never answers.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A gate that logs in to Postgres with each new certificate before it is published.
///
/// - The server refuses the certificate, or the roots that came with it do not verify the server:
///   the certificate in use stays, and its status has Postgres' error. The gate checks the same
///   candidate again later; nothing is fetched again.
/// - Of several hosts and addresses, the first that accepts the certificate decides; if none does,
///   a refusal by one of them counts more than any other failure.
/// - Any other failure, such as a database that is down, is inconclusive: the certificate is
///   published anyway, because a database outage must not let the certificate expire.
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
#[derive(Clone, Debug)]
pub struct ConnectProbe {
    config: Config,
}

impl ConnectProbe {
    /// Logs in with these settings; `sslmode=prefer` is raised to `require`.
    ///
    /// # Errors
    /// [`ConnectError::Setting`] without a host, for a host that is a Unix socket, for another number
    /// of addresses or ports than of hosts, and for `sslmode=disable`.
    pub fn new(config: Config) -> Result<Self, ConnectError> {
        let config = with_tls(config)?;
        Ok(Self { config })
    }
}

impl Gate for ConnectProbe {
    async fn check(&self, candidate: &Snapshot) -> Verdict {
        let end = Instant::now() + TIMEOUT;
        let presenting = Presenting {
            snapshot: candidate,
            live: None,
            requests: None,
        };
        match log_in(&self.config, presenting, end, TIMEOUT).await {
            Ok(LoggedIn {
                client,
                connection,
                server,
            }) => {
                let generation = candidate.generation();
                tracing::debug!(server, generation, "postgres accepts the new certificate");
                drop(client);
                // Sends the Terminate message. The login has succeeded, so an error does not matter.
                let _ = connection.await;
                Verdict::Accept
            }
            Err(error) => match error.class() {
                FailureClass::CertificateRefused | FailureClass::ServerNotTrusted => {
                    Verdict::refuse(error)
                }
                _ => Verdict::inconclusive(error),
            },
        }
    }
}
