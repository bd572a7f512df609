//! What every end-to-end test starts from: real servers, a certificate from them, and queries that witness the outcome.

#![expect(
    clippy::expect_used,
    reason = "a test whose servers do not start has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use perennial::{LiveCert, Renewed, Snapshot, TlsSettings};
use perennial_postgres::{CertConnectionManager, CertPool, CertPoolBuilder};
use perennial_testbed::{Proxy, Testbed};
use perennial_vault::{Auth, Vault, VaultPkiBuilder};
use tokio_postgres::{Client, Config, RowStream};

mod load;
pub use load::Load;

/// The longest wait for anything that should happen soon.
pub const SOON: Duration = Duration::from_secs(30);

/// Real servers, and what a service needs from them.
#[derive(Debug)]
pub struct Stage {
    /// OpenBao and Postgres.
    pub testbed: Testbed,
    /// A superuser's connection to Postgres, to ask the server what it sees.
    pub admin: Client,
}

impl Stage {
    /// Starts both servers.
    ///
    /// # Panics
    /// If they do not start.
    pub async fn set() -> Self {
        let testbed = Testbed::start().await.expect("the testbed starts");
        let admin = testbed
            .postgres
            .admin()
            .await
            .expect("the superuser logs in");
        Self { testbed, admin }
    }

    /// A source for the common name `app`, which logs in through AppRole; callers may set more on it.
    pub fn pki(&self) -> VaultPkiBuilder {
        self.pki_at(&self.testbed.bao.address(), "app")
    }

    /// Like [`pki`](Self::pki), at another address (a fault proxy) and for another common name.
    pub fn pki_at(&self, address: &str, common_name: &str) -> VaultPkiBuilder {
        let bao = &self.testbed.bao;
        let approle = bao.approle();
        let vault = Vault::builder(address)
            .ca_pem(bao.ca_pem())
            .auth(Auth::approle(&approle.role_id, &approle.secret_id))
            .build()
            .expect("the testbed's settings are complete");
        vault
            .pki(bao.mount())
            .role(bao.client_role())
            .common_name(common_name)
    }

    /// A live certificate of this lifetime.
    ///
    /// # Panics
    /// If the first fetch fails.
    pub async fn live(&self, ttl: Duration) -> LiveCert {
        let source = self.pki().ttl(ttl).build().expect("a complete source");
        LiveCert::start(source).await.expect("a first certificate")
    }

    /// A live certificate that still trusts the old roots for an hour after the CA has changed.
    ///
    /// # Panics
    /// If the first fetch fails.
    pub async fn live_with_overlap(&self) -> LiveCert {
        let source = self.pki().build().expect("a complete source");
        let builder = LiveCert::builder().tls(TlsSettings::new().roots_overlap(HOUR));
        builder.start(source).await.expect("a first certificate")
    }

    /// Settings of a pool that connects with this certificate.
    pub fn pool(&self, live: &LiveCert) -> CertPoolBuilder {
        CertPool::builder(live.clone(), self.testbed.postgres.config())
    }

    /// A pool of this many connections, all of them open.
    ///
    /// # Panics
    /// If a connect fails.
    pub async fn full_pool(&self, live: &LiveCert, size: u32) -> CertPool {
        full_pool(self.pool(live), size).await
    }

    /// A manager, for a pool that is not a [`CertPool`], or for single connections.
    ///
    /// # Panics
    /// If the manager does not accept the testbed's connection settings.
    pub fn manager(&self, live: &LiveCert) -> CertConnectionManager {
        CertConnectionManager::new(live.clone(), self.testbed.postgres.config())
            .expect("the testbed asks for TLS")
    }

    /// The serial number that Postgres sees for each backend of user `app`, by process id.
    ///
    /// # Panics
    /// If the superuser's query fails.
    pub async fn serials(&self) -> BTreeMap<i32, String> {
        serials_seen_by(&self.admin).await
    }

    /// A fault proxy in front of Postgres, and the connection settings that lead through it.
    ///
    /// # Panics
    /// If the proxy does not start.
    pub async fn proxied_postgres(&self) -> (Proxy, Config) {
        let postgres = &self.testbed.postgres;
        let proxy = proxy_to(postgres.port()).await;
        let mut config = Config::new();
        config
            .host(postgres.host())
            .port(proxy.addr().port())
            .user(postgres.user())
            .dbname(postgres.database());
        (proxy, config)
    }

