use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, DnValue, IsCa,
    KeyPair, SanType,
};
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::tls::roots::TrustedRoots;
use crate::tls::verifier::ServerVerifier;
use crate::tls::{TlsSettings, default_provider};

type Der = CertificateDer<'static>;
type Ca = CertifiedIssuer<'static, KeyPair>;

fn named(name: impl Into<DnValue>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca(name: impl Into<DnValue>) -> Ca {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server's certificate by this CA.
fn issue(ca: &Ca, params: &CertificateParams) -> Der {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, ca).unwrap().der().clone()
}

fn for_localhost() -> CertificateParams {
    let mut params = named("localhost");
    let name = SanType::DnsName("localhost".try_into().unwrap());
    params.subject_alt_names = vec![name];
    params
}

fn critical_policies() -> CustomExtension {
    let content = vec![0x30, 0x07, 0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04];
    let mut policies = CustomExtension::from_oid_content(&[2, 5, 29, 32], content);
    policies.set_criticality(true);
    policies
}

fn verify(settings: TlsSettings, root: &Der, chain: &[Der], name: &str) -> Result<(), Error> {
    let provider = default_provider().unwrap();
    let trust = Arc::new(settings.read(&provider).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let trusted = TrustedRoots {
        delivered: vec![root.clone()],
        old: Vec::new(),
    };
    let verifier = ServerVerifier::new(&trust, Arc::new(roots), &trusted, &provider).unwrap();
    verified_by(&verifier, chain, name)
}

fn verified_by(verifier: &dyn ServerCertVerifier, chain: &[Der], name: &str) -> Result<(), Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier
        .verify_server_cert(&chain[0], &chain[1..], &name, &[], now)
        .map(drop)
}

/// A server's chain, and what is expected of it.
struct Row {
    root: Der,
    chain: Vec<Der>,
    dialled: &'static str,
    /// What the error names, with and without `verify_ca`; none where it is accepted.
    full: &'static [&'static str],
    chain_alone: &'static [&'static str],
}

fn rows() -> Vec<Row> {
    let root = ca("root");
    let of = |chain: Vec<Der>, full, chain_alone| Row {
        root: root.der().clone(),
        chain,
        dialled: "localhost",
        full,
        chain_alone,
    };
    let self_signed = |params: CertificateParams| {
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        signed.der().clone()
    };
    let mut as_ca = for_localhost();
    as_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own_ca = self_signed(as_ca.clone());
    let mut as_ca_without_names = named("localhost");
    as_ca_without_names.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let nameless_ca = self_signed(as_ca_without_names);
    let pinned = |certificate: &Der, full, chain_alone| Row {
        root: certificate.clone(),
        chain: vec![certificate.clone()],
        ..of(Vec::new(), full, chain_alone)
    };
    let ca_words: &[&str] = &[
        "CN=localhost",
        "CA:TRUE",
        "CA:FALSE",
        "subjectAltName=DNS:localhost",
        "verify_ca",
    ];

    let mut policies = for_localhost();
    policies.custom_extensions = vec![critical_policies()];
    let policy_words: &[&str] = &["CN=localhost", "critical extension certificatePolicies"];

    let mut address = named("localhost");
    let as_name = SanType::DnsName("127.0.0.1".try_into().unwrap());
    address.subject_alt_names = vec![as_name];

    let odd = |file: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/odd/");
        CertificateDer::from_pem_file(format!("{folder}{file}")).unwrap()
    };
    let version_words: &[&str] = &["CN=localhost", "version 1", "-extfile"];

    // A root whose name is a PrintableString, and a server that names it as a UTF8String.
    let utf8 = ca("Example sub");
    let printable = DnValue::PrintableString("Example sub".try_into().unwrap());
    let mut params = named(printable);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let printable = params.self_signed(utf8.key()).unwrap().der().clone();
    let encoding_words: &[&str] = &["CN=localhost", "another encoding", "string_mask"];

    let mut not_ca = named("no CA");
    not_ca.is_ca = IsCa::ExplicitNoCa;
    let key = KeyPair::generate().unwrap();
    let not_ca = CertifiedIssuer::signed_by(not_ca, key, &root).unwrap();
    let below = vec![issue(&not_ca, &for_localhost()), not_ca.der().clone()];
    let not_ca_words: &[&str] = &["CN=no CA", "not a CA's"];

    let name_words: &[&str] = &[
        "no subjectAltName",
        "subjectAltName=DNS:localhost",
        "verify_ca",
    ];
    vec![
        of(vec![issue(&root, &for_localhost())], &[], &[]),
        of(vec![issue(&root, &named("localhost"))], name_words, &[]),
        of(
            vec![issue(&root, &named("my-project:my-instance"))],
            &["CN=my-project:my-instance", "no subjectAltName"],
            &[],
        ),
        of(vec![issue(&root, &as_ca)], ca_words, ca_words),
        of(vec![issue(&root, &policies)], policy_words, policy_words),
        of(below, not_ca_words, not_ca_words),
        pinned(&own_ca, ca_words, &[]),
        pinned(&nameless_ca, &["CA:TRUE", "verify_ca"], &[]),
        pinned(&self_signed(for_localhost()), &[], &[]),
        Row {
            dialled: "127.0.0.1",
            ..of(
                vec![issue(&root, &address)],
                &["127.0.0.1 as a DNS name", "subjectAltName=IP:127.0.0.1"],
                &[],
            )
        },
        Row {
            root: odd("root.pem"),
            ..of(vec![odd("server-v1.pem")], version_words, version_words)
        },
        Row {
            root: printable.clone(),
            ..of(
                vec![issue(&utf8, &for_localhost())],
                encoding_words,
                encoding_words,
            )
        },
        // OpenSSL presents a root that it knows, too.
        Row {
            root: printable,
            ..of(
                vec![issue(&utf8, &for_localhost()), utf8.der().clone()],
                encoding_words,
                encoding_words,
            )
        },
    ]
}

