use std::error::Error;
use std::fmt;
use std::sync::Arc;

use perennial::{LiveCert, Snapshot, Unavailable};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::ConfigError;
use last_words::LastWords;

mod last_words;

/// The protocol name that PostgreSQL 17 requires for direct TLS; harmless elsewhere.
const ALPN: &[u8] = b"postgresql";

/// The driver of TLS, on sockets that hear the server out.
type Rustls = <MakeRustlsConnect as MakeTlsConnect<LastWords<Socket>>>::TlsConnect;
type RustlsStream = <Rustls as TlsConnect<LastWords<Socket>>>::Stream;

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
    type Stream = RustlsStream;
    type TlsConnect = Handshake;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Handshake, Self::Error> {
        connector(&*self.live.current()?, None).make_tls_connect(hostname)
    }
}

/// Presents one snapshot's certificate, on every host of a list, as long as it is valid.
pub(crate) struct Connector<'a> {
    rustls: MakeRustlsConnect,
    snapshot: &'a Snapshot,
    /// By whose clock.
    live: Option<&'a LiveCert>,
}

/// A connector for one snapshot; with a clock, it looks at it again for each host: a slow network
/// must not outlast the certificate.
pub(crate) fn connector<'a>(snapshot: &'a Snapshot, live: Option<&'a LiveCert>) -> Connector<'a> {
    // The clone shares resolver, verifier and session store with all connects of its generation.
    let mut config = Arc::unwrap_or_clone(snapshot.client_config());
    config.alpn_protocols = vec![ALPN.to_vec()];
    Connector {
        rustls: MakeRustlsConnect::new(config),
        snapshot,
        live,
    }
}

impl MakeTlsConnect<Socket> for Connector<'_> {
    type Stream = RustlsStream;
    type TlsConnect = Handshake;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Handshake, Self::Error> {
        let not_after = self.snapshot.not_after();
        if self.live.is_some_and(|live| live.now() >= not_after) {
            return Err(Box::new(Unavailable::Expired {
                generation: self.snapshot.generation(),
                not_after,
                last: None,
            }));
        }
        let rustls = &mut self.rustls;
        let handshake = MakeTlsConnect::<LastWords<Socket>>::make_tls_connect(rustls, hostname)?;
        Ok(Handshake(handshake))
    }
}

/// One TLS handshake to come.
#[expect(unnameable_types, reason = "named as the connector's associated type")]
pub struct Handshake(Rustls);

impl TlsConnect<Socket> for Handshake {
    type Stream = RustlsStream;
    type Error = <Rustls as TlsConnect<LastWords<Socket>>>::Error;
    type Future = <Rustls as TlsConnect<LastWords<Socket>>>::Future;

    fn connect(self, socket: Socket) -> Self::Future {
        self.0.connect(LastWords::new(socket))
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// These settings with TLS required.
pub(crate) fn with_tls(mut config: Config) -> Result<Config, ConfigError> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(ConfigError::NoHost);
    }
    let is_tcp = |host: &Host| matches!(host, Host::Tcp(_));
    if !config.get_hosts().iter().all(is_tcp) {
        return Err(ConfigError::UnixSocket);
    }
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
