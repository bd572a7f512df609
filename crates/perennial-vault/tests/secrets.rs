//! H1: with every crate traced at its finest, no secret is logged, in success or in failure.
//!
//! In a process of its own: the log of a process can be taken only once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vault/ca.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod ca;
#[path = "vault/once.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod once;
#[path = "vault/server.rs"]
#[allow(dead_code, reason = "shared with the scripted tests")]
mod server;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::fmt::format::FmtSpan;

use ca::{Ca, SECRET_ID, TOKEN};
use once::{builder, fetch, told, with_approle, with_token};
use server::{Reply, Request, Server};

/// How each P-256 key in PKCS#8 begins: in base64, in hex, and as `Debug` prints bytes.
const KEY_BEGINS: [&str; 3] = [
    "MIGHAgEAMBMGByqGSM49",
    "308187020100301306",
    "48, 129, 135, 2, 1, 0, 48",
];

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Crates that log through `log` instead of `tracing`, such as rustls.
impl log::Log for Log {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("log {} {}\n", record.target(), record.args());
        self.0.lock().unwrap().extend_from_slice(line.as_bytes());
    }

    fn flush(&self) {}
}

fn capture() -> Log {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    log::set_boxed_logger(Box::new(log.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    log
}

type Script = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A login that succeeds, whatever follows.
fn after_login(
    ca: &Arc<Ca>,
    then: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let ca = Arc::clone(ca);
    move |request| {
        if request.is_login() {
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
    for script in scripts {
        let server = Server::start(script).await;
        let quick = builder(&server.url()).request_timeout(Duration::from_millis(300));
        for source in [Arc::new(quick.build().unwrap()), with_token(&server.url())] {
            if let Err(error) = fetch(&source).await {
                errors.push_str(&told(&error));
            }
        }
    }

    let log = log.text();
    // The log would be no witness if it had not heard of the HTTP stack and of rustls.
    assert!(log.contains("rustls::client"), "rustls was not heard");
    assert!(log.contains("hyper_util"), "hyper was not heard");
    assert!(errors.contains("invalid role or secret ID"));
    for text in [&log, &errors] {
        for secret in [TOKEN, SECRET_ID].into_iter().chain(KEY_BEGINS) {
            if let Some(at) = text.find(secret) {
                let from = text[..at].rfind('\n').map_or(0, |i| i + 1);
                panic!("{secret} in: {}", &text[from..at + secret.len()]);
            }
        }
    }
    // A refusal is an answer and no fault of this program: it makes no error of its own.
    assert!(!log.contains("ERROR"), "something was logged as an error");
}
