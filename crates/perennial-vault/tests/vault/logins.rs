//! Tokens: a fetch logs in at most once, and a refused credential is not sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use perennial::SourceErrorKind;

use crate::ca::{Ca, login};
use crate::once::{app, fetch, full_text, vault, with_approle, with_token};
use crate::server::{Reply, Server};

/// The back-off of a refused credential, and of logins after a 403.
const REFUSED: Duration = Duration::from_secs(300);
const LOCKED: Duration = Duration::from_secs(60);
/// The age from which a token whose policy refuses is replaced.
const POLICY_TOKEN_AGE: Duration = Duration::from_secs(60);

const POLICY: &str = "1 error occurred:\n\t* permission denied\n\n";

/// Moves tokio's clock, and with it every back-off and lease.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Refuses the first `bad` tokens that it has granted: token *n* is `s.n`.
async fn server_that_revokes(bad: usize, refusal: &'static str) -> Server {
    let ca = Ca::new("root");
    let logins = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.is_login() {
            let n = logins.fetch_add(1, Ordering::SeqCst);
            return login(&format!("s.{n}"), 3_600);
        }
        let token = request.header("x-vault-token").unwrap();
        let n: usize = token.trim_start_matches("s.").parse().unwrap();
        if n < bad {
            return Reply::errors(403, &[refusal]);
        }
        ca.sign(request, |_| ())
    })
    .await
}

/// Scenario: S7
#[tokio::test]
async fn several_sources_share_one_login() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.vault(request)).await;
    let vault = vault(&server.url()).build().unwrap();
    let jobs = vault.pki("pki").role("jobs").common_name("jobs");
    let app = app(&vault).build().unwrap().into();
    let jobs = jobs.build().unwrap().into();
    let (one, other) = tokio::join!(fetch(&app), fetch(&jobs));
    one.unwrap();
    other.unwrap();
    assert_eq!(server.logins(), 1);
    let requests = server.requests();
    let roles = ["app", "jobs"].map(|role| format!("/v1/pki/sign/{role}"));
    assert!(
        roles
            .iter()
            .all(|path| requests.iter().any(|r| r.path == *path))
    );
}

#[tokio::test]
async fn many_fetches_share_one_login() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.vault(request)).await;
    let source = with_approle(&server.url());
    for _ in 0..3 {
        fetch(&source).await.unwrap();
    }
    assert_eq!(server.logins(), 1);

    // After two thirds of its hour it is renewed, and valid for at least another 36 minutes.
    pass(Duration::from_secs(2_400)).await;
    fetch(&source).await.unwrap();
    pass(Duration::from_secs(2_150)).await;
    fetch(&source).await.unwrap();
    assert_eq!(
        server.steps(),
        ["login", "sign", "sign", "sign", "renew", "sign", "sign"]
    );
}

/// Scenario: T9
#[tokio::test]
async fn revoked_token_causes_one_login_and_one_more_request() {
    let ca = Ca::new("root");
    let signed = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        // The second request is refused: the token was revoked in between.
        let refused = !request.is_login() && signed.fetch_add(1, Ordering::SeqCst) == 1;
        if refused {
            return Reply::errors(403, &["permission denied"]);
        }
        ca.vault(request)
    })
    .await;
    let source = with_approle(&server.url());
    fetch(&source).await.unwrap();
    fetch(&source).await.unwrap();
    assert_eq!(server.steps(), ["login", "sign", "sign", "login", "sign"]);
}

#[tokio::test]
async fn token_that_is_refused_at_once_causes_no_second_login() {
    let server = server_that_revokes(1, "permission denied").await;
    let source = with_approle(&server.url());
    let error = fetch(&source).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Denied);
    assert_eq!(server.logins(), 1);

    // It is dropped, too: the next fetch does not try it again.
    fetch(&source).await.unwrap();
    assert_eq!(server.logins(), 2);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn policy_refusal_causes_a_login_only_for_an_old_token() {
    let server = server_that_revokes(1, POLICY).await;
    let source = with_approle(&server.url());
    for _ in 0..2 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
    }
    assert_eq!(server.logins(), 1);

    pass(POLICY_TOKEN_AGE).await;
    fetch(&source).await.unwrap_err();
    assert_eq!(server.logins(), 1);
    for _ in 0..2 {
        fetch(&source).await.unwrap();
    }
    assert_eq!(server.logins(), 2);
}

/// Scenario: S14
#[tokio::test]
async fn token_that_no_login_could_replace_is_used_once_its_policy_is_fixed() {
    // A secret_id that is valid for one login, and a policy that is wrong for a minute.
    let wrong = Arc::new(AtomicBool::new(false));
    let (ca, is_wrong) = (Ca::new("root"), Arc::clone(&wrong));
    let logins = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.is_login() && logins.fetch_add(1, Ordering::SeqCst) > 0 {
            return Reply::errors(400, &["invalid role or secret ID"]);
        }
        if request.step() == "sign" && is_wrong.load(Ordering::SeqCst) {
            return Reply::errors(403, &[POLICY]);
        }
        ca.vault(request)
    })
    .await;
    let source = with_approle(&server.url());
    fetch(&source).await.unwrap();
    pass(POLICY_TOKEN_AGE).await;
    wrong.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
    }
    wrong.store(false, Ordering::SeqCst);
    fetch(&source).await.unwrap();
    assert_eq!(server.logins(), 2);
}

#[tokio::test]
async fn refused_static_token_is_denied_without_a_login() {
    let server = Server::start(|_| Reply::errors(403, &["permission denied"])).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Denied);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn refused_credential_is_not_sent_again_before_its_back_off_is_over() {
    for (status, words, back_off) in [
        (400, "invalid role or secret ID", REFUSED),
        (403, "permission denied", LOCKED),
    ] {
        let server = Server::start(move |_| Reply::errors(status, &[words])).await;
        let source = with_approle(&server.url());
        for _ in 0..3 {
            let error = fetch(&source).await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Denied);
            assert!(full_text(&error).contains(words), "{}", full_text(&error));
            assert!(error.requested_wait().unwrap() <= back_off);
        }
        assert_eq!(server.logins(), 1);

        pass(back_off - Duration::from_secs(5)).await;
        fetch(&source).await.unwrap_err();
        assert_eq!(server.logins(), 1);
        pass(Duration::from_secs(6)).await;
        fetch(&source).await.unwrap_err();
        assert_eq!(server.logins(), 2);
    }
}

#[tokio::test]
async fn failed_login_at_a_sealed_server_is_transient_and_has_no_back_off() {
    let ca = Ca::new("root");
    let sealed = Arc::new(AtomicUsize::new(1));
    let state = Arc::clone(&sealed);
    let server = Server::start(move |request| match state.load(Ordering::SeqCst) {
        1 => Reply::errors(503, &["Vault is sealed"]),
        _ => ca.vault(request),
    })
    .await;
    let source = with_approle(&server.url());
    assert!(fetch(&source).await.unwrap_err().is_transient());
    sealed.store(0, Ordering::SeqCst);
    fetch(&source).await.unwrap();
}
