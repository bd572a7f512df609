//! H1: with every crate's log at its finest level, no secret is logged, in success or in failure.
//!
//! In a process of its own, since a process has one log.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vault/ca.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod ca;
#[path = "vault/log.rs"]
mod log;
#[path = "vault/once.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod once;
#[path = "vault/server.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial::CertSource;
use perennial_vault::{Auth, Secret, VaultPki};
use tokio::task::JoinSet;
use tokio::time::Instant;

use ca::{Ca, SECRET_ID, TOKEN};
use log::{KEY_BEGINS, capture, quoted};
use once::{built, fetch, full_text, pki, vault, with_approle};
use server::{Reply, Request, Server};

const WRAPPING: &str = "s.WRAPPINGWRAPPING";
const JWT: &str = "JWTJWTJWT.JWTJWTJWT.JWTJWTJWT";
const PASSWORD: &str = "PASSWORDPASSWORD";
/// Every secret that a login sends or receives.
const SECRETS: [&str; 5] = [TOKEN, SECRET_ID, WRAPPING, JWT, PASSWORD];

/// The renewals in the log, successful or not.
///
/// Each server sees one of both given tokens, except the one that refuses every token.
fn renewals(log: &str) -> usize {
    let lines = ["renewed the vault token", "failed to renew the vault token"];
    lines.map(|line| log.matches(line).count()).iter().sum()
}

type Script = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// One source for each login method.
fn each_login(address: &str, ca: &Ca, folder: &Path) -> Vec<Arc<VaultPki>> {
    let file = |name: &str| Secret::file(folder.join(name));
    [
        Auth::token(TOKEN),
        Auth::token(file("token")),
        Auth::approle("role", SECRET_ID),
        Auth::approle("role", file("secret-id")),
        Auth::approle_wrapped("role", WRAPPING),
        Auth::jwt("role", JWT),
        Auth::kubernetes_at("role", folder.join("jwt")),
        Auth::userpass("user", PASSWORD),
        Auth::tls_certificate("role", file("chain"), file("key")),
        // Files with other content, and a missing file.
        Auth::tls_certificate("role", file("jwt"), file("secret-id")),
        Auth::token(file("chain")),
        Auth::jwt("role", file("missing")),
    ]
    .into_iter()
    .map(|auth| {
        // Reading the platform's roots would take most of the time.
        let quick = vault(address)
            .ca_pem(ca.pem())
            .request_timeout(Duration::from_secs(2));
        built(quick.auth(auth))
    })
    .collect()
}

