//! The examples, as built, with a real OpenBao.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vault/real.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod real;
#[path = "vault/server.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod server;
#[path = "vault/signed.rs"]
mod signed;

use std::path::Path;

use perennial_testbed::OpenBao;
use serde_json::json;

use real::{enable, kubernetes, post};
use signed::Platform;

/// Runs one, and returns its output: the certificate that it received.
///
/// The build that made this test also made the examples, in the folder next to its own: `cargo run`
/// would build every dependency again, with features of its own.
async fn run(bao: &OpenBao, ca: &Path, name: &str, arguments: &[&str]) -> String {
    let test = std::env::current_exe().unwrap();
    let build = test.parent().and_then(Path::parent).unwrap();
    let output = tokio::process::Command::new(build.join("examples").join(name))
        .args(arguments)
        .env("BAO_ADDR", bao.address())
        .env("BAO_CACERT", ca)
        .env_remove("VAULT_TOKEN")
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Scenario: S13
#[tokio::test]
#[ignore = "needs built examples: .ci/run examples"]
async fn each_example_logs_in_and_receives_a_certificate() {
    let bao = &OpenBao::alone().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ca", bao.ca_pem());

    let token = file("token", &bao.app_token().await.unwrap());

    let path = "auth/approle/role/app/secret-id";
    let wrapping = bao.api_wrapped("POST", path, json!({})).await.unwrap();
    let wrapping = file("wrapping", &wrapping);

    enable(bao, "jwt").await;
    let platform = Platform::new();
    let keys = json!({ "jwt_validation_pubkeys": [platform.public_key_pem()] });
    post(bao, "auth/jwt/config", keys).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "token_policies": ["app"],
    });
    post(bao, "auth/jwt/role/app", role).await;
    let jwt = platform.token(json!({ "sub": "app", "aud": "vault" }));
    let jwt = file("jwt", &jwt);

    enable(bao, "cert").await;
    let role = json!({ "certificate": bao.roots_pem(), "token_policies": ["app"] });
    post(bao, "auth/cert/certs/app", role).await;
    let issue = format!("{}/issue/{}", bao.mount(), bao.client_role());
    let ask = json!({ "common_name": "app-1", "format": "pem_bundle" });
    // Key and chain in one file, which is used as both.
    let issued = post(bao, &issue, ask).await;
    let pair = file("pair", issued["data"]["certificate"].as_str().unwrap());

    enable(bao, "userpass").await;
    let user = json!({ "password": "pass word", "token_policies": ["app"] });
    post(bao, "auth/userpass/users/ann", user).await;
    let password = file("password", "pass word\n");

    let _api = kubernetes(bao).await;
    let projected = file("projected", &platform.projected(1));

    let role_id = &bao.approle().role_id;
    let runs: [(&str, &[&str]); 6] = [
        ("token", &[&token]),
        ("approle", &[role_id, &wrapping]),
        ("jwt", &[&jwt]),
        ("kubernetes", &[&projected]),
        ("tls_certificate", &[&pair, &pair]),
        ("userpass", &["ann", &password]),
    ];
    let mut all: Vec<_> = runs.iter().map(|(name, _)| format!("{name}.rs")).collect();
    let there = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    let mut there: Vec<_> = there
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    there.sort();
    assert_eq!(all, there);

    let before = bao.issued().await.unwrap();
    for (n, (name, arguments)) in (1..).zip(runs) {
        let printed = run(bao, Path::new(&ca), name, arguments).await;
        assert!(printed.contains("Snapshot"), "{name}: {printed}");
        assert_eq!(bao.issued().await.unwrap(), before + n, "{name}");
    }
}
