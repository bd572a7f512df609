//! Settings that cannot be used are refused before anything is fetched, by name.

use std::time::Duration;

use perennial::pki_types::CertificateDer;
use perennial::rustls::Error;
use perennial::{LiveCert, StartError, TlsSettings, with_causes};

use crate::pki::Ca;

fn refusal(tls: TlsSettings) -> String {
    let ca = Ca::new("ca");
    let refused = LiveCert::builder().tls(tls).fixed(ca.client("app", [&ca]));
    let Err(error @ StartError::Setting { .. }) = refused else {
        panic!("{refused:?}");
    };
    with_causes(&error).to_string()
}

#[test]
fn settings_that_cannot_be_used_are_refused_by_name() {
    let new = TlsSettings::new;
    let ca = Ca::new("ca");
    let junk = || CertificateDer::from(vec![1, 2, 3]);
    let torn = ca.pem().replace("-----END", "");
    let table = [
        (
            new().server_roots([]),
            "invalid server_roots: expected at least one certificate",
        ),
        (
            new().server_roots_pem("no roots here"),
            "invalid server_roots: expected certificates in PEM: the list of trust roots is empty",
        ),
        (
            new().server_roots_pem(torn),
            "invalid server_roots: expected certificates in PEM: the list of trust roots is cut \
             off: the block that begins in line 1 has no END line",
        ),
        (
            new().server_roots([ca.der(), junk()]),
            "invalid server_roots: certificate 1 cannot be a root: \
             invalid peer certificate: BadEncoding",
        ),
        (
            new().server_name("db internal"),
            "invalid server_name \"db internal\": expected a DNS name or an IP address: \
             invalid dns name",
        ),
        (
            new()
                .server_roots([ca.der()])
                .roots_overlap(Duration::from_secs(9)),
            "invalid roots_overlap 9s: expected zero, because server_roots are fixed",
        ),
        (
            new().verify_ca().server_name("db.internal"),
            "invalid verify_ca: expected no server_name together with it",
        ),
        (
            new()
                .verify_ca()
                .server_verifier(|_, _| Err(Error::General("not called".to_owned()))),
            "invalid verify_ca: expected no server_verifier together with it",
        ),
    ];
    for (tls, expected) in table {
        assert_eq!(refusal(tls), expected);
    }
}

#[test]
fn debug_and_errors_never_show_the_given_text() {
    // H1: a key file in place of a CA file is an easy mistake.
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0 !secret! \n-----END PRIVATE KEY-----\n";
    for text in [
        key,
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n",
        "-----BEGIN secret\n",
    ] {
        let tls = TlsSettings::new().server_roots_pem(text);
        let shown = format!("{tls:?}") + &refusal(tls);
        for bytes in ["secret", "c2Vj", "115, 101, 99", "99, 50, 86"] {
            assert!(!shown.contains(bytes), "{shown}");
        }
    }
}

#[tokio::test]
async fn invalid_settings_are_refused_before_the_source_is_used() {
    let never = perennial::FileSource::new("/nonexistent", "/nonexistent", "/nonexistent");
    let tls = TlsSettings::new().server_name("");
    let refused = LiveCert::builder().tls(tls).start(never).await;
    assert!(matches!(refused, Err(StartError::Setting { .. })));
}
