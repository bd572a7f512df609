//! The lifetime of tokens, and credentials in files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use perennial::{CertSource, SourceErrorKind};
use perennial_vault::{Auth, Secret, VaultBuilder, VaultPki};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::ca::{Ca, SECRET_ID, TOKEN, login, made_by};
use crate::logins::pass;
use crate::once::{app, fetch, full_text, vault, with, with_approle, with_token};
use crate::server::{Reply, Request, Server};

/// How often the file of a refused credential is read again.
const CREDENTIAL_POLL: Duration = Duration::from_secs(5);
const TWO_THIRDS: Duration = Duration::from_secs(2_400);

/// Answers as Vault does, except where `change` has an answer.
async fn server(change: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let ca = Ca::new("root");
    Server::start(move |request| change(request).unwrap_or_else(|| ca.vault(request))).await
}

/// A self-signed certificate, and its key.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// What the renewer does between two fetches.
fn between_fetches(source: &Arc<VaultPki>) -> JoinHandle<()> {
    let source = Arc::clone(source);
    tokio::spawn(async move { source.changed().await })
}

/// Waits for a renewal, then fetches, which waits for the renewal's answer: a request that is not
/// answered would time out once the clock is moved.
async fn renewed(server: &Server, source: &Arc<VaultPki>, renewals: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.renewals() < renewals {
        assert!(Instant::now() < deadline, "{:?}", server.steps());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fetch(source).await.unwrap();
}

/// Scenario: S7
#[tokio::test]
async fn token_is_also_renewed_between_fetches() {
    let server = server(|_| None).await;
    let source = with_approle(&server.url());
    fetch(&source).await.unwrap();
    let maintenance = between_fetches(&source);
    for renewals in 1..=3 {
        pass(TWO_THIRDS).await;
        renewed(&server, &source, renewals).await;
    }
    assert_eq!(
        server.steps(),
        [
            "login", "sign", "renew", "sign", "renew", "sign", "renew", "sign"
        ]
    );
    assert_eq!(server.requests()[2].header("x-vault-token"), Some(TOKEN));
    maintenance.abort();
}

/// Scenario: S7
#[tokio::test]
async fn token_of_several_sources_is_renewed_once() {
    let server = server(|_| None).await;
    let all = three(vault(&server.url()));
    for source in &all {
        fetch(source).await.unwrap();
    }
    let all_maintenance: Vec<_> = all.iter().map(between_fetches).collect();
    for renewals in 1..=3 {
        pass(TWO_THIRDS).await;
        renewed(&server, &all[0], renewals).await;
        // The other sources had time to renew it, too.
        for source in &all {
            fetch(source).await.unwrap();
        }
        assert_eq!(server.renewals(), renewals);
    }
    assert_eq!(server.logins(), 1);
    for maintenance in all_maintenance {
        maintenance.abort();
    }
}

/// Three sources that share a token.
fn three(vault: VaultBuilder) -> [Arc<VaultPki>; 3] {
    let vault = vault.build().unwrap();
    ["app", "jobs", "mail"].map(|name| {
        let source = vault.pki("pki").role(name).common_name(name);
        Arc::new(source.build().unwrap())
    })
}

/// What the source does between two fetches, started before this returns.
async fn begun(source: &Arc<VaultPki>) -> JoinHandle<()> {
    let source = Arc::clone(source);
    let mut changed = Box::pin(async move { source.changed().await });
    std::future::poll_fn(|context| {
        assert!(changed.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    tokio::spawn(changed)
}

/// Scenario: S7
#[tokio::test]
async fn unanswered_login_is_sent_once_for_all_who_wait() {
    let hangs = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&hangs);
    let server = server(move |request| {
        if !request.is_login() {
            return None;
        }
        let hangs = state.load(Ordering::SeqCst);
        // The token cannot be renewed.
        let granted = serde_json::json!({ "auth": {
            "client_token": TOKEN, "lease_duration": 3_600, "renewable": false } });
        Some(if hangs {
            Reply::Hang
        } else {
            Reply::json(200, granted.to_string())
        })
    })
    .await;
    let patience = Duration::from_millis(500);
    let all = three(vault(&server.url()).request_timeout(patience));
    let at_once = || async {
        let [a, b, c] = &all;
        <[_; 3]>::from(tokio::join!(fetch(a), fetch(b), fetch(c)))
    };

    for outcome in at_once().await {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(
            full_text(&error).contains("login timed out"),
            "{}",
            full_text(&error)
        );
    }
    assert_eq!(server.logins(), 1);

    hangs.store(false, Ordering::SeqCst);
    for outcome in at_once().await {
        outcome.unwrap();
    }
    assert_eq!(server.logins(), 2);

    // Another token is due, and the current one stays in use until it expires.
    hangs.store(true, Ordering::SeqCst);
    pass(TWO_THIRDS).await;
    for outcome in at_once().await {
        outcome.unwrap();
    }
    assert_eq!(server.logins(), 3);
}

/// Scenario: S7
#[tokio::test]
async fn credential_that_one_source_found_replaced_wakes_all() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong").unwrap();
    let server = server(|request| {
        let is_wrong = request.is_login() && !request.body.contains(SECRET_ID);
        is_wrong.then(|| Reply::errors(400, &["invalid role or secret ID"]))
    })
    .await;
    let auth = Auth::approle("role", Secret::file(file.path()));
    let [first, second, _] = three(vault(&server.url()).auth(auth));
    for source in [&first, &second] {
        fetch(source).await.unwrap_err();
    }
    let waiting = begun(&second).await;
    // The second one reads the old file first: it locks the token while it reads.
    fetch(&first).await.unwrap_err();
    std::fs::write(file.path(), SECRET_ID).unwrap();
    fetch(&first).await.unwrap();
    pass(CREDENTIAL_POLL).await;
    let woken = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    woken
        .expect("the login of another source wakes it")
        .unwrap();
    fetch(&second).await.unwrap();
    assert_eq!(server.logins(), 2);
}

/// Scenario: S7
#[tokio::test]
async fn token_of_another_source_is_renewed_after_that_is_dropped() {
    let server = server(|_| None).await;
    let [first, second, _] = three(vault(&server.url()));
    let maintenance = begun(&second).await;
    fetch(&first).await.unwrap();
    drop(first);
    // The second one does not fetch: the renewal must be its own.
    pass(TWO_THIRDS).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.renewals() < 1 {
        assert!(Instant::now() < deadline, "{:?}", server.steps());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    maintenance.abort();
}

#[tokio::test]
async fn given_token_is_renewed_at_once_to_learn_its_lease() {
    let server = server(|_| None).await;
    let source = with_token(&server.url());
    fetch(&source).await.unwrap();
    let maintenance = between_fetches(&source);
    renewed(&server, &source, 1).await;
    pass(TWO_THIRDS).await;
    renewed(&server, &source, 2).await;
    assert_eq!(server.steps(), ["sign", "renew", "sign", "renew", "sign"]);
    maintenance.abort();
}

#[tokio::test]
async fn given_token_that_cannot_be_renewed_is_tried_once() {
    let refuse = |request: &Request| {
        let refused = || Reply::errors(400, &["lease is not renewable"]);
        request.is_renewal().then(refused)
    };
    let server = server(refuse).await;
    let source = with_token(&server.url());
    fetch(&source).await.unwrap();
    let maintenance = between_fetches(&source);
    renewed(&server, &source, 1).await;
    for _ in 0..2 {
        pass(Duration::from_secs(86_400)).await;
        fetch(&source).await.unwrap();
    }
    assert_eq!(server.steps(), ["sign", "renew", "sign", "sign", "sign"]);
    maintenance.abort();
}

/// Scenario: S7
#[tokio::test]
async fn refused_or_shrunk_renewal_is_followed_by_a_login() {
    let answers: [fn() -> Reply; 4] = [
        || Reply::errors(400, &["lease is not renewable"]),
        || Reply::errors(403, &["permission denied"]),
        || Reply::errors(500, &["past the max TTL, cannot renew"]),
        || login(TOKEN, 1_800),
    ];
    for answer in answers {
        let server = server(move |request| request.is_renewal().then(answer)).await;
        let source = with_approle(&server.url());
        fetch(&source).await.unwrap();
        pass(TWO_THIRDS).await;
        fetch(&source).await.unwrap();
        assert_eq!(server.steps(), ["login", "sign", "renew", "login", "sign"]);
    }
}

/// Scenario: S7
#[tokio::test]
async fn certificate_logs_in_again_and_its_token_is_never_renewed() {
    let server = server(|_| None).await;
    let (chain, key) = pair();
    let vault = vault(&server.url()).auth(Auth::tls_certificate("app", chain, key));
    let vault = vault.build().unwrap();
    let source = Arc::new(app(&vault).build().unwrap());
    for _ in 0..2 {
        fetch(&source).await.unwrap();
        let maintenance = between_fetches(&source);
        pass(TWO_THIRDS).await;
        maintenance.abort();
    }
    assert_eq!(server.steps(), ["login", "sign", "login", "sign"]);
    // Each source presents its own live certificate, so none shares a token.
    fetch(&Arc::new(app(&vault).build().unwrap()))
        .await
        .unwrap();
    assert_eq!(server.logins(), 3);
}

/// Scenario: S7
#[tokio::test]
async fn failed_login_keeps_the_current_token_until_it_expires() {
    for (status, words) in [(503, "Vault is sealed"), (400, "invalid secret id")] {
        let down = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&down);
        let server = server(move |request| {
            let refuse = state.load(Ordering::SeqCst) && request.step() != "sign";
            refuse.then(|| Reply::errors(status, &[words]))
        })
        .await;
        let source = with_approle(&server.url());
        fetch(&source).await.unwrap();
        down.store(true, Ordering::SeqCst);
        pass(TWO_THIRDS).await;
        fetch(&source).await.unwrap();
        pass(Duration::from_secs(3_590) - TWO_THIRDS).await;
        fetch(&source).await.unwrap();
        // Its hour has passed.
        pass(Duration::from_secs(11)).await;
        let error = fetch(&source).await.unwrap_err();
        assert!(full_text(&error).contains(words), "{}", full_text(&error));
    }
}

/// Scenario: H4
#[tokio::test]
async fn failed_login_is_counted_while_the_current_token_stays_in_use() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    // Logins since the last call: successful, failed.
    let logins = || {
        let all = snapshotter.snapshot().into_vec();
        let count = |result| {
            let it = all.iter().find(|(key, ..)| {
                let key = key.key();
                key.name() == "perennial_vault_logins_total"
                    && key.labels().any(|label| label.value() == result)
            });
            it.map(|(.., value)| match value {
                DebugValue::Counter(count) => *count,
                other => panic!("a counter, not {other:?}"),
            })
        };
        (count("ok"), count("failed"))
    };
    let down = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&down);
    let server = server(move |request| {
        let refuse = state.load(Ordering::SeqCst) && request.step() != "sign";
        refuse.then(|| Reply::errors(400, &["invalid secret id"]))
    })
    .await;
    let source = with_approle(&server.url());
    // Both counters exist before the first login.
    assert_eq!(logins(), (Some(0), Some(0)));
    fetch(&source).await.unwrap();
    assert_eq!(logins(), (Some(1), Some(0)));
    down.store(true, Ordering::SeqCst);
    pass(TWO_THIRDS).await;
    fetch(&source).await.unwrap();
    assert_eq!(logins(), (Some(0), Some(1)));
}

