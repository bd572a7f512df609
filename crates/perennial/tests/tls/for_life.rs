//! The config for life of a client: what it presents, and that it never goes on without it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::pki_types::ServerName;
use perennial::rustls::client::{ClientConnection, ClientSessionMemoryCache, Resumption};
use perennial::rustls::quic::{self, Version};
use perennial::rustls::server::{ServerConnection, WebPkiClientVerifier};
use perennial::rustls::version::{TLS12, TLS13};
use perennial::rustls::{
    ClientConfig, Error, HandshakeKind, NamedGroup, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use perennial::{
    CertSource, Certificate, ClientAuth, FetchContext, Fetched, LiveCert, LiveCertBuilder, Renewed,
    Serial, Snapshot, SourceError, TlsSettings, Unavailable, Usage, find_cause, source_fn,
};

use crate::pki::{Ca, now};
use crate::rotating::Rotating;
use crate::server::{HOST, Server, Sessions, connect, exchange, name_of, provider};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const HOUR: Duration = Duration::from_secs(3_600);

fn builder() -> LiveCertBuilder {
    LiveCert::builder().tls(TlsSettings::new().allow_tls12())
}

/// A server that also lets clients in that have no certificate, as one with passwords does.
fn lenient(version: &'static SupportedProtocolVersion, ca: &Ca) -> ServerConfig {
    let server = Server::of_version(ca.server(HOST, 7), ca, &[version]).config();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let provider = Arc::new(provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
        .with_cert_resolver(server.cert_resolver);
    // So that its flight arrives in many pieces.
    config.max_fragment_size = Some(64);
    config
}

/// Scenario: C10
#[tokio::test(start_paused = true)]
async fn client_config_for_life_presents_each_new_certificate_and_resumes_none() {
    // Invariant 15. rustls 0.23 compares resolver and verifier before it resumes, and 0.24 a hash
    // that it computes when a config is built: for a config for life, all of them stay the same.
    for (version, sessions) in VERSIONS
        .iter()
        .flat_map(|v| [(*v, Sessions::Tickets), (*v, Sessions::Stored)])
    {
        let ca = Ca::new("ca");
        let server = Server::of_version(ca.server(HOST, 7), &ca, &[version]).remembering(sessions);
        let rotating = Rotating::build(builder(), ca.client("1", [&ca])).await;
        let config = rotating.live.client_config(&[]);
        // What rustls does by default, so that this test sees it.
        let mut resuming = ClientConfig::clone(&config);
        resuming.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(256)));
        let resuming = Arc::new(resuming);
        for name in ["1", "2", "3"] {
            for _ in 0..3 {
                let login = server.login(Arc::clone(&config), HOST).unwrap();
                assert_eq!(login.name, name, "{version:?} {sessions:?}");
                assert_eq!(login.kind, HandshakeKind::Full);
                assert_eq!(login.version, version.version);
                let old = server.login(Arc::clone(&resuming), HOST).unwrap();
                assert_eq!(old.name, "1");
            }
            let next = name.parse::<u8>().unwrap() + 1;
            rotating.rotate(ca.client(&next.to_string(), [&ca])).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hello_retry_costs_one_handshake_per_server_over_all_rotations_and_configs() {
    let ca = Ca::new("ca");
    for group in [NamedGroup::secp256r1, NamedGroup::secp384r1] {
        let server = Server::of_group(ca.server(HOST, 7), &ca, group);
        let rotating = Rotating::build(builder(), ca.client("app", [&ca])).await;
        let configs = [(); 2].map(|()| rotating.live.client_config(&[]));
        let mut retries = 0;
        for _ in 0..3 {
            for config in configs.iter().cloned().chain([rotating.config()]) {
                let login = server.login(config, HOST).unwrap();
                assert_eq!(login.group, Some(group));
                retries += u8::from(login.kind == HandshakeKind::FullWithHelloRetryRequest);
            }
            rotating.rotate(ca.client("app", [&ca])).await;
        }
        assert_eq!(retries, 1);
    }
}

/// Scenario: C9
#[tokio::test(start_paused = true)]
async fn servers_are_verified_by_the_roots_in_use_and_asked_for_the_protocols_that_are_given() {
    let [ca, other] = ["ca", "other"].map(Ca::new);
    for version in VERSIONS {
        let [ours, theirs] =
            [&ca, &other].map(|issuer| Server::of_version(issuer.server(HOST, 7), &ca, &[version]));
        let rotating = Rotating::build(builder(), ca.client("app", [&ca])).await;
        let config = rotating.live.client_config(&[b"h2"]);
        assert_eq!(config.alpn_protocols, [b"h2"]);
        for (roots, is_ours, is_theirs) in [
            (vec![&ca, &other], true, true),
            (vec![&other], false, true),
            (vec![&ca], true, false),
        ] {
            rotating.rotate(ca.client("app", roots)).await;
            let is_trusted = |server: &Server| server.login(Arc::clone(&config), HOST).is_ok();
            assert_eq!(
                (is_trusted(&ours), is_trusted(&theirs)),
                (is_ours, is_theirs)
            );
        }
    }
    assert!(builder().fixed(ca.client("app", [&ca])).is_ok_and(|live| {
        let config = live.client_config(&[]);
        config.alpn_protocols.is_empty() && config.client_auth_cert_resolver.has_certs()
    }));
}

#[tokio::test(start_paused = true)]
async fn handshake_without_a_valid_certificate_fails_with_the_cause_and_never_goes_on_without_one()
{
    let ca = Ca::new("ca");
    let rotating = Rotating::lazily(builder());
    let config = rotating.live.client_config(&[]);
    let resolver = rotating.live.client_cert_resolver();
    let fails = |expected: &str| {
        for version in VERSIONS {
            let server = Arc::new(lenient(version, &ca));
            // The verifier fails first; a library that brings its own meets the resolver alone.
            let mut resolving = ClientConfig::clone(&of_another(&ca));
            resolving.client_auth_cert_resolver = Arc::clone(&resolver);
            for config in [Arc::clone(&config), Arc::new(resolving)] {
                let error = connect(config, Arc::clone(&server), HOST).unwrap_err();
                let cause = find_cause::<Unavailable>(&error).unwrap().to_string();
                assert_eq!(cause, expected);
                // QUIC sends this text to the peer: the cause's own line, and none of its causes.
                assert_eq!(error.to_string(), format!("other error: {cause}"));
            }
        }
    };
    tokio::time::sleep(HOUR).await;
    fails("no certificate has been fetched yet");
    let client = ca.client_until("app", now() + HOUR);
    rotating.first(client.with_roots([&ca])).await;
    for version in VERSIONS {
        let server = Arc::new(lenient(version, &ca));
        let (_, server) = connect(Arc::clone(&config), server, HOST).unwrap();
        assert_eq!(name_of(server.peer_certificates()).as_deref(), Some("app"));
    }
    tokio::time::sleep(HOUR).await;
    fails("the certificate of generation 1 has expired");
}

/// A config that trusts the CA's servers, whatever it presents.
fn of_another(ca: &Ca) -> Arc<ClientConfig> {
    let live = builder().fixed(ca.client("other", [ca])).unwrap();
    live.client_config(&[])
}

/// What became of a handshake in which `change` falls before the server's `at`th record: the name
/// that the server saw. `None` if the handshake had ended by then.
async fn changed_at(
    at: usize,
    config: Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    change: impl Future<Output = ()>,
) -> Option<Result<Option<String>, Error>> {
    let name = ServerName::try_from(HOST).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let (mut wire, mut records, mut change) = (Vec::new(), 0, Some(change));
    let outcome = 'handshake: {
        while client.is_handshaking() {
            client.write_tls(&mut wire).unwrap();
            let mut arriving = wire.as_slice();
            while !arriving.is_empty() {
                server.read_tls(&mut arriving).unwrap();
                server.process_new_packets().unwrap();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            for record in pieces(&wire, records == 0) {
                if records == at
                    && let Some(change) = change.take()
                {
                    change.await;
                }
                records += 1;
                client.read_tls(&mut record.as_slice()).unwrap();
                if let Err(error) = client.process_new_packets() {
                    break 'handshake Err(error);
                }
            }
            wire.clear();
        }
        exchange(&mut client, &mut server).map(|()| name_of(server.peer_certificates()))
    };
    change.is_none().then_some(outcome)
}

/// The records of a flight. Those of the first one that are in the clear are split further, so that
/// no two messages of TLS 1.2 arrive as one.
fn pieces(mut flight: &[u8], is_first: bool) -> Vec<Vec<u8>> {
    const HANDSHAKE: u8 = 22;
    let mut pieces = Vec::new();
    while let Some((&head, rest)) = flight.split_first_chunk::<5>() {
        let (payload, rest) = rest.split_at(u16::from_be_bytes([head[3], head[4]]).into());
        flight = rest;
        let is_split = is_first && head[0] == HANDSHAKE;
        // The last message has four bytes, and rustls may read the one before it late.
        for piece in payload.chunks(if is_split { 3 } else { payload.len() }) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            pieces.push([&head[..3], &length, piece].concat());
        }
    }
    pieces
}

/// Scenario: C2
#[tokio::test(start_paused = true)]
async fn certificate_that_arrives_within_a_handshake_makes_it_fail_or_is_presented() {
    // Resolver and verifier ask one after the other: neither may take a missing certificate for none.
    for version in VERSIONS {
        let ca = Ca::new("ca");
        let server = Arc::new(lenient(version, &ca));
        let (mut failed, mut presented) = (0, 0);
        for at in 0.. {
            let rotating = Rotating::lazily(builder());
            let config = rotating.live.client_config(&[]);
            let arrives = rotating.first(ca.client("app", [&ca]));
            match changed_at(at, config, &server, arrives).await {
                None => break,
                Some(Ok(name)) => {
                    presented += 1;
                    assert_eq!(name.as_deref(), Some("app"), "{version:?} {at}");
                }
                Some(Err(error)) => {
                    failed += 1;
                    assert!(find_cause::<Unavailable>(&error).is_some(), "{error}");
                }
            }
        }
        // Between the two questions as well.
        assert!(failed > 0 && presented > 0, "{failed} {presented}");
    }
}

/// Scenario: C2
#[tokio::test(start_paused = true)]
async fn rotation_within_a_handshake_presents_a_checked_certificate_and_trusts_checked_roots() {
    // Certificate and roots may be of two generations: never of none, and never anonymous.
    for version in VERSIONS {
        let ca = Ca::new("ca");
        let server = Arc::new(lenient(version, &ca));
        let (mut old, mut new) = (0, 0);
        for at in 0.. {
            let rotating = Rotating::build(builder(), ca.client("old", [&ca])).await;
            let config = rotating.live.client_config(&[]);
            let change = rotating.rotate(ca.client("new", [&ca]));
            match changed_at(at, config, &server, change).await {
                None => break,
                Some(outcome) => match outcome.unwrap().as_deref() {
                    Some("old") => old += 1,
                    Some("new") => new += 1,
                    other => panic!("{version:?} {at}: {other:?}"),
                },
            }
        }
        assert!(old > 1 && new > 1, "{old} {new}");
    }
}

/// Both ends of one QUIC handshake, without packets: the names that they saw.
fn quic_handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(Serial, Option<String>, HandshakeKind), Error> {
    let name = ServerName::try_from(HOST).unwrap();
    let client = quic::ClientConnection::new(Arc::clone(client), Version::V1, name, vec![])?;
    let server = quic::ServerConnection::new(Arc::clone(server), Version::V1, vec![])?;
    let mut ends: [quic::Connection; 2] = [client.into(), server.into()];
    while flight(&mut ends)? {
        ends.reverse();
    }
    if let [quic::Connection::Server(_), _] = ends {
        ends.reverse();
    }
    let [
        quic::Connection::Client(client),
        quic::Connection::Server(server),
    ] = ends
    else {
        panic!("one of each");
    };
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let leaf = &client.peer_certificates().unwrap()[0];
    let serial = Certificate::from_der(leaf).unwrap().serial().clone();
    let name = name_of(server.peer_certificates());
    Ok((serial, name, client.handshake_kind().unwrap()))
}

/// Carries what the first end has to say to the other; whether that was anything.
fn flight([from, to]: &mut [quic::Connection; 2]) -> Result<bool, Error> {
    let mut is_any = false;
    loop {
        // One level of encryption at a time.
        let mut data = Vec::new();
        let next = from.write_hs(&mut data);
        to.read_hs(&data)?;
        is_any |= !data.is_empty();
        if next.is_none() && data.is_empty() {
            return Ok(is_any);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn quic_presents_each_new_certificate_of_both_ends_and_resumes_none() {
    let ca = Ca::new("ca");
    let client = Rotating::build(builder(), ca.client("1", [&ca])).await;
    let serving = builder().usage(Usage::Server);
    let server = Rotating::build(serving, ca.server(HOST, 1).with_roots([&ca])).await;
    let config = client.live.client_config(&[b"h3"]);
    let auth = ClientAuth::Required;
    let serving = server.live.server_config(auth, &[b"h3"]).unwrap();
    for generation in 1..=3_u8 {
        for _ in 0..2 {
            let (serial, name, kind) = quic_handshake(&config, &serving).unwrap();
            assert_eq!(serial, Serial::from_bytes(&[generation]));
            assert_eq!(name, Some(generation.to_string()));
            assert_eq!(kind, HandshakeKind::Full);
        }
        let next = generation + 1;
        client.rotate(ca.client(&next.to_string(), [&ca])).await;
        let next = ca.server(HOST, next.into());
        server.rotate(next.with_roots([&ca])).await;
    }
}

/// Makes what holds a handle.
type Hold = fn(&LiveCert) -> Box<dyn std::any::Any>;

/// Keeps what it connects with: the config of the certificate in use.
struct Presenting {
    ca: Arc<Ca>,
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl CertSource for Presenting {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        let current = context.current.map(Snapshot::client_config);
        *self.config.lock().unwrap() = current;
        Ok(self.ca.client("app", [&*self.ca]).into())
    }
}

#[tokio::test(start_paused = true)]
async fn source_that_logs_in_with_its_own_certificate_keeps_no_renewer_running() {
    let ca = Arc::new(Ca::new("ca"));
    let source_of = Arc::downgrade(&ca);
    let source = Presenting {
        ca,
        config: Mutex::default(),
    };
    let live = LiveCert::start(source).await.unwrap();
    tokio::time::sleep(HOUR).await;
    assert!(matches!(live.renew().await, Ok(Renewed::Newer(_))));
    drop(live);
    tokio::time::sleep(HOUR).await;
    assert!(source_of.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn renewer_ends_with_the_last_config_for_life_or_connection_and_no_handle_holds_one() {
    let hold: [Hold; 6] = [
        |_| Box::new(()),
        |live| Box::new(live.client_config(&[])),
        |live| Box::new(live.server_config(ClientAuth::Required, &[]).unwrap()),
        |live| Box::new(live.client_cert_resolver()),
        |live| Box::new(live.server_cert_resolver()),
        |live| {
            let name = ServerName::try_from(HOST).unwrap();
            Box::new(ClientConnection::new(live.client_config(&[]), name).unwrap())
        },
    ];
    for (held, hold) in hold.into_iter().enumerate() {
        // The renewer holds its source for as long as it runs.
        let ca = Arc::new(Ca::new("ca"));
        let source_of = Arc::downgrade(&ca);
        let source = source_fn(move || {
            let material = ca.server(HOST, 7).with_roots([&*ca]);
            async { Ok(material) }
        });
        let live = builder().usage(Usage::Server).start(source).await;
        let live = live.unwrap();
        let kept = hold(&live);
        // Others were made, and of the snapshot too: they are gone.
        drop((live.client_config(&[]), live.client_cert_resolver()));
        drop(live.current().unwrap().client_config());
        drop(live);
        tokio::time::sleep(HOUR).await;
        assert_eq!(source_of.upgrade().is_some(), held > 0, "{held}");
        drop(kept);
        tokio::time::sleep(HOUR).await;
        assert!(source_of.upgrade().is_none(), "{held}");
    }
}
