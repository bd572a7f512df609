//! How servers are verified: by a verifier of one's own, or without the host name.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::rustls::client::WebPkiServerVerifier;
use perennial::rustls::{CertificateError, Error};
use perennial::{LiveCert, MaterialError, RenewError, TlsSettings};

use crate::pki::Ca;
use crate::rotating::Rotating;
use crate::server::{HOST, Server};

/// Settings whose own verifier refuses more than `most` roots, and the sizes of the sets it got.
fn at_most(most: usize) -> (TlsSettings, Arc<Mutex<Vec<usize>>>) {
    let sets = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sets);
    let tls = TlsSettings::new().server_verifier(move |roots, provider| {
        seen.lock().unwrap().push(roots.len());
        if roots.len() > most {
            return Err(Error::General("too many roots".to_owned()));
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        Ok(webpki.build().unwrap())
    });
    (tls, sets)
}

#[tokio::test(start_paused = true)]
async fn own_verifier_is_made_for_each_set_of_roots_and_its_error_keeps_the_old_snapshot() {
    let [clients, a, b, c] = ["clients", "a", "b", "c"].map(Ca::new);
    let server = Server::new(a.server(HOST, 7), &clients);
    let (tls, sets) = at_most(2);
    let other = Server::new(b.server(HOST, 7), &clients);
    let rotating = Rotating::start(tls, clients.client("app", [&a])).await;
    let for_life = rotating.live.client_config(&[]);
    for config in [rotating.config(), Arc::clone(&for_life)] {
        server.login(Arc::clone(&config), HOST).unwrap();
        assert!(other.login(config, HOST).is_err());
    }
    rotating.rotate(clients.client("app", [&a, &b])).await;
    for config in [rotating.config(), for_life] {
        server.login(Arc::clone(&config), HOST).unwrap();
        other.login(config, HOST).unwrap();
    }

    let refused = rotating
        .try_rotate(clients.client("app", [&a, &b, &c]))
        .await;
    assert!(
        matches!(
            refused,
            Err(RenewError::Material(MaterialError::ServerVerifier(_)))
        ),
        "{refused:?}"
    );
    assert_eq!(*sets.lock().unwrap(), [1, 2, 3]);
    assert_eq!(rotating.live.current().unwrap().generation(), 2);
    server.login(rotating.config(), HOST).unwrap();
}

#[tokio::test(start_paused = true)]
async fn own_verifier_that_refuses_the_overlap_refuses_the_material_and_no_handshake() {
    let [clients, a, b] = ["clients", "a", "b"].map(Ca::new);
    let (tls, sets) = at_most(1);
    let tls = tls.roots_overlap(Duration::from_secs(3_600));
    let rotating = Rotating::start(tls, clients.client("app", [&a])).await;
    let refused = rotating.try_rotate(clients.client("app", [&b])).await;
    assert!(refused.is_err());
    // The first set; then the new roots alone, and with the old one.
    assert_eq!(*sets.lock().unwrap(), [1, 1, 2]);
    let server = Server::new(a.server(HOST, 7), &clients);
    server.login(rotating.config(), HOST).unwrap();
}

#[test]
fn verify_ca_accepts_another_host_name_and_refuses_another_ca() {
    let [ca, other] = ["ca", "other"].map(Ca::new);
    let configs = |tls: TlsSettings| {
        let live = LiveCert::builder().tls(tls).fixed(ca.client("app", [&ca]));
        let live = live.unwrap();
        let of_generation = live.current().unwrap().client_config();
        [of_generation, live.client_config(&[])]
    };
    let elsewhere = Server::new(ca.server("elsewhere.test", 7), &ca);
    for config in configs(TlsSettings::new()) {
        assert!(elsewhere.login(config, HOST).is_err());
    }
    let settings = [
        TlsSettings::new().verify_ca(),
        TlsSettings::new().verify_ca().allow_tls12(),
    ];
    for config in settings.into_iter().flat_map(configs) {
        elsewhere.login(Arc::clone(&config), HOST).unwrap();
        let impostor = Server::new(other.server(HOST, 7), &ca);
        let refused = impostor.login(config, HOST);
        assert!(
            matches!(
                refused,
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            ),
            "{refused:?}"
        );
    }
}
