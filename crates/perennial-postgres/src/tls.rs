use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use perennial::rustls::SignatureScheme;
use perennial::rustls::client::ResolvesClientCert;
use perennial::rustls::sign::CertifiedKey;
use perennial::{LiveCert, Snapshot, Unavailable};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::ConnectError;
use alert_stream::AlertStream;

mod alert_stream;

/// The protocol name that PostgreSQL 17 requires for direct TLS; harmless elsewhere.
const ALPN: &[u8] = b"postgresql";

type Rustls = <MakeRustlsConnect as MakeTlsConnect<AlertStream<Socket>>>::TlsConnect;
pub(crate) type RustlsStream = <Rustls as TlsConnect<AlertStream<Socket>>>::Stream;

/// A TLS connector that takes the current certificate for each connect.
///
/// Works wherever `tokio-postgres` takes a `MakeTlsConnect`: stock `bb8-postgres`,
/// `deadpool-postgres`, bare `tokio-postgres`. It sees single connects, not the pool: open
/// connections stay on their certificate until the pool closes them. [`CertPool`](crate::CertPool)
/// moves them too.
///
/// A connector cannot see `sslmode`, so set `sslmode=require`: with the default, `prefer`,
/// `tokio-postgres` continues without TLS when the server answers that it has none.
///
/// Connecting fails with [`Unavailable`](perennial::Unavailable) while there is no valid
/// certificate. It never continues without one.
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
    /// Presents the certificate that is current in `live` at each connect.
    pub fn new(live: LiveCert) -> Self {
        Self { live }
    }
}

impl MakeTlsConnect<Socket> for PgTls {
    type Stream = RustlsStream;
    type TlsConnect = Handshake;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Handshake, Self::Error> {
        let presenting = Presenting {
            snapshot: &*self.live.current()?,
            live: None,
            requests: None,
        };
        connector(presenting).make_tls_connect(hostname)
    }
}

/// Presents one snapshot's certificate to each host of a list, as long as it is valid.
pub(crate) struct Connector<'a> {
    rustls: MakeRustlsConnect,
    snapshot: &'a Snapshot,
    /// Whose clocks decide whether the certificate has expired.
    live: Option<&'a LiveCert>,
}

/// What a connect presents.
#[derive(Clone, Copy)]
pub(crate) struct Presenting<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// With it, the connector compares the clocks with the certificate's expiry again for each host:
    /// a slow network may outlast the certificate.
    pub(crate) live: Option<&'a LiveCert>,
    /// Notes whether the servers ask for the certificate.
    pub(crate) requests: Option<&'a Requests>,
}

/// A connector for one snapshot.
pub(crate) fn connector(presenting: Presenting<'_>) -> Connector<'_> {
    let Presenting {
        snapshot,
        live,
        requests,
    } = presenting;
    // The clone shares resolver, verifier and session store with all connects of its generation.
    let mut config = Arc::unwrap_or_clone(snapshot.client_config());
    if let Some(requests) = requests {
        // Another resolver, but the same one for all connects of the pool with this generation:
        // rustls resumes only sessions of the same one.
        let resolver = Arc::clone(&config.client_auth_cert_resolver);
        config.client_auth_cert_resolver = requests.noting(snapshot.generation(), resolver);
    }
    config.alpn_protocols = vec![ALPN.to_vec()];
    Connector {
        rustls: MakeRustlsConnect::new(config),
        snapshot,
        live,
    }
}

/// Whether the servers of a pool ask for its certificates.
///
/// A server that does not ask lets a client in without a certificate, if its rules have another way;
/// a pooler may do so on purpose.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<Vec<Arc<Noting>>>);

/// Generations that a pool may connect with at a time: the newest, and the accepted one that it falls
/// back to.
const GENERATIONS: usize = 2;

/// Presents as `resolver` does, and notes that it was asked to.
#[derive(Debug)]
struct Noting {
    generation: u64,
    resolver: Arc<dyn ResolvesClientCert>,
    was_asked: AtomicBool,
}

impl Requests {
    fn noting(&self, generation: u64, resolver: Arc<dyn ResolvesClientCert>) -> Arc<Noting> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(noting) = kept.iter().find(|noting| noting.generation == generation) {
            return Arc::clone(noting);
        }
        let noting = Arc::new(Noting {
            generation,
            resolver,
            was_asked: AtomicBool::new(false),
        });
        kept.push(Arc::clone(&noting));
        if kept.len() > GENERATIONS {
            kept.sort_by_key(|noting| noting.generation);
            kept.remove(0);
        }
        noting
    }

    /// Whether a server has asked for the certificate of this generation.
    ///
    /// A session that is resumed presents nothing; it comes from one that was asked.
    #[cfg(feature = "pool")]
    pub(crate) fn was_asked(&self, generation: u64) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_generation = kept.iter().find(|noting| noting.generation == generation);
        of_generation.is_none_or(|noting| noting.was_asked.load(Ordering::Relaxed))
    }
}

impl ResolvesClientCert for Noting {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        self.resolver.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.resolver.has_certs()
    }
}

impl MakeTlsConnect<Socket> for Connector<'_> {
    type Stream = RustlsStream;
    type TlsConnect = Handshake;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Handshake, Self::Error> {
        if self.live.is_some_and(|live| live.has_ended(self.snapshot)) {
            return Err(Box::new(Unavailable::Expired {
                generation: self.snapshot.generation(),
                not_after: self.snapshot.not_after(),
                last: None,
            }));
        }
        let rustls = &mut self.rustls;
        let handshake = MakeTlsConnect::<AlertStream<Socket>>::make_tls_connect(rustls, hostname)?;
        Ok(Handshake(handshake))
    }
}

/// One TLS handshake that has not begun.
#[expect(unnameable_types, reason = "named as the connector's associated type")]
pub struct Handshake(Rustls);

impl TlsConnect<Socket> for Handshake {
    type Stream = RustlsStream;
    type Error = <Rustls as TlsConnect<AlertStream<Socket>>>::Error;
    type Future = <Rustls as TlsConnect<AlertStream<Socket>>>::Future;

    fn connect(self, socket: Socket) -> Self::Future {
        self.0.connect(AlertStream::new(socket))
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// These settings with TLS required.
pub(crate) fn with_tls(mut config: Config) -> Result<Config, ConnectError> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    if hosts.is_empty() {
        let expected = match addresses {
            [] => "a TCP host",
            _ => "the name in the server's certificate, next to hostaddr",
        };
        return Err(ConnectError::setting("host", "", expected));
    }
    if let Some(socket) = hosts.iter().find(|host| !matches!(host, Host::Tcp(_))) {
        let expected = "a TCP host (postgres has no TLS on Unix sockets)";
        return Err(ConnectError::setting("host", socket, expected));
    }
    if !addresses.is_empty() && addresses.len() != hosts.len() {
        let expected = "one address for each host";
        return Err(ConnectError::setting("hostaddr", addresses, expected));
    }
    let ports = config.get_ports();
    if ports.len() > 1 && ports.len() != hosts.len() {
        let expected = "one port, or one for each host";
        return Err(ConnectError::setting("port", ports, expected));
    }
    match config.get_ssl_mode() {
        SslMode::Disable => {
            let expected = "require or unset (client certificates need TLS)";
            Err(ConnectError::setting("sslmode", "disable", expected))
        }
        SslMode::Require => Ok(config),
        // Prefer looks the same as unset, and would continue in plain text.
        _ => {
            config.ssl_mode(SslMode::Require);
            Ok(config)
        }
    }
}
