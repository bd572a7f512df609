//! The configs for servers: what they present, whom they let in, which sessions they resume.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::pki_types::{CertificateDer, ServerName, UnixTime};
use perennial::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use perennial::rustls::server::ServerSessionMemoryCache;
use perennial::rustls::time_provider::TimeProvider;
use perennial::rustls::version::{TLS12, TLS13};
use perennial::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use perennial::{
    CertMaterial, Certificate, ClientAuth, LiveCert, LiveCertBuilder, MaterialError, Serial,
    TlsSettings, Unavailable, Usage, find_cause,
};

use crate::peer::Peer;
use crate::pki::{Ca, now};
use crate::rotating::Rotating;
use crate::server::{HOST, connect, provider};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const AUTHS: [ClientAuth; 3] = [ClientAuth::None, ClientAuth::Optional, ClientAuth::Required];
const HOUR: Duration = Duration::from_secs(3_600);

fn builder() -> LiveCertBuilder {
    let tls = TlsSettings::new().allow_tls12();
    LiveCert::builder().tls(tls).usage(Usage::Server)
}

/// A server's certificate with this serial number, and roots for clients.
fn material(ca: &Ca, serial: u64, clients: &[&Ca]) -> CertMaterial {
    ca.server(HOST, serial).with_roots(clients.iter().copied())
}

/// A client with a certificate by this CA, which trusts servers of the same.
fn client(version: &'static SupportedProtocolVersion, ca: &Ca) -> Peer {
    let end = now() + 1_000 * HOUR;
    Peer::new(version, ca, Some(ca.client_until("ann", end)))
}

/// The config for life and one of the generation in use.
fn both(live: &LiveCert, auth: ClientAuth) -> [Arc<ServerConfig>; 2] {
    let current = live.current().unwrap();
    [
        live.server_config(auth, &[]).unwrap(),
        current.server_config(auth, &[]).unwrap(),
    ]
}

/// Scenario: C10
#[tokio::test(start_paused = true)]
async fn server_config_for_life_presents_each_new_certificate_and_resumes_no_session() {
    // Invariant 15: the client's store keeps every session that it gets.
    for (version, auth) in VERSIONS.iter().flat_map(|v| AUTHS.map(|auth| (*v, auth))) {
        let ca = Ca::new("ca");
        let rotating = Rotating::build(builder(), material(&ca, 1, &[&ca])).await;
        let config = rotating.live.server_config(auth, &[]).unwrap();
        let client = client(version, &ca);
        for generation in 1..=3_u8 {
            for _ in 0..3 {
                let visit = client.visit(Arc::clone(&config)).unwrap();
                assert_eq!(visit.serial, Serial::from_bytes(&[generation]));
                assert_eq!(visit.kind, HandshakeKind::Full, "{version:?} {auth:?}");
                let expected = (auth != ClientAuth::None).then_some("ann");
                assert_eq!(visit.client.as_deref(), expected);
            }
            let next = u64::from(generation) + 1;
            rotating.rotate(material(&ca, next, &[&ca])).await;
        }
    }
}

/// Scenario: C10
#[tokio::test(start_paused = true)]
async fn server_config_of_a_generation_resumes_only_its_own_sessions_and_none_of_authenticated_clients()
 {
    use HandshakeKind::{Full, Resumed};
    for (version, auth) in VERSIONS.iter().flat_map(|v| AUTHS.map(|auth| (*v, auth))) {
        let ca = Ca::new("ca");
        let rotating = Rotating::build(builder(), material(&ca, 1, &[&ca])).await;
        // As a server asks for each accept.
        let config = || {
            let current = rotating.live.current().unwrap();
            current.server_config(auth, &[]).unwrap()
        };
        let again = match auth {
            ClientAuth::None => Resumed,
            _ => Full,
        };
        let client = client(version, &ca);
        for generation in 1..=2_u8 {
            for kind in [Full, again, again] {
                let visit = client.visit(config()).unwrap();
                assert_eq!(visit.serial, Serial::from_bytes(&[generation]));
                assert_eq!(visit.kind, kind, "{version:?} {auth:?}");
            }
            rotating.rotate(material(&ca, 2, &[&ca])).await;
        }
    }
}

