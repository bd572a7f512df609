use std::error::Error;
use std::sync::Arc;

use perennial::{LiveCert, Snapshot};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::ConfigError;

/// The protocol name that PostgreSQL 17 requires for direct TLS; harmless elsewhere.
const ALPN: &[u8] = b"postgresql";

type Rustls = MakeRustlsConnect;

/// A TLS connector that takes the current certificate for each connect.
///
/// Works wherever `tokio-postgres` takes a `MakeTlsConnect`: stock `bb8-postgres`,
/// `deadpool-postgres`, bare `tokio-postgres`. It sees single connects, not the pool: old
/// connections stay on their old certificate until the pool closes them.
/// [`CertConnectionManager`](crate::CertConnectionManager) does more.
///
/// A connector cannot see `sslmode`: set `sslmode=require`. With the default, `prefer`,
/// `tokio-postgres` goes on without TLS if the server says that it has none.
///
/// Connecting fails with [`Unavailable`](perennial::Unavailable) while there is no valid
/// certificate: it never goes on without one.
///
/// # Example
/// ```no_run
/// # async fn example(live: perennial::LiveCert) -> Result<(), Box<dyn std::error::Error>> {
/// use perennial_postgres::PgTls;
///
/// let config: tokio_postgres::Config = "host=db.example user=app sslmode=require".parse()?;
/// let (client, connection) = config.connect(PgTls::new(live)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PgTls {
    live: LiveCert,
}

impl PgTls {
    /// Connects as whatever `live` holds at the time.
    pub fn new(live: LiveCert) -> Self {
        Self { live }
    }
}

impl MakeTlsConnect<Socket> for PgTls {
    type Stream = <Rustls as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <Rustls as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Self::TlsConnect, Self::Error> {
        let mut connector = connector(&*self.live.current()?);
        Ok(MakeTlsConnect::<Socket>::make_tls_connect(
            &mut connector,
            hostname,
        )?)
    }
}

/// A connector that presents this snapshot's certificate, on every host of a list.
pub(crate) fn connector(snapshot: &Snapshot) -> MakeRustlsConnect {
    // The clone shares resolver, verifier and session store with all connects of its generation.
    let mut config = Arc::unwrap_or_clone(snapshot.client_config());
    config.alpn_protocols = vec![ALPN.to_vec()];
    MakeRustlsConnect::new(config)
}

/// These settings with TLS required.
pub(crate) fn with_tls(mut config: Config) -> Result<Config, ConfigError> {
    match config.get_ssl_mode() {
        SslMode::Disable => return Err(ConfigError::PlainTcp),
        SslMode::Require => {}
        // Prefer cannot be told from unset, and would go on in plain text.
        _ => {
            config.ssl_mode(SslMode::Require);
        }
    }
    Ok(config)
}
