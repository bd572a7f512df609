//! No environment variable changes where a token is sent or what is trusted, unless requested.

use std::process::Stdio;

use crate::ca::{Ca, TOKEN};
use crate::once::{app, built, fetch, vault};
use crate::server::{Reply, Server};

/// Runs in a process of its own, with a hostile environment, when the test below starts it.
#[tokio::test]
#[ignore = "started by environment_has_no_influence"]
async fn child_of_environment_has_no_influence() {
    let (ca, other) = (Ca::new("vault CA"), Ca::new("another CA"));
    let tls = ca.server();
    let pem = ca.pem();
    let server = Server::start_tls(tls, move |request| ca.vault(request)).await;
    let with = |pem: &str| {
        let auth = perennial_vault::Auth::token(TOKEN);
        built(vault(&server.url()).auth(auth).ca_pem(pem))
    };
    fetch(&with(&pem)).await.unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.header("x-vault-token"), Some(TOKEN));
    assert_eq!(request.header("x-vault-namespace"), None);
    fetch(&with(&other.pem())).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn environment_has_no_influence() {
    let trap = Server::start(|_| Reply::json(200, "{}")).await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args([
        "--ignored",
        "--exact",
        "environment::child_of_environment_has_no_influence",
    ]);
    for name in [
        "VAULT_ADDR",
        "BAO_ADDR",
        "VAULT_AGENT_ADDR",
        "VAULT_PROXY_ADDR",
    ] {
        child.env(name, trap.url());
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child
            .env(name, trap.url())
            .env(name.to_lowercase(), trap.url());
    }
    child
        .env("NO_PROXY", "")
        .env("no_proxy", "")
        .env("VAULT_SKIP_VERIFY", "")
        .env("BAO_SKIP_VERIFY", "true")
        .env("VAULT_TOKEN", "s.wrong")
        .env("BAO_TOKEN", "s.wrong")
        .env("VAULT_NAMESPACE", "wrong")
        .env("VAULT_CACERT", "/nonexistent")
        .env("VAULT_CAPATH", "/nonexistent")
        .env("VAULT_CLIENT_CERT", "/nonexistent")
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = child.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    assert_eq!(trap.connections(), 0);
}

/// Runs in a process of its own, with the usual variables, when the test below starts it.
#[tokio::test]
#[ignore = "started by from_env_uses_the_usual_variables"]
async fn child_of_from_env_uses_the_usual_variables() {
    let vault = perennial_vault::Vault::from_env().unwrap().build().unwrap();
    fetch(&app(&vault).build().unwrap().into()).await.unwrap();
}

#[tokio::test]
async fn from_env_uses_the_usual_variables() {
    let ca = Ca::new("vault CA");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, ca.pem().as_bytes()).unwrap();
    let server = Server::start_tls(ca.server(), move |request| ca.vault(request)).await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    let output = child
        .args([
            "--ignored",
            "--exact",
            "environment::child_of_from_env_uses_the_usual_variables",
        ])
        .env("BAO_ADDR", "")
        .env("VAULT_ADDR", server.url())
        .env("VAULT_CACERT", file.path())
        .env("VAULT_NAMESPACE", "team1")
        .env("VAULT_TOKEN", TOKEN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    let request = &server.requests()[0];
    assert_eq!(request.header("x-vault-token"), Some(TOKEN));
    assert_eq!(request.header("x-vault-namespace"), Some("team1"));
}
