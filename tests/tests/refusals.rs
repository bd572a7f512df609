//! Certificates that Postgres refuses: the gate tests them first, a pool finds out later, and each costs one renewal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use perennial::rustls::SignatureScheme;
use perennial::{
    CertSource, Event, FetchContext, Fetched, LiveCert, RenewError, Snapshot, SourceError,
    TlsSettings, with_causes,
};
use perennial_postgres::{CertPool, ConnectProbe, FailureClass, PgTls, PoolEvent};
use perennial_testbed::serde_json::json;
use perennial_testbed::{Fault, Postgres};
use perennial_tests::{HOUR, Load, Stage, eventually, renew};
use perennial_vault::VaultPki;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::SqlState;

const MINUTE: Duration = Duration::from_secs(60);
/// The renewer's documented minimum between two fetches.
const SHORTEST_FETCH_INTERVAL: Duration = Duration::from_secs(1);
/// Postgres' message for a name that is mapped to no user.
const NOT_MAPPED: &str = "certificate authentication failed for user \"app\"";

/// Fetches a certificate for `app`, or for `app-x`, which Postgres refuses until [`map_app_x`].
struct Renamed {
    app: VaultPki,
    app_x: VaultPki,
    to_app_x: Arc<AtomicBool>,
}

impl Renamed {
    fn new(stage: &Stage, ttl: Duration, to_app_x: &Arc<AtomicBool>) -> Self {
        let app_x = stage.pki_at(&stage.testbed.bao.address(), "app-x");
        Self {
            app: stage.pki().ttl(ttl).build().unwrap(),
            app_x: app_x.ttl(ttl).build().unwrap(),
            to_app_x: Arc::clone(to_app_x),
        }
    }
}

impl CertSource for Renamed {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        if self.to_app_x.load(Ordering::SeqCst) {
            self.app_x.fetch(context).await
        } else {
            self.app.fetch(context).await
        }
    }
}

async fn map_app_x(postgres: &Postgres) {
    let path = postgres.folder().join("private/pg_ident.conf");
    let mut ident = std::fs::read_to_string(&path).unwrap();
    writeln!(ident, "clients app-x app").unwrap();
    std::fs::write(&path, ident).unwrap();
    postgres.reload().await.unwrap();
}

fn gate(stage: &Stage) -> ConnectProbe {
    ConnectProbe::new(stage.testbed.postgres.config()).unwrap()
}

/// Renews, and returns the error for the candidate that the gate refuses.
async fn refused_by_the_gate(live: &LiveCert) -> String {
    eventually("a renewal is refused", async || {
        matches!(live.renew().await, Err(RenewError::Refused(_)))
    })
    .await;
    with_causes(&live.status().last_error.unwrap()).to_string()
}

/// Scenario: C6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_holds_a_certificate_until_postgres_accepts_it() {
    // With the probe: a name that is not mapped, then a CA that is not trusted.
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let to_app_x = Arc::new(AtomicBool::new(true));
    let source = Renamed::new(&stage, MINUTE, &to_app_x);
    let error = LiveCert::builder()
        .gate(gate(&stage))
        .start(source)
        .await
        .unwrap_err();
    let said = with_causes(&error).to_string();
    assert!(said.contains(NOT_MAPPED), "{said}");

    to_app_x.store(false, Ordering::SeqCst);
    let live = LiveCert::builder()
        .gate(gate(&stage))
        // The client trusts both CAs: only the client's certificate can be refused.
        .tls(TlsSettings::new().roots_overlap(HOUR))
        .start(Renamed::new(&stage, MINUTE, &to_app_x))
        .await
        .unwrap();
    let pool = stage.full_pool(&live, 3).await;
    let first = live.current().unwrap();
    let load = Load::on(&pool, 4);

    to_app_x.store(true, Ordering::SeqCst);
    let said = refused_by_the_gate(&live).await;
    assert!(said.contains(NOT_MAPPED), "{said}");
    let issued = bao.issued().await.unwrap();
    eventually("the candidate is tried again", async || {
        live.status().consecutive_failures > 1
    })
    .await;
    assert_eq!(live.current().unwrap().serial(), first.serial());
    stage.all_on(&first, 3).await;
    map_app_x(&stage.testbed.postgres).await;
    eventually("it is published", async || {
        live.current().unwrap().generation() == 2
    })
    .await;
    stage.all_on(&live.current().unwrap(), 3).await;
    // The held candidate was published: no fetch happened in between.
    assert_eq!(bao.issued().await.unwrap(), issued);
    assert!(live.status().last_error.is_none());

    let root_b = bao.change_root("B").await.unwrap();
    let said = refused_by_the_gate(&live).await;
    assert!(said.contains("UnknownCA"), "{said}");
    let issued = bao.issued().await.unwrap();
    let both = format!("{}{root_b}", bao.roots_pem());
    postgres.trust(&both).await.unwrap();
    eventually("it is published", async || {
        live.current().unwrap().generation() == 3
    })
    .await;
    stage.all_on(&live.current().unwrap(), 3).await;
    assert_eq!(bao.issued().await.unwrap(), issued);
    assert!(load.finish().await > 0);
    // The pool never used the refused certificate.
    let status = pool.status();
    assert!(status.connect_errors.is_empty(), "{status:?}");
}

