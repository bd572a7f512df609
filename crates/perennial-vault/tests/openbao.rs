//! `VaultPki` with a real OpenBao, whose audit log counts requests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vault/ca.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod ca;
#[path = "vault/once.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod once;
#[path = "vault/real.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod real;
#[path = "vault/server.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod server;

use std::sync::Arc;
use std::time::Duration;

use perennial::{
    CertMaterial, Certificate, ClientAuth, LiveCert, RenewError, Renewed, SourceError,
    SourceErrorKind, Usage,
};
use perennial_testbed::OpenBao;
use perennial_vault::{Auth, VaultBuilder, VaultPkiBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use once::{fetch, full_text};

fn vault(bao: &OpenBao) -> VaultBuilder {
    let credential = bao.approle();
    let auth = Auth::approle(&credential.role_id, &credential.secret_id);
    real::vault(bao, auth)
}

fn approle(bao: &OpenBao) -> VaultPkiBuilder {
    real::pki(bao, vault(bao))
}

async fn once(builder: VaultPkiBuilder) -> Result<CertMaterial, SourceError> {
    fetch(&Arc::new(builder.build().unwrap())).await
}

/// Renews until it is not rate-limited; the deadline is far longer than any back-off here.
async fn renew(live: &LiveCert) -> Result<Renewed, RenewError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let outcome = live.renew().await;
        if !matches!(outcome, Err(RenewError::Limited { .. })) {
            return outcome;
        }
        assert!(Instant::now() < deadline, "still {outcome:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The logins that OpenBao received, including refused ones.
fn logins_asked(bao: &OpenBao) -> usize {
    let log = std::fs::read_to_string(bao.folder().join("audit.log")).unwrap();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["type"] == "request")
        .filter(|entry| entry["request"]["path"] == "auth/approle/login")
        .count()
}

#[tokio::test]
async fn approle_and_token_both_lead_to_a_published_certificate() {
    let bao = &OpenBao::alone().await.unwrap();
    let token = Auth::token(format!("{}\n", bao.app_token().await.unwrap()));
    let with_token = real::pki(bao, real::vault(bao, token));
    for builder in [approle(bao), with_token.common_name("app-2")] {
        let live = LiveCert::start(builder.build().unwrap()).await.unwrap();
        let snapshot = live.current().unwrap();
        let name = snapshot.names().common_name.clone().unwrap();
        assert!(name.starts_with("app"), "{name}");
    }
    assert_eq!(
        (bao.issued().await.unwrap(), bao.logins().await.unwrap()),
        (2, 1)
    );
}

/// A role with `client_flag=false`, as many are.
fn for_servers(bao: &OpenBao) -> VaultPkiBuilder {
    let builder = approle(bao).role("server").common_name("localhost");
    builder.dns_name("localhost")
}

#[tokio::test]
async fn certificate_for_servers_alone_serves_those_of_clients_and_each_end_sees_the_others_new_one()
 {
    let bao = &OpenBao::alone().await.unwrap();
    let policy = format!(
        "path \"{0}/sign/*\" {{ capabilities = [\"update\"] }}\n\
         path \"{0}/issuer/+\" {{ capabilities = [\"read\"] }}",
        bao.mount()
    );
    let path = format!("sys/policies/acl/{}", real::POLICY);
    real::post(bao, &path, json!({ "policy": policy })).await;

    let refused = LiveCert::start(for_servers(bao).build().unwrap()).await;
    let text = full_text(&refused.unwrap_err());
    assert!(
        text.contains("allows serverAuth, but it is used as a TLS client (clientAuth)"),
        "{text}"
    );
    let server = LiveCert::builder().usage(Usage::Server);
    let server = server
        .start(for_servers(bao).build().unwrap())
        .await
        .unwrap();
    let client = LiveCert::start(approle(bao).build().unwrap())
        .await
        .unwrap();

    let acceptor = TlsAcceptor::from(server.server_config(ClientAuth::Required, &[]).unwrap());
    let connector = TlsConnector::from(client.client_config(&[]));
    for generation in 1..=3 {
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = "localhost".try_into().unwrap();
        let (accepted, connected) =
            tokio::try_join!(acceptor.accept(far), connector.connect(name, near)).unwrap();
        let seen = [
            accepted.get_ref().1.peer_certificates(),
            connected.get_ref().1.peer_certificates(),
        ];
        for (live, seen) in [&client, &server].into_iter().zip(seen) {
            let current = live.current().unwrap();
            assert_eq!(current.generation(), generation);
            let seen = Certificate::from_der(&seen.unwrap()[0]).unwrap();
            assert_eq!(seen.serial(), current.serial());
            let renewed = renew(live).await;
            assert!(matches!(renewed, Ok(Renewed::Newer(_))), "{renewed:?}");
        }
    }
}

#[tokio::test]
async fn refusals_are_distinguished_and_keep_openbaos_own_words() {
    let bao = &OpenBao::alone().await.unwrap();
    let rows = [
        (
            approle(bao).common_name("evil.example"),
            "common name evil.example not allowed by this role",
        ),
        (
            approle(bao).dns_name("evil.example"),
            "subject alternate name evil.example not allowed by this role",
        ),
        // The policy names one role of one mount.
        (
            approle(bao).role("nope"),
            "1 error occurred: * permission denied",
        ),
        (
            real::pki_at(bao, vault(bao), "nope"),
            "1 error occurred: * permission denied",
        ),
        (
            real::pki(bao, vault(bao).namespace("nope")),
            "namespace not found",
        ),
        (
            real::pki(bao, vault(bao).auth(Auth::token("s.nope"))),
            "failed with status 403 at pki_int/sign/",
        ),
        (
            real::pki(bao, vault(bao).auth(Auth::token("s.nope"))),
            ": permission denied (the token has expired",
        ),
    ];
    for (builder, words) in rows {
        let error = once(builder).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied, "{words}");
        assert!(
            full_text(&error).contains(words),
            "{words}: {}",
            full_text(&error)
        );
    }
    assert_eq!(bao.issued().await.unwrap(), 0);
}

