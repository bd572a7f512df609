//! C9: by which roots, and under which name, servers are verified.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::pki_types::UnixTime;
use perennial::rustls::time_provider::TimeProvider;
use perennial::rustls::{CertificateError, ClientConfig, Error};
use perennial::{LiveCert, StartError, TlsSettings};

use crate::pki::Ca;
use crate::rotating::Rotating;
use crate::server::{HOST, Login, Server};

const HOUR: Duration = Duration::from_secs(3_600);

fn config(tls: TlsSettings, clients: &Ca, roots: &Ca) -> Arc<ClientConfig> {
    let live = LiveCert::builder()
        .tls(tls)
        .fixed(clients.client("app", [roots]));
    live.unwrap().current().unwrap().client_config()
}

fn is_untrusted(login: &Result<Login, Error>) -> bool {
    matches!(
        login,
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    )
}

/// Two CAs of servers, and a server of each.
struct CaChange {
    clients: Ca,
    a: Ca,
    b: Ca,
    server_a: Server,
    server_b: Server,
}

impl CaChange {
    fn new() -> Self {
        let (clients, a, b) = (Ca::new("clients"), Ca::new("a"), Ca::new("b"));
        Self {
            server_a: Server::new(a.server(HOST, 7), &clients),
            server_b: Server::new(b.server(HOST, 7), &clients),
            clients,
            a,
            b,
        }
    }

    async fn start(&self, overlap: Duration) -> Rotating {
        let tls = TlsSettings::new().roots_overlap(overlap);
        Rotating::start(tls, self.clients.client("app", [&self.a])).await
    }
}