#[tokio::test]
async fn given_token_whose_lease_shrinks_stays_in_use_until_vault_refuses_it() {
    let renewals = AtomicUsize::new(0);
    let server = server(move |request| {
        let halvings = || renewals.fetch_add(1, Ordering::SeqCst) as u64;
        // Each time half of the lease before.
        request
            .is_renewal()
            .then(|| login(TOKEN, 3_600 >> halvings()))
    })
    .await;
    let source = with_token(&server.url());
    fetch(&source).await.unwrap();
    let mut maintenance = between_fetches(&source);
    renewed(&server, &source, 1).await;
    pass(TWO_THIRDS).await;
    renewed(&server, &source, 2).await;
    for _ in 0..3 {
        pass(Duration::from_secs(600)).await;
        fetch(&source).await.unwrap();
        maintenance.abort();
        maintenance = between_fetches(&source);
    }
    assert_eq!(
        server.steps(),
        [
            "sign", "renew", "sign", "renew", "sign", "sign", "sign", "sign"
        ]
    );
    maintenance.abort();
}

/// Scenario: S7
#[tokio::test]
async fn concurrent_fetches_cause_one_login() {
    let ca = Ca::new("root");
    let logins = AtomicUsize::new(0);
    let revoked = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&revoked);
    let server = Server::start(move |request| {
        if request.is_login() {
            let n = logins.fetch_add(1, Ordering::SeqCst);
            return login(&format!("s.{n}"), 3_600);
        }
        let is_first = request.header("x-vault-token") == Some("s.0");
        if is_first && state.load(Ordering::SeqCst) {
            return Reply::errors(403, &["permission denied"]);
        }
        ca.vault(request)
    })
    .await;
    let source = with_approle(&server.url());
    // Without a token, and after the token that all use was revoked.
    for logins in [1, 2] {
        let mut fetches = JoinSet::new();
        for _ in 0..20 {
            let source = Arc::clone(&source);
            fetches.spawn(async move { fetch(&source).await.map(drop) });
        }
        for outcome in fetches.join_all().await {
            outcome.unwrap();
        }
        assert_eq!(server.logins(), logins);
        revoked.store(true, Ordering::SeqCst);
    }
}