/// Scenario: C10
#[tokio::test(start_paused = true)]
async fn client_whose_certificate_has_expired_is_let_in_by_no_session() {
    // Trap: a session that is resumed brings the client's name back, and no certificate is verified.
    let end = now() + HOUR;
    for version in VERSIONS {
        for auth in [ClientAuth::Optional, ClientAuth::Required] {
            let ca = Ca::new("ca");
            let rotating = Rotating::build(builder(), material(&ca, 1, &[&ca])).await;
            for config in both(&rotating.live, auth) {
                let client = Peer::new(version, &ca, Some(ca.client_until("ann", end)));
                let first = client.visit(Arc::clone(&config)).unwrap();
                assert_eq!(first.client.as_deref(), Some("ann"));
                let later = client.visit(at(&config, end + HOUR / 2));
                assert!(
                    matches!(
                        later,
                        Err(Error::InvalidCertificate(
                            CertificateError::Expired | CertificateError::ExpiredContext { .. }
                        ))
                    ),
                    "{version:?} {auth:?}: {later:?}"
                );
            }

            // What rustls does by default, so that this test sees it.
            let mut config = ServerConfig::clone(&both(&rotating.live, auth)[0]);
            config.session_storage = ServerSessionMemoryCache::new(9);
            config.send_tls13_tickets = 2;
            let client = Peer::new(version, &ca, Some(ca.client_until("ann", end)));
            client.visit(Arc::new(config.clone())).unwrap();
            let later = client.visit(at(&config, end + HOUR / 2)).unwrap();
            assert_eq!(later.kind, HandshakeKind::Resumed);
        }
    }
}