/// Scenario: C9
#[tokio::test(start_paused = true)]
async fn change_of_the_servers_ca_fails_no_connect_with_overlap() {
    // The roots go A, A+B, B; the server's own certificate goes from A to B at any step.
    let change = CaChange::new();
    for steps_on_a in 1..=4 {
        let rotating = change.start(HOUR).await;
        let (a, b) = (&change.a, &change.b);
        let mut after = vec![vec![b], vec![b], vec![a, b]];
        for step in 1..=4 {
            let server = if step <= steps_on_a {
                &change.server_a
            } else {
                &change.server_b
            };
            // In the first step the roots are A alone: the server must be A's.
            server.login(rotating.config(), HOST).unwrap();
            if let Some(roots) = after.pop() {
                rotating.rotate(change.clients.client("app", roots)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_overlap_a_missing_root_is_dropped_at_once() {
    let change = CaChange::new();
    let rotating = change.start(Duration::ZERO).await;
    change.server_a.login(rotating.config(), HOST).unwrap();
    rotating
        .rotate(change.clients.client("app", [&change.b]))
        .await;
    assert!(is_untrusted(
        &change.server_a.login(rotating.config(), HOST)
    ));
    change.server_b.login(rotating.config(), HOST).unwrap();
}

#[tokio::test(start_paused = true)]
async fn overlap_ends_by_the_clock_without_a_rotation() {
    let change = CaChange::new();
    let rotating = change.start(HOUR).await;
    rotating
        .rotate(change.clients.client("app", [&change.b]))
        .await;
    let rotated = rotating.live.current().unwrap().obtained_at();
    let at = |server: &Server, moment| server.login(with_time(rotating.config(), moment), HOST);

    let (before, after) = (rotated + HOUR - SECOND, rotated + HOUR + SECOND);
    at(&change.server_a, before).unwrap();
    at(&change.server_b, before).unwrap();
    at(&change.server_b, after).unwrap();
    assert!(is_untrusted(&at(&change.server_a, after)));
}

/// Scenario: C9
#[tokio::test(start_paused = true)]
async fn certificate_and_roots_swap_as_one() {
    // Each side takes only the other's CA of the same era: a mixture fits neither server.
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let server_a = Server::new(a.server(HOST, 7), &a);
    let server_b = Server::new(b.server(HOST, 7), &b);
    let rotating = Rotating::start(TlsSettings::new(), a.client("app", [&a])).await;
    let old = rotating.config();
    server_a.login(Arc::clone(&old), HOST).unwrap();
    rotating.rotate(b.client("app", [&b])).await;
    server_b.login(rotating.config(), HOST).unwrap();
    assert!(server_a.login(rotating.config(), HOST).is_err());
    assert!(server_b.login(Arc::clone(&old), HOST).is_err());
    server_a.login(old, HOST).unwrap();
}

#[tokio::test(start_paused = true)]
async fn roots_of_the_settings_replace_those_of_the_material() {
    let (clients, servers) = (Ca::new("clients"), Ca::new("servers"));
    let server = Server::new(servers.server(HOST, 7), &clients);
    let impostor = Server::new(clients.server(HOST, 7), &clients);
    let pem = TlsSettings::new().server_roots_pem(servers.pem());
    for tls in [TlsSettings::new().server_roots([servers.der()]), pem] {
        let rotating = Rotating::start(tls, clients.client("app", [&clients])).await;
        for _generation in 1..=2 {
            server.login(rotating.config(), HOST).unwrap();
            assert!(is_untrusted(&impostor.login(rotating.config(), HOST)));
            rotating.rotate(clients.client("app", [&clients])).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn roots_of_the_settings_issue_no_client() {
    // The material's own roots must issue the leaf, whatever roots verify servers.
    let (clients, servers) = (Ca::new("clients"), Ca::new("servers"));
    let tls = || LiveCert::builder().tls(TlsSettings::new().server_roots([clients.der()]));
    let foreign = clients.client("app", [&servers]).roots_issue_leaf();
    assert!(matches!(tls().fixed(foreign), Err(StartError::Failed(_))));
    let own = clients.client("app", [&clients]).roots_issue_leaf();
    assert!(tls().fixed(own).is_ok());
}

/// Scenario: N01, N02
#[tokio::test(start_paused = true)]
async fn stranger_in_a_delivered_chain_never_becomes_a_root_for_servers() {
    // One has a name of its own, and one has the name of our root.
    let (ca, own) = (Ca::new("ca"), Ca::new("stranger"));
    let namesake = Ca::new("ca");
    let server = Server::new(ca.server(HOST, 7), &ca);
    let impostors = [&own, &namesake].map(|by| Server::new(by.server(HOST, 8), &ca));
    let material = || ca.client_with("app", [&ca, &own, &namesake], [&ca]);
    let rotating = Rotating::start(TlsSettings::new(), material()).await;
    for _generation in 1..=2 {
        server.login(rotating.config(), HOST).unwrap();
        for impostor in &impostors {
            assert!(impostor.login(rotating.config(), HOST).is_err());
        }
        rotating.rotate(material()).await;
    }
}

#[test]
fn server_is_verified_as_the_name_that_was_set() {
    let ca = Ca::new("ca");
    let tunnelled = Server::new(ca.server("db.internal", 7), &ca);
    let dialled = Server::new(ca.server("localhost", 8), &ca);
    for host in ["localhost", "127.0.0.1", "::1"] {
        let by_name = config(TlsSettings::new().server_name("db.internal"), &ca, &ca);
        let login = tunnelled.login(by_name, host).unwrap();
        // SNI stays what was dialled, and there is none for an address.
        assert_eq!(login.sni.as_deref(), (host == "localhost").then_some(host));
        let by_host = tunnelled.login(config(TlsSettings::new(), &ca, &ca), host);
        assert!(is_other_name(&by_host), "{by_host:?}");
    }
    let by_name = config(TlsSettings::new().server_name("db.internal"), &ca, &ca);
    assert!(is_other_name(&dialled.login(by_name, "localhost")));
}

#[test]
fn server_name_given_to_rustls_is_sent_as_sni() {
    let ca = Ca::new("ca");
    let tls = TlsSettings::new().server_name("db.internal");
    let live = LiveCert::builder()
        .tls(tls)
        .fixed(ca.client("app", [&ca]))
        .unwrap();
    let snapshot = live.current().unwrap();
    let name = snapshot.server_name().unwrap().to_str().into_owned();
    let server = Server::new(ca.server("db.internal", 7), &ca);
    let login = server.login(snapshot.client_config(), &name).unwrap();
    assert_eq!(login.sni.as_deref(), Some("db.internal"));
}

#[test]
fn server_name_may_be_an_address() {
    let ca = Ca::new("ca");
    let server = Server::new(ca.server("10.0.0.7", 7), &ca);
    let by_address = config(TlsSettings::new().server_name("10.0.0.7"), &ca, &ca);
    server.login(by_address, "localhost").unwrap();
}

fn is_other_name(login: &Result<Login, Error>) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        login,
        Err(Error::InvalidCertificate(
            NotValidForName | NotValidForNameContext { .. }
        ))
    )
}

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct FixedTime(SystemTime);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// The same config, used at another time.
fn with_time(config: Arc<ClientConfig>, moment: SystemTime) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(config);
    config.time_provider = Arc::new(FixedTime(moment));
    Arc::new(config)
}
