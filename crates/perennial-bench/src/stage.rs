//! A real Postgres that takes certificates of a CA in this process, so that no CA costs CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use perennial::testing::TestCa;
use perennial::{Ask, CertMaterial, CertSource, LiveCert, Renewal, Snapshot, SourceError};
use perennial_testbed::{Postgres, Testbed};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::memory_ca::wall_clock;

/// The life of a certificate that no measurement is to see renewed by itself.
pub const LONG: Duration = Duration::from_secs(24 * 3_600);

/// How many the server lets in: a stock pool of 200 that is replaced needs twice as many.
const SESSIONS: u32 = 600;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(5);

/// Postgres, the superuser as its witness, and the CA of its clients.
#[derive(Debug)]
pub struct Stage {
    /// The CA whose clients get in.
    pub ca: ClientCa,
    admin: Client,
    testbed: Testbed,
}

impl Stage {
    /// Starts the servers, stops the OpenBao that has made the server's certificate, and has
    /// Postgres trust our CA and let in more sessions, for which it starts anew.
    ///
    /// # Errors
    /// What does not start, or a Postgres that refuses the new CA.
    pub async fn set(life: Duration) -> anyhow::Result<Self> {
        let testbed = Testbed::start().await?;
        let ca = ClientCa::new(testbed.bao.roots_pem(), life);
        testbed.bao.stop().await?;
        let trusted = testbed.postgres.folder().join("private/clients.crt");
        std::fs::write(&trusted, ca.root_pem()).context("clients.crt of the server")?;
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

    /// The superuser, over the Unix socket.
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

    /// Waits until the server has ended every session of the app.
    ///
    /// # Errors
    /// It has not within [`SOON`].
    pub async fn no_backend_left(&self) -> anyhow::Result<()> {
        let query = "select count(*) from pg_stat_activity where usename = 'app'";
        eventually("no session of the app is left", async || {
            let count: i64 = self.admin.query_one(query, &[]).await?.try_get(0)?;
            Ok(count == 0)
        })
        .await
    }
}

/// Who issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// The CA that the server trusts.
    Trusted,
    /// One that it does not know: each of its certificates is refused.
    Stranger,
}

/// A source of client certificates for `app`, each with a new P-256 key; clones are one CA.
#[derive(Clone, Debug)]
pub struct ClientCa(Arc<Authorities>);

#[derive(Debug)]
struct Authorities {
    trusted: TestCa,
    stranger: TestCa,
    strange: AtomicBool,
    servers: String,
    life: Duration,
}

impl ClientCa {
    fn new(servers: &str, life: Duration) -> Self {
        Self(Arc::new(Authorities {
            trusted: TestCa::new(),
            stranger: TestCa::new(),
            strange: AtomicBool::new(false),
            servers: servers.to_owned(),
            life,
        }))
    }

    /// From now on it is this one who issues.
    pub fn issue_from(&self, issuer: Issuer) {
        let strange = issuer == Issuer::Stranger;
        self.0.strange.store(strange, Ordering::SeqCst);
    }

    fn root_pem(&self) -> String {
        self.0.trusted.pem(wall_clock(), self.0.life).2
    }

    fn issue(&self) -> Result<CertMaterial, SourceError> {
        let authorities = &*self.0;
        let ca = if authorities.strange.load(Ordering::SeqCst) {
            &authorities.stranger
        } else {
            &authorities.trusted
        };
        let (chain, key, _clients) = ca.pem(wall_clock(), authorities.life);
        CertMaterial::from_pem(chain, key, &authorities.servers).map_err(SourceError::invalid)
    }
}

impl CertSource for ClientCa {
    async fn fetch(&self, _ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        self.issue()
    }
}

/// One TLS config, made once: what a program without rotation connects with.
pub fn static_tls(snapshot: &Snapshot) -> MakeRustlsConnect {
    let mut config = Arc::unwrap_or_clone(snapshot.client_config());
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    MakeRustlsConnect::new(config)
}

/// Logs in, as [`static_tls`] is meant to be used, and lets the driver run.
///
/// # Errors
/// As [`tokio_postgres::Config::connect`].
pub async fn connect(
    config: &tokio_postgres::Config,
    tls: MakeRustlsConnect,
) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(tls).await?;
    // Ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// Renews, past the rate limit of one fetch a second, and returns the new snapshot.
///
/// # Errors
/// There is none within [`SOON`].
pub async fn renew(live: &LiveCert) -> anyhow::Result<Arc<Snapshot>> {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if let Renewal::Newer(snapshot) = live.renew_now().await {
            return Ok(snapshot);
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("no renewal within {SOON:?}")
}

/// Waits for a condition, at most [`SOON`].
///
/// # Errors
/// It does not come true, or cannot be told.
pub async fn eventually(
    what: &str,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let waiting = async {
        while !condition().await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    let in_time = tokio::time::timeout(SOON, waiting).await;
    in_time.with_context(|| format!("not within {SOON:?}: {what}"))?
}
