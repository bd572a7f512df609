//! H1 at a real OpenBao: no secret of a login appears in any log, error, metric or `Debug`.
//!
//! In a process of its own, since a process has one log.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vault/ca.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod ca;
#[path = "vault/log.rs"]
mod log;
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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use perennial::{CertSource, LiveCert};
use perennial_testbed::OpenBao;
use perennial_vault::{Auth, Secret, VaultPkiBuilder};
use serde_json::json;

use log::{KEY_BEGINS, capture, quoted};
use once::{fetch, full_text};
use real::{enable, kubernetes, pki, post, vault};
use signed::Platform;

const PASSWORD: &str = "the-password-of-ann";
const WRAPPED: &str = "the-secret-id-that-is-wrapped";
const WRONG: &str = "a-secret-that-is-wrong";
const SOON: Duration = Duration::from_secs(5);

/// The second line of a PEM block: the first is the same for all keys of a kind.
fn within(pem: &str) -> String {
    let key = pem.split("PRIVATE KEY-----").nth(1).unwrap();
    key.lines().nth(2).unwrap().to_owned()
}

/// Whether a word looks like OpenBao's tokens: the test does not know those of logins.
fn is_token(word: &str) -> bool {
    let tail = ["s.", "b."].iter().find_map(|kind| word.strip_prefix(kind));
    tail.is_some_and(|tail| tail.len() >= 20 && tail.chars().all(|c| c.is_ascii_alphanumeric()))
}

fn tokens(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
        .find(|word| is_token(word))
}