/// Scenario: S7
#[tokio::test]
async fn revoked_token_costs_one_login_and_one_certificate() {
    let bao = &OpenBao::alone().await.unwrap();
    let live = LiveCert::start(approle(bao).build().unwrap())
        .await
        .unwrap();
    assert_eq!(
        (bao.issued().await.unwrap(), bao.logins().await.unwrap()),
        (1, 1)
    );

    let revoke = "sys/leases/revoke-prefix/auth/approle/login";
    bao.api("PUT", revoke, json!({ "sync": true }))
        .await
        .unwrap();
    let outcome = renew(&live).await;
    assert!(matches!(outcome, Ok(Renewed::Newer(_))), "{outcome:?}");
    assert_eq!(
        (bao.issued().await.unwrap(), bao.logins().await.unwrap()),
        (2, 2)
    );
}

/// Scenario: S6, S16
#[tokio::test]
async fn sealed_hung_and_stopped_servers_are_transient_failures() {
    let bao = &OpenBao::alone().await.unwrap();
    let quick = vault(bao).request_timeout(Duration::from_millis(500));
    let source = Arc::new(real::pki(bao, quick).build().unwrap());
    let words = async |words: &str| {
        // A signal may take a moment to stop every thread of the server.
        let failed = async {
            loop {
                if let Err(error) = fetch(&source).await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(30), failed)
            .await
            .unwrap();
        assert!(error.is_transient(), "{}", full_text(&error));
        assert!(full_text(&error).contains(words), "{}", full_text(&error));
    };
    fetch(&source).await.unwrap();

    bao.seal().await.unwrap();
    words("failed with status 503 at pki_int/sign/").await;
    words(": Vault is sealed (unseal vault").await;
    bao.unseal().await.unwrap();
    fetch(&source).await.unwrap();

    bao.pause().unwrap();
    words("signing request timed out after 500ms").await;
    bao.resume().unwrap();
    fetch(&source).await.unwrap();

    bao.stop().await.unwrap();
    words("no connection to vault at").await;
    bao.start_again().await.unwrap();
    fetch(&source).await.unwrap();
    // The token has survived all faults.
    assert_eq!(bao.logins().await.unwrap(), 1);
}

#[tokio::test]
async fn certificate_is_renewed_automatically_once_the_server_is_back() {
    let bao = &OpenBao::alone().await.unwrap();
    let live = LiveCert::start(approle(bao).build().unwrap())
        .await
        .unwrap();
    bao.stop().await.unwrap();
    let outcome = renew(&live).await;
    assert!(matches!(outcome, Err(RenewError::Source(_))), "{outcome:?}");
    live.current().unwrap();

    bao.start_again().await.unwrap();
    let mut rotations = live.subscribe();
    let next = async { while rotations.next().await.unwrap().generation() < 2 {} };
    tokio::time::timeout(Duration::from_secs(60), next)
        .await
        .unwrap();
}

/// Scenario: S14
#[tokio::test]
async fn wrong_secret_is_sent_once_and_does_not_lock_the_role() {
    let bao = &OpenBao::alone().await.unwrap();
    let wrong = Auth::approle(&bao.approle().role_id, "a-wrong-secret");
    let source = Arc::new(real::pki(bao, real::vault(bao, wrong)).build().unwrap());
    // More often than it takes to lock the role.
    for _ in 0..8 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(
            full_text(&error).contains("invalid role or secret ID"),
            "{}",
            full_text(&error)
        );
    }
    assert_eq!(logins_asked(bao), 1);
    once(approle(bao)).await.unwrap();
}

/// Scenario: S6
#[tokio::test]
async fn quota_is_transient_and_its_retry_after_is_kept() {
    let bao = &OpenBao::alone().await.unwrap();
    let headers = json!({ "enable_rate_limit_response_headers": true });
    bao.api("POST", "sys/quotas/config", headers).await.unwrap();
    let quota = json!({ "path": bao.mount(), "rate": 1, "interval": "60s" });
    bao.api("POST", "sys/quotas/rate-limit/pki", quota)
        .await
        .unwrap();
    let source = Arc::new(approle(bao).build().unwrap());
    fetch(&source).await.unwrap();
    let error = fetch(&source).await.unwrap_err();
    assert!(error.is_transient());
    assert!(
        full_text(&error).contains("rate limit quota exceeded"),
        "{}",
        full_text(&error)
    );
    let wait = error.requested_wait().unwrap();
    assert!(
        wait <= Duration::from_secs(60) && !wait.is_zero(),
        "{wait:?}"
    );
}