/// Scenario: C6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_passes_a_certificate_while_postgres_is_down() {
    let stage = Stage::set().await;
    let live = LiveCert::builder()
        .gate(gate(&stage))
        .start(stage.pki().ttl(HOUR).build().unwrap())
        .await
        .unwrap();
    let pool = stage.full_pool(&live, 2).await;
    stage.testbed.postgres.stop().await.unwrap();
    let mut events = live.events();
    let newest = renew(&live).await;
    let Some(Event::GateInconclusive { generation, cause }) = events.next().await else {
        panic!("the gate's event comes first");
    };
    assert_eq!(generation, newest.generation());
    assert!(cause.contains("cannot be reached"), "{cause}");
    stage.testbed.postgres.start_again().await.unwrap();
    let admin = stage.testbed.postgres.admin().await.unwrap();
    let stage = Stage { admin, ..stage };
    stage.all_on(&newest, 2).await;
    drop(pool);
}

/// Scenario: C6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_serves_and_grows_on_the_old_certificate_while_the_new_one_is_refused() {
    // Without the probe: new connects fall back to the certificate that has logged in before.
    let stage = Stage::set().await;
    let bao = &stage.testbed.bao;
    let to_app_x = Arc::new(AtomicBool::new(false));
    let source = Renamed::new(&stage, HOUR, &to_app_x);
    let live = LiveCert::start(source).await.unwrap();
    let pool = stage.pool(&live).max_size(6).min_idle(2).build();
    let pool = pool.await.unwrap();
    let good = live.current().unwrap();
    let mut events = pool.events();
    let load = Load::on(&pool, 2);

    to_app_x.store(true, Ordering::SeqCst);
    renew(&live).await;
    // The requested renewal, and the one forced by its refusal.
    eventually("both are refused", async || {
        pool.status().refused_generation == Some(3)
    })
    .await;
    let dedicated = pool.dedicated_connection().await.unwrap();
    assert_eq!(dedicated.generation(), good.generation());
    let more = Load::on(&pool, 6);
    stage.all_on(&good, 7).await;
    let status = pool.status();
    assert!(status.connect_errors[&FailureClass::CertificateRefused] > 2);
    assert_eq!(bao.issued().await.unwrap(), 3);

    map_app_x(&stage.testbed.postgres).await;
    drop(dedicated);
    stage.all_on(&live.current().unwrap(), 6).await;
    assert_eq!(live.current().unwrap().generation(), 3);
    assert_eq!(pool.status().refused_generation, None);
    for load in [load, more] {
        assert!(load.finish().await > 0);
    }
    let mut refused = Vec::new();
    loop {
        match events.next().await.unwrap() {
            PoolEvent::CertificateRefused { generation, error } => {
                let said = with_causes(&error).to_string();
                assert!(said.contains(NOT_MAPPED), "{said}");
                refused.push(generation);
            }
            PoolEvent::Moved { generation: 3, .. } => break,
            PoolEvent::Missed(missed) => panic!("{missed} events missed"),
            _ => {}
        }
    }
    assert_eq!(refused, [2, 3], "one event for each");
    drop(pool);
}

/// Settings that lead to both ports, in this order.
fn hosts(ports: [u16; 2], attrs: TargetSessionAttrs) -> Config {
    let mut config = Config::new();
    for port in ports {
        config.host("127.0.0.1").port(port);
    }
    config.user("app").dbname("app").target_session_attrs(attrs);
    config
}

