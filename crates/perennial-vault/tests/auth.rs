//! Each login method at a real OpenBao, whose audit log shows the logins.

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
#[path = "vault/signed.rs"]
mod signed;

use std::sync::Arc;
use std::time::Duration;

use perennial::{CertSource, LiveCert, Renewed, SourceErrorKind};
use perennial_testbed::OpenBao;
use perennial_vault::{Auth, Secret, VaultPki};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use once::{fetch, full_text};
use real::{POLICY, enable, kubernetes, pki, post, vault};
use signed::Platform;

fn source(bao: &OpenBao, auth: Auth) -> VaultPki {
    pki(bao, vault(bao, auth)).build().unwrap()
}

/// Fetches twice, and returns the number of logins: at most one, since a token is kept.
async fn logins(bao: &OpenBao, auth: Auth) -> usize {
    let before = asked(bao, "auth/").len();
    let name = format!("{auth:?}");
    let source = Arc::new(source(bao, auth));
    for _ in 0..2 {
        if let Err(error) = fetch(&source).await {
            panic!("{name}: {}", full_text(&error));
        }
    }
    asked(bao, "auth/").len() - before
}

/// The requests to paths that begin so, refused ones included.
fn asked(bao: &OpenBao, prefix: &str) -> Vec<Value> {
    audited(bao, "request", prefix)
}

/// The entries of one kind, as the audit log has them.
fn audited(bao: &OpenBao, kind: &str, prefix: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(bao.folder().join("audit.log")).unwrap();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["type"] == kind)
        .filter(|entry| {
            let path = entry["request"]["path"].as_str();
            path.is_some_and(|path| path.starts_with(prefix))
        })
        .collect()
}

async fn secret_id(bao: &OpenBao) -> String {
    let path = "auth/approle/role/app/secret-id";
    let reply = post(bao, path, json!({})).await;
    reply["data"]["secret_id"].as_str().unwrap().to_owned()
}

/// A secret_id in a wrapping token.
async fn wrapped(bao: &OpenBao) -> String {
    let path = "auth/approle/role/app/secret-id";
    bao.api_wrapped("POST", path, json!({})).await.unwrap()
}

/// A serial number in the form of certificates, from the decimal form of the audit log.
fn hex(decimal: &str) -> String {
    let mut bytes = [0_u8; 20];
    for digit in decimal.bytes() {
        let mut carry = u32::from(digit - b'0');
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 10;
            *byte = carry.to_be_bytes()[3];
            carry >>= 8;
        }
    }
    let shown: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Leading zeroes are not shown.
    let shown = shown.join(":");
    shown.trim_start_matches("00:").to_owned()
}

fn file(folder: &TempDir, name: &str, text: &str) -> Secret {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    Secret::file(path)
}

