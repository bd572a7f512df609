//! Answers: which are accepted, and which are refused.

use std::net::Ipv4Addr;
use std::time::Duration;

use perennial::{LiveCert, SourceErrorKind};
use serde_json::{Value, json};

use crate::ca::Ca;
use crate::once::{fetch, full_text, pki, pki_with_token, vault, with_token};
use crate::server::{Reply, Server};

/// Fetches from a server that applies `change` to its answers.
async fn refused(change: impl Fn(&mut Value) + Send + Sync + 'static) -> perennial::SourceError {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.sign(request, &change)).await;
    fetch(&with_token(&server.url())).await.unwrap_err()
}

#[tokio::test]
async fn signing_request_holds_all_names() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.vault(request)).await;
    let source = pki(vault(&server.url()))
        .dns_name("a.example")
        .dns_name("b.example")
        .ip(Ipv4Addr::LOCALHOST)
        .uri("spiffe://example/app")
        .ttl(Duration::from_secs(1_800))
        .build();
    let live = LiveCert::start(source.unwrap()).await.unwrap();
    let snapshot = live.current().unwrap();
    let names = snapshot.names();
    assert_eq!(names.common_name.as_deref(), Some("app"));
    assert_eq!(names.dns, ["a.example", "b.example"]);
    assert_eq!(names.ip, [Ipv4Addr::LOCALHOST]);
    assert_eq!(names.uri, ["spiffe://example/app"]);

    let body: Value = serde_json::from_str(&server.requests()[1].body).unwrap();
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["csr", "ttl"]);
    assert_eq!(body["ttl"], "1800s");
    assert!(!server.requests()[1].body.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn each_fetch_generates_a_new_key() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.vault(request)).await;
    let source = with_token(&server.url());
    fetch(&source).await.unwrap();
    fetch(&source).await.unwrap();
    let requests = server.requests();
    assert_ne!(requests[0].body, requests[1].body);
}

/// Scenario: S8
#[tokio::test]
async fn missing_ca_chain_falls_back_to_the_issuing_ca() {
    let absent: fn(&mut Value) = |data| {
        data.as_object_mut().unwrap().remove("ca_chain");
    };
    let null: fn(&mut Value) = |data| data["ca_chain"] = Value::Null;
    let empty: fn(&mut Value) = |data| data["ca_chain"] = json!([]);
    for change in [absent, null, empty] {
        let ca = Ca::new("root");
        let server = Server::start(move |request| ca.sign(request, change)).await;
        let material = fetch(&with_token(&server.url())).await.unwrap();
        assert_eq!(material.roots().len(), 1);
        assert_eq!(material.chain().last(), material.roots().last());
    }
}

#[tokio::test]
async fn intermediate_alone_is_not_accepted_as_a_root() {
    // The server's chain holds a certificate that another CA issued, and no root.
    let root = Ca::new("root");
    let intermediate = root.issue_ca("intermediate");
    let pem = root.pem();
    let server = Server::start(move |request| intermediate.sign(request, |_| ())).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        full_text(&error).contains("server_roots_pem"),
        "{}",
        full_text(&error)
    );

    let source = pki_with_token(&server.url()).server_roots_pem(pem).build();
    let live = LiveCert::start(source.unwrap()).await.unwrap();
    assert_eq!(live.current().unwrap().generation(), 1);
}

#[tokio::test]
async fn certificate_without_a_requested_name_is_refused() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.drop_names(request)).await;
    let vault = vault(&server.url()).auth(perennial_vault::Auth::token("s.t"));
    let vault = vault.build().unwrap();
    let nameless = || vault.pki("pki").role("app");
    for (source, words) in [
        (nameless().common_name("app"), "common name \"app\""),
        (nameless().dns_name("a.example"), "DNS name \"a.example\""),
        (nameless().ip([10, 0, 0, 1]), "IP address \"10.0.0.1\""),
        (nameless().uri("spiffe://x/y"), "URI \"spiffe://x/y\""),
    ] {
        let source = source.build();
        let error = fetch(&source.unwrap().into()).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid);
        assert!(full_text(&error).contains(words), "{}", full_text(&error));
        assert!(full_text(&error).contains("use_csr_sans"));
    }
}

#[tokio::test]
async fn certificate_with_almost_no_lifetime_is_refused() {
    let ttl = Duration::from_secs(100_000);
    for (lifetime, is_accepted) in [(1_100, true), (900, false)] {
        let ca = Ca::new("root");
        let server = Server::start(move |request| {
            ca.sign_until(request, Duration::from_secs(lifetime), |_| ())
                .with("Date", crate::ca::date())
        })
        .await;
        let source = pki_with_token(&server.url()).ttl(ttl).build();
        let outcome = fetch(&source.unwrap().into()).await;
        assert_eq!(outcome.is_ok(), is_accepted, "{outcome:?}");
    }
}