/// Asserts what the gate and a pool do when the only host that would do refuses the new certificate.
async fn assert_refused_by_one_host(stage: &Stage, config: &Config, at_other: &str) {
    let to_app_x = Arc::new(AtomicBool::new(true));
    let gate = ConnectProbe::new(config.clone()).unwrap();
    let source = Renamed::new(stage, HOUR, &to_app_x);
    let started = LiveCert::builder().gate(gate).start(source).await;
    let said = with_causes(&started.unwrap_err()).to_string();
    assert!(
        said.contains(NOT_MAPPED) && said.contains(at_other),
        "{said}"
    );

    to_app_x.store(false, Ordering::SeqCst);
    let source = Renamed::new(stage, HOUR, &to_app_x);
    let live = LiveCert::start(source).await.unwrap();
    let issued = stage.testbed.bao.issued().await.unwrap();
    let pool = CertPool::builder(live.clone(), config.clone()).min_idle(1);
    let pool = pool.build().await.unwrap();
    let mut events = pool.events();
    to_app_x.store(true, Ordering::SeqCst);
    renew(&live).await;
    eventually("the requested and the forced one are refused", async || {
        pool.status().refused_generation == Some(3)
    })
    .await;
    let connection = pool.dedicated_connection().await.unwrap();
    assert_eq!(connection.generation(), 1, "it falls back");
    assert_eq!(stage.testbed.bao.issued().await.unwrap(), issued + 2);
    let Some(PoolEvent::CertificateRefused { error, .. }) = events.next().await else {
        panic!("an event reports the refusal");
    };
    let said = with_causes(&error).to_string();
    assert!(
        said.contains(NOT_MAPPED) && said.contains(at_other),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Scenario: F1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_by_one_host_counts_though_the_other_is_down_or_read_only() {
    let stage = Stage::set().await;
    let refusing = stage.testbed.postgres.port();
    let (proxy, _) = stage.proxied_postgres().await;
    proxy.set(Fault::Refuse).await.unwrap();
    let down = proxy.addr().port();
    for ports in [[refusing, down], [down, refusing]] {
        let config = hosts(ports, TargetSessionAttrs::Any);
        assert_refused_by_one_host(&stage, &config, "onnection refused").await;
    }

    // It accepts both certificates, and does not take writes.
    let standby = stage.testbed.another_postgres().await.unwrap();
    map_app_x(&standby).await;
    standby
        .set("default_transaction_read_only", "on")
        .await
        .unwrap();
    for ports in [[refusing, standby.port()], [standby.port(), refusing]] {
        let config = hosts(ports, TargetSessionAttrs::ReadWrite);
        assert_refused_by_one_host(&stage, &config, "does not allow writes").await;
    }
}

/// Scenario: F1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_never_answers_leaves_time_for_the_next_one() {
    // Cancelling reaches the server of the session, also though its name says nothing of the address.
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, _) = stage.proxied_postgres().await;
    proxy.set(Fault::Stall).await.unwrap();
    let port = stage.testbed.postgres.port();
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .host("localhost")
        .user("app")
        .dbname("app");
    config.port(proxy.addr().port()).port(port);
    let builder = CertPool::builder(live, config).connect_timeout(Duration::from_secs(4));
    let manager = builder.build_manager().unwrap();
    let connection = manager.dedicated_connection().await.unwrap();
    let canceller = connection.canceller();
    let query = tokio::spawn(async move { connection.query_one("select pg_sleep(60)", &[]).await });
    eventually("the query ends", async || {
        canceller.cancel_query().await.unwrap();
        query.is_finished()
    })
    .await;
    let code = query.await.unwrap().unwrap_err().code().cloned();
    assert_eq!(code, Some(SqlState::QUERY_CANCELED));
}

const VERSIONS: [&str; 2] = ["TLSv1.3", "TLSv1.2"];

/// Accepts both TLS versions, and trusts the root of Postgres' own certificate.
async fn live_in_any_version(stage: &Stage) -> LiveCert {
    let tls = TlsSettings::new()
        .allow_tls12()
        .server_roots_pem(stage.testbed.bao.roots_pem());
    // Roots read from the mount would be published as a generation of their own, at any time.
    let source = stage.pki().server_roots_pem(stage.testbed.bao.roots_pem());
    let source = source.ttl(HOUR).build().unwrap();
    let live = LiveCert::builder().tls(tls).start(source).await.unwrap();
    may_be_forced(&live).await;
    live
}

/// Waits until the shortest interval between two fetches has passed.
async fn may_be_forced(live: &LiveCert) {
    let rested = live.current().unwrap().obtained_at() + SHORTEST_FETCH_INTERVAL.mul_f64(1.2);
    eventually("a fetch can be forced", async || live.now() >= rested).await;
}