/// Scenario: T9
#[tokio::test]
async fn token_that_expired_during_a_suspend_costs_one_login() {
    let server = server(|_| None).await;
    let source = with_approle(&server.url());
    fetch(&source).await.unwrap();
    pass(Duration::from_secs(86_400)).await;
    fetch(&source).await.unwrap();
    assert_eq!(server.steps(), ["login", "sign", "login", "sign"]);
}

#[tokio::test]
async fn file_with_a_token_is_read_before_each_fetch() {
    let server = server(|_| None).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let source = with(&server.url(), Auth::token(Secret::file(file.path())));
    for token in ["s.1\n", "s.1\n", "s.2\r\n", "s.3"] {
        std::fs::write(file.path(), token).unwrap();
        fetch(&source).await.unwrap();
    }
    // While its file is being replaced, the current token stays in use.
    std::fs::write(file.path(), "").unwrap();
    fetch(&source).await.unwrap();
    let sent: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.header("x-vault-token").unwrap().to_owned())
        .collect();
    assert_eq!(sent, ["s.1", "s.1", "s.2", "s.3", "s.3"]);
}

#[tokio::test]
async fn refused_token_is_not_sent_again_until_its_file_holds_another() {
    let server = server(|request| {
        let is_bad = request.header("x-vault-token") == Some("s.bad");
        is_bad.then(|| Reply::errors(403, &["permission denied"]))
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s.bad").unwrap();
    let source = with(&server.url(), Auth::token(Secret::file(file.path())));
    for _ in 0..3 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(full_text(&error).contains("permission denied"));
    }
    assert_eq!(server.steps(), ["sign"]);
    std::fs::write(file.path(), "s.good").unwrap();
    fetch(&source).await.unwrap();
    assert_eq!(server.steps(), ["sign", "sign"]);
}

#[tokio::test]
async fn another_credential_in_the_file_is_found_and_sent() {
    let server = server(|request| {
        let is_bad = request.is_login() && request.body.contains("wrong");
        is_bad.then(|| Reply::errors(400, &["invalid role or secret ID"]))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret-id");
    let source = with(&server.url(), Auth::approle("role", Secret::file(&file)));
    let error = fetch(&source).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        full_text(&error).contains("failed to read auth secret_id from"),
        "{}",
        full_text(&error)
    );

    for (secret, is_good) in [("wrong", false), ("right", true)] {
        let found = between_fetches(&source);
        tokio::task::yield_now().await;
        std::fs::write(&file, secret).unwrap();
        pass(CREDENTIAL_POLL).await;
        tokio::time::timeout(Duration::from_secs(30), found)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(fetch(&source).await.is_ok(), is_good);
        assert_eq!(fetch(&source).await.is_ok(), is_good);
    }
    assert_eq!(server.steps(), ["login", "login", "sign", "sign"]);
}

#[tokio::test]
async fn wrapping_token_is_unwrapped_once_and_never_sent_elsewhere() {
    let server = server(|_| None).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s.WRAPPING\n").unwrap();
    let auth = Auth::approle_wrapped("role", Secret::file(file.path()));
    let source = with(&server.url(), auth);
    fetch(&source).await.unwrap();
    pass(Duration::from_secs(86_400)).await;
    fetch(&source).await.unwrap();
    // The deployment has deleted its file.
    file.close().unwrap();
    pass(Duration::from_secs(86_400)).await;
    fetch(&source).await.unwrap();
    assert_eq!(
        server.steps(),
        [
            "look up", "unwrap", "login", "sign", "login", "sign", "login", "sign"
        ]
    );
    for request in server.requests() {
        let token = request.header("x-vault-token").unwrap_or_default();
        assert_eq!(token == "s.WRAPPING", request.is_unwrapping());
        assert_eq!(request.body.contains("s.WRAPPING"), request.is_lookup());
        assert_eq!(request.body.contains(SECRET_ID), request.is_login());
    }
}

#[tokio::test]
async fn spent_wrapping_token_is_reported_as_an_interception_and_sent_once() {
    // Used long ago, or between the lookup and the unwrapping.
    for step in ["look up", "unwrap"] {
        let server = server(move |request| {
            let words = "wrapping token is not valid or does not exist";
            (request.step() == step).then(|| Reply::errors(400, &[words]))
        })
        .await;
        let source = with(&server.url(), Auth::approle_wrapped("role", "s.spent"));
        for _ in 0..3 {
            let error = fetch(&source).await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Denied);
            assert!(
                full_text(&error).contains("was intercepted"),
                "{}",
                full_text(&error)
            );
            pass(Duration::from_secs(3_600)).await;
        }
        assert_eq!(server.steps().iter().filter(|s| **s == step).count(), 1);
        assert_eq!(server.logins(), 0);
    }
}

/// Scenario: S14
#[tokio::test]
async fn lost_answer_to_our_own_unwrapping_is_not_reported_as_an_interception() {
    let unwrapped = AtomicBool::new(false);
    let server = server(move |request| {
        if request.is_unwrapping() {
            unwrapped.store(true, Ordering::SeqCst);
            return Some(Reply::json(200, "{"));
        }
        let is_spent = request.is_lookup() && unwrapped.load(Ordering::SeqCst);
        is_spent.then(|| Reply::errors(400, &["wrapping token is not valid or does not exist"]))
    })
    .await;
    let source = with(&server.url(), Auth::approle_wrapped("role", "s.wrapping"));
    fetch(&source).await.unwrap_err();
    for _ in 0..2 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(
            full_text(&error).contains("was lost"),
            "{}",
            full_text(&error)
        );
        assert!(
            !full_text(&error).contains("intercepted"),
            "{}",
            full_text(&error)
        );
        pass(Duration::from_secs(3_600)).await;
    }
    assert_eq!(server.steps(), ["look up", "unwrap", "look up"]);
}

