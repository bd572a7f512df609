//! Unused certificates are revoked, and revoked certificates are not used any more.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use perennial::{LiveCert, Serial};
use perennial_postgres::PgTls;
use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{OpenBao, TestbedError};
use perennial_tests::{HOUR, Stage, eventually, renew};

/// Whether the CA lists this certificate as revoked.
async fn is_revoked(bao: &OpenBao, serial: &Serial) -> bool {
    let list = bao.api("LIST", "pki_int/certs/revoked", Value::Null).await;
    let list = match list {
        // OpenBao answers 404 for an empty list.
        Err(TestbedError::Refused { status: 404, .. }) => return false,
        list => list.unwrap(),
    };
    let keys = list["data"]["keys"].as_array().unwrap().clone();
    keys.contains(&json!(serial.to_string()))
}

/// Scenario: C17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn superseded_certificate_is_revoked_when_unused_and_the_last_one_at_shutdown() {
    // The first role stores no certificate, so it is revoked by its content, not by its serial number.
    let stage = Stage::set().await;
    let bao = &stage.testbed.bao;
    for role in [bao.client_role(), bao.stored_client_role()] {
        let source = stage.pki().role(role).ttl(HOUR).revoke_superseded();
        let source = source.build().unwrap();
        let revocations = source.revocations().unwrap();
        let live = LiveCert::start(source).await.unwrap();
        let pool = stage.full_pool(&live, 2).await;
        let first = live.current().unwrap().serial().clone();

        let in_use = pool.get().await.unwrap();
        let second = renew(&live).await.serial().clone();
        eventually("the idle one has moved", async || {
            stage.distinct_serials().await.len() == 2
        })
        .await;
        let last = renew(&live).await.serial().clone();
        eventually("the second one is revoked", async || {
            is_revoked(bao, &second).await
        })
        .await;
        assert!(!is_revoked(bao, &first).await, "it is in use");
        drop(in_use);
        eventually("the first one is revoked", async || {
            is_revoked(bao, &first).await
        })
        .await;
        assert!(!is_revoked(bao, &last).await, "it is the current one");

        drop(pool);
        eventually("no backend is left", async || {
            stage.serials().await.is_empty()
        })
        .await;
        live.shutdown(Duration::from_secs(1)).await.unwrap();
        revocations.finish(Duration::from_secs(5)).await.unwrap();
        assert!(is_revoked(bao, &last).await);
    }
}

/// Scenario: H2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_a_hung_revocation() {
    let stage = Stage::set().await;
    let bao = &stage.testbed.bao;
    let source = stage.pki().ttl(HOUR).revoke_superseded().build().unwrap();
    let revocations = source.revocations().unwrap();
    let live = LiveCert::start(source).await.unwrap();
    live.shutdown(Duration::from_secs(1)).await.unwrap();

    bao.pause().unwrap();
    let began = tokio::time::Instant::now();
    let left = revocations.finish(Duration::from_millis(300)).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    let left = left.unwrap_err().to_string();
    assert_eq!(left, "1 unexpired certificates are not revoked");
    bao.resume().unwrap();
    // A second call continues.
    revocations.finish(Duration::from_secs(5)).await.unwrap();
}

/// Scenario: C17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_moves_after_an_operator_revokes_and_renews() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let source = stage.pki().role(bao.stored_client_role()).ttl(HOUR);
    let live = LiveCert::start(source.build().unwrap()).await.unwrap();
    let pool = stage.full_pool(&live, 4).await;
    let revoked = live.current().unwrap();
    stage.all_on(&revoked, 4).await;

    let ask = json!({"serial_number": revoked.serial().to_string()});
    bao.api("POST", "pki_int/revoke", ask).await.unwrap();
    let lists = bao.crls_pem(HOUR).await.unwrap();
    postgres.check_revocation(&lists).await.unwrap();
    let log_in = async || {
        let tls = PgTls::new(live.clone());
        let (client, connection) = postgres.config().connect(tls).await?;
        let connection = tokio::spawn(connection);
        // With TLS 1.3 a refusal arrives only now.
        let answered = client.simple_query("select 1").await.map(drop);
        drop(client);
        connection.await.unwrap().and(answered)
    };
    let refused = format!("{:?}", log_in().await.unwrap_err());
    assert!(refused.contains("CertificateRevoked"), "{refused}");

    let fresh = renew(&live).await;
    stage.all_on(&fresh, 4).await;
    log_in().await.unwrap();
    drop(pool);
}
