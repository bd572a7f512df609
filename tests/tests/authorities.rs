//! The CAs of clients and servers change while a pool is in use.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};

use perennial::rustls::SignatureScheme;
use perennial::{LiveCert, Snapshot, TlsSettings};
use perennial_postgres::PgTls;
use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{OpenBao, Postgres};
use perennial_tests::{HOUR, Load, Stage, eventually, renew};

/// Postgres logs this for a failed handshake, whichever side ended it.
const FAILED: &str = "could not accept SSL connection";
/// Postgres logs this when it refuses a client certificate.
const REFUSED: &str = "could not accept SSL connection: certificate verify failed";

/// Scenario: C9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_while_both_cas_change_with_overlap() {
    // The PKI gets a new root; the server trusts it first and presents it last.
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live_with_overlap().await;
    let pool = stage.full_pool(&live, 4).await;
    stage.all_on(&live.current().unwrap(), 4).await;
    let load = Load::on(&pool, 4);

    let root_a = bao.roots_pem();
    let root_b = bao.change_root("B").await.unwrap();
    postgres.trust(&format!("{root_a}{root_b}")).await.unwrap();
    // The certificate and its roots are from B, while the server still presents A.
    stage.all_on(&*renew(&live).await, 4).await;
    assert_eq!(
        issuers(&stage).await,
        ["/CN=Perennial testbed intermediate B"]
    );

    let certificate = bao.server_certificate().await.unwrap();
    assert_eq!(certificate.root, root_b);
    postgres.present(&certificate).await.unwrap();
    stage.all_on(&*renew(&live).await, 4).await;
    postgres.trust(&root_b).await.unwrap();
    stage.all_on(&*renew(&live).await, 4).await;

    assert!(load.finish().await > 0);
    assert!(!postgres.log().contains(FAILED), "{}", postgres.log());
    drop(pool);
}

