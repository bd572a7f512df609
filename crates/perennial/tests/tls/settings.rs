//! Settings that cannot be used are refused before anything is fetched, by name.

use std::error::Error;
use std::time::Duration;

use perennial::pki_types::{CertificateDer, CertificateRevocationListDer};
use perennial::{LiveCert, ServerCrls, StartError, TlsSettings};

use crate::pki::Ca;

fn refusal(tls: TlsSettings) -> String {
    let ca = Ca::new("ca");
    let refused = LiveCert::builder().tls(tls).fixed(ca.client("app", [&ca]));
    let Err(error @ StartError::Tls(_)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.to_string(), "the TLS settings cannot be used");
    error.source().unwrap().to_string()
}

#[test]
fn settings_that_cannot_be_used_are_refused_by_name() {
    let new = TlsSettings::new;
    let ca = Ca::new("ca");
    let junk = || CertificateDer::from(vec![1, 2, 3]);
    let not_a_crl = CertificateRevocationListDer::from(ca.der().to_vec());
    let torn = ca.pem().replace("-----END", "");
    let table = [
        (
            new().server_roots([]),
            "server_roots is empty: it takes at least one",
        ),
        (
            new().server_roots_pem("no roots here"),
            "server_roots is empty: it takes at least one",
        ),
        (
            new().server_roots_pem(torn),
            "server_roots is not readable as PEM: a block has no END line",
        ),
        (
            new().server_roots([ca.der(), junk()]),
            "certificate 1 of server_roots cannot be a trust root",
        ),
        (
            new().server_crls(ServerCrls::from_der([])),
            "server_crls is empty: it takes at least one",
        ),
        (
            new().server_crls(ServerCrls::from_pem(ca.pem())),
            "server_crls is empty: it takes at least one",
        ),
        (
            new().server_crls(ServerCrls::from_der([ca.crl_der(&[], 2120), not_a_crl])),
            "list 1 of server_crls is not a revocation list that can be used",
        ),
        (
            new().server_name("db internal"),
            "server_name is \"db internal\": it must be a DNS name or an IP address",
        ),
        (
            new()
                .server_roots([ca.der()])
                .anchor_overlap(Duration::from_secs(9)),
            "anchor_overlap is 9s: it must be zero where server_roots are given",
        ),
    ];
    for (tls, expected) in table {
        assert_eq!(refusal(tls), expected);
    }
}

#[test]
fn debug_and_errors_never_show_a_text_that_was_given() {
    // H1: a key file in place of a CA file is an easy mistake.
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0 !secret! \n-----END PRIVATE KEY-----\n";
    for text in [
        key,
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n",
        "-----BEGIN secret\n",
    ] {
        let tls = TlsSettings::new().server_roots_pem(text);
        let shown = format!("{tls:?} {:?}", ServerCrls::from_pem(text)) + &refusal(tls);
        for bytes in ["secret", "c2Vj", "115, 101, 99", "99, 50, 86"] {
            assert!(!shown.contains(bytes), "{shown}");
        }
    }
}

#[tokio::test]
async fn no_source_is_asked_under_settings_that_cannot_be_used() {
    let never = perennial::FileSource::new("/nonexistent", "/nonexistent", "/nonexistent");
    let tls = TlsSettings::new().server_name("");
    let refused = LiveCert::builder().tls(tls).start(never).await;
    assert!(matches!(refused, Err(StartError::Tls(_))));
}
