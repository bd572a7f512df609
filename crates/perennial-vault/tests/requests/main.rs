//! What `VaultPki` asks of a real OpenBao, and what it says where OpenBao refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../vault/ca.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod ca;
mod made;
#[path = "../vault/once.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod once;
mod page;
#[path = "../vault/server.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod server;
mod wrong;

use std::sync::Arc;

use perennial_testbed::OpenBao;
use perennial_vault::{Auth, VaultPki, VaultPkiBuilder};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use once::fetch;

/// One for all: each test has roles, mounts and tokens of its own.
async fn bao() -> &'static OpenBao {
    static SHARED: OnceCell<OpenBao> = OnceCell::const_new();
    let start = || async { OpenBao::alone().await.unwrap() };
    SHARED.get_or_init(start).await
}

/// A role that allows every name, with these fields over it.
async fn role(bao: &OpenBao, name: &str, fields: Value) {
    let mut role = json!({
        "key_type": "ec", "allow_any_name": true, "enforce_hostnames": false,
        "allow_ip_sans": true, "allowed_uri_sans": "spiffe://*", "no_store": true,
        "client_flag": true, "server_flag": false, "ttl": "30m", "max_ttl": "1h",
    });
    let more = fields.as_object().unwrap().clone();
    role.as_object_mut().unwrap().extend(more);
    let path = format!("{}/roles/{name}", bao.mount());
    bao.api("POST", &path, role).await.unwrap();
}

/// A token of this policy; `root` may do everything.
async fn token(bao: &OpenBao, policy: &str) -> String {
    let ask = json!({ "policies": [policy], "ttl": "1h", "no_parent": true });
    let reply = bao.api("POST", "auth/token/create", ask).await.unwrap();
    reply["auth"]["client_token"].as_str().unwrap().to_owned()
}

async fn asking(bao: &OpenBao, role: &str) -> VaultPkiBuilder {
    VaultPki::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(Auth::token(token(bao, "root").await))
        .mount(bao.mount())
        .role(role)
        .common_name("app")
}

async fn told_in_one_line(builder: VaultPkiBuilder, words: &[&str]) {
    let error = fetch(&Arc::new(builder.build().unwrap()))
        .await
        .unwrap_err();
    let line = perennial::with_causes(&error).to_string();
    assert!(!line.contains('\n'), "{line}");
    for words in words {
        assert!(line.contains(words), "{words}: {line}");
    }
}
