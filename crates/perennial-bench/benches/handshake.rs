//! Handshakes with the configs for life, compared with those of each generation.
//!
//! It does not use divan: speed varies from minute to minute on shared cores, so the two take turns
//! and are compared turn by turn.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a failed setup fails the benchmark, and its results are printed"
)]

use std::sync::Arc;
use std::time::Duration;

use perennial::{CertMaterial, ClientAuth, LiveCert, Renewed, Usage, source_fn};
use perennial_bench::memory_ca::{LIFETIME, wall_clock};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ServerConfig, ServerConnection,
};
use rustls_pki_types::ServerName;

/// Turns of each side.
const TURNS: usize = 101;

/// Handshakes per turn.
const HANDSHAKES: u32 = 50;

/// Bar: the ratio of the CPU times of full handshakes.
const BAR: f64 = 1.1;

const HOST: &str = "server.test";

type Configs = (Arc<ClientConfig>, Arc<ServerConfig>);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let _in_runtime = runtime.enter();
    let ca = Arc::new(authority());
    let source = source_fn(move || {
        let material = issue(&ca);
        async { Ok(material) }
    });
    let live = LiveCert::builder().usage(Usage::Both);
    let live = runtime.block_on(live.start(source)).unwrap();

    compare(
        "mutual TLS, every handshake full",
        &live,
        ClientAuth::Required,
    );
    compare(
        "no client certificate, a generation's sessions resumed",
        &live,
        ClientAuth::None,
    );
    runtime.block_on(retries(&live));
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for either side.
fn issue(ca: &CertifiedIssuer<'static, KeyPair>) -> CertMaterial {
    let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
    params.not_before = wall_clock().into();
    params.not_after = (wall_clock() + LIFETIME).into();
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, ca).unwrap();
    CertMaterial::from_der(vec![leaf.der().clone()], key.into(), vec![ca.der().clone()]).unwrap()
}

fn compare(what: &str, live: &LiveCert, auth: ClientAuth) {
    let for_life = (
        live.client_config(&[]),
        live.server_config(auth, &[]).unwrap(),
    );
    // As programs ask for each connection.
    let of_generation = || {
        let current = live.current().unwrap();
        (
            current.client_config(),
            current.server_config(auth, &[]).unwrap(),
        )
    };
    let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..TURNS {
        let life = turn(|| for_life.clone());
        let generation = turn(of_generation);
        ratios.push(life / generation);
        ours.push(life);
        theirs.push(generation);
    }
    println!(
        "{what}, µs of CPU for both ends (median and quartiles): for life {}, a generation's {}\n  ratio {}{}",
        quartiles(ours),
        quartiles(theirs),
        quartiles(ratios),
        match auth {
            ClientAuth::Required => format!(", bar {BAR}"),
            _ => String::new(),
        },
    );
}

/// A server that takes P-256 alone asks for another hello: how often over ten rotations.
async fn retries(live: &LiveCert) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() == NamedGroup::secp256r1);
    let resolver = live.server_cert_resolver();
    let server = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let (client, server) = (live.client_config(&[]), Arc::new(server));
    let (mut connects, mut retries) = (0, 0);
    for _ in 0..10 {
        for _ in 0..10 {
            connects += 1;
            let kind = handshake((Arc::clone(&client), Arc::clone(&server)));
            retries += u32::from(kind == HandshakeKind::FullWithHelloRetryRequest);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        let renewed = live.renew().await;
        assert!(matches!(renewed, Ok(Renewed::Newer(_))), "{renewed:?}");
    }
    println!(
        "server of P-256 alone, config for life: {retries} hello retry in {connects} connects over 10 rotations, bar 1"
    );
}

/// Microseconds of CPU per handshake, both ends together.
fn turn(configs: impl Fn() -> Configs) -> f64 {
    let began = cpu_time();
    for _ in 0..HANDSHAKES {
        handshake(configs());
    }
    (cpu_time() - began).as_secs_f64() * 1e6 / f64::from(HANDSHAKES)
}

fn handshake((client, server): Configs) -> HandshakeKind {
    let name = ServerName::try_from(HOST).unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        client.write_tls(&mut wire).unwrap();
        let mut arriving = wire.as_slice();
        while !arriving.is_empty() {
            server.read_tls(&mut arriving).unwrap();
            server.process_new_packets().unwrap();
        }
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        let mut arriving = wire.as_slice();
        while !arriving.is_empty() {
            client.read_tls(&mut arriving).unwrap();
            client.process_new_packets().unwrap();
        }
        wire.clear();
    }
    client.handshake_kind().unwrap()
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn quartiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!("{:.2} ({:.2}-{:.2})", at(2), at(1), at(3))
}