/// Revokes the certificate that this snapshot presents.
async fn revoke(stage: &Stage, snapshot: &Snapshot) {
    let resolver = Arc::clone(&snapshot.client_config().client_auth_cert_resolver);
    let presented = resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]);
    let leaf = presented.unwrap().cert[0].to_vec();
    let encode = "select encode($1, 'base64')";
    let leaf: String = stage
        .admin
        .query_one(encode, &[&leaf])
        .await
        .unwrap()
        .get(0);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{leaf}\n-----END CERTIFICATE-----\n");
    let ask = json!({"certificate": pem});
    let bao = &stage.testbed.bao;
    bao.api("POST", "pki_int/revoke", ask).await.unwrap();
}

/// Connects while the server refuses the current certificate: the same connect succeeds with the next one.
async fn connects_with_a_renewed_one(stage: &Stage, live: &LiveCert, alert: &str) {
    let bao = &stage.testbed.bao;
    let manager = stage.manager(live);
    let mut events = manager.events();
    let refused = live.current().unwrap().generation();
    let issued = bao.issued().await.unwrap();
    let connection = manager.dedicated_connection().await.unwrap();
    let fresh = live.current().unwrap();
    assert_eq!(connection.generation(), refused + 1);
    assert_eq!(
        stage.distinct_serials().await,
        [fresh.serial().to_decimal()].into()
    );
    assert_eq!(bao.issued().await.unwrap(), issued + 1);
    let Some(PoolEvent::CertificateRefused { generation, error }) = events.next().await else {
        panic!("an event reports the refusal");
    };
    assert_eq!(generation, refused);
    let said = with_causes(&error).to_string();
    assert!(said.contains(alert), "{said}");
    assert_eq!(error.class(), FailureClass::CertificateRefused, "{said}");
    let status = manager.status();
    assert_eq!(status.refused_generation, None);
    // No caller saw a failure.
    assert!(status.last_error.is_none() && status.connect_errors.is_empty());
    drop(connection);
    eventually("the connection is closed", async || {
        stage.serials().await.is_empty()
    })
    .await;
}

/// Scenario: C7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_certificate_is_renewed_once_and_the_same_connect_succeeds() {
    // The alert arrives within the handshake (TLS 1.2), or on the first read after it (TLS 1.3).
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    for version in VERSIONS {
        postgres
            .set("ssl_max_protocol_version", version)
            .await
            .unwrap();

        let live = live_in_any_version(&stage).await;
        let root = bao.change_root(version).await.unwrap();
        postgres.trust(&root).await.unwrap();
        connects_with_a_renewed_one(&stage, &live, "UnknownCA").await;

        let live = live_in_any_version(&stage).await;
        revoke(&stage, &live.current().unwrap()).await;
        let lists = bao.crls_pem(HOUR).await.unwrap();
        postgres.check_revocation(&lists).await.unwrap();
        connects_with_a_renewed_one(&stage, &live, "CertificateRevoked").await;
        postgres.set("ssl_crl_file", "").await.unwrap();
    }
}

/// Scenario: C8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_crl_costs_one_certificate_for_any_number_of_connects() {
    // Postgres refuses every certificate, the valid ones too, with the alert "certificate expired".
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    for version in VERSIONS {
        postgres
            .set("ssl_max_protocol_version", version)
            .await
            .unwrap();
        let live = live_in_any_version(&stage).await;
        let manager = stage.manager(&live);
        let lists = bao.crls_pem(Duration::from_secs(1)).await.unwrap();
        postgres.check_revocation(&lists).await.unwrap();
        let config = postgres.config();
        eventually("the list has expired", async || {
            let tls = PgTls::new(live.clone());
            config.connect(tls).await.is_err()
        })
        .await;

        let issued = bao.issued().await.unwrap();
        for connects in [50, 5] {
            let connects = join_all((0..connects).map(|_| manager.dedicated_connection())).await;
            for error in connects.into_iter().map(Result::unwrap_err) {
                assert!(error.is_refusal(), "{error:?}");
                let said = with_causes(&error).to_string();
                assert!(said.contains("CertificateExpired"), "{said}");
                assert!(said.contains("ssl_crl_file"), "{said}");
            }
            may_be_forced(&live).await;
        }
        assert_eq!(bao.issued().await.unwrap(), issued + 1);

        let lists = bao.crls_pem(HOUR).await.unwrap();
        postgres.check_revocation(&lists).await.unwrap();
        let connection = manager.dedicated_connection().await.unwrap();
        assert_eq!(
            connection.generation(),
            live.current().unwrap().generation()
        );
        assert_eq!(bao.issued().await.unwrap(), issued + 1);
        assert_eq!(manager.status().refused_generation, None);
        postgres.set("ssl_crl_file", "").await.unwrap();
    }
}
