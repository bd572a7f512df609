//! Each wrong setting, told in one line that names it and says what to do.

use perennial_testbed::OpenBao;
use perennial_vault::{Auth, KeyType, VaultPki};
use serde_json::json;

use crate::ca::Ca;
use crate::server::{Reply, Server};
use crate::{asking, bao, role, token, told_in_one_line};

#[tokio::test]
async fn wrong_request_is_told_in_one_line_with_its_remedy() {
    let bao = bao().await;
    role(bao, "narrow", json!({ "allow_any_name": false })).await;
    role(bao, "wide", json!({})).await;
    let narrow = || asking(bao, "narrow");
    let nameless = VaultPki::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(Auth::token(token(bao, "root").await))
        .mount(bao.mount())
        .role("wide")
        .dns_name("a.example");
    // What it names, and the remedy.
    let rows = [
        (
            narrow().await.role("nope"),
            ["unknown role: nope", "correct role or mount"],
        ),
        (
            narrow().await.mount("nope"),
            ["nope/sign/narrow", "correct mount"],
        ),
        (
            narrow().await.namespace("nope"),
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
            asking(bao, "wide").await.key_type(KeyType::Ed25519),
            ["keys of type ec", "set key_type"],
        ),
        (
            nameless,
            ["common_name field is required", "set common_name"],
        ),
    ];
    for (builder, words) in rows {
        told_in_one_line(builder, &words).await;
    }
}

#[tokio::test]
async fn wrong_token_or_credential_is_told_in_one_line_with_its_remedy() {
    let bao = bao().await;
    role(bao, "held", json!({})).await;
    let revoked = token(bao, "default").await;
    let revoke = json!({ "token": revoked });
    bao.api("POST", "auth/token/revoke", revoke).await.unwrap();
    let weak = token(bao, "default").await;
    let held = |auth| async { asking(bao, "held").await.auth(auth) };
    let wrong = || Auth::approle("a-wrong-role", "a-wrong-secret");
    let rows = [
        (
            held(Auth::token(revoked)).await,
            ["the token has expired", "give a new one"],
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
            ["auth/nope/login", "nothing is mounted there"],
        ),
    ];
    for (builder, words) in rows {
        told_in_one_line(builder, &words).await;
    }
}

#[tokio::test]
async fn wrong_server_is_told_in_one_line_with_its_remedy() {
    let bao = bao().await;
    let page = Server::start(|_| Reply::json(200, "<html>Welcome</html>")).await;
    let at = |url: String| {
        VaultPki::builder(url)
            .auth(Auth::token("s.t"))
            .mount("pki_int")
            .role("app")
            .common_name("app")
    };
    let another_ca = asking(bao, "app").await.ca_pem(bao.roots_pem());
    told_in_one_line(another_ca, &[&bao.address(), "set ca_pem"]).await;
    let ca = Ca::new("another CA");
    let here = Server::start_tls(ca.server(), |_| Reply::json(200, "{}")).await;
    let another_name = at(here.url().replace("127.0.0.1", "localhost")).ca_pem(ca.pem());
    told_in_one_line(another_name, &["https://localhost:", "correct the address"]).await;
    let plain = at(format!("http://127.0.0.1:{}", bao.port()));
    told_in_one_line(plain, &["status 400", "begins with https"]).await;
    let no_vault = at(page.url());
    told_in_one_line(no_vault, &["not the JSON", "is the address vault's own"]).await;
}

/// A mount of its own, for what would disturb others.
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

#[tokio::test]
async fn issuer_that_cannot_issue_is_told_in_one_line_with_its_remedy() {
    let bao = bao().await;
    mount(bao, "empty").await;
    let words = ["no default issuer", "set a default issuer on the mount"];
    told_in_one_line(asking(bao, "app").await.mount("empty"), &words).await;

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
        "let the issuer issue",
    ];
    told_in_one_line(asking(bao, "app").await.mount("reading"), &words).await;
}
