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
use perennial_vault::{Auth, Vault, VaultBuilder, VaultPkiBuilder};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use once::fetch;

/// One server for all tests, each of which has its own roles, mounts and tokens.
async fn bao() -> &'static OpenBao {
    static SHARED: OnceCell<OpenBao> = OnceCell::const_new();
    let start = || async { OpenBao::alone().await.unwrap() };
    SHARED.get_or_init(start).await
}

/// A role that allows every name, with these fields added or replaced.
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

/// With a token that may do everything.
async fn vault(bao: &OpenBao) -> VaultBuilder {
    Vault::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(Auth::token(token(bao, "root").await))
}

fn source_of(vault: VaultBuilder, mount: &str, role: &str) -> VaultPkiBuilder {
    let vault = vault.build().unwrap();
    vault.pki(mount).role(role).common_name("app")
}

async fn source_at(bao: &OpenBao, mount: &str, role: &str) -> VaultPkiBuilder {
    source_of(vault(bao).await, mount, role)
}

async fn source_with(bao: &OpenBao, role: &str) -> VaultPkiBuilder {
    source_at(bao, bao.mount(), role).await
}

async fn fails_in_one_line(builder: VaultPkiBuilder, words: &[&str]) {
    let error = fetch(&Arc::new(builder.build().unwrap()))
        .await
        .unwrap_err();
    let line = perennial::with_causes(&error).to_string();
    assert!(!line.contains('\n'), "{line}");
    for words in words {
        assert!(line.contains(words), "{words}: {line}");
    }
}
