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

#[cfg(feature = "system-roots")]
mod system {
    use std::path::Path;
    use std::process::Command;

    use perennial::pki_types::PrivatePkcs8KeyDer;

    use super::*;
    use crate::pki::Identity;
    use crate::server::{HOST, Server};

    /// Names a folder for the child: this same program, started again with the root in that folder
    /// as the system's only one.
    const CHILD: &str = "PERENNIAL_TEST_CHILD";
    const CLAIM: &str =
        "settings::system::roots_of_the_system_verify_servers_in_place_of_the_delivered_ones";

    #[test]
    fn system_roots_exclude_every_other_way_to_verify_servers() {
        let system = || TlsSettings::new().system_roots();
        let own = |_, _: &_| Err(Error::General("not called".to_owned()));
        for (tls, other) in [
            (system().verify_ca(), "verify_ca"),
            (system().server_roots([Ca::new("ca").der()]), "server_roots"),
            (system().server_verifier(own), "server_verifier"),
            (
                system().roots_overlap(Duration::from_secs(9)),
                "roots_overlap",
            ),
        ] {
            let expected = format!("invalid system_roots: expected no {other} together with it");
            assert_eq!(refusal(tls), expected);
        }
    }

    #[test]
    fn roots_of_the_system_verify_servers_in_place_of_the_delivered_ones() {
        let Some(folder) = std::env::var_os(CHILD) else {
            return start_child();
        };
        let file = |name: &str| std::fs::read(Path::new(&folder).join(name)).unwrap();
        let clients = Ca::new("clients");
        let identity = Identity {
            chain: vec![CertificateDer::from(file("server.crt"))],
            key: PrivatePkcs8KeyDer::from(file("server.key")).into(),
        };
        let server = Server::new(identity, &clients);
        let delivered = Server::new(clients.server(HOST, 7), &clients);
        // With roots of its own, and without.
        for roots in [vec![&clients], vec![]] {
            let builder = LiveCert::builder().tls(TlsSettings::new().system_roots());
            let live = builder.fixed(clients.client("app", roots)).unwrap();
            let config = || live.current().unwrap().client_config();
            server.login(config(), HOST).unwrap();
            assert!(server.login(config(), "other.test").is_err());
            assert!(delivered.login(config(), HOST).is_err());
        }
    }

    fn start_child() {
        let system = Ca::new("system");
        let server = system.server(HOST, 7);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        file("server.crt", &server.chain[0]);
        file("server.key", server.key.secret_der());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CLAIM])
            .env(CHILD, folder.path())
            .env("SSL_CERT_FILE", file("roots.pem", system.pem().as_bytes()))
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && out.contains("1 passed"), "{out}");
    }
}