#[tokio::test]
async fn wrapping_token_that_another_path_made_is_reported_and_never_unwrapped() {
    let server = server(|request| request.is_lookup().then(|| made_by("sys/wrapping/wrap"))).await;
    let source = with(&server.url(), Auth::approle_wrapped("role", "s.forged"));
    for _ in 0..3 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(
            full_text(&error).contains("made by \"sys/wrapping/wrap\""),
            "{}",
            full_text(&error)
        );
        pass(Duration::from_secs(3_600)).await;
    }
    assert_eq!(server.steps(), ["look up"]);
}

#[tokio::test]
async fn unwrapping_that_a_sealed_server_or_a_proxy_refuses_is_retried() {
    let refusals: [fn() -> Reply; 2] = [
        || Reply::errors(503, &["Vault is sealed"]),
        || Reply::json(403, "<html>Forbidden</html>"),
    ];
    for refusal in refusals {
        let refuses = Arc::new(AtomicBool::new(true));
        let state = Arc::clone(&refuses);
        let server = server(move |_| state.load(Ordering::SeqCst).then(refusal)).await;
        let source = with(&server.url(), Auth::approle_wrapped("role", "s.wrapping"));
        let error = fetch(&source).await.unwrap_err();
        assert!(
            !full_text(&error).contains("intercepted"),
            "{}",
            full_text(&error)
        );
        refuses.store(false, Ordering::SeqCst);
        fetch(&source).await.unwrap();
    }
}

