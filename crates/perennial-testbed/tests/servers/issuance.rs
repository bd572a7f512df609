//! What the CA counts, and what an app may request.

use std::time::Duration;

use perennial_testbed::serde_json::{self, Value, json};
use perennial_testbed::{OpenBao, Testbed};
use reqwest::Certificate;

use crate::client::{request, sign, try_sign};
use crate::shared;

/// Sends a request as an app does: with its own token, trusting only the listener's CA.
async fn send(bao: &OpenBao, token: Option<&str>, path: &str, body: &Value) -> (u16, Value) {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // It affects only this test process; a second call fails and changes nothing.
    let _ = provider.install_default();
    let ca = Certificate::from_pem(bao.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let mut request = client.post(format!("{}/v1/{path}", bao.address()));
    if let Some(token) = token {
        request = request.header("X-Vault-Token", token);
    }
    let reply = request.body(body.to_string()).send().await.unwrap();
    let status = reply.status().as_u16();
    let body = reply.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn issued_counts_exactly_the_certificates_of_the_client_role() {
    let testbed = Testbed::start().await.unwrap();
    let bao = &testbed.bao;
    // Postgres has a certificate of the same CA, but through another role.
    assert_eq!(bao.issued().await.unwrap(), 0);

    for expected in 1..=3 {
        sign(&testbed, "app").await;
        assert_eq!(bao.issued().await.unwrap(), expected);
    }
    assert!(try_sign(&testbed, "evil.example").await.is_err());
    let token = bao.app_token().await.unwrap();
    let body = json!({"common_name": "app"});
    assert_eq!(
        send(bao, Some(&token), "pki_int/issue/app", &body).await.0,
        200
    );
    assert_eq!(send(bao, None, "pki_int/issue/app", &body).await.0, 403);
    assert_eq!(bao.issued().await.unwrap(), 4);

    let many = (0..20).map(|_| sign(&testbed, "app-2"));
    futures_util::future::join_all(many).await;
    assert_eq!(bao.issued().await.unwrap(), 24);
}

#[tokio::test]
async fn approle_token_may_sign_and_nothing_else() {
    let testbed = shared().await;
    let bao = &testbed.bao;
    let before = bao.logins().await.unwrap();
    let approle = bao.approle();
    let body = json!({"role_id": approle.role_id, "secret_id": approle.secret_id});
    let (status, reply) = send(bao, None, "auth/approle/login", &body).await;
    assert_eq!(status, 200);
    let wrong = json!({"role_id": approle.role_id, "secret_id": "wrong"});
    assert_eq!(send(bao, None, "auth/approle/login", &wrong).await.0, 400);
    assert_eq!(bao.logins().await.unwrap(), before + 1);

    let token = reply["auth"]["client_token"].as_str().unwrap();
    let (_, sign) = request("app");
    let (status, reply) = send(bao, Some(token), "pki_int/sign/app", &sign).await;
    assert_eq!(status, 200);
    assert_eq!(
        reply["data"]["ca_chain"].as_array().unwrap().len(),
        2,
        "intermediate, root"
    );
    assert_eq!(
        send(bao, Some(token), "auth/token/renew-self", &json!({}))
            .await
            .0,
        200
    );
    let server = json!({"common_name": "localhost"});
    assert_eq!(
        send(bao, Some(token), "pki_int/issue/server", &server)
            .await
            .0,
        403
    );
    assert_eq!(
        send(bao, Some(token), "pki_int/roles/app", &json!({}))
            .await
            .0,
        403
    );
    assert_eq!(send(bao, Some(token), "sys/seal", &json!({})).await.0, 403);
}

#[tokio::test]
async fn max_ttl_of_the_role_limits_not_after_too() {
    let testbed = shared().await;
    // Ten times the role's limit, and well within the CA's own lifetime.
    let later = r#"select to_char(now() + interval '30 days', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"#;
    let admin = testbed.postgres.admin().await.unwrap();
    let later: String = admin.query_one(later, &[]).await.unwrap().get(0);

    let (_, mut body) = request("app");
    body["ttl"].take();
    body["not_after"] = later.into();
    let refused = testbed.bao.api("POST", "pki_int/sign/app", body).await;
    assert!(refused.is_err(), "not_after exceeds max_ttl");
}