/// Gets, renews, saves and revokes a certificate, and returns all text that a program can get.
async fn live(builder: VaultPkiBuilder, saved: PathBuf) -> String {
    let mut text = format!("{builder:?} ");
    let source = builder.revoke_superseded().build().unwrap();
    let revocations = source.revocations().unwrap();
    text += &format!("{source:?} {revocations:?} ");
    let live = LiveCert::start(source.saved_at(saved)).await.unwrap();
    text += &format!("{live:?} ");
    let renewed = async {
        while live.status().generation < Some(2) {
            text += &format!("{:?} ", live.renew().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), renewed);
    in_time.await.unwrap();
    text += &format!("{:?} {:?}", live.status(), live.current());
    live.shutdown(SOON).await.unwrap();
    revocations.finish(SOON).await.unwrap();
    text
}

/// Scenario: H1
#[tokio::test]
async fn no_secret_of_any_login_appears_anywhere() {
    let log = capture();
    let metrics = DebuggingRecorder::new();
    let snapshotter = metrics.snapshotter();
    metrics.install().unwrap();
    let bao = &OpenBao::alone().await.unwrap();
    for method in ["jwt", "cert", "userpass"] {
        enable(bao, method).await;
    }
    let _api = kubernetes(bao).await;
    let sign_and_revoke = r#"
        path "+/issue/+" { capabilities = ["update"] }
        path "+/sign/+" { capabilities = ["update"] }
        path "+/revoke" { capabilities = ["update"] }
    "#;
    let policy = json!({ "policy": sign_and_revoke });
    post(bao, "sys/policies/acl/app", policy).await;
    let role = json!({
        "key_type": "rsa", "key_bits": 2048, "allow_any_name": true, "max_ttl": "1h",
    });
    post(bao, &format!("{}/roles/rsa", bao.mount()), role).await;
    let platform = Platform::new();
    let keys = json!({ "jwt_validation_pubkeys": [platform.public_key_pem()] });
    post(bao, "auth/jwt/config", keys).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "token_policies": ["app"],
    });
    post(bao, "auth/jwt/role/app", role).await;
    let role = json!({ "certificate": bao.roots_pem(), "token_policies": ["app"] });
    post(bao, "auth/cert/certs/app", role).await;
    let user = json!({ "password": PASSWORD, "token_policies": ["app"] });
    post(bao, "auth/userpass/users/ann", user).await;

    let token = bao.app_token().await.unwrap();
    let jwt = platform.token(json!({ "sub": "app", "aud": "vault" }));
    let other_jwt = platform.token(json!({ "sub": "app", "aud": "elsewhere" }));
    let path = "auth/approle/role/app/custom-secret-id";
    let wrapped = json!({ "secret_id": WRAPPED });
    let wrapping = bao.api_wrapped("POST", path, wrapped).await.unwrap();
    let forged = json!({ "secret_id": WRAPPED });
    let forged = bao
        .api_wrapped("POST", "sys/wrapping/wrap", forged)
        .await
        .unwrap();
    let issue = format!("{}/issue/{}", bao.mount(), bao.client_role());
    let ask = json!({
        "common_name": "app", "format": "pem_bundle", "private_key_format": "pkcs8",
    });
    let issued = post(bao, &issue, ask).await;
    let pair = issued["data"]["certificate"].as_str().unwrap().to_owned();

    let role_id = &bao.approle().role_id;
    let secret_id = &bao.approle().secret_id;
    let folder = tempfile::tempdir().unwrap();
    let projected = platform.projected(1);
    let token_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token_file.path(), &projected).unwrap();
    let with = |auth| pki(bao, vault(bao, auth));
    let approle = || with(Auth::approle(role_id, secret_id));
    let good = [
        with(Auth::token(&token)),
        approle(),
        with(Auth::approle_wrapped(role_id, &wrapping)),
        with(Auth::jwt("app", &jwt)),
        with(Auth::kubernetes_at("app", token_file.path())),
        with(Auth::userpass("ann", PASSWORD)),
        with(Auth::tls_certificate("app", &pair, &pair)),
        // Keys that OpenBao generates.
        approle().issue(),
        approle().issue().role("rsa"),
    ];
    let bad = [
        // It has been used.
        Auth::approle_wrapped(role_id, &wrapping),
        Auth::approle_wrapped(role_id, &forged),
        Auth::approle_wrapped(role_id, WRONG),
        Auth::approle(role_id, WRONG),
        Auth::token(WRONG),
        Auth::jwt("app", &other_jwt),
        Auth::jwt("app", WRONG),
        Auth::userpass("ann", WRONG),
        Auth::tls_certificate("unknown", &pair, &pair),
        Auth::tls_certificate("app", WRONG, WRONG),
        Auth::token(Secret::file("/nonexistent")),
    ];
    let mut secrets = vec![within(&pair)];
    let mut words = String::new();
    let mut saved = Vec::new();
    let running: Vec<_> = (0..)
        .zip(good)
        .map(|(n, builder)| {
            let path = folder.path().join(n.to_string());
            (path.clone(), tokio::spawn(live(builder, path)))
        })
        .collect();
    for (path, text) in running {
        words += &text.await.unwrap();
        secrets.push(within(&std::fs::read_to_string(&path).unwrap()));
        saved.push(path);
    }
    for auth in bad {
        let source = Arc::new(with(auth).build().unwrap());
        let error = fetch(&source).await.unwrap_err();
        words += &full_text(&error);
    }
    words += &format!("{:?}", snapshotter.snapshot().into_vec());

    // Only the saved certificates are there.
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
        .collect();
    left.sort();
    assert_eq!(left, saved);

    let log = log.text();
    let file = |name| std::fs::read_to_string(bao.folder().join(name)).unwrap();
    // OpenBao's audit log has bodies as digests, and everything else, such as paths, in plain text.
    let (audit, servers) = (file("audit.log"), bao.log());
    let known = [
        &token, secret_id, &jwt, &other_jwt, &projected, &wrapping, &forged,
    ];
    secrets.extend(known.map(String::clone));
    secrets.extend([PASSWORD, WRAPPED, WRONG].map(str::to_owned));
    for text in [&words, &log, &audit, &servers] {
        for secret in &secrets {
            assert_eq!(quoted(text, secret), None, "{secret}");
        }
        assert_eq!(tokens(text), None);
        for begin in KEY_BEGINS {
            assert_eq!(quoted(text, begin), None);
        }
    }
    // Otherwise the checks would prove nothing.
    assert!(tokens(&token).is_some() && tokens(&wrapping).is_some());
    assert!(log.contains("logged in to vault") && log.contains("hyper_util"));
    assert!(words.contains("invalid role or secret ID") && words.contains("was intercepted"));
    assert!(words.contains("perennial_"), "no metrics: {words}");
    for path in [
        "auth/userpass/login/ann",
        "auth/kubernetes/login",
        "/issue/rsa",
        "/revoke",
    ] {
        assert!(audit.contains(path), "{path}");
    }
}