/// Scenario: T5
#[tokio::test]
async fn certificate_that_had_expired_when_it_was_issued_is_refused() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| {
        ca.sign(request, |_| ())
            .with("Date", crate::ca::date_ahead(3_700))
    })
    .await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        full_text(&error).contains("had expired when it was issued"),
        "{}",
        full_text(&error)
    );
}

/// Scenario: T5
#[tokio::test]
async fn clocks_that_differ_cause_a_warning() {
    for (ahead, words) in [(600, Some("behind")), (-600, Some("ahead")), (0, None)] {
        let ca = Ca::new("root");
        let server = Server::start(move |request| {
            ca.sign(request, |_| ())
                .with("Date", crate::ca::date_ahead(ahead))
        })
        .await;
        let material = fetch(&with_token(&server.url())).await.unwrap();
        match words {
            Some(words) => assert!(material.warnings()[0].contains(words)),
            None => assert!(material.warnings().is_empty()),
        }
    }
}

/// Scenario: F24
#[tokio::test]
async fn clock_behind_vaults_starts_with_one_certificate_and_is_named() {
    // Behind by more than the lifetime, and by more than that and the backdating.
    let minute = Duration::from_secs(60);
    for behind in [85, 600] {
        let ca = Ca::new("root");
        let server = Server::start(move |request| ca.sign_ahead(behind, request, minute)).await;
        let source = pki_with_token(&server.url()).build().unwrap();
        let live = LiveCert::start(source).await.unwrap();
        let status = live.status();
        let in_words = status.warnings.join("; ");
        assert!(in_words.contains("clock is behind vault's"), "{in_words}");
        // By our own clock it would be in use for minutes.
        let renewed_in = status.next_fetch.unwrap().duration_since(live.now());
        assert!(renewed_in.unwrap() < minute * 3 / 4, "{status:?}");
        let signed = server
            .requests()
            .iter()
            .filter(|r| r.path.contains("/sign/"))
            .count();
        assert_eq!(signed, 1);
    }
}

/// Scenario: F24
#[tokio::test]
async fn clock_so_far_ahead_of_vaults_that_each_certificate_has_expired_is_named() {
    let ca = Ca::new("root");
    let hour = Duration::from_secs(3_600);
    let server = Server::start(move |request| ca.sign_ahead(-7_200, request, hour)).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    let text = full_text(&error);
    assert!(
        text.contains("clock is 7200s ahead of vault's") || text.contains("7201s"),
        "{text}"
    );
}

#[tokio::test]
async fn certificate_for_another_key_is_never_published() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| ca.swap_keys(request)).await;
    let source = pki_with_token(&server.url());
    let error = LiveCert::start(source.build().unwrap()).await.unwrap_err();
    assert!(full_text(&error).contains("key"), "{}", full_text(&error));
}

#[tokio::test]
async fn issued_certificate_without_a_key_is_refused() {
    let ca = Ca::new("root");
    let server = Server::start(move |request| {
        ca.sign(request, |data| {
            data.as_object_mut().unwrap().remove("private_key");
        })
    })
    .await;
    let source = pki_with_token(&server.url()).issue().build();
    let error = fetch(&source.unwrap().into()).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        full_text(&error).contains("no private key"),
        "{}",
        full_text(&error)
    );
    assert_eq!(server.requests()[0].path, "/v1/pki/issue/app");
    assert!(!server.requests()[0].body.contains("csr"));
}

#[tokio::test]
async fn answer_that_is_not_vaults_is_invalid() {
    for body in [
        "",
        "{}",
        "<html>",
        r#"{"data":null}"#,
        r#"{"data":{"certificate":"x"}}"#,
    ] {
        let server = Server::start(move |_| Reply::json(200, body)).await;
        let error = fetch(&with_token(&server.url())).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid, "{body}");
    }
    let error = refused(|data| data["certificate"] = json!("no PEM")).await;
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    let error = refused(|data| {
        data["certificate"] = json!("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----")
    })
    .await;
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
}

#[tokio::test]
async fn refusals_keep_vaults_own_words() {
    let words = "common name evil.org not allowed by this role";
    let server = Server::start(move |_| Reply::errors(400, &[words])).await;
    let error = fetch(&with_token(&server.url())).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Denied);
    assert!(full_text(&error).contains(words));
}
