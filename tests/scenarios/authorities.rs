//! C9: the CAs of clients and servers change while everything runs.

use std::sync::atomic::{AtomicBool, Ordering};

use perennial::rustls::SignatureScheme;
use perennial::{LiveCert, Snapshot, TlsSettings};
use perennial_postgres::PgTls;
use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{OpenBao, Postgres};
use perennial_tests::{HOUR, Load, Stage, eventually, full_pool, renew};

/// What Postgres logs of a handshake that failed, on either side.
const FAILED: &str = "could not accept SSL connection";
/// What it logs of a client certificate that it does not take.
const REFUSED: &str = "could not accept SSL connection: certificate verify failed";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_while_both_cas_change_with_overlap() {
    // The PKI gets a new root; the server learns it first and presents it last.
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live_with_overlap().await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 4).await;
    stage.all_on(&live.current().unwrap(), 4).await;
    let load = Load::on(&pool, 4);

    let root_a = bao.roots_pem();
    let root_b = bao.change_root("B").await.unwrap();
    postgres.trust(&format!("{root_a}{root_b}")).await.unwrap();
    // Of B, with the roots of B, while the server still presents A.
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

/// Whose certificates the backends of the app were let in with.
async fn issuers(stage: &Stage) -> Vec<String> {
    let seen = "select distinct s.issuer_dn from pg_stat_activity a join pg_stat_ssl s using (pid)
        where a.usename = 'app' and s.ssl";
    let rows = stage.admin.query(seen, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_and_certificate_swap_as_one_before_real_servers() {
    // One server is all A, the other all B. Whoever mixes the two gets past the server's
    // certificate and is refused with its own.
    let stage = Stage::set().await;
    let (bao, of_a) = (&stage.testbed.bao, &stage.testbed.postgres);
    // A token that may not read the issuers: the roots are those of the answer, and no others.
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
                // TLS 1.3 tells a refusal only now.
                let _ = client.simple_query("select 1").await;
            }
        }
    };
    let rotate = async {
        for (postgres, turned_away) in [(of_a, of_b), (of_b, of_a)] {
            let (let_in, away) = (count(postgres, AUTHORIZED), count(turned_away, FAILED));
            eventually("one lets in, the other is turned away", async || {
                count(postgres, AUTHORIZED) > let_in + 10 && count(turned_away, FAILED) > away + 10
            })
            .await;
            if postgres.port() == of_a.port() {
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

/// What Postgres logs of a login.
const AUTHORIZED: &str = "connection authorized: user=app";

fn count(postgres: &Postgres, what: &str) -> usize {
    postgres.log().matches(what).count()
}

async fn default_issuer(bao: &OpenBao) -> String {
    let reply = bao.api("GET", "pki_int/config/issuers", Value::Null).await;
    let issuer = reply.unwrap()["data"]["default"].clone();
    issuer.as_str().unwrap().to_owned()
}

/// Takes an issuer out of use: what it has issued stays good, and it issues no more.
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

/// A certificate that is not due in this test, and trusts what its mount has ceased to name for longer than that.
async fn live_that_follows(stage: &Stage) -> LiveCert {
    let source = stage.pki().ttl(HOUR).build().unwrap();
    let builder = LiveCert::builder().tls(TlsSettings::new().anchor_overlap(HOUR));
    builder.start(source).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_root_is_trusted_before_any_server_presents_it_and_without_a_new_certificate() {
    // C9: an operator rotates the root under load, and nobody tells the client.
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = live_that_follows(&stage).await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 4).await;
    let load = Load::on(&pool, 4);

    let old = default_issuer(bao).await;
    let root_b = bao.change_root("B").await.unwrap();
    let new = default_issuer(bao).await;
    make_default(bao, &old).await;
    // Its next renewal, by A still.
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

    // Both sides know both by now: the server may present B, and B may issue.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intermediate_changes_under_load_without_a_failed_connection() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = live_that_follows(&stage).await;
    let pool = full_pool(&stage.manager(&live), 4).await;
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

/// Whether it presents its leaf and its intermediate alone.
fn presents_no_root(snapshot: &Snapshot) -> bool {
    let config = snapshot.client_config();
    let resolver = &config.client_auth_cert_resolver;
    let presented = resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]);
    presented.unwrap().cert.len() == 2
}
