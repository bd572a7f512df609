//! A real OpenBao with more login methods, shared by several test programs.

use std::time::Duration;

use perennial_testbed::OpenBao;
use perennial_vault::{Auth, Vault, VaultBuilder, VaultPkiBuilder};
use serde_json::{Value, json};

use crate::server::{Reply, Server};

/// The policy of the testbed's AppRole.
pub(crate) const POLICY: &str = "app";

pub(crate) fn vault(bao: &OpenBao, auth: Auth) -> VaultBuilder {
    Vault::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(auth)
}

/// A certificate for the app.
pub(crate) fn pki(bao: &OpenBao, vault: VaultBuilder) -> VaultPkiBuilder {
    pki_at(bao, vault, bao.mount())
}

pub(crate) fn pki_at(bao: &OpenBao, vault: VaultBuilder, mount: &str) -> VaultPkiBuilder {
    let vault = vault.build().unwrap();
    vault
        .pki(mount)
        .role(bao.client_role())
        .common_name("app")
        .ttl(Duration::from_secs(600))
}

pub(crate) async fn post(bao: &OpenBao, path: &str, body: Value) -> Value {
    bao.api("POST", path, body).await.unwrap()
}

pub(crate) async fn enable(bao: &OpenBao, method: &str) {
    let path = format!("sys/auth/{method}");
    post(bao, &path, json!({ "type": method })).await;
}

/// Enables logins by service accounts of a cluster with a scripted API.
///
/// The API accepts every token, and its requests show which token OpenBao asked about.
pub(crate) async fn kubernetes(bao: &OpenBao) -> Server {
    let api = Server::start(|_review| {
        let user = "system:serviceaccount:default:app";
        let status = json!({
            "authenticated": true,
            "user": { "username": user, "uid": "u1", "groups": ["system:serviceaccounts"] },
        });
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
        });
        Reply::json(201, review.to_string()).with("Content-Type", "application/json")
    })
    .await;
    enable(bao, "kubernetes").await;
    let config = json!({
        "kubernetes_host": api.url(), "kubernetes_ca_cert": bao.ca_pem(),
        "disable_local_ca_jwt": true,
    });
    post(bao, "auth/kubernetes/config", config).await;
    let role = json!({
        "bound_service_account_names": ["app"],
        "bound_service_account_namespaces": ["default"], "token_policies": [POLICY],
    });
    post(bao, "auth/kubernetes/role/app", role).await;
    api
}