#[tokio::test]
async fn every_login_has_its_path_and_fields() {
    let server = server(|_| None).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a.projected.token\n").unwrap();
    let (chain, key) = pair();
    let logins = [
        Auth::tls_certificate("app", chain, key),
        Auth::jwt("app", "a.signed.token"),
        Auth::kubernetes_at("app", file.path()),
        Auth::userpass("ann", "pass word"),
        Auth::userpass("ann", "x").login_mount("staff/pw"),
    ];
    for auth in logins {
        fetch(&with(&server.url(), auth)).await.unwrap();
    }
    let sent: Vec<_> = server
        .requests()
        .into_iter()
        .filter(Request::is_login)
        .map(|request| (request.path, request.body))
        .collect();
    let expected = [
        // Not `cert_name`, which Vault ignores: it would try every role.
        ("/v1/auth/cert/login", r#"{"name":"app"}"#),
        (
            "/v1/auth/jwt/login",
            r#"{"jwt":"a.signed.token","role":"app"}"#,
        ),
        (
            "/v1/auth/kubernetes/login",
            r#"{"jwt":"a.projected.token","role":"app"}"#,
        ),
        ("/v1/auth/userpass/login/ann", r#"{"password":"pass word"}"#),
        ("/v1/auth/staff/pw/login/ann", r#"{"password":"x"}"#),
    ];
    assert_eq!(
        sent,
        expected.map(|(path, body)| (path.to_owned(), body.to_owned()))
    );
}

/// Scenario: S13
/// The agent's part is scripted: it adds its token where the real one does, and refuses as a Vault
/// does that receives none.
#[tokio::test]
async fn agent_adds_its_own_token_and_its_absence_is_transient() {
    let is_ready = Arc::new(AtomicBool::new(false));
    let server = server({
        let is_ready = Arc::clone(&is_ready);
        move |_| match is_ready.load(Ordering::SeqCst) {
            true => None,
            false => Some(Reply::errors(403, &["permission denied"])),
        }
    })
    .await;
    let source = with(&server.url(), Auth::agent());
    let error = fetch(&source).await.unwrap_err();
    assert!(error.is_transient());
    assert!(full_text(&error).contains("the agent has no valid token"));
    is_ready.store(true, Ordering::SeqCst);
    fetch(&source).await.unwrap();
    let maintenance = between_fetches(&source);
    pass(TWO_THIRDS).await;
    fetch(&source).await.unwrap();
    maintenance.abort();
    assert_eq!(server.steps(), ["sign"; 3]);
    for request in server.requests() {
        assert_eq!(request.header("x-vault-token"), None);
        assert_eq!(request.header("x-vault-request"), Some("true"));
    }
}
