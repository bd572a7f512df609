//! Which certificates are revoked, and how often a Vault that refuses is asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use perennial::CertSource;
use perennial_vault::VaultPki;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ca::Ca;
use crate::logins::pass;
use crate::once::{fetch, pki, publish, vault};
use crate::server::{Reply, Server};

/// How long after a failed revocation the next one is tried.
const RETRY: Duration = Duration::from_secs(30);

/// Refuses the first revocation, and each further one of the same certificate.
async fn server_that_keeps_one() -> Server {
    let (ca, first) = (Ca::new("root"), OnceLock::new());
    Server::start(move |request| {
        if request.path.contains("/issuer") {
            return Reply::errors(404, &[]);
        }
        if !request.is_revocation() {
            return ca.vault(request);
        }
        if *first.get_or_init(|| request.body.clone()) == request.body {
            return Reply::errors(500, &["the issuer is gone"]);
        }
        Reply::json(200, "{}")
    })
    .await
}

fn source(server: &Server) -> Arc<VaultPki> {
    let builder = pki(vault(&server.url()));
    Arc::new(builder.revoke_superseded().build().unwrap())
}

/// Fetches and publishes a certificate, and stops using it.
async fn use_one(source: &Arc<VaultPki>) {
    drop(publish(source, fetch(source).await.unwrap()));
}

/// What the renewer does between two fetches.
fn between_fetches(source: &Arc<VaultPki>) -> JoinHandle<()> {
    let source = Arc::clone(source);
    tokio::spawn(async move { source.changed().await })
}

async fn wait_for(server: &Server, revocations: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.revocations() < revocations {
        assert!(Instant::now() < deadline, "{:?}", server.steps());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Scenario: C17
#[tokio::test]
async fn failed_revocation_does_not_delay_others() {
    let server = server_that_keeps_one().await;
    let source = source(&server);
    let revocations = source.revocations().unwrap();
    // Two that are superseded, and one in use.
    for _ in 0..2 {
        use_one(&source).await;
    }
    let in_use = publish(&source, fetch(&source).await.unwrap());
    let maintenance = between_fetches(&source);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !format!("{revocations:?}").contains("unrevoked: 2") {
        assert!(Instant::now() < deadline, "{:?}", server.steps());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    maintenance.abort();
    drop(in_use);
    let left = revocations.finish(Duration::from_secs(10)).await;
    let error = left.unwrap_err();
    assert!(error.to_string().starts_with("1 unexpired"), "{error}");
    assert_eq!(
        (error.operation(), error.status()),
        (Some("revocation"), Some(500))
    );
    assert_eq!(server.revocations(), 4);
}

/// Scenario: C17
#[tokio::test]
async fn failed_revocation_is_retried_only_after_a_wait_however_often_it_restarts() {
    let server = server_that_keeps_one().await;
    let source = source(&server);
    // One that is superseded, and one in use.
    use_one(&source).await;
    let _in_use = publish(&source, fetch(&source).await.unwrap());
    let maintenance = between_fetches(&source);
    wait_for(&server, 1).await;
    maintenance.abort();
    for _ in 0..20 {
        let maintenance = between_fetches(&source);
        tokio::task::yield_now().await;
        maintenance.abort();
    }
    assert_eq!(server.revocations(), 1);
    let maintenance = between_fetches(&source);
    pass(RETRY).await;
    wait_for(&server, 2).await;
    maintenance.abort();
}

/// Scenario: C17
#[tokio::test]
async fn final_revocation_logs_in_again_where_the_token_was_revoked() {
    let (ca, ended) = (Ca::new("root"), AtomicBool::new(false));
    let server = Server::start(move |request| {
        // The first token is refused once it is used for a revocation.
        if request.is_revocation() && !ended.swap(true, Ordering::SeqCst) {
            return Reply::errors(403, &["permission denied"]);
        }
        match request.is_revocation() {
            true => Reply::json(200, "{}"),
            false => ca.vault(request),
        }
    })
    .await;
    let source = source(&server);
    use_one(&source).await;
    let revocations = source.revocations().unwrap();
    revocations.finish(Duration::from_secs(10)).await.unwrap();
    assert_eq!(
        server.steps(),
        ["login", "sign", "revoke", "login", "revoke"]
    );
}

/// Scenario: F7
#[tokio::test]
async fn certificate_that_was_never_published_is_not_revoked() {
    let server = server_that_keeps_one().await;
    let source = source(&server);
    let revocations = source.revocations().unwrap();
    let refused = fetch(&source).await.unwrap();
    let kept = fetch(&source).await.unwrap();
    use_one(&source).await;
    // Newer deliveries have taken its place.
    let late = publish(&source, refused);
    drop((late, kept));
    let maintenance = between_fetches(&source);
    wait_for(&server, 1).await;
    maintenance.abort();
    // Only the published one is left.
    let error = revocations.finish(Duration::from_secs(10)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("1 unexpired"), "{error}");
    assert_eq!(server.revocations(), 2);
}