/// The files that [`each_login`] names.
fn write_files(folder: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    let certificate = params.self_signed(&key).unwrap();
    for (name, text) in [
        ("token", TOKEN.to_owned()),
        ("secret-id", SECRET_ID.to_owned()),
        ("jwt", JWT.to_owned()),
        ("chain", certificate.pem()),
        ("key", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// An error of Vault's own form that quotes the request: as it is, and as Go quotes it.
fn quoting(request: &Request) -> Reply {
    let token = request.header("x-vault-token").unwrap_or_default();
    let plain = format!("cannot parse {}", request.body);
    let quoted = format!("invalid request {:?} with token {token}", request.body);
    Reply::errors(400, &[&plain, &quoted])
}

/// Answers logins with success, and other requests with `then`.
fn after_login(
    ca: &Arc<Ca>,
    then: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let ca = Arc::clone(ca);
    move |request| {
        if request.step() != "sign" {
            ca.vault(request)
        } else {
            then(request)
        }
    }
}

/// Scenario: F12, H1
#[tokio::test]
async fn no_secret_is_logged_or_part_of_an_error() {
    let log = capture();
    let ca = Arc::new(Ca::new("root"));
    let mut errors = String::new();
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());

    // Success, over TLS so that rustls logs too.
    let signing = Arc::clone(&ca);
    let good = Server::start_tls(ca.server(), move |request| signing.vault(request)).await;
    let source = built(vault(&good.url()).ca_pem(ca.pem()));
    let material = fetch(&source).await.unwrap();
    errors.push_str(&format!("{source:?} {material:?}"));
    // With `issue` the server sends the key.
    let issuing = pki(vault(&good.url()).ca_pem(ca.pem())).issue();
    let source = Arc::new(issuing.build().unwrap());
    let material = fetch(&source).await.unwrap();
    errors.push_str(&format!("{source:?} {material:?}"));
    // A handshake that fails.
    errors.push_str(&full_text(
        &fetch(&with_approle(&good.url())).await.unwrap_err(),
    ));

    // Failing answers, some of which quote the request.
    let echo = format!(r#"{{"data":"{TOKEN} {SECRET_ID}","auth":{{"client_token":7}}}}"#);
    let scripts: Vec<Script> = vec![
        Box::new(after_login(&ca, |_| {
            Reply::errors(403, &["permission denied"])
        })),
        Box::new(after_login(&ca, |_| {
            Reply::errors(400, &["common name not allowed"])
        })),
        Box::new(after_login(&ca, |_| {
            Reply::redirect("https://elsewhere.example/")
        })),
        Box::new(after_login(&ca, |request| {
            Reply::json(500, request.body.clone())
        })),
        Box::new(after_login(&ca, |request| {
            Reply::json(200, request.body.clone())
        })),
        Box::new(after_login(&ca, |_| Reply::Hang)),
        Box::new(after_login(&ca, quoting)),
        Box::new(quoting),
        // Warnings of a success, and the path of a wrapping token, quote as well.
        Box::new({
            let ca = Arc::clone(&ca);
            move |request| match request.step() {
                "sign" => {
                    let mut reply = ca.vault(request);
                    if let Reply::Answer { body, .. } = &mut reply {
                        let token = request.header("x-vault-token").unwrap_or_default();
                        let warned = format!(r#""warnings":["ignored {token}"]"#);
                        *body = body.replace(r#""warnings":null"#, &warned);
                    }
                    reply
                }
                "look up" => ca::made_by(&request.body),
                _ => ca.vault(request),
            }
        }),
        Box::new(|_| Reply::errors(400, &["invalid role or secret ID"])),
        // Refused renewals, and logins that are refused after the unwrapping.
        Box::new({
            let ca = Arc::clone(&ca);
            move |request| match request.step() {
                "renew" => Reply::errors(400, &["lease is not renewable"]),
                "login" => Reply::errors(403, &["permission denied"]),
                _ => ca.vault(request),
            }
        }),
        Box::new(|_| Reply::errors(503, &["Vault is sealed"])),
        Box::new(|request| Reply::json(502, request.body.clone())),
        Box::new(move |_| Reply::json(200, echo.clone())),
        Box::new(|_| ca::login("s.TOKEN\u{7f}TOKEN", 60)),
        Box::new(|_| {
            Reply::redirect(format!(
                "https://{TOKEN}:{SECRET_ID}@elsewhere.example/{TOKEN}"
            ))
        }),
    ];
    let servers = scripts.len();
    let mut tries = JoinSet::new();
    for script in scripts {
        let server = Server::start(script).await;
        for source in each_login(&server.url(), &ca, folder.path()) {
            tries.spawn(async move {
                let mut text = format!("{source:?}");
                if let Err(error) = fetch(&source).await {
                    text.push_str(&full_text(&error));
                }
                // Tokens are renewed here.
                (text, tokio::spawn(async move { source.changed().await }))
            });
        }
    }
    let mut all_maintenance = Vec::new();
    for (text, maintenance) in tries.join_all().await {
        errors.push_str(&text);
        all_maintenance.push(maintenance);
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while renewals(&log.text()) < 2 * (servers - 1) {
        assert!(
            Instant::now() < deadline,
            "{} renewals",
            renewals(&log.text())
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for maintenance in all_maintenance {
        maintenance.abort();
    }

    let log = log.text();
    // Without lines of the HTTP stack and of rustls, the log would prove nothing.
    assert!(log.contains("rustls::client"), "no line of rustls");
    assert!(log.contains("hyper_util"), "no line of hyper");
    assert!(errors.contains("invalid role or secret ID"));
    assert!(errors.contains("was intercepted"));
    // What surrounds a struck secret stays.
    assert!(errors.contains(r#"cannot parse {"role_id":"role","secret_id":"[secret]"}"#));
    assert!(log.contains("ignored [secret]"));
    assert!(log.contains("renewed the vault token") && log.contains("lease is not renewable"));
    for text in [&log, &errors] {
        for secret in SECRETS.into_iter().chain(KEY_BEGINS) {
            assert_eq!(quoted(text, secret), None, "{secret}");
        }
    }
    // A refusal is an answer and not a fault of this program: only an interception is an error.
    for line in log.lines().filter(|line| line.contains("ERROR")) {
        assert!(line.contains("possible interception"), "{line}");
    }
}
