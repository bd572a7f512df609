//! `VaultPki` on a real OpenBao, which is also the witness: its audit log counts.

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

use perennial::{CertMaterial, LiveCert, Renewal, SourceError, SourceErrorKind};
use perennial_testbed::OpenBao;
use perennial_vault::{Auth, VaultPkiBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

use once::{fetch, told};

fn approle(bao: &OpenBao) -> VaultPkiBuilder {
    let credential = bao.approle();
    let auth = Auth::approle(&credential.role_id, &credential.secret_id);
    real::builder(bao, auth)
}

async fn once(builder: VaultPkiBuilder) -> Result<CertMaterial, SourceError> {
    fetch(&Arc::new(builder.build().unwrap())).await
}

/// Renews until `wanted`, past the rate limit; the deadline is far beyond any backoff here.
async fn renew_until(live: &LiveCert, wanted: impl Fn(&Renewal) -> bool) -> Renewal {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let outcome = live.renew_now().await;
        if wanted(&outcome) {
            return outcome;
        }
        assert!(Instant::now() < deadline, "still {outcome:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The logins that OpenBao was asked for, refused ones included.
fn logins_asked(bao: &OpenBao) -> usize {
    let log = std::fs::read_to_string(bao.folder().join("audit.log")).unwrap();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["type"] == "request")
        .filter(|entry| entry["request"]["path"] == "auth/approle/login")
        .count()
}

#[tokio::test]
async fn approle_and_token_both_give_a_certificate_that_is_published() {
    let bao = &OpenBao::alone().await.unwrap();
    let token = Auth::token(format!("{}\n", bao.app_token().await.unwrap()));
    for builder in [approle(bao), real::builder(bao, token).common_name("app-2")] {
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

#[tokio::test]
async fn refusals_are_told_apart_and_kept_in_openbaos_own_words() {
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
            approle(bao).mount("nope"),
            "1 error occurred: * permission denied",
        ),
        (approle(bao).namespace("nope"), "namespace not found"),
        (
            approle(bao).auth(Auth::token("s.nope")),
            "status 403: permission denied",
        ),
    ];
    for (builder, words) in rows {
        let error = once(builder).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied, "{words}");
        assert!(told(&error).contains(words), "{words}: {}", told(&error));
    }
    assert_eq!(bao.issued().await.unwrap(), 0);
}

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
    let outcome = renew_until(&live, |o| !matches!(o, Renewal::Limited)).await;
    assert!(matches!(outcome, Renewal::Newer(_)), "{outcome:?}");
    assert_eq!(
        (bao.issued().await.unwrap(), bao.logins().await.unwrap()),
        (2, 2)
    );
}

#[tokio::test]
async fn sealed_hung_and_stopped_servers_are_waited_for() {
    let bao = &OpenBao::alone().await.unwrap();
    let quick = approle(bao).request_timeout(Duration::from_millis(500));
    let source = Arc::new(quick.build().unwrap());
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
        assert!(error.is_transient(), "{}", told(&error));
        assert!(told(&error).contains(words), "{}", told(&error));
    };
    fetch(&source).await.unwrap();

    bao.seal().await.unwrap();
    words("status 503: Vault is sealed (unseal it").await;
    bao.unseal().await.unwrap();
    fetch(&source).await.unwrap();

    bao.pause().unwrap();
    words("did not answer the signing request within 500ms").await;
    bao.resume().unwrap();
    fetch(&source).await.unwrap();

    bao.stop().await.unwrap();
    words("could not be reached").await;
    bao.start_again().await.unwrap();
    fetch(&source).await.unwrap();
    // The token outlived all of it.
    assert_eq!(bao.logins().await.unwrap(), 1);
}

#[tokio::test]
async fn certificate_is_renewed_by_itself_once_the_server_is_back() {
    let bao = &OpenBao::alone().await.unwrap();
    let live = LiveCert::start(approle(bao).build().unwrap())
        .await
        .unwrap();
    bao.stop().await.unwrap();
    let outcome = renew_until(&live, |o| !matches!(o, Renewal::Limited)).await;
    assert!(matches!(outcome, Renewal::Failed(_)), "{outcome:?}");
    live.current().unwrap();

    bao.start_again().await.unwrap();
    let mut rotations = live.rotations();
    let next = async { while rotations.next().await.unwrap().generation() < 2 {} };
    tokio::time::timeout(Duration::from_secs(60), next)
        .await
        .unwrap();
}

#[tokio::test]
async fn wrong_secret_is_sent_once_and_locks_nobody_out() {
    let bao = &OpenBao::alone().await.unwrap();
    let wrong = Auth::approle(&bao.approle().role_id, "a-wrong-secret");
    let source = Arc::new(real::builder(bao, wrong).build().unwrap());
    // More often than it takes to lock the role.
    for _fetch in 0..8 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(
            told(&error).contains("invalid role or secret ID"),
            "{}",
            told(&error)
        );
    }
    assert_eq!(logins_asked(bao), 1);
    once(approle(bao)).await.unwrap();
}

#[tokio::test]
async fn quota_is_transient_and_its_retry_after_is_kept() {
    let bao = &OpenBao::alone().await.unwrap();
    let tell = json!({ "enable_rate_limit_response_headers": true });
    bao.api("POST", "sys/quotas/config", tell).await.unwrap();
    let quota = json!({ "path": bao.mount(), "rate": 1, "interval": "60s" });
    bao.api("POST", "sys/quotas/rate-limit/pki", quota)
        .await
        .unwrap();
    let source = Arc::new(approle(bao).build().unwrap());
    fetch(&source).await.unwrap();
    let error = fetch(&source).await.unwrap_err();
    assert!(error.is_transient());
    assert!(
        told(&error).contains("rate limit quota exceeded"),
        "{}",
        told(&error)
    );
    let wait = error.requested_wait().unwrap();
    assert!(
        wait <= Duration::from_secs(60) && !wait.is_zero(),
        "{wait:?}"
    );
}
