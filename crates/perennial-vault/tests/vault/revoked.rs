//! What is revoked once nobody uses it, and what a Vault that refuses that must bear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use perennial::CertSource;
use perennial_vault::{Auth, REVOCATION_RETRY, VaultPki};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ca::{Ca, SECRET_ID};
use crate::logins::pass;
use crate::once::{builder, fetch};
use crate::server::{Reply, Server};

/// Refuses the first revocation that it is asked for, and each further one of the same certificate.
async fn server_that_keeps_one() -> Server {
    let (ca, first) = (Ca::new("root"), OnceLock::new());
    Server::start(move |request| {
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
    let builder = builder(&server.url()).auth(Auth::approle("role", SECRET_ID));
    Arc::new(builder.revoke_superseded().build().unwrap())
}

/// What the renewer does between two fetches.
fn between_fetches(source: &Arc<VaultPki>) -> JoinHandle<()> {
    let source = Arc::clone(source);
    tokio::spawn(async move { source.changed().await })
}

async fn asked(server: &Server, revocations: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.revocations() < revocations {
        assert!(Instant::now() < deadline, "{:?}", server.steps());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn one_that_is_not_revoked_holds_up_no_other() {
    let server = server_that_keeps_one().await;
    let source = source(&server);
    let revocations = source.revocations().unwrap();
    // Two that are superseded, and one in use.
    for _certificate in 0..3 {
        fetch(&source).await.unwrap();
    }
    let upkeep = between_fetches(&source);
    asked(&server, 2).await;
    upkeep.abort();
    let left = revocations.finish(Duration::from_secs(10)).await;
    assert_eq!(left.unwrap_err().count, 1);
    assert_eq!(server.revocations(), 4);
}

#[tokio::test]
async fn failed_revocation_is_spaced_however_often_the_wait_begins_anew() {
    let server = server_that_keeps_one().await;
    let source = source(&server);
    for _certificate in 0..2 {
        fetch(&source).await.unwrap();
    }
    let upkeep = between_fetches(&source);
    asked(&server, 1).await;
    upkeep.abort();
    for _command in 0..20 {
        let upkeep = between_fetches(&source);
        tokio::task::yield_now().await;
        upkeep.abort();
    }
    assert_eq!(server.revocations(), 1);
    let upkeep = between_fetches(&source);
    pass(REVOCATION_RETRY).await;
    asked(&server, 2).await;
    upkeep.abort();
}

#[tokio::test]
async fn end_of_a_program_logs_in_again_where_somebody_has_ended_the_token() {
    let (ca, ended) = (Ca::new("root"), AtomicBool::new(false));
    let server = Server::start(move |request| {
        // The first token is over as soon as anything is to be revoked with it.
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
    fetch(&source).await.unwrap();
    let revocations = source.revocations().unwrap();
    revocations.finish(Duration::from_secs(10)).await.unwrap();
    assert_eq!(
        server.steps(),
        ["login", "sign", "revoke", "login", "revoke"]
    );
}