    /// A fault proxy in front of OpenBao, and the URL that leads through it.
    ///
    /// # Panics
    /// If the proxy does not start.
    pub async fn proxied_bao(&self) -> (Proxy, String) {
        let proxy = proxy_to(self.testbed.bao.port()).await;
        let url = format!("https://127.0.0.1:{}", proxy.addr().port());
        (proxy, url)
    }

    /// Waits until Postgres sees exactly `count` backends, all on this snapshot's certificate.
    pub async fn all_on(&self, snapshot: &Snapshot, count: usize) {
        let serial = snapshot.serial().to_decimal();
        eventually("every backend is on the new certificate", async || {
            let serials = self.serials().await;
            serials.len() == count && serials.values().all(|seen| *seen == serial)
        })
        .await;
    }

    /// The distinct serial numbers that Postgres sees now.
    pub async fn distinct_serials(&self) -> BTreeSet<String> {
        self.serials().await.into_values().collect()
    }
}

/// The lifetime of a certificate that does not expire during a test.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// More rows than all buffers on the way can hold: the backend stays busy until the client reads them.
pub const ROWS: usize = 60_000;

/// Starts a query for [`ROWS`] rows.
///
/// # Panics
/// If the query fails.
pub async fn many_rows(client: &Client) -> RowStream {
    let query = format!("select repeat('x', 200) from generate_series(1, {ROWS})");
    let none: [i32; 0] = [];
    client
        .query_raw(&query, none)
        .await
        .expect("the query starts")
}

/// Waits for the lock that [`hold_hooks`] takes: an `on_connect` hook that hangs.
pub const HELD_HOOK: &str = "select pg_advisory_lock_shared(7)";

/// Lets every [`HELD_HOOK`] hang until [`release_hooks`].
///
/// # Panics
/// If the superuser's query fails.
pub async fn hold_hooks(admin: &Client) {
    let lock = admin.batch_execute("select pg_advisory_lock(7)").await;
    lock.expect("no hook holds the lock");
}

/// Lets the hooks go on.
///
/// # Panics
/// If the superuser's query fails.
pub async fn release_hooks(admin: &Client) {
    let unlock = admin.batch_execute("select pg_advisory_unlock(7)").await;
    unlock.expect("the lock is held");
}

/// A pool of this many connections, all of them open.
///
/// # Panics
/// If a connect fails.
pub async fn full_pool(settings: CertPoolBuilder, size: u32) -> CertPool {
    let pool = settings.max_size(size).min_idle(size).build().await;
    pool.expect("the pool fills")
}

async fn proxy_to(port: u16) -> Proxy {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Proxy::start(address).await.expect("the proxy starts")
}

const SERIALS: &str = "select a.pid, s.client_serial::text
    from pg_stat_activity a join pg_stat_ssl s using (pid)
    where a.usename = 'app' and s.ssl";

/// Like [`Stage::serials`], on the server of this superuser's connection.
///
/// # Panics
/// If the query fails.
pub async fn serials_seen_by(admin: &Client) -> BTreeMap<i32, String> {
    let rows = admin.query(SERIALS, &[]).await;
    let rows = rows.expect("the superuser may query the statistics");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Renews, again while the rate limit asks to wait, and returns the new snapshot.
///
/// # Panics
/// If no renewal succeeds within [`SOON`].
pub async fn renew(live: &LiveCert) -> Arc<Snapshot> {
    let mut newest = None;
    eventually("a renewal", async || {
        if let Ok(Renewed::Newer(snapshot)) = live.renew().await {
            newest = Some(snapshot);
        }
        newest.is_some()
    })
    .await;
    newest.expect("the loop ends with a snapshot")
}

/// Waits until a condition holds, at most [`SOON`].
///
/// # Panics
/// If the condition does not hold in time; the message names `what`.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(SOON, waiting).await;
    assert!(in_time.is_ok(), "did not happen within {SOON:?}: {what}");
}

#[cfg(doctest)]
mod book;