/// Scenario: S13
#[tokio::test]
async fn token_approle_and_userpass_log_in_from_text_and_files() {
    let bao = &OpenBao::alone().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let role_id = &bao.approle().role_id;
    enable(bao, "userpass").await;
    let user = json!({ "password": "pass word", "token_policies": [POLICY] });
    post(bao, "auth/userpass/users/ann", user).await;

    let token = bao.app_token().await.unwrap();
    let in_a_file = file(&folder, "token", &format!("{token}\n"));
    for auth in [Auth::token(&token), Auth::token(in_a_file)] {
        assert_eq!(logins(bao, auth).await, 0);
    }
    let plain = secret_id(bao).await;
    let in_a_file = file(&folder, "secret-id", &format!("{plain}\n"));
    let wrapping = wrapped(bao).await;
    let wrapping_in_a_file = file(&folder, "wrapping-token", &wrapped(bao).await);
    for auth in [
        Auth::approle(role_id, &plain),
        Auth::approle(role_id, in_a_file),
        Auth::approle_wrapped(role_id, wrapping),
        Auth::approle_wrapped(role_id, wrapping_in_a_file),
        Auth::userpass("ann", "pass word"),
        Auth::userpass("ann", file(&folder, "password", "pass word\n")),
    ] {
        assert_eq!(logins(bao, auth).await, 1);
    }

    // Five wrong passwords lock the user for every client.
    let wrong = Arc::new(source(bao, Auth::userpass("ann", "wrong")));
    for _ in 0..8 {
        let error = fetch(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(full_text(&error).contains("invalid username or password"));
    }
    assert_eq!(logins(bao, Auth::userpass("ann", "pass word")).await, 1);
}

/// Scenario: S14
#[tokio::test]
async fn wrapping_token_that_was_used_before_is_reported_as_an_interception() {
    let bao = &OpenBao::alone().await.unwrap();
    let token = wrapped(bao).await;
    let auth = Auth::approle_wrapped(&bao.approle().role_id, &token);
    fetch(&Arc::new(source(bao, auth.clone()))).await.unwrap();

    let second = Arc::new(source(bao, auth));
    let before = asked(bao, "sys/wrapping/").len();
    for _ in 0..3 {
        let error = fetch(&second).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        let text = full_text(&error);
        assert!(text.contains("was intercepted"), "{text}");
        assert!(text.contains("wrapping token is not valid"), "{text}");
        assert!(!text.contains(&token));
    }
    assert_eq!(asked(bao, "sys/wrapping/").len(), before + 1);
}

/// Scenario: S14
#[tokio::test]
async fn wrapping_token_that_another_client_made_is_never_unwrapped() {
    let bao = &OpenBao::alone().await.unwrap();
    let role_id = &bao.approle().role_id;
    // As an attacker would do who has intercepted the first one.
    let what = json!({ "secret_id": secret_id(bao).await });
    let path = "sys/wrapping/wrap";
    let forged = bao.api_wrapped("POST", path, what).await.unwrap();
    let source_of = |token: &str| Arc::new(source(bao, Auth::approle_wrapped(role_id, token)));
    let second = source_of(&forged);
    for _ in 0..3 {
        let error = fetch(&second).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        let text = full_text(&error);
        assert!(text.contains(r#"made by "sys/wrapping/wrap""#), "{text}");
        assert!(!text.contains(&forged));
    }
    assert_eq!(asked(bao, "sys/wrapping/unwrap").len(), 0);
    assert_eq!(asked(bao, "auth/approle/login").len(), 0);
    // It is still valid: the evidence is not destroyed.
    let look = json!({ "token": forged });
    post(bao, "sys/wrapping/lookup", look).await;

    // A token that was wrapped again, as a deployment may do, keeps the path that made it.
    let old = json!({ "token": wrapped(bao).await });
    let path = "sys/wrapping/rewrap";
    let anew = bao.api("POST", path, old).await.unwrap();
    let anew = anew["wrap_info"]["token"].as_str().unwrap();
    fetch(&source_of(anew)).await.unwrap();
}

/// Scenario: S14
/// In a namespace, paths are relative to it, including the path that made a wrapping token.
#[tokio::test]
async fn wrapped_secret_id_of_a_namespace_is_accepted() {
    let bao = &OpenBao::alone().await.unwrap();
    post(bao, "sys/namespaces/team1", json!({})).await;
    let inside = |path: &str| format!("team1/{path}");
    let approle = json!({ "type": "approle" });
    post(bao, &inside("sys/auth/approle"), approle).await;
    let role = "auth/approle/role/app";
    post(bao, &inside(role), json!({ "token_ttl": "1h" })).await;
    let path = inside(&format!("{role}/role-id"));
    let mut reply = bao.api("GET", &path, Value::Null).await.unwrap();
    let role_id = reply["data"]["role_id"].take();
    let path = inside(&format!("{role}/secret-id"));
    let token = bao.api_wrapped("POST", &path, json!({})).await.unwrap();
    let auth = Auth::approle_wrapped(role_id.as_str().unwrap(), token);
    let source = pki(bao, vault(bao, auth).namespace("team1"));
    let source = source.build().unwrap();
    // It logs in, but the namespace has no PKI engine.
    let error = fetch(&Arc::new(source)).await.unwrap_err();
    assert!(
        full_text(&error).contains("signing request failed with status"),
        "{}",
        full_text(&error)
    );
}

/// Scenario: S7
/// With OpenBao's own clock: a short lease, and a longest lease that is a second longer.
#[tokio::test]
async fn token_is_renewed_and_replaced_once_its_lease_shrinks() {
    let bao = &OpenBao::alone().await.unwrap();
    let brief = json!({ "token_policies": [POLICY], "token_ttl": "12s", "token_max_ttl": "13s" });
    post(bao, "auth/approle/role/app", brief).await;
    let credential = bao.approle();
    let auth = Auth::approle(&credential.role_id, &credential.secret_id);
    let source = Arc::new(source(bao, auth));
    fetch(&source).await.unwrap();
    let maintenance = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.changed().await }
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    let renewed = loop {
        if let Some(renewed) = audited(bao, "response", "auth/token/renew-self").pop() {
            break renewed;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    maintenance.abort();
    let granted = renewed["response"]["auth"]["token_ttl"].as_u64();
    assert!(granted.is_some_and(|ttl| ttl < 12), "{renewed}");
    fetch(&source).await.unwrap();
    assert_eq!(bao.logins().await.unwrap(), 2);
}

/// Scenario: S13
#[tokio::test]
async fn jwt_logs_in_and_another_one_in_its_file_is_used() {
    let bao = &OpenBao::alone().await.unwrap();
    let platform = Platform::new();
    enable(bao, "jwt").await;
    let keys = json!({ "jwt_validation_pubkeys": [platform.public_key_pem()] });
    post(bao, "auth/jwt/config", keys).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "token_policies": [POLICY],
    });
    post(bao, "auth/jwt/role/app", role).await;

    let good = platform.token(json!({ "sub": "app", "aud": "vault" }));
    assert_eq!(logins(bao, Auth::jwt("app", &good)).await, 1);

    let folder = tempfile::tempdir().unwrap();
    let other = platform.token(json!({ "sub": "app", "aud": "elsewhere" }));
    let auth = Auth::jwt("app", file(&folder, "jwt", &other));
    let source = Arc::new(source(bao, auth));
    for _ in 0..3 {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(!full_text(&error).contains(&other));
    }
    file(&folder, "jwt", &good);
    let found = tokio::time::timeout(Duration::from_secs(30), source.changed());
    found.await.unwrap();
    fetch(&source).await.unwrap();
}

/// Scenario: S13
#[tokio::test]
async fn kubernetes_logs_in_with_the_current_projected_token() {
    let bao = &OpenBao::alone().await.unwrap();
    let api = kubernetes(bao).await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Platform::new();
    let projected = |n: u32| {
        let token = cluster.projected(n);
        std::fs::write(folder.path().join("token"), &token).unwrap();
        token
    };
    let first = projected(1);
    let auth = Auth::kubernetes_at("app", folder.path().join("token"));
    let source = Arc::new(source(bao, auth));
    fetch(&source).await.unwrap();
    let second = projected(2);
    let revoke = "sys/leases/revoke-prefix/auth/kubernetes/login";
    bao.api("PUT", revoke, json!({ "sync": true }))
        .await
        .unwrap();
    fetch(&source).await.unwrap();
    let reviewed: Vec<Value> = api
        .requests()
        .iter()
        .map(|request| serde_json::from_str::<Value>(&request.body).unwrap())
        .map(|asked| asked["spec"]["token"].clone())
        .collect();
    assert_eq!(reviewed, [json!(first), json!(second)]);
}

/// Scenario: S13
#[tokio::test]
async fn first_certificate_logs_in_and_then_the_live_one() {
    let bao = &OpenBao::alone().await.unwrap();
    enable(bao, "cert").await;
    let role = json!({
        "certificate": bao.roots_pem(), "allowed_common_names": ["app"],
        "token_policies": [POLICY],
    });
    post(bao, "auth/cert/certs/app", role).await;
    let ask = json!({ "common_name": "app", "ttl": "1h", "private_key_format": "pkcs8" });
    let issue = format!("{}/issue/{}", bao.mount(), bao.client_role());
    let data = post(bao, &issue, ask).await["data"].take();
    let text = |value: &Value| value.as_str().unwrap().to_owned() + "\n";
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = data["serial_number"].as_str().unwrap().to_owned();
    let chain = text(&data["certificate"]) + &text(&data["ca_chain"][0]);
    let auth = Auth::tls_certificate(
        "app",
        file(&folder, "chain", &chain),
        file(&folder, "key", &text(&data["private_key"])),
    );
    let live = LiveCert::start(source(bao, auth)).await.unwrap();
    let first = live.current().unwrap().serial().to_string();
    // From now on only the live certificate can log in.
    folder.close().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !matches!(live.renew().await, Ok(Renewed::Newer(_))) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let logins = audited(bao, "response", "auth/cert/login");
    let serials: Vec<String> = logins
        .iter()
        .map(|entry| &entry["auth"]["metadata"]["serial_number"])
        .map(|decimal| hex(decimal.as_str().unwrap()))
        .collect();
    assert_eq!(serials, [bootstrap, first]);
    assert!(asked(bao, "auth/token/renew-self").is_empty());
}

/// Scenario: S13
#[tokio::test]
async fn approle_without_secret_id_and_fields_of_a_closure_log_in() {
    let bao = &OpenBao::alone().await.unwrap();
    let open = json!({
        "bind_secret_id": false, "token_bound_cidrs": "127.0.0.0/8", "token_policies": [POLICY],
    });
    post(bao, "auth/approle/role/open", open).await;
    let path = "auth/approle/role/open/role-id";
    let mut reply = bao.api("GET", path, Value::Null).await.unwrap();
    let role_id = reply["data"]["role_id"].take();
    let role_id = role_id.as_str().unwrap();
    assert_eq!(
        logins(bao, Auth::approle_without_secret_id(role_id)).await,
        1
    );

    let fields = |secret_id: &str| {
        let role_id = bao.approle().role_id.clone();
        let secret_id = secret_id.to_owned();
        move || {
            let fields = [
                ("role_id", role_id.clone()),
                ("secret_id", secret_id.clone()),
            ];
            let fields = fields.map(|(name, value)| (name.to_owned(), value));
            async move { Ok::<_, std::io::Error>(fields.to_vec()) }
        }
    };
    let good = fields(&bao.approle().secret_id);
    assert_eq!(logins(bao, Auth::login_with("approle", good)).await, 1);
    // What Vault refused is not made again for five minutes.
    let wrong = Arc::new(source(
        bao,
        Auth::login_with("approle", fields("wrong-wrong-wrong")),
    ));
    let before = asked(bao, "auth/approle/login").len();
    for _ in 0..3 {
        let error = fetch(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(!full_text(&error).contains("wrong-wrong"));
    }
    assert_eq!(asked(bao, "auth/approle/login").len(), before + 1);
    let failing = || async { Err::<Vec<_>, _>(std::io::Error::other("no metadata server")) };
    let error = fetch(&Arc::new(source(bao, Auth::login_with("aws", failing)))).await;
    let error = error.unwrap_err();
    assert!(error.is_transient());
    assert!(full_text(&error).contains("no metadata server"));
}
