//! C10 and C14: which client the server sees, and which sessions are resumed.

use std::sync::Arc;

use perennial::TlsSettings;
use perennial::rustls::version::{TLS12, TLS13};
use perennial::rustls::{HandshakeKind, NamedGroup, ProtocolVersion, SupportedProtocolVersion};

use crate::pki::Ca;
use crate::rotating::Rotating;
use crate::server::{HOST, Server, Sessions};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server of one version, and the CA of all certificates.
fn server(version: &'static SupportedProtocolVersion, sessions: Sessions) -> (Ca, Server) {
    let ca = Ca::new("ca");
    let server = Server::of_version(ca.server(HOST, 7), &ca, &[version]).remembering(sessions);
    (ca, server)
}

/// Scenario: C10
#[tokio::test(start_paused = true)]
async fn old_name_is_never_resumed_after_a_rotation() {
    for (version, sessions) in [
        (&TLS12, Sessions::Tickets),
        (&TLS12, Sessions::Stored),
        (&TLS13, Sessions::Tickets),
        (&TLS13, Sessions::Stored),
    ] {
        let (ca, server) = server(version, sessions);
        let tls = TlsSettings::new().allow_tls12();
        let rotating = Rotating::start(tls, ca.client("old", [&ca])).await;
        let old = rotating.config();
        for expected in [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ] {
            let login = server.login(rotating.config(), HOST).unwrap();
            assert_eq!((login.kind, login.version), (expected, version.version));
            assert_eq!(login.name, "old");
        }

        rotating.rotate(ca.client("new", [&ca])).await;
        let serial = rotating.live.current().unwrap().serial().clone();
        // Tickets of the old name remain, and none is ever used.
        for expected in [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ] {
            let login = server.login(rotating.config(), HOST).unwrap();
            assert_eq!((login.name.as_str(), &login.serial), ("new", &serial));
            assert_eq!(login.kind, expected, "{version:?} {sessions:?}");
        }

        // A connection that began before the rotation keeps the old name, and leaves no ticket for
        // the new generation.
        assert_eq!(server.login(old, HOST).unwrap().name, "old");
        for _ in 0..10 {
            assert_eq!(server.login(rotating.config(), HOST).unwrap().name, "new");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn generations_share_no_resolver_and_no_verifier() {
    // Either alone keeps rustls from resuming an old session.
    for version in VERSIONS {
        let (ca, server) = server(version, Sessions::Tickets);
        let tls = TlsSettings::new().allow_tls12();
        for tls in [tls.clone(), tls.server_roots([ca.der()])] {
            let rotating = Rotating::start(tls, ca.client("app", [&ca])).await;
            let one = rotating.config();
            rotating.rotate(ca.client("app", [&ca])).await;
            let mut two = Arc::unwrap_or_clone(rotating.config());
            assert!(!Arc::ptr_eq(
                &one.client_auth_cert_resolver,
                &two.client_auth_cert_resolver
            ));

            two.client_auth_cert_resolver = Arc::clone(&one.client_auth_cert_resolver);
            server.login(Arc::clone(&one), HOST).unwrap();
            assert_eq!(
                server.login(one, HOST).unwrap().kind,
                HandshakeKind::Resumed
            );
            let other_verifier = server.login(Arc::new(two), HOST).unwrap();
            assert_eq!(other_verifier.kind, HandshakeKind::Full, "{version:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clone_of_a_config_resumes_within_its_generation() {
    // Connectors clone it for each connect, to set ALPN.
    let (ca, server) = server(&TLS13, Sessions::Tickets);
    let rotating = Rotating::start(TlsSettings::new(), ca.client("app", [&ca])).await;
    let clone = || Arc::new(Arc::unwrap_or_clone(rotating.config()));
    server.login(clone(), HOST).unwrap();
    let again = server.login(clone(), HOST).unwrap();
    assert_eq!(again.kind, HandshakeKind::Resumed);
}

/// Scenario: C14
#[tokio::test(start_paused = true)]
async fn two_names_to_one_server_do_not_leak() {
    // C14: one process, one server name, interleaved, across rotations of either.
    for version in VERSIONS {
        let (ca, server) = server(version, Sessions::Tickets);
        let tls = TlsSettings::new().allow_tls12();
        let ann = Rotating::start(tls.clone(), ca.client("ann", [&ca])).await;
        let bob = Rotating::start(tls, ca.client("bob", [&ca])).await;
        for round in 0..4 {
            for (rotating, name) in [(&ann, "ann"), (&bob, "bob")] {
                let first = server.login(rotating.config(), HOST).unwrap();
                let second = server.login(rotating.config(), HOST).unwrap();
                assert_eq!([first.name, second.name], [name, name]);
                // Each still resumes its own.
                assert_eq!(second.kind, HandshakeKind::Resumed);
            }
            let (rotating, name) = [(&ann, "ann"), (&bob, "bob")][round % 2];
            rotating.rotate(ca.client(name, [&ca])).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn key_exchange_hint_survives_a_rotation() {
    // PostgreSQL up to 17 has P-256 alone: without the hint each connect takes one more round trip.
    let ca = Ca::new("ca");
    let server = Server::of_group(ca.server(HOST, 7), &ca, NamedGroup::secp256r1);
    let rotating = Rotating::start(TlsSettings::new(), ca.client("app", [&ca])).await;
    let first = server.login(rotating.config(), HOST).unwrap();
    assert_eq!(first.kind, HandshakeKind::FullWithHelloRetryRequest);
    for _ in 0..3 {
        rotating.rotate(ca.client("app", [&ca])).await;
        let next = server.login(rotating.config(), HOST).unwrap();
        assert_eq!(next.kind, HandshakeKind::Full);
        assert_eq!(next.group, Some(NamedGroup::secp256r1));
        assert_eq!(next.version, ProtocolVersion::TLSv1_3);
    }
}
