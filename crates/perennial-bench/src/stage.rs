//! A real Postgres that trusts a CA in this process, so that no CA process uses CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use perennial::testing::TestCa;
use perennial::{
    CertMaterial, CertSource, FetchContext, Fetched, LiveCert, Renewed, Snapshot, SourceError,
};
use perennial_testbed::{Postgres, Testbed};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::memory_ca::wall_clock;

/// A certificate lifetime so long that no renewal becomes due during a measurement.
pub const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The server's limit of sessions: a stock pool of 200 needs twice as many while it is replaced.
const SESSIONS: u32 = 600;

/// Time limit for everything that should happen soon.
pub const SOON: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(5);

/// Postgres, a superuser session that observes it, and the CA of its clients.
#[derive(Debug)]
pub struct Stage {
    /// The CA of the clients.
    pub ca: ClientCa,
    admin: Client,
    testbed: Testbed,
}

impl Stage {
    /// Starts the servers, stops OpenBao after it has issued the server's certificate, and restarts
    /// Postgres with our CA and a higher limit of sessions.
    ///
    /// # Errors
    /// A server does not start, or Postgres refuses the CA.
    pub async fn set(lifetime: Duration) -> anyhow::Result<Self> {
        let testbed = Testbed::start().await?;
        let ca = ClientCa::new(testbed.bao.roots_pem(), lifetime);
        testbed.bao.stop().await?;
        let trusted = testbed.postgres.folder().join("private/clients.crt");
        std::fs::write(&trusted, ca.root_pem())
            .context("failed to write the server's clients.crt")?;
        let sessions = format!("alter system set max_connections = {SESSIONS}");
        testbed
            .postgres
            .admin()
            .await?
            .batch_execute(&sessions)
            .await?;
        testbed.postgres.stop().await?;
        testbed.postgres.start_again().await?;
        let admin = testbed.postgres.admin().await?;
        let stage = Self { ca, admin, testbed };

        let live = LiveCert::fixed(stage.ca.issue()?)?;
        let tls = static_tls(&*live.current()?);
        drop(connect(&stage.postgres().config(), tls).await?);
        stage.no_backend_left().await?;
        Ok(stage)
    }

    /// The server.
    pub fn postgres(&self) -> &Postgres {
        &self.testbed.postgres
    }

    /// The session of the superuser, over the Unix socket.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// A live certificate of this CA.
    ///
    /// # Errors
    /// As [`LiveCert::start`].
    pub async fn live(&self) -> anyhow::Result<LiveCert> {
        Ok(LiveCert::start(self.ca.clone()).await?)
    }

    /// Waits until the app has no session left.
    ///
    /// # Errors
    /// It still has one after [`SOON`].
    pub async fn no_backend_left(&self) -> anyhow::Result<()> {
        let query = "select count(*) from pg_stat_activity where usename = 'app'";
        eventually("no session of the app is left", async || {
            let count: i64 = self.admin.query_one(query, &[]).await?.try_get(0)?;
            Ok(count == 0)
        })
        .await
    }
}

/// Which CA issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// The CA that the server trusts.
    Trusted,
    /// A CA that the server does not trust: it refuses each of its certificates.
    Untrusted,
}

/// A source of client certificates for `app`, each with a new P-256 key; clones are one CA.
#[derive(Clone, Debug)]
pub struct ClientCa(Arc<Authorities>);

#[derive(Debug)]
struct Authorities {
    trusted: TestCa,
    untrusted: TestCa,
    issue_untrusted: AtomicBool,
    server_roots: String,
    lifetime: Duration,
}

impl ClientCa {
    fn new(server_roots: &str, lifetime: Duration) -> Self {
        Self(Arc::new(Authorities {
            trusted: TestCa::new(),
            untrusted: TestCa::new(),
            issue_untrusted: AtomicBool::new(false),
            server_roots: server_roots.to_owned(),
            lifetime,
        }))
    }

    /// Makes this CA issue all later certificates.
    pub fn issue_from(&self, issuer: Issuer) {
        let untrusted = issuer == Issuer::Untrusted;
        self.0.issue_untrusted.store(untrusted, Ordering::SeqCst);
    }

    fn root_pem(&self) -> String {
        self.0.trusted.pem(wall_clock(), self.0.lifetime).2
    }

    fn issue(&self) -> Result<CertMaterial, SourceError> {
        let authorities = &*self.0;
        let ca = if authorities.issue_untrusted.load(Ordering::SeqCst) {
            &authorities.untrusted
        } else {
            &authorities.trusted
        };
        let (chain, key, _) = ca.pem(wall_clock(), authorities.lifetime);
        CertMaterial::from_pem(chain, key, &authorities.server_roots).map_err(SourceError::invalid)
    }
}

impl CertSource for ClientCa {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.issue().map(Into::into)
    }
}

/// A TLS config that is built once, as in a program without rotation.
pub fn static_tls(snapshot: &Snapshot) -> MakeRustlsConnect {
    let mut config = Arc::unwrap_or_clone(snapshot.client_config());
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    MakeRustlsConnect::new(config)
}

/// Connects and drives the connection in a task.
///
/// # Errors
/// As [`tokio_postgres::Config::connect`].
pub async fn connect(
    config: &tokio_postgres::Config,
    tls: MakeRustlsConnect,
) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(tls).await?;
    // Ends when the client is dropped.
    tokio::spawn(connection);
    Ok(client)
}

/// Renews as soon as the limit of one fetch per second allows it, and returns the new snapshot.
///
/// # Errors
/// There is no new snapshot within [`SOON`].
pub async fn renew(live: &LiveCert) -> anyhow::Result<Arc<Snapshot>> {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if let Ok(Renewed::Newer(snapshot)) = live.renew().await {
            return Ok(snapshot);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("no renewal within {SOON:?}")
}

/// Waits until a condition is true, at most [`SOON`].
///
/// # Errors
/// The condition fails, or is still false.
pub async fn eventually(
    what: &str,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let waiting = async {
        while !condition().await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    };
    let in_time = tokio::time::timeout(SOON, waiting).await;
    in_time.with_context(|| format!("still false after {SOON:?}: {what}"))?
}