/// The issuers of the certificates that the backends of `app` logged in with.
async fn issuers(stage: &Stage) -> Vec<String> {
    let seen = "select distinct s.issuer_dn from pg_stat_activity a join pg_stat_ssl s using (pid)
        where a.usename = 'app' and s.ssl";
    let rows = stage.admin.query(seen, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Scenario: C9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_and_certificate_change_together_at_real_servers() {
    // One server uses only A, the other only B. A client that mixes the roots of one with the
    // certificate of the other accepts the server, which then refuses the client's certificate.
    let stage = Stage::set().await;
    let (bao, of_a) = (&stage.testbed.bao, &stage.testbed.postgres);
    // This token may not read the issuers, so the roots are exactly those in the answer.
    let sign = r#"path "pki_int/sign/app" { capabilities = ["update"] }"#;
    bao.api("PUT", "sys/policies/acl/app", json!({"policy": sign}))
        .await
        .unwrap();
    let live = stage.live(HOUR).await;
    bao.change_root("B").await.unwrap();
    let of_b = &stage.testbed.another_postgres().await.unwrap();

    let stop = AtomicBool::new(false);
    let connect_to = async |postgres: &Postgres| {
        while !stop.load(Ordering::Relaxed) {
            if let Ok((client, connection)) =
                postgres.config().connect(PgTls::new(live.clone())).await
            {
                tokio::spawn(connection);
                // With TLS 1.3 a refusal arrives only now.
                let _ = client.simple_query("select 1").await;
            }
        }
    };
    let rotate = async {
        for (accepting, failing) in [(of_a, of_b), (of_b, of_a)] {
            let (accepted, failed) = (count(accepting, AUTHORIZED), count(failing, FAILED));
            eventually("one server accepts and the other fails", async || {
                count(accepting, AUTHORIZED) > accepted + 10 && count(failing, FAILED) > failed + 10
            })
            .await;
            if accepting.port() == of_a.port() {
                renew(&live).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        connect_to(of_a),
        connect_to(of_a),
        connect_to(of_b),
        connect_to(of_b),
        rotate
    );
    for postgres in [of_a, of_b] {
        assert_eq!(count(postgres, REFUSED), 0, "{}", postgres.log());
    }
}

/// Postgres logs this for a successful login.
const AUTHORIZED: &str = "connection authorized: user=app";

fn count(postgres: &Postgres, what: &str) -> usize {
    postgres.log().matches(what).count()
}

async fn default_issuer(bao: &OpenBao) -> String {
    let reply = bao.api("GET", "pki_int/config/issuers", Value::Null).await;
    let issuer = reply.unwrap()["data"]["default"].clone();
    issuer.as_str().unwrap().to_owned()
}

/// Takes an issuer out of use: its certificates stay valid, and it issues no more.
async fn retire_issuer(bao: &OpenBao, issuer: &str) {
    let ask = json!({"usage": "read-only,crl-signing"});
    let path = format!("pki_int/issuer/{issuer}");
    bao.api("POST", &path, ask).await.unwrap();
}

async fn make_default(bao: &OpenBao, issuer: &str) {
    let ask = json!({"default": issuer});
    let path = "pki_int/config/issuers";
    bao.api("POST", path, ask).await.unwrap();
}

/// A certificate that is not due during the test, and that trusts removed roots for longer than the test runs.
async fn live_that_follows(stage: &Stage) -> LiveCert {
    let source = stage.pki().ttl(HOUR).build().unwrap();
    let builder = LiveCert::builder().tls(TlsSettings::new().roots_overlap(HOUR));
    builder.start(source).await.unwrap()
}

/// Scenario: C9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_root_is_trusted_before_a_server_presents_it_without_a_new_certificate() {
    // An operator changes the root under load; the client gets no signal.
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = live_that_follows(&stage).await;
    let pool = stage.full_pool(&live, 4).await;
    let load = Load::on(&pool, 4);

    let old = default_issuer(bao).await;
    let root_b = bao.change_root("B").await.unwrap();
    let new = default_issuer(bao).await;
    make_default(bao, &old).await;
    // A still issues the next renewal.
    let by_a = renew(&live).await;
    let issued = bao.issued().await.unwrap();
    eventually("the roots are published", async || {
        live.current().unwrap().generation() > by_a.generation()
    })
    .await;
    let rerooted = live.current().unwrap();
    assert_eq!(rerooted.serial(), by_a.serial());
    assert_eq!(rerooted.obtained_at(), by_a.obtained_at());
    assert_eq!(bao.issued().await.unwrap(), issued, "nothing was issued");

    // Both sides trust both roots by now: the server may present B, and B may issue.
    make_default(bao, &new).await;
    let both = format!("{}{root_b}", bao.roots_pem());
    postgres.trust(&both).await.unwrap();
    let certificate = bao.server_certificate().await.unwrap();
    assert_eq!(certificate.root, root_b);
    postgres.present(&certificate).await.unwrap();
    let renewed = renew(&live).await;
    stage.all_on(&renewed, 4).await;
    assert_eq!(
        issuers(&stage).await,
        ["/CN=Perennial testbed intermediate B"]
    );
    assert!(presents_no_root(&renewed));

    retire_issuer(bao, &old).await;
    postgres.trust(&root_b).await.unwrap();
    stage.all_on(&*renew(&live).await, 4).await;
    assert!(load.finish().await > 0);
    assert!(!postgres.log().contains(FAILED), "{}", postgres.log());
    drop(pool);
}

/// Scenario: C9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intermediate_changes_under_load_without_a_failed_handshake() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = live_that_follows(&stage).await;
    let pool = stage.full_pool(&live, 4).await;
    let load = Load::on(&pool, 4);

    let old = default_issuer(bao).await;
    bao.change_intermediate("A2").await.unwrap();
    let certificate = bao.server_certificate().await.unwrap();
    postgres.present(&certificate).await.unwrap();
    let renewed = renew(&live).await;
    stage.all_on(&renewed, 4).await;
    assert_eq!(
        issuers(&stage).await,
        ["/CN=Perennial testbed intermediate A2"]
    );
    assert!(presents_no_root(&renewed));
    retire_issuer(bao, &old).await;
    stage.all_on(&*renew(&live).await, 4).await;
    assert!(load.finish().await > 0);
    assert!(!postgres.log().contains(FAILED), "{}", postgres.log());
    drop(pool);
}

/// Whether the snapshot presents exactly its leaf and its intermediate.
fn presents_no_root(snapshot: &Snapshot) -> bool {
    let config = snapshot.client_config();
    let resolver = &config.client_auth_cert_resolver;
    let presented = resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]);
    presented.unwrap().cert.len() == 2
}
