//! Protocol versions, key exchange and the crypto provider.

use std::sync::Arc;

use perennial::rustls::version::{TLS12, TLS13};
use perennial::rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use perennial::{LiveCert, StartError, TlsSettings};

use crate::pki::Ca;
use crate::server::{HOST, Server, provider};

#[test]
fn tls12_is_spoken_only_by_choice() {
    let ca = Ca::new("ca");
    let old = Server::of_version(ca.server(HOST, 7), &ca, &[&TLS12]);
    let new = Server::new(ca.server(HOST, 7), &ca);
    let version = |server: &Server, tls| {
        let live = LiveCert::builder().tls(tls).fixed(ca.client("app", [&ca]));
        let config = live.unwrap().current().unwrap().client_config();
        server.login(config, HOST).map(|login| login.version)
    };
    assert!(version(&old, TlsSettings::new()).is_err());
    let allowed = TlsSettings::new().allow_tls12();
    assert_eq!(version(&old, allowed.clone()), Ok(ProtocolVersion::TLSv1_2));
    assert_eq!(version(&new, allowed), Ok(ProtocolVersion::TLSv1_3));
    assert_eq!(
        version(&new, TlsSettings::new()),
        Ok(ProtocolVersion::TLSv1_3)
    );
}

#[test]
fn default_provider_offers_the_hybrid_key_exchange_first() {
    let ca = Ca::new("ca");
    let live = LiveCert::fixed(ca.client("app", [&ca])).unwrap();
    let config = live.current().unwrap().client_config();
    let offered: Vec<_> = config
        .crypto_provider()
        .kx_groups
        .iter()
        .map(|g| g.name())
        .collect();
    let classic = [
        NamedGroup::X25519,
        NamedGroup::secp256r1,
        NamedGroup::secp384r1,
    ];
    // With both features on, aws-lc-rs is the default.
    let hybrid = cfg!(feature = "aws-lc-rs").then_some(NamedGroup::X25519MLKEM768);
    let expected: Vec<_> = hybrid.into_iter().chain(classic).collect();
    assert_eq!(offered, expected);

    let server = Server::new(ca.server(HOST, 7), &ca);
    let login = server.login(Arc::clone(&config), HOST).unwrap();
    assert_eq!(login.group, Some(expected[0]));
    assert_eq!(login.kind, HandshakeKind::Full);
    // A server without it takes the classic share of the same hello: no retry.
    let classic = Server::of_group(ca.server(HOST, 7), &ca, NamedGroup::X25519);
    let login = classic.login(config, HOST).unwrap();
    assert_eq!(
        (login.group, login.kind),
        (Some(NamedGroup::X25519), HandshakeKind::Full)
    );
}

#[test]
fn injected_provider_is_the_one_that_speaks() {
    let ca = Ca::new("ca");
    let mut mine = provider();
    mine.kx_groups
        .retain(|group| group.name() == NamedGroup::secp384r1);
    let live = LiveCert::builder()
        .provider(Arc::new(mine))
        .fixed(ca.client("app", [&ca]));
    let config = live.unwrap().current().unwrap().client_config();
    let server = Server::of_version(ca.server(HOST, 7), &ca, &[&TLS13]);
    let login = server.login(config, HOST).unwrap();
    assert_eq!(login.group, Some(NamedGroup::secp384r1));
}

#[test]
fn provider_without_tls13_is_refused_at_start() {
    let ca = Ca::new("ca");
    let mut old = provider();
    old.cipher_suites.retain(|suite| suite.tls13().is_none());
    let refused = LiveCert::builder()
        .provider(Arc::new(old))
        .fixed(ca.client("app", [&ca]));
    assert!(matches!(
        refused,
        Err(StartError::Setting {
            field: "provider",
            ..
        })
    ));
}