/// Scenario: N06, N07, N08, N09
#[test]
fn error_of_a_refused_server_names_the_form_of_the_certificate_and_the_remedy() {
    for (place, row) in rows().into_iter().enumerate() {
        for (settings, expected) in [
            (TlsSettings::new(), row.full),
            (TlsSettings::new().verify_ca(), row.chain_alone),
        ] {
            let verified = verify(settings, &row.root, &row.chain, row.dialled);
            let Err(error) = verified else {
                assert!(expected.is_empty(), "row {place} was accepted");
                continue;
            };
            // The class of the error stays what it is.
            assert!(matches!(error, Error::InvalidCertificate(_)));
            let advice = server_certificate_advice(&error).unwrap_or_default();
            assert!(!expected.is_empty(), "row {place}: {error}");
            for words in expected {
                assert!(advice.contains(words), "row {place}: {words}: {error}");
            }
            assert!(error.to_string().contains(advice) && !advice.contains('\n'));
            let Error::InvalidCertificate(CertificateError::Other(other)) = &error else {
                panic!("{error:?}");
            };
            let cause = StdError::source(other).and_then(StdError::source);
            assert!(cause.is_some_and(|cause| cause.is::<Error>()));
        }
    }
}

/// Scenario: N20
#[test]
fn any_verifier_can_be_made_to_explain_and_accepts_no_more() {
    for row in rows() {
        let mut roots = RootCertStore::empty();
        roots.add(row.root).unwrap();
        let roots = Arc::new(roots);
        let builder = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&roots),
            default_provider().unwrap(),
        );
        let plain = builder.build().unwrap();
        let explaining = explaining_verifier(plain.clone(), roots);
        let explained = verified_by(&*explaining, &row.chain, row.dialled);
        assert_eq!(
            explained.is_ok(),
            verified_by(&*plain, &row.chain, row.dialled).is_ok()
        );
        if let Err(error) = explained {
            let advice = server_certificate_advice(&error).unwrap();
            // Its caller has no such settings.
            assert!(!advice.contains("TlsSettings"), "{advice}");
        }
    }
}

#[test]
fn errors_that_are_not_about_the_form_stay_as_they_are() {
    let (root, other) = (ca("root"), ca("other"));
    let server = issue(&root, &for_localhost());
    let refused = |root: &Ca, name| {
        let chain = [server.clone()];
        verify(TlsSettings::new(), root.der(), &chain, name).unwrap_err()
    };
    for error in [refused(&root, "db.test"), refused(&other, "localhost")] {
        assert_eq!(server_certificate_advice(&error), None, "{error}");
    }
    use CertificateError::{NotValidForNameContext, UnknownIssuer};
    let name = refused(&root, "db.test");
    assert!(matches!(
        name,
        Error::InvalidCertificate(NotValidForNameContext { .. })
    ));
    let issuer = refused(&other, "localhost");
    assert_eq!(issuer, Error::InvalidCertificate(UnknownIssuer));
}

#[test]
fn verify_ca_accepts_only_valid_servers_that_have_the_key_of_a_root() {
    let check = |change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = named("localhost");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let chain = [certificate.clone()];
        verify(
            TlsSettings::new().verify_ca(),
            &certificate,
            &chain,
            "localhost",
        )
    };
    check(|_| {}).unwrap();
    check(|params| params.not_after = rcgen::date_time_ymd(2000, 1, 1)).unwrap_err();
    check(|params| params.not_before = rcgen::date_time_ymd(2100, 1, 1)).unwrap_err();
    check(|params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth])
        .unwrap_err();
    // Another key under the root's name.
    let (root, impostor) = (ca("root"), ca("root"));
    let chain = [impostor.der().clone()];
    verify(
        TlsSettings::new().verify_ca(),
        root.der(),
        &chain,
        "localhost",
    )
    .unwrap_err();
}
