//! Answers of HashiCorp Vault that differ from OpenBao's, written by hand after its documentation.

use std::sync::atomic::{AtomicUsize, Ordering};

use perennial::{SourceErrorKind, with_causes};
use serde_json::{Value, json};

use crate::ca::Ca;
use crate::once::{built, fetch, vault, with_approle, with_token};
use crate::server::{Reply, Server};

const TOKEN: &str = "hvs.CAESIJvaultsOwnTokensAreLongerAndSayMore-_x";

/// A login's answer with all fields of Vault 1.17.
fn login(token: &str) -> Reply {
    let body = json!({
        "request_id": "0d9b-7f", "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": null, "wrap_info": null, "warnings": null, "mount_type": "",
        "auth": {
            "client_token": token, "accessor": "acc", "policies": ["app", "default"],
            "token_policies": ["app", "default"], "metadata": {"role_name": "app"},
            "lease_duration": 3600, "renewable": true, "entity_id": "e1", "token_type": "service",
            "orphan": true, "mfa_requirement": null, "num_uses": 0
        }
    });
    Reply::json(200, body.to_string())
}

/// Vault's other fields next to a certificate: the engine's name, and a lease where the role has one.
fn with_lease(reply: Reply) -> Reply {
    let Reply::Answer {
        status,
        headers,
        body,
    } = reply
    else {
        return reply;
    };
    let mut body: Value = serde_json::from_str(&body).unwrap();
    body["mount_type"] = json!("pki");
    body["lease_id"] = json!("pki/sign/app/2Xv1");
    body["lease_duration"] = json!(3_599);
    body["data"].as_object_mut().unwrap().remove("not_before");
    let body = body.to_string();
    Reply::Answer {
        status,
        headers,
        body,
    }
}

/// Scenario: S17
#[tokio::test]
async fn vaults_own_tokens_fields_and_leases_are_understood() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| match request.is_login() {
        true => login(TOKEN),
        false => with_lease(ca.sign(request, |_| ())),
    })
    .await;
    fetch(&with_approle(&server.url())).await.unwrap();
    assert_eq!(server.requests()[1].header("x-vault-token"), Some(TOKEN));
}

/// Scenario: S17
#[tokio::test]
async fn invalid_token_in_vaults_words_causes_one_login() {
    let ca = Ca::new("root");
    let logins = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.is_login() {
            return login(&format!("hvs.{}", logins.fetch_add(1, Ordering::SeqCst)));
        }
        match request.header("x-vault-token") {
            Some("hvs.0") => {
                let words = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n";
                Reply::errors(403, &[words])
            }
            _ => ca.sign(request, |_| ()),
        }
    })
    .await;
    let source = with_approle(&server.url());
    // The first token is fresh, so a refusal is an error; the next fetch logs in.
    fetch(&source).await.unwrap_err();
    fetch(&source).await.unwrap();
    assert_eq!(server.logins(), 2);
}

/// Scenario: S17
#[tokio::test]
async fn second_factor_that_vault_requires_is_an_error() {
    let server = Server::start(|_| {
        let Reply::Answer {
            status,
            headers,
            body,
        } = login("")
        else {
            unreachable!()
        };
        let mut body: Value = serde_json::from_str(&body).unwrap();
        body["auth"]["mfa_requirement"] = json!({"mfa_request_id": "m", "mfa_constraints": {}});
        let body = body.to_string();
        Reply::Answer {
            status,
            headers,
            body,
        }
    })
    .await;
    let error = fetch(&with_approle(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    let line = with_causes(&error).to_string();
    assert!(line.contains("its token is empty"), "{line}");
    assert_eq!(server.requests().len(), 1);
}

/// Scenario: S17
#[tokio::test]
async fn performance_standby_that_lags_behind_is_transient() {
    // OpenBao answers 429 without words, with `Retry-After`.
    let server = Server::start(|_| Reply::errors(412, &["required index state not present"])).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert!(error.is_transient());
    // The header that such a standby checks is never sent.
    assert_eq!(server.requests()[0].header("x-vault-index"), None);
}

/// Scenario: S17
#[tokio::test]
async fn enterprise_namespaces_and_quotas_work_as_in_openbao() {
    let words = "request path \"team1/pki/sign/app\": lease count quota exceeded";
    let server = Server::start(move |_| Reply::errors(429, &[words])).await;
    let source = built(vault(&server.url()).namespace("team1"));
    let error = fetch(&source).await.unwrap_err();
    let line = with_causes(&error).to_string();
    assert!(
        error.is_transient() && line.contains("raise the quota"),
        "{line}"
    );
    let sent = &server.requests()[0];
    assert_eq!(sent.header("x-vault-namespace"), Some("team1"));
}
