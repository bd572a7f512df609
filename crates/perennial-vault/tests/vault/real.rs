//! A real OpenBao with more ways to log in, as several of these programs set it up.

use std::time::Duration;

use perennial_testbed::OpenBao;
use perennial_vault::{Auth, VaultPki, VaultPkiBuilder};
use serde_json::{Value, json};

use crate::server::{Reply, Server};

/// What the testbed's AppRole may do.
pub(crate) const POLICY: &str = "app";

/// A certificate for the app.
pub(crate) fn builder(bao: &OpenBao, auth: Auth) -> VaultPkiBuilder {
    VaultPki::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(auth)
        .mount(bao.mount())
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

/// Lets the service accounts of a cluster log in whose API is scripted: it takes whoever comes, and
/// its requests show whose token it was asked about. OpenBao's side of the login is its own.
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