/// Scenario: C9
#[tokio::test(start_paused = true)]
async fn clients_are_verified_by_the_roots_in_use_and_the_named_cas_follow_them() {
    let [ca, other] = ["ca", "other"].map(Ca::new);
    let end = now() + 1_000 * HOUR;
    for version in VERSIONS {
        let ann = Peer::new(version, &ca, Some(ca.client_until("ann", end)));
        let bob = Peer::new(version, &ca, Some(other.client_until("bob", end)));
        let rotating = Rotating::build(builder(), material(&ca, 1, &[&ca])).await;
        let config = rotating
            .live
            .server_config(ClientAuth::Required, &[])
            .unwrap();
        // Back to the first list: it is lent out again.
        for (roots, cas, is_ann_in, is_bob_in) in [
            (vec![&ca], vec!["CN=ca"], true, false),
            (vec![&ca, &other], vec!["CN=ca", "CN=other"], true, true),
            (vec![&other], vec!["CN=other"], false, true),
            (vec![&ca], vec!["CN=ca"], true, false),
        ] {
            rotating.rotate(material(&ca, 2, &roots)).await;
            let generation = rotating.live.current().unwrap();
            let generation = generation.server_config(ClientAuth::Required, &[]);
            for config in [Arc::clone(&config), generation.unwrap()] {
                for (client, is_in) in [(&ann, is_ann_in), (&bob, is_bob_in)] {
                    let visit = client.visit(Arc::clone(&config));
                    assert_eq!(visit.is_ok(), is_in, "{version:?} {cas:?} {visit:?}");
                    assert_eq!(client.cas(), cas);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn root_that_has_left_is_trusted_for_clients_until_its_overlap_ends() {
    let [ca, other] = ["ca", "other"].map(Ca::new);
    let tls = TlsSettings::new().roots_overlap(HOUR);
    let rotating = Rotating::build(builder().tls(tls), material(&ca, 1, &[&other])).await;
    let identity = other.client_until("bob", now() + 1_000 * HOUR);
    let chain = identity.chain.clone();
    let bob = Peer::new(&TLS13, &ca, Some(identity));
    rotating.rotate(material(&ca, 2, &[&ca])).await;
    let current = rotating.live.current().unwrap();
    for config in both(&rotating.live, ClientAuth::Required) {
        bob.visit(Arc::clone(&config)).unwrap();
        assert_eq!(bob.cas(), ["CN=ca", "CN=other"]);
        let later = bob.visit(at(&config, now() + 2 * HOUR));
        assert!(
            matches!(later, Err(Error::InvalidCertificate(_))),
            "{later:?}"
        );
    }
    // As a server asks that looks at its open connections again.
    current.verify_client(&chain, now()).unwrap();
    let gone = current.verify_client(&chain, now() + 2 * HOUR);
    assert!(
        matches!(gone, Err(Error::InvalidCertificate(_))),
        "{gone:?}"
    );
    assert!(current.verify_client(&[], now()).is_err());
}

#[tokio::test(start_paused = true)]
async fn client_authentication_decides_who_is_let_in_without_a_certificate() {
    let [ca, other] = ["ca", "other"].map(Ca::new);
    let rotating = Rotating::build(builder(), material(&ca, 1, &[&ca])).await;
    let end = now() + HOUR;
    for (version, auth) in VERSIONS.iter().flat_map(|v| AUTHS.map(|auth| (*v, auth))) {
        let anonymous = Peer::new(version, &ca, None);
        let stranger = Peer::new(version, &ca, Some(other.client_until("eve", end)));
        for config in both(&rotating.live, auth) {
            let visit = anonymous.visit(Arc::clone(&config));
            assert_eq!(visit.is_ok(), auth != ClientAuth::Required, "{visit:?}");
            let visit = stranger.visit(config);
            assert_eq!(visit.is_ok(), auth == ClientAuth::None, "{visit:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn server_without_a_valid_certificate_fails_each_handshake_with_the_cause() {
    let ca = Ca::new("ca");
    let rotating = Rotating::lazily(builder());
    let nothing_yet = |error: &Error| {
        let found: Option<&Unavailable> = find_cause(error);
        matches!(found, Some(Unavailable::NothingYet { .. }))
    };
    let expired = |error: &Error| {
        let found: Option<&Unavailable> = find_cause(error);
        matches!(found, Some(Unavailable::Expired { .. }))
    };
    // Asked for before there is a certificate.
    let configs = AUTHS.map(|auth| rotating.live.server_config(auth, &[]).unwrap());
    let fails = |cause: &dyn Fn(&Error) -> bool| {
        for version in VERSIONS {
            for config in &configs {
                let error = client(version, &ca).visit(Arc::clone(config)).unwrap_err();
                assert!(cause(&error), "{version:?}: {error}");
                // QUIC sends this text to the peer: the cause's own line, and none of its causes.
                let own = find_cause::<Unavailable>(&error).unwrap().to_string();
                assert_eq!(error.to_string(), format!("other error: {own}"));
            }
        }
    };
    tokio::time::sleep(HOUR).await;
    fails(&nothing_yet);
    // The source has failed by now, and its text is kept for the log.
    let error = client(&TLS13, &ca)
        .visit(Arc::clone(&configs[0]))
        .unwrap_err();
    assert!(
        perennial::with_causes(&error)
            .to_string()
            .contains("nothing newer")
    );

    let server = ca.server_until(HOST, 1, now() + HOUR);
    rotating.first(server.with_roots([&ca])).await;
    for config in &configs {
        client(&TLS13, &ca).visit(Arc::clone(config)).unwrap();
    }
    // By the monotonic clock, which is paused.
    tokio::time::sleep(HOUR).await;
    fails(&expired);
}

#[tokio::test(start_paused = true)]
async fn resolver_alone_presents_the_certificate_in_use_or_fails_with_the_cause() {
    let ca = Ca::new("ca");
    // As a library that takes no config makes its own.
    let config = |resolver| {
        let config = ServerConfig::builder_with_provider(Arc::new(provider()));
        let config = config.with_protocol_versions(&VERSIONS).unwrap();
        Arc::new(config.with_no_client_auth().with_cert_resolver(resolver))
    };
    let rotating = Rotating::lazily(builder());
    let server = config(rotating.live.server_cert_resolver());
    for version in VERSIONS {
        let error = Peer::new(version, &ca, None).visit(Arc::clone(&server));
        let error = error.unwrap_err();
        assert!(find_cause::<Unavailable>(&error).is_some(), "{error}");
    }
    rotating.first(material(&ca, 1, &[])).await;
    for serial in 1..=2_u8 {
        for version in VERSIONS {
            // A new client has no session.
            let visit = Peer::new(version, &ca, None).visit(Arc::clone(&server));
            assert_eq!(visit.unwrap().serial, Serial::from_bytes(&[serial]));
        }
        rotating.rotate(material(&ca, 2, &[])).await;
    }

    let clients = LiveCert::fixed(ca.client("app", [&ca])).unwrap();
    let server = config(clients.server_cert_resolver());
    let error = Peer::new(&TLS13, &ca, None).visit(server).unwrap_err();
    let cause = find_cause(&error);
    assert!(
        matches!(cause, Some(MaterialError::NotServing { .. })),
        "{error}"
    );
}

/// Names a CA to servers, and verifies nothing.
#[derive(Debug)]
struct Naming(Vec<DistinguishedName>);

impl ServerCertVerifier for Naming {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}

#[test]
fn client_that_names_a_ca_is_presented_the_path_to_it_first() {
    let [a, b] = ["a", "b"].map(Ca::new);
    for roots in [[&a, &b], [&b, &a]] {
        let server = Ca::server_of_both(HOST, roots).with_roots([]);
        let live = builder().fixed(server).unwrap();
        let first_issuer = |named: &[&Ca]| {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(named.iter().map(|ca| ca.der()));
            let config = ClientConfig::builder_with_provider(Arc::new(provider()));
            let config = config.with_protocol_versions(&[&TLS13]).unwrap();
            let config = config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Naming(store.subjects())));
            let config = Arc::new(config.with_no_client_auth());
            let issuers = both(&live, ClientAuth::None).map(|server| {
                let (client, _) = connect(Arc::clone(&config), server, HOST).unwrap();
                let issuer = &client.peer_certificates().unwrap()[1];
                Certificate::from_der(issuer).unwrap().issuer().to_owned()
            });
            assert_eq!(issuers[0], issuers[1]);
            issuers[0].clone()
        };
        for ca in [&a, &b] {
            let expected = format!("CN={}", ca.name());
            assert_eq!(first_issuer(&[ca]), expected);
            assert_eq!(first_issuer(&[&Ca::new("other"), ca]), expected);
        }
        assert_eq!(first_issuer(&[]), first_issuer(&[roots[0]]));
        assert_eq!(first_issuer(&[&a, &b]), first_issuer(&[roots[0]]));
    }
}

/// Scenario: C15
#[tokio::test(start_paused = true)]
async fn serving_without_its_usage_or_without_roots_for_clients_is_an_error_that_says_the_remedy() {
    let ca = Ca::new("ca");
    let clients = LiveCert::fixed(ca.client("app", [&ca])).unwrap();
    let texts = |live: &LiveCert, auth| {
        let for_life = live.server_config(auth, &[]).unwrap_err().to_string();
        let current = live.current().unwrap();
        let of_generation = current.server_config(auth, &[]).unwrap_err().to_string();
        assert_eq!(for_life, of_generation);
        for_life
    };
    assert_eq!(
        texts(&clients, ClientAuth::None),
        "the certificate is used as a TLS client (clientAuth); to serve with it, start it with \
         Usage::Server or Usage::Both"
    );
    let half = builder().usage(Usage::Both).fixed(ca.client("app", [&ca]));
    assert_eq!(
        texts(&half.unwrap(), ClientAuth::None),
        "the extended key usage of CN=app allows clientAuth, but it is used as a TLS server \
         (serverAuth)"
    );

    let rotating = Rotating::build(builder(), material(&ca, 1, &[])).await;
    for auth in [ClientAuth::Optional, ClientAuth::Required] {
        assert_eq!(
            texts(&rotating.live, auth),
            "there are no roots to verify clients with (deliver some, or serve with \
             ClientAuth::None)"
        );
    }
    for config in both(&rotating.live, ClientAuth::None) {
        client(&TLS13, &ca).visit(config).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn roots_that_are_missing_after_a_rotation_let_no_client_in() {
    let ca = Ca::new("ca");
    let rotating = Rotating::build(builder(), material(&ca, 1, &[&ca])).await;
    let required = rotating.live.server_config(ClientAuth::Required, &[]);
    let optional = rotating.live.server_config(ClientAuth::Optional, &[]);
    rotating.rotate(material(&ca, 2, &[])).await;
    for version in VERSIONS {
        for config in [&required, &optional] {
            let config = config.as_ref().unwrap();
            let refused = client(version, &ca).visit(Arc::clone(config)).unwrap_err();
            let cause = find_cause(&refused);
            assert!(
                matches!(cause, Some(MaterialError::NoClientRoots)),
                "{refused}"
            );
        }
    }
    let chain = ca.client_until("ann", now() + HOUR).chain;
    let current = rotating.live.current().unwrap();
    let refused = current.verify_client(&chain, now()).unwrap_err();
    assert!(find_cause::<MaterialError>(&refused).is_some());
}

#[test]
fn leaf_for_servers_alone_serves_and_as_a_client_is_refused_with_both_usages() {
    let ca = Ca::new("ca");
    let refused = LiveCert::fixed(material(&ca, 7, &[&ca])).unwrap_err();
    assert!(matches!(
        find_cause(&refused),
        Some(MaterialError::WrongUsage { .. })
    ));
    let text = perennial::with_causes(&refused).to_string();
    assert!(text.contains("allows serverAuth, but it is used as a TLS client (clientAuth)"));

    let live = builder().fixed(material(&ca, 7, &[&ca])).unwrap();
    for config in both(&live, ClientAuth::Required) {
        client(&TLS13, &ca).visit(config).unwrap();
    }
    // Also where it connects although it was started to serve.
    let servers = crate::server::Server::new(ca.server(HOST, 8), &ca);
    let current = live.current().unwrap();
    for config in [current.client_config(), live.client_config(&[])] {
        let refused = servers.login(config, HOST).unwrap_err();
        let cause = find_cause::<MaterialError>(&refused).unwrap().to_string();
        assert!(
            cause.ends_with("used as a TLS client (clientAuth)"),
            "{cause}"
        );
    }
    let no_roots = builder().fixed(material(&ca, 7, &[])).unwrap();
    let refused = servers
        .login(no_roots.client_config(&[]), HOST)
        .unwrap_err();
    let cause = find_cause(&refused);
    assert!(matches!(cause, Some(MaterialError::NoRoots)), "{refused}");
}

#[test]
fn servers_speak_tls12_only_by_choice_and_offer_the_protocols_that_are_given() {
    let ca = Ca::new("ca");
    let live = LiveCert::builder().usage(Usage::Server);
    let live = live.fixed(material(&ca, 1, &[&ca])).unwrap();
    let old = builder().fixed(material(&ca, 1, &[&ca])).unwrap();
    for (is_old, live) in [(false, live), (true, old)] {
        for config in both(&live, ClientAuth::Required) {
            assert_eq!(
                client(&TLS12, &ca).visit(Arc::clone(&config)).is_ok(),
                is_old
            );
            assert_eq!(client(&TLS13, &ca).visit(config).unwrap().alpn, None);
        }
        let current = live.current().unwrap();
        let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
        for config in [
            live.server_config(ClientAuth::None, alpn).unwrap(),
            current.server_config(ClientAuth::None, alpn).unwrap(),
        ] {
            let client = client(&TLS13, &ca);
            let both = client.clone().offering(&[b"http/1.1", b"h2"]);
            let visit = both.visit(Arc::clone(&config)).unwrap();
            assert_eq!(visit.alpn.as_deref(), Some(b"h2".as_slice()));
            let other = client.offering(&[b"acme"]).visit(config);
            let alert = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
            assert!(other.is_err_and(|e| e == Error::NoApplicationProtocol || e == alert));
        }
    }
}

#[derive(Debug)]
struct FixedTime(UnixTime);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// The same config at another time.
fn at(config: &ServerConfig, time: SystemTime) -> Arc<ServerConfig> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut config = config.clone();
    config.time_provider = Arc::new(FixedTime(UnixTime::since_unix_epoch(since)));
    Arc::new(config)
}
