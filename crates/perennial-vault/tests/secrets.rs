//! H1: with every crate traced at its finest, no secret is logged, in success or in failure.
//!
//! In a process of its own: the log of a process can be taken only once.

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

use ca::{Ca, SECRET_ID, TOKEN};
use log::{KEY_BEGINS, capture, quoted};
use once::{builder, fetch, told, with_approle};
use server::{Reply, Request, Server};

const WRAPPING: &str = "s.WRAPPINGWRAPPING";
const JWT: &str = "JWTJWTJWT.JWTJWTJWT.JWTJWTJWT";
const PASSWORD: &str = "PASSWORDPASSWORD";
/// Every secret that a login sends or brings.
const SECRETS: [&str; 5] = [TOKEN, SECRET_ID, WRAPPING, JWT, PASSWORD];

type Script = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// One source for each way to log in; the one with a certificate is told where its files are.
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
        // Files that hold something else, and none at all.
        Auth::tls_certificate("role", file("jwt"), file("secret-id")),
        Auth::token(file("chain")),
        Auth::jwt("role", file("missing")),
    ]
    .into_iter()
    .map(|auth| {
        // Reading the platform's roots would take most of the time.
        let quick = builder(address)
            .ca_pem(ca.pem())
            .request_timeout(Duration::from_secs(2));
        Arc::new(quick.auth(auth).build().unwrap())
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

/// A login that succeeds, whatever follows.
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

#[tokio::test]
async fn nothing_secret_is_logged_or_told() {
    let log = capture();
    let ca = Arc::new(Ca::new("root"));
    let mut errors = String::new();
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());

    // Success, over TLS so that rustls has its say too.
    let signing = Arc::clone(&ca);
    let good = Server::start_tls(ca.server(), move |request| signing.vault(request)).await;
    let source = Arc::new(builder(&good.url()).ca_pem(ca.pem()).build().unwrap());
    let material = fetch(&source).await.unwrap();
    errors.push_str(&format!("{source:?} {material:?}"));
    // With `issue` the key travels.
    let issuing = builder(&good.url()).ca_pem(ca.pem()).issue();
    let source = Arc::new(issuing.build().unwrap());
    let material = fetch(&source).await.unwrap();
    errors.push_str(&format!("{source:?} {material:?}"));
    // A handshake that fails.
    errors.push_str(&told(&fetch(&with_approle(&good.url())).await.unwrap_err()));

    // Answers that fail, and that quote what they were sent where a server could.
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
        Box::new(|_| Reply::errors(400, &["invalid role or secret ID"])),
        // Refused renewals, and the first half of a login alone.
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
    let mut tries = JoinSet::new();
    for script in scripts {
        let server = Server::start(script).await;
        for source in each_login(&server.url(), &ca, folder.path()) {
            tries.spawn(async move {
                let mut told_of_it = format!("{source:?}");
                if let Err(error) = fetch(&source).await {
                    told_of_it.push_str(&told(&error));
                }
                // A token is renewed here, where there is one.
                let upkeep = source.changed();
                let _endless = tokio::time::timeout(Duration::from_millis(300), upkeep).await;
                told_of_it
            });
        }
    }
    errors.extend(tries.join_all().await);

    let log = log.text();
    // The log would be no witness if it had not heard of the HTTP stack and of rustls.
    assert!(log.contains("rustls::client"), "rustls was not heard");
    assert!(log.contains("hyper_util"), "hyper was not heard");
    assert!(errors.contains("invalid role or secret ID"));
    assert!(errors.contains("was intercepted"));
    assert!(log.contains("renewed the vault token"));
    for text in [&log, &errors] {
        for secret in SECRETS.into_iter().chain(KEY_BEGINS) {
            assert_eq!(quoted(text, secret), None, "{secret}");
        }
    }
    // A refusal is an answer and no fault of this program: it makes no error of its own, save one.
    for line in log.lines().filter(|line| line.contains("ERROR")) {
        assert!(line.contains("possible interception"), "{line}");
    }
}
