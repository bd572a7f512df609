//! The HTTP client: redirects, limits, trust.

use std::time::Duration;

use perennial::SourceErrorKind;
use perennial_vault::{Auth, VaultError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::ca::{Ca, TOKEN};
use crate::once::{built, fetch, full_text, vault, with_approle, with_token};
use crate::server::{Reply, Server};

fn cause(error: &perennial::SourceError) -> &VaultError {
    let source = std::error::Error::source(error).unwrap();
    source.downcast_ref().unwrap()
}

fn assert_text(error: &perennial::SourceError, words: &str) {
    let text = cause(error).to_string();
    assert!(text.contains(words), "{text}");
}

const TLS: &str = "the TLS handshake with vault at https://127.0.0.1:";

#[tokio::test]
async fn redirect_to_another_origin_sends_nothing_there() {
    let elsewhere = Server::start(|_| Reply::json(200, "{}")).await;
    let target = elsewhere.url();
    let server = Server::start(move |r| Reply::redirect(format!("{target}{}?x=y", r.path))).await;

    for source in [with_token(&server.url()), with_approle(&server.url())] {
        let error = fetch(&source).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(
            full_text(&error).contains(&elsewhere.url()),
            "{}",
            full_text(&error)
        );
        assert!(!full_text(&error).contains("x=y"));
    }
    assert_eq!(elsewhere.connections(), 0);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn redirect_to_the_same_origin_is_followed_with_the_token() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| match request.path.as_str() {
        "/v1/pki/sign/app" => Reply::redirect("/v1/leader/pki/sign/app"),
        _ => ca.vault(request),
    })
    .await;

    fetch(&with_token(&server.url())).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].path, "/v1/leader/pki/sign/app");
    assert_eq!(requests[1].header("x-vault-token"), Some(TOKEN));
    assert_eq!(requests[1].body, requests[0].body);
    assert_eq!(requests[1].header("referer"), None);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server = Server::start(|r| Reply::redirect(r.path.clone())).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert!(error.is_transient());
    assert_text(&error, "redirects the signing request more than 2 times");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn redirect_that_would_change_the_request_is_not_followed() {
    for status in [301, 302, 303] {
        let server =
            Server::start(move |_| Reply::json(status, "").with("Location", "/v1/x")).await;
        let error = fetch(&with_token(&server.url())).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid);
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn hung_server_causes_a_timeout() {
    let server = Server::start(|_| Reply::Hang).await;
    let source = built(vault(&server.url()).request_timeout(Duration::from_millis(200)));
    let begun = Instant::now();
    let error = fetch(&source).await.unwrap_err();
    assert!(error.is_transient());
    assert_text(&error, "login timed out after 200ms at http://127.0.0.1:");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn unreachable_server_is_transient() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = fetch(&with_token(&address)).await.unwrap_err();
    assert!(error.is_transient());
    assert_text(
        &error,
        "signing request failed: no connection to vault at http",
    );
}

#[tokio::test]
async fn endless_answer_is_cut_off() {
    let server = Server::start(|_| Reply::Endless { status: 200 }).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert_text(&error, "longer than 1048576 bytes");

    // For a refusal, the status is enough.
    let server = Server::start(|_| Reply::Endless { status: 502 }).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(cause(&error).status(), Some(502));
}

#[tokio::test]
async fn retry_after_reaches_the_renewer() {
    let server =
        Server::start(|_| Reply::errors(429, &["rate limit"]).with("Retry-After", "9")).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.requested_wait(), Some(Duration::from_secs(9)));
}

#[tokio::test]
async fn only_the_given_ca_is_trusted() {
    let (ca, other) = (Ca::new("vault CA"), Ca::new("another CA"));
    let tls = ca.server();
    let pem = ca.pem();
    let server = Server::start_tls(tls, move |request| ca.vault(request)).await;

    let source = built(vault(&server.url()).ca_pem(other.pem()));
    let error = fetch(&source).await.unwrap_err();
    // Waiting does not cure it, so a start fails at once.
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert_text(&error, TLS);
    assert!(cause(&error).remedy().unwrap().contains("set ca_pem"));
    assert!(server.requests().is_empty());

    // The platform's roots do not know it either.
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_text(&error, TLS);

    let source = built(vault(&server.url()).ca_pem(pem));
    fetch(&source).await.unwrap();
}

#[tokio::test]
async fn server_without_tls_is_distinguished_from_one_that_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        // A client that closes early is part of the test.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let error = fetch(&with_token(&address)).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert_text(&error, TLS);
}

#[tokio::test]
async fn namespace_and_path_of_the_address_are_sent() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.vault(request)).await;
    let vault = vault(&format!("{}/behind/", server.url()))
        .namespace("team1/")
        .auth(Auth::approle("role", "secret\n").login_mount("ci"));
    fetch(&built(vault)).await.unwrap();
    let paths: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(
        paths,
        ["/behind/v1/auth/ci/login", "/behind/v1/pki/sign/app"]
    );
    for request in server.requests() {
        assert_eq!(request.header("x-vault-namespace"), Some("team1"));
        assert_eq!(request.header("x-vault-request"), Some("true"));
    }
    assert!(
        server.requests()[0]
            .body
            .contains(r#""secret_id":"secret""#)
    );
    assert_eq!(server.requests()[0].header("x-vault-token"), None);
}

/// Scenario: S9
#[tokio::test]
async fn concurrent_fetches_each_try_all_addresses() {
    let sealed = Server::start(|_| Reply::errors(503, &["Vault is sealed"])).await;
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.vault(request)).await;
    let vault = vault(&sealed.url())
        .address(sealed.url().replace("127.0.0.1", "localhost"))
        .address(server.url())
        .auth(Auth::token(TOKEN));
    let source = built(vault);
    let (one, two, three) = tokio::join!(fetch(&source), fetch(&source), fetch(&source));
    for outcome in [one, two, three] {
        outcome.unwrap();
    }
    assert_eq!(sealed.requests().len(), 6, "two addresses for each");
    fetch(&source).await.unwrap();
    assert_eq!(
        sealed.requests().len(),
        6,
        "later requests stay with the address that answered"
    );
}
