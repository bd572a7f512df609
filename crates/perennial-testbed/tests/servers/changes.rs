//! Changes to a running server (certificate, CAs, revocation lists, settings), and further servers.

use std::time::Duration;

use perennial_testbed::serde_json::json;
use perennial_testbed::tokio_postgres::{Client, Error};
use perennial_testbed::{Testbed, TestbedError};

use crate::client::{log_in, log_in_trusting, serial_seen, sign};
use crate::shared;

const HOUR: Duration = Duration::from_secs(3_600);

/// Whether a login failed for this reason: the name of a TLS alert, or the client's own verdict.
fn refused_for(login: Result<Client, Error>, reason: &str) -> bool {
    login.is_err_and(|error| format!("{error:?}").contains(reason))
}

#[tokio::test]
async fn ca_changes_on_both_running_servers() {
    let testbed = Testbed::start().await.unwrap();
    let (bao, postgres) = (&testbed.bao, &testbed.postgres);
    let root_a = bao.roots_pem();
    let of_a = sign(&testbed, "app").await;
    let root_b = bao.change_root("B").await.unwrap();
    let of_b = sign(&testbed, "app").await;
    assert!(refused_for(
        log_in(postgres.config(), root_a, Some(&of_b)).await,
        "UnknownCA"
    ));

    postgres
        .trust(&(root_a.to_owned() + &root_b))
        .await
        .unwrap();
    log_in(postgres.config(), root_a, Some(&of_a))
        .await
        .unwrap();
    log_in(postgres.config(), root_a, Some(&of_b))
        .await
        .unwrap();

    let certificate = bao.server_certificate().await.unwrap();
    assert_eq!(certificate.root, root_b);
    postgres.present(&certificate).await.unwrap();
    log_in(postgres.config(), &root_b, Some(&of_a))
        .await
        .unwrap();
    assert!(refused_for(
        log_in(postgres.config(), root_a, Some(&of_a)).await,
        "UnknownIssuer"
    ));

    postgres.trust(&root_b).await.unwrap();
    log_in(postgres.config(), &root_b, Some(&of_b))
        .await
        .unwrap();
    assert!(refused_for(
        log_in(postgres.config(), &root_b, Some(&of_a)).await,
        "UnknownCA"
    ));
    // Only the certificates of the client role count, not those of the change itself.
    assert_eq!(bao.issued().await.unwrap(), 2);
}

#[tokio::test]
async fn certificate_with_another_key_is_refused_and_the_old_one_stays_in_use() {
    let testbed = Testbed::start().await.unwrap();
    let signed = sign(&testbed, "app").await;
    let mut mismatched = testbed.bao.server_certificate().await.unwrap();
    mismatched.key = testbed.bao.server_certificate().await.unwrap().key;
    let refused = testbed.postgres.present(&mismatched).await.unwrap_err();
    assert!(
        matches!(&refused, TestbedError::NotReloaded { log, .. } if log.contains("key values mismatch")),
        "{refused}"
    );
    assert_eq!(serial_seen(&testbed, &signed).await, signed.serial);
}

#[tokio::test]
async fn revoked_certificate_is_refused_and_an_expired_list_refuses_every_certificate() {
    let testbed = Testbed::start().await.unwrap();
    let (bao, postgres) = (&testbed.bao, &testbed.postgres);
    let (good, bad) = (sign(&testbed, "app").await, sign(&testbed, "app").await);
    let revoked = json!({"certificate": bad.pem});
    bao.api("POST", "pki_int/revoke", revoked).await.unwrap();

    let lists = bao.crls_pem(HOUR).await.unwrap();
    postgres.check_revocation(&lists).await.unwrap();
    assert_eq!(serial_seen(&testbed, &good).await, good.serial);
    let login = log_in_trusting(&testbed, Some(&bad)).await;
    assert!(refused_for(login, "CertificateRevoked"));

    let lists = bao.crls_pem(Duration::from_secs(1)).await.unwrap();
    postgres.check_revocation(&lists).await.unwrap();
    let expired = async {
        // OpenSSL reports this for an expired list.
        while !refused_for(
            log_in_trusting(&testbed, Some(&good)).await,
            "CertificateExpired",
        ) {}
    };
    tokio::time::timeout(Duration::from_secs(10), expired)
        .await
        .unwrap();

    let lists = bao.crls_pem(HOUR).await.unwrap();
    postgres.check_revocation(&lists).await.unwrap();
    assert_eq!(serial_seen(&testbed, &good).await, good.serial);
}

#[tokio::test]
async fn setting_holds_for_new_connections() {
    let testbed = Testbed::start().await.unwrap();
    let signed = sign(&testbed, "app").await;
    for version in ["TLSv1.2", "TLSv1.3"] {
        let set = testbed.postgres.set("ssl_max_protocol_version", version);
        set.await.unwrap();
        let client = log_in_trusting(&testbed, Some(&signed)).await.unwrap();
        let seen = "select version from pg_stat_ssl where pid = pg_backend_pid()";
        let seen: String = client.query_one(seen, &[]).await.unwrap().get(0);
        assert_eq!(seen, version);
    }
    let unknown = testbed.postgres.set("no_such_setting", "on").await;
    assert!(matches!(unknown, Err(TestbedError::Admin(_))));
}

#[tokio::test]
async fn further_servers_use_the_same_pki() {
    let testbed = shared().await;
    let signed = sign(testbed, "app").await;
    let another = testbed.another_postgres().await.unwrap();
    let of_17 = testbed.another_postgres_17().await.unwrap();
    assert_eq!(another.version(), testbed.postgres.version());
    assert_eq!(of_17.version(), "17.10");
    for postgres in [&another, &of_17] {
        log_in(postgres.config(), testbed.bao.roots_pem(), Some(&signed))
            .await
            .unwrap();
    }
}

#[tokio::test]
#[ignore = "needs pgbouncer"]
async fn pgbouncer_accepts_certificates_and_reports_tls_clients() {
    let testbed = shared().await;
    let pgbouncer = testbed.pgbouncer().await.unwrap();
    let root = testbed.bao.roots_pem();
    let signed = sign(testbed, "app").await;
    let client = log_in(pgbouncer.config(), root, Some(&signed))
        .await
        .unwrap();
    let seen = pgbouncer.clients().await.unwrap();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(
        seen.values().all(|tls| tls.starts_with("TLSv1.3")),
        "{seen:?}"
    );
    drop(client);

    // pgbouncer refuses a certificate whose common name is not the user's name.
    let other = sign(testbed, "app-2").await;
    assert!(
        log_in(pgbouncer.config(), root, Some(&other))
            .await
            .is_err()
    );
    assert!(log_in(pgbouncer.config(), root, None).await.is_err());
}
