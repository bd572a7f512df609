//! Each wrong setting fails with one line that names it and its remedy.

use perennial_testbed::OpenBao;
use perennial_vault::{Auth, KeyType, Vault};
use serde_json::json;

use crate::ca::Ca;
use crate::server::{Reply, Server};
use crate::{bao, fails_in_one_line, role, source_at, source_of, source_with, token, vault};

/// Scenario: F28, S16
#[tokio::test]
async fn wrong_request_fails_with_one_line_and_its_remedy() {
    let bao = bao().await;
    role(bao, "narrow", json!({ "allow_any_name": false })).await;
    role(bao, "wide", json!({})).await;
    role(bao, "any-key", json!({ "key_type": "any" })).await;
    let narrow = || source_with(bao, "narrow");
    let nameless = vault(bao).await.build().unwrap();
    let nameless = nameless.pki(bao.mount()).role("wide");
    let nameless = nameless.dns_name("a.example");
    let elsewhere = vault(bao).await.namespace("nope");
    // What the error names, and the remedy.
    let rows = [
        (
            narrow().await.role("nope"),
            ["unknown role: nope", "correct role or mount"],
        ),
        (
            source_at(bao, "nope", "narrow").await,
            ["nope/sign/narrow", "correct mount"],
        ),
        (
            source_of(elsewhere, bao.mount(), "narrow"),
            ["namespace not found", "correct namespace"],
        ),
        (
            narrow().await.issuer("nope"),
            ["reference: nope", "correct issuer"],
        ),
        (
            narrow().await.common_name("evil.example"),
            ["evil.example", "allow it on the role"],
        ),
        (
            source_with(bao, "wide").await.key_type(KeyType::Ed25519),
            ["keys of type ec", "set key_type"],
        ),
        (
            source_with(bao, "any-key").await.issue(),
            ["role key type \"any\"", "set key_type on the role"],
        ),
        (
            nameless,
            ["common_name field is required", "set common_name"],
        ),
    ];
    for (builder, words) in rows {
        fails_in_one_line(builder, &words).await;
    }
}

/// Scenario: S16
#[tokio::test]
async fn wrong_token_or_credential_fails_with_one_line_and_its_remedy() {
    let bao = bao().await;
    role(bao, "held", json!({})).await;
    let revoked = token(bao, "default").await;
    let revoke = json!({ "token": revoked });
    bao.api("POST", "auth/token/revoke", revoke).await.unwrap();
    let weak = token(bao, "default").await;
    let held = |auth| async { source_of(vault(bao).await.auth(auth), bao.mount(), "held") };
    let wrong = || Auth::approle("a-wrong-role", "a-wrong-secret");
    let rows = [
        (
            held(Auth::token(revoked)).await,
            ["the token has expired", "provide a new one"],
        ),
        (
            held(Auth::token(weak)).await,
            ["pki_int/sign/held", "policy does not allow"],
        ),
        (
            held(wrong()).await,
            ["auth/approle/login", "the credential is wrong"],
        ),
        (
            held(wrong().login_mount("nope")).await,
            ["auth/nope/login", "no auth method is mounted at this path"],
        ),
    ];
    for (builder, words) in rows {
        fails_in_one_line(builder, &words).await;
    }
}

/// Scenario: S6, S16
#[tokio::test]
async fn wrong_server_fails_with_one_line_and_its_remedy() {
    let bao = bao().await;
    let page = Server::start(|_| Reply::json(200, "<html>Welcome</html>")).await;
    let at = |url: String| Vault::builder(url).auth(Auth::token("s.t"));
    let app = |vault| source_of(vault, "pki_int", "app");
    let another_ca = app(vault(bao).await.ca_pem(bao.roots_pem()));
    fails_in_one_line(another_ca, &[&bao.address(), "set ca_pem"]).await;
    let ca = Ca::new("another CA");
    let here = Server::start_tls(ca.server(), |_| Reply::json(200, "{}")).await;
    let another_name = at(here.url().replace("127.0.0.1", "localhost")).ca_pem(ca.pem());
    fails_in_one_line(
        app(another_name),
        &["https://localhost:", "correct the address"],
    )
    .await;
    let plain = at(format!("http://127.0.0.1:{}", bao.port()));
    fails_in_one_line(app(plain), &["status 400", "use an https address"]).await;
    let no_vault = at(page.url());
    fails_in_one_line(
        app(no_vault),
        &["not the JSON", "is the address vault's own"],
    )
    .await;
}

/// A mount for tests that would disturb others.
async fn mount(bao: &OpenBao, path: &str) {
    let ask = json!({ "type": "pki" });
    bao.api("POST", &format!("sys/mounts/{path}"), ask)
        .await
        .unwrap();
    let role = json!({ "key_type": "ec", "allow_any_name": true, "ttl": "1m" });
    bao.api("POST", &format!("{path}/roles/app"), role)
        .await
        .unwrap();
}

/// Scenario: S16
#[tokio::test]
async fn issuer_that_cannot_issue_fails_with_one_line_and_its_remedy() {
    let bao = bao().await;
    mount(bao, "empty").await;
    let words = ["no default issuer", "set a default issuer on the mount"];
    fails_in_one_line(source_at(bao, "empty", "app").await, &words).await;

    mount(bao, "reading").await;
    let root = json!({ "common_name": "reading", "key_type": "ec" });
    let path = "reading/root/generate/internal";
    bao.api("POST", path, root).await.unwrap();
    let usage = json!({ "usage": "read-only,crl-signing" });
    bao.api("POST", "reading/issuer/default", usage)
        .await
        .unwrap();
    let words = [
        "requested usage issuing-certificates",
        "add issuing-certificates to the issuer's usage",
    ];
    fails_in_one_line(source_at(bao, "reading", "app").await, &words).await;
}

/// Scenario: N16
#[tokio::test]
async fn login_from_another_network_names_the_binding() {
    let bao = bao().await;
    role(bao, "bound", json!({})).await;
    bao.api("POST", "sys/auth/bound", json!({ "type": "approle" }))
        .await
        .unwrap();
    for name in ["secret_id_bound_cidrs", "token_bound_cidrs"] {
        let path = format!("auth/bound/role/{name}");
        let bound = json!({ name: "10.9.0.0/16", "token_policies": "default" });
        bao.api("POST", &path, bound).await.unwrap();
        let id = format!("{path}/role-id");
        let id = bao.api("GET", &id, serde_json::Value::Null).await.unwrap();
        let secret = format!("{path}/secret-id");
        let secret = bao.api("POST", &secret, json!({})).await.unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let auth = Auth::approle(
            text(&id["data"]["role_id"]),
            text(&secret["data"]["secret_id"]),
        );
        let vault = vault(bao).await.auth(auth.login_mount("bound"));
        let words = ["is bound to other networks", name];
        fails_in_one_line(source_of(vault, bao.mount(), "bound"), &words).await;
    }
}
