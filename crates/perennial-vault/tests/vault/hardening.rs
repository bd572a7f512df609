//! The HTTP client: redirects, limits, trust.

use std::sync::Arc;
use std::time::Duration;

use perennial::SourceErrorKind;
use perennial_vault::{Auth, VaultError};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, SigningKey};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
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

/// Splits off the first DER value: its tag, its content, all of it, and the rest.
fn first(der: &[u8]) -> (u8, &[u8], &[u8], &[u8]) {
    let (head, length) = match der[1] {
        0x81 => (3, usize::from(der[2])),
        0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        short => (2, usize::from(short)),
    };
    let (whole, rest) = der.split_at(head + length);
    (whole[0], &whole[head..], whole, rest)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match length {
        [0, short @ ..=0x7f] => vec![short],
        [0, short] => vec![0x81, short],
        [high, low] => vec![0x82, high, low],
    };
    [&[tag], length.as_slice(), content].concat()
}

/// The same self-signed certificate in version 1: without a version and without extensions.
fn version_1(certificate: &CertificateDer<'_>, key: &KeyPair) -> CertificateDer<'static> {
    let (_, content, ..) = first(certificate);
    let (_, mut fields, _, rest) = first(content);
    let (_, _, algorithm, _) = first(rest);
    let mut kept = Vec::new();
    while !fields.is_empty() {
        let (tag, _, whole, rest) = first(fields);
        if !matches!(tag, 0xa0 | 0xa3) {
            kept.extend_from_slice(whole);
        }
        fields = rest;
    }
    let signed = der(0x30, &kept);
    let signature = [&[0], key.sign(&signed).unwrap().as_slice()].concat();
    let whole = [signed.as_slice(), algorithm, &der(0x03, &signature)].concat();
    CertificateDer::from(der(0x30, &whole))
}

fn serving(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let certified = rustls::sign::CertifiedKey::new(
        vec![certificate],
        provider.key_provider.load_private_key(key).unwrap(),
    );
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
}

/// Scenario: N20
#[tokio::test]
async fn form_of_vaults_own_certificate_is_named() {
    let key = KeyPair::generate().unwrap();
    let params = || CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let mut ca = params();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut policies = params();
    // anyPolicy (RFC 5280, 4.2.1.4).
    let any = vec![0x30, 0x08, 0x30, 0x06, 0x06, 0x04, 0x55, 0x1d, 0x20, 0x00];
    let mut critical = CustomExtension::from_oid_content(&[2, 5, 29, 32], any);
    critical.set_criticality(true);
    policies.custom_extensions.push(critical);
    let made = |params: CertificateParams| params.self_signed(&key).unwrap().der().clone();
    let rows = [
        (made(ca), "CA:TRUE"),
        (version_1(&made(params()), &key), "version 1"),
        (made(policies), "critical"),
    ];
    for (certificate, words) in rows {
        let pem = pem_of(&certificate);
        let server = Server::start_tls(serving(certificate, &key), |_| Reply::json(200, "{}"));
        let server = server.await;
        let error = fetch(&built(vault(&server.url()).ca_pem(pem)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid);
        let text = perennial::with_causes(&error).to_string();
        for words in [TLS, "the form of its certificate is at fault", words] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(
            !text.contains("see the log of vault") && !text.contains('\n'),
            "{text}"
        );
    }
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64ct::Encoding;
    let text = base64ct::Base64::encode_string(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
