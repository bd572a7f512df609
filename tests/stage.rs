//! What every end-to-end test stands on: a testbed, a certificate from it, and the witnesses.

#![expect(
    clippy::expect_used,
    reason = "a test that cannot set its stage has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use perennial::{LiveCert, Renewal, Snapshot, TlsSettings};
use perennial_postgres::CertConnectionManager;
use perennial_testbed::Testbed;
use perennial_vault::{Auth, VaultPki, VaultPkiBuilder};
use tokio_postgres::{Client, RowStream};

mod load;
pub use load::Load;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(30);

/// Real servers, and what a service needs of them.
#[derive(Debug)]
pub struct Stage {
    /// OpenBao and Postgres.
    pub testbed: Testbed,
    /// A superuser on Postgres, as the witness.
    pub admin: Client,
}

impl Stage {
    /// Starts both servers.
    ///
    /// # Panics
    /// If they do not start: a test that cannot run has failed.
    pub async fn set() -> Self {
        let testbed = Testbed::start().await.expect("the testbed starts");
        let admin = testbed
            .postgres
            .admin()
            .await
            .expect("the superuser logs in");
        Self { testbed, admin }
    }

    /// A source for the common name `app`, through AppRole; more can be set on it.
    pub fn pki(&self) -> VaultPkiBuilder {
        self.pki_at(&self.testbed.bao.address(), "app")
    }

    /// The same at another address (a fault proxy) and for another common name.
    pub fn pki_at(&self, address: &str, common_name: &str) -> VaultPkiBuilder {
        let bao = &self.testbed.bao;
        let approle = bao.approle();
        VaultPki::builder(address)
            .ca_pem(bao.ca_pem())
            .auth(Auth::approle(&approle.role_id, &approle.secret_id))
            .mount(bao.mount())
            .role(bao.client_role())
            .common_name(common_name)
    }

    /// A live certificate of this life.
    ///
    /// # Panics
    /// If none can be had.
    pub async fn live(&self, ttl: Duration) -> LiveCert {
        let source = self.pki().ttl(ttl).build().expect("a complete source");
        LiveCert::start(source).await.expect("a first certificate")
    }

    /// A live certificate that trusts a server's old root beside the new one while its CA changes.
    ///
    /// # Panics
    /// If none can be had.
    pub async fn live_with_overlap(&self) -> LiveCert {
        let source = self.pki().build().expect("a complete source");
        let builder = LiveCert::builder().tls(TlsSettings::new().anchor_overlap(HOUR));
        builder.start(source).await.expect("a first certificate")
    }

    /// A manager for this certificate.
    ///
    /// # Panics
    /// If the testbed's connection settings are refused.
    pub fn manager(&self, live: &LiveCert) -> CertConnectionManager {
        CertConnectionManager::new(live.clone(), self.testbed.postgres.config())
            .expect("the testbed asks for TLS")
    }

    /// Serial number by backend, of everything that is logged in as `app`: the server's word.
    ///
    /// # Panics
    /// If the superuser cannot ask.
    pub async fn serials(&self) -> BTreeMap<i32, String> {
        serials_seen_by(&self.admin).await
    }

    /// Waits until `count` backends are all on this snapshot's certificate and on no other.
    pub async fn all_on(&self, snapshot: &Snapshot, count: usize) {
        let serial = snapshot.serial().to_decimal();
        eventually("every backend is on the new certificate", async || {
            let serials = self.serials().await;
            serials.len() == count && serials.values().all(|seen| *seen == serial)
        })
        .await;
    }

    /// The different serial numbers that backends are on now.
    pub async fn distinct_serials(&self) -> BTreeSet<String> {
        self.serials().await.into_values().collect()
    }
}

/// The life of a certificate that a test does not see expire.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// Far more rows than all buffers on the way hold, so that the backend stays busy until they are
/// read.
pub const ROWS: usize = 60_000;

/// Begins to read [`ROWS`] rows.
///
/// # Panics
/// If the query fails.
pub async fn many_rows(client: &Client) -> RowStream {
    let query = format!("select repeat('x', 200) from generate_series(1, {ROWS})");
    let none: [i32; 0] = [];
    client.query_raw(&query, none).await.expect("rows come")
}

/// A pool of this many connections, all of them open.
///
/// # Panics
/// If they cannot be connected.
pub async fn full_pool(manager: &CertConnectionManager, size: u32) -> Pool {
    let pool = manager.pool_builder().max_size(size).min_idle(size);
    pool.build(manager.clone()).await.expect("the pool fills")
}

/// What tests check connections out of.
pub type Pool = bb8::Pool<CertConnectionManager>;

const SERIALS: &str = "select a.pid, s.client_serial::text
    from pg_stat_activity a join pg_stat_ssl s using (pid)
    where a.usename = 'app' and s.ssl";

/// As [`Stage::serials`], on the server that this superuser is logged in to.
///
/// # Panics
/// If the superuser cannot ask.
pub async fn serials_seen_by(admin: &Client) -> BTreeMap<i32, String> {
    let rows = admin.query(SERIALS, &[]).await;
    let rows = rows.expect("the witness answers");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Renews, past the rate limit, and returns the new snapshot.
///
/// # Panics
/// If there is none within [`SOON`].
pub async fn renew(live: &LiveCert) -> Arc<Snapshot> {
    let mut newest = None;
    eventually("a renewal", async || {
        if let Renewal::Newer(snapshot) = live.renew_now().await {
            newest = Some(snapshot);
        }
        newest.is_some()
    })
    .await;
    newest.expect("the condition has come true")
}

/// Waits for a condition, at most [`SOON`].
///
/// # Panics
/// With `what`, if it does not come true.
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
