//! Certificates as the world writes them, at real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::process::Command;

use perennial::pki_types::pem::PemObject;
use perennial::pki_types::{CertificateDer, PrivateKeyDer};
use perennial::{CertMaterial, LiveCert, Snapshot, TlsSettings, with_causes};
use perennial_postgres::PgTls;
use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{OpenBao, Postgres};
use perennial_tests::{HOUR, Load, Stage, eventually, renew};
use proptest::prelude::*;
use proptest::sample::Index;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// Postgres logs this for a failed handshake, whichever side ended it.
const FAILED: &str = "could not accept SSL connection";

/// Vault's own guide for the change of a root: a new root certifies the intermediate too, and the
/// issuer's `manual_chain` names both certificates. Returns the new root and the new certificate.
async fn cross_sign(bao: &OpenBao) -> (String, String) {
    let ask = json!({"common_name": "Root B", "ttl": "87600h", "key_type": "ec", "issuer_name": "root-b"});
    let root = post(bao, "pki/root/generate/internal", ask).await["certificate"].clone();
    let config = bao.api("GET", "pki_int/config/issuers", Value::Null).await;
    let issuer = config.unwrap()["data"]["default"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("pki_int/issuer/{issuer}");
    let read = bao.api("GET", &path, Value::Null).await.unwrap()["data"].clone();
    let ask = json!({"common_name": "Perennial testbed intermediate A", "key_ref": read["key_id"]});
    let csr = post(bao, "pki_int/intermediate/cross-sign", ask).await["csr"].clone();
    let ask = json!({"csr": csr, "use_csr_values": true, "ttl": "43800h"});
    let signed = post(bao, "pki/issuer/root-b/sign-intermediate", ask).await;
    let (root, crossed) = (line_end(&root), line_end(&signed["certificate"]));
    let bundle = json!({"pem_bundle": format!("{crossed}{root}")});
    let imported = post(bao, "pki_int/issuers/import/bundle", bundle).await;
    let mut chain = issuer;
    for id in imported["imported_issuers"].as_array().unwrap() {
        let id = id.as_str().unwrap();
        let path = format!("pki_int/issuer/{id}");
        let read = bao.api("GET", &path, Value::Null).await.unwrap();
        if line_end(&read["data"]["certificate"]) == crossed {
            chain = format!("{chain},{id}");
        }
    }
    assert!(chain.contains(','), "{imported}");
    post(bao, &path, json!({"manual_chain": chain})).await;
    (root, crossed)
}

async fn post(bao: &OpenBao, path: &str, body: Value) -> Value {
    bao.api("POST", path, body).await.unwrap()["data"].clone()
}

fn line_end(pem: &Value) -> String {
    format!("{}\n", pem.as_str().unwrap().trim())
}

/// Scenario: N01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_changes_as_vault_recommends_without_a_failed_query_or_a_wasted_certificate() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 4).await;
    stage.all_on(&live.current().unwrap(), 4).await;
    let load = Load::on(&pool, 4);
    let before = bao.issued().await.unwrap();
    let mut published = 0;
    let mut move_all = async || {
        let snapshot = renew(&live).await;
        published += 1;
        stage.all_on(&snapshot, 4).await;
        assert_eq!(bao.issued().await.unwrap(), before + published);
        snapshot
    };

    let root_a = bao.roots_pem().to_owned();
    let (root_b, crossed) = cross_sign(bao).await;
    let snapshot = move_all().await;
    assert_eq!(
        presented(&snapshot),
        3,
        "the leaf and both certificates of its issuer"
    );
    // Other roots are a generation of their own, and cost no certificate.
    eventually("root B is trusted", async || {
        live.current().unwrap().generation() == 3
    })
    .await;
    postgres.trust(&format!("{root_a}{root_b}")).await.unwrap();
    move_all().await;

    // The server's certificate leads to root B alone.
    let mut server = bao.server_certificate().await.unwrap();
    let (leaf, _intermediate) = server
        .chain
        .split_at(server.chain.rfind("-----BEGIN").unwrap());
    server.chain = format!("{leaf}{crossed}");
    postgres.present(&server).await.unwrap();
    postgres.trust(&root_b).await.unwrap();
    move_all().await;

    // And a new start needs one certificate, too.
    let source = stage.pki().ttl(HOUR).build().unwrap();
    let started = LiveCert::start(source).await.unwrap();
    assert_eq!(bao.issued().await.unwrap(), before + 4);
    assert_eq!(started.current().unwrap().generation(), 1);
    assert!(load.finish().await > 0);
    assert!(!postgres.log().contains(FAILED), "{}", postgres.log());
    drop(pool);
}

/// How many certificates a snapshot presents.
fn presented(snapshot: &Snapshot) -> usize {
    let config = snapshot.client_config();
    let resolver = &config.client_auth_cert_resolver;
    let schemes = [perennial::rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
    resolver.resolve(&[], &schemes).unwrap().cert.len()
}

type Der = CertificateDer<'static>;

/// A CA: one name and one key, for which others may issue certificates too.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
}

impl Ca {
    fn new(name: impl Into<DnValue>) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self { params, key }
    }

    /// Its certificate by that CA.
    fn by(&self, issuer: &Self) -> Der {
        issuer.sign(&self.params, &self.key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Der {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().clone()
    }
}

fn named(name: impl Into<DnValue>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn client() -> CertificateParams {
    let mut params = named("app");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn critical_policies() -> CustomExtension {
    let content = vec![0x30, 0x07, 0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04];
    let mut policies = CustomExtension::from_oid_content(&[2, 5, 29, 32], content);
    policies.set_criticality(true);
    policies
}

fn pem(der: &Der) -> String {
    use std::fmt::Write;
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64(der).as_bytes().chunks(64) {
        writeln!(text, "{}", String::from_utf8_lossy(line)).unwrap();
    }
    text + "-----END CERTIFICATE-----\n"
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |three: &[u8]| {
        let bits = three
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        (0..4)
            .map(|place| match place <= three.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]),
                false => '=',
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

/// Certificates that rcgen does not make; OpenSSL made them, for the key in `app.key`.
fn odd(file: &str) -> Vec<Der> {
    let chain = CertificateDer::pem_file_iter(format!("{ODD}{file}"));
    chain.unwrap().collect::<Result<_, _>>().unwrap()
}

const ODD: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../crates/perennial/tests/tls/odd/"
);

/// The serial number that this server sees, or the error with its causes.
async fn log_in(postgres: &Postgres, live: &LiveCert) -> Result<String, String> {
    let shown = |error: tokio_postgres::Error| with_causes(&error).to_string();
    // By name: a certificate for `localhost` is not one for its address.
    let mut config = Config::new();
    config
        .host("localhost")
        .hostaddr(Ipv4Addr::LOCALHOST.into())
        .port(postgres.port())
        .user(postgres.user())
        .dbname(postgres.database())
        .ssl_mode(SslMode::Require);
    let connecting = config.connect(PgTls::new(live.clone())).await;
    let (client, connection) = connecting.map_err(shown)?;
    tokio::spawn(connection);
    let query = "select client_serial::text from pg_stat_ssl where pid = pg_backend_pid()";
    let row = client.query_one(query, &[]).await.map_err(shown)?;
    Ok(row.get(0))
}

/// Scenario: N01, N02, N04, N06, N07, N08, N13, N15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_a_clients_chain_logs_in_at_postgres() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let (root, root_b) = (Ca::new("Example root"), Ca::new("Example root B"));
    let (int, sub, other) = (Ca::new("int"), Ca::new("sub"), Ca::new("another CA"));
    let own = [root.by(&root), root_b.by(&root_b)];
    let (int_a, int_new, int_b) = (int.by(&root), int.by(&root), int.by(&root_b));
    let key = KeyPair::generate().unwrap();
    let (leaf, deep) = (int.sign(&client(), &key), sub.sign(&client(), &key));
    let (deeper, unrelated) = (sub.by(&int), other.by(&root));
    let mut policies = client();
    policies.custom_extensions = vec![critical_policies()];
    let mut early = client();
    early.not_before = date_time_ymd(1950, 1, 1);
    let printable = {
        let mut encoded = Ca::new("sub");
        encoded.params.distinguished_name = rcgen::DistinguishedName::new();
        let name = DnValue::PrintableString("sub".try_into().unwrap());
        encoded
            .params
            .distinguished_name
            .push(DnType::CommonName, name);
        encoded.key = KeyPair::from_pem(&sub.key.serialize_pem()).unwrap();
        encoded.by(&root)
    };
    let of = |list: &[&Der]| list.iter().map(|der| (*der).clone()).collect::<Vec<_>>();
    let ours = || PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let app = || PrivateKeyDer::from_pem_file(format!("{ODD}app.key")).unwrap();
    let shapes = [
        (
            "N02 the intermediate twice",
            of(&[&leaf, &int_a, &int_a, &own[0]]),
            ours(),
        ),
        ("N02 the leaf twice", of(&[&leaf, &leaf, &int_a]), ours()),
        (
            "N02 a CA that is not part of the path",
            of(&[&leaf, &int_a, &unrelated]),
            ours(),
        ),
        ("N04 reversed", of(&[&deep, &int_a, &deeper]), ours()),
        (
            "N04 the root in between",
            of(&[&deep, &own[0], &int_a, &deeper]),
            ours(),
        ),
        ("N04 old and new", of(&[&leaf, &int_a, &int_new]), ours()),
        ("N04 new and old", of(&[&leaf, &int_new, &int_a]), ours()),
        ("N04 cross-signed", of(&[&leaf, &int_a, &int_b]), ours()),
        (
            "N04 with both roots",
            of(&[&leaf, &int_a, &own[0], &int_b, &own[1]]),
            ours(),
        ),
        ("the leaf last", of(&[&own[0], &int_a, &leaf]), ours()),
        ("N06 another encoding", of(&[&deep, &printable]), ours()),
        (
            "N07 critical policies",
            of(&[&int.sign(&policies, &key), &int_a]),
            ours(),
        ),
        (
            "N13 since 1950",
            of(&[&int.sign(&early, &key), &int_a]),
            ours(),
        ),
        ("N08 version 1", odd("v1.pem"), app()),
        ("N15 brainpool", odd("brainpool.pem"), app()),
        ("N15 Ed448", odd("ed448.pem"), app()),
        ("N15 RSA-PSS", odd("rsa-pss.pem"), app()),
    ];
    let trusted = |roots: &[&Der]| roots.iter().map(|root| pem(root)).collect::<String>();
    let example = &odd("root.pem")[0];
    postgres.trust(&trusted(&[&own[0], example])).await.unwrap();
    let roots = || CertificateDer::pem_slice_iter(bao.roots_pem().as_bytes());
    let roots = || roots().collect::<Result<Vec<_>, _>>().unwrap();
    let start = |chain, key| {
        let material = CertMaterial::from_der(chain, key, roots()).unwrap();
        LiveCert::fixed(material).unwrap()
    };
    for (shape, chain, key) in shapes {
        let live = start(chain, key);
        let serial = live.current().unwrap().serial().to_decimal();
        assert_eq!(log_in(postgres, &live).await, Ok(serial), "{shape}");
    }
    // A server that trusts one root of two, whichever of both paths was delivered first.
    for (trusts, chain) in [
        (&own[1], of(&[&leaf, &int_a, &int_b])),
        (&own[1], of(&[&leaf, &int_b, &int_a])),
        (&own[0], of(&[&leaf, &int_b, &int_a])),
    ] {
        postgres.trust(&pem(trusts)).await.unwrap();
        let live = start(chain, ours());
        log_in(postgres, &live).await.unwrap();
    }
}

/// Scenario: N06, N07, N08, N09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn form_of_a_servers_certificate_is_named_and_verify_ca_gets_past_the_name() {
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let root = Ca::new("Example root");
    let root_der = root.by(&root);
    let key = KeyPair::generate().unwrap();
    let with_name = |mut params: CertificateParams, name: &str| {
        let name = SanType::DnsName(name.try_into().unwrap());
        params.subject_alt_names = vec![name];
        params
    };
    let mut policies = with_name(named("localhost"), "localhost");
    policies.custom_extensions = vec![critical_policies()];
    let self_signed = |mut params: CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().clone()
    };
    let by_manual = self_signed(named("localhost"));
    let with_san = self_signed(with_name(named("localhost"), "localhost"));
    let by_root = |params: &CertificateParams| root.sign(params, &key);
    let encoded = {
        let name = DnValue::PrintableString("Example root".try_into().unwrap());
        let mut encoded = Ca::new(name);
        encoded.key = KeyPair::from_pem(&root.key.serialize_pem()).unwrap();
        encoded.by(&encoded)
    };
    let plain = by_root(&with_name(named("localhost"), "localhost"));
    // What is presented, the client's root, and what the error says with and without `verify_ca`.
    let rows: [(&str, &Der, &Der, &str, &str); 7] = [
        ("plain", &plain, &root_der, "", ""),
        (
            "N06",
            &plain,
            &encoded,
            "another encoding",
            "another encoding",
        ),
        (
            "N07",
            &by_root(&policies),
            &root_der,
            "certificatePolicies",
            "certificatePolicies",
        ),
        (
            "N09 as the manual makes it",
            &by_manual,
            &by_manual,
            "CA:TRUE",
            "",
        ),
        (
            "N09 the same with a name",
            &with_san,
            &with_san,
            "CA:TRUE",
            "",
        ),
        (
            "N09 common name only",
            &by_root(&named("localhost")),
            &root_der,
            "no subjectAltName",
            "",
        ),
        (
            "N09 not a host",
            &by_root(&named("my-project:my-instance")),
            &root_der,
            "no subjectAltName",
            "",
        ),
    ];
    let own = KeyPair::generate().unwrap();
    let leaf = root.sign(&client(), &own);
    postgres.trust(&pem(&root_der)).await.unwrap();
    let mut certificate = stage.testbed.bao.server_certificate().await.unwrap();
    for (row, server, client_root, full, chain_alone) in rows {
        certificate.chain = pem(server);
        certificate.key = key.serialize_pem();
        postgres.present(&certificate).await.unwrap();
        for (settings, expected) in [
            (TlsSettings::new(), full),
            (TlsSettings::new().verify_ca(), chain_alone),
        ] {
            let key = PrivateKeyDer::Pkcs8(own.serialize_der().into());
            let material =
                CertMaterial::from_der(vec![leaf.clone()], key, vec![client_root.clone()]);
            let live = LiveCert::builder()
                .tls(settings)
                .fixed(material.unwrap())
                .unwrap();
            match log_in(postgres, &live).await {
                Ok(_) => assert_eq!(expected, "", "{row} was accepted"),
                Err(error) => {
                    let is_named = !expected.is_empty() && error.contains(expected);
                    assert!(is_named, "{row}: {error}");
                    assert!(
                        error.contains("the form of the certificate CN="),
                        "{row}: {error}"
                    );
                }
            }
        }
    }
}

/// A set of certificates, most of them sound, and what is made of it.
#[derive(Clone, Debug)]
struct Recipe {
    levels: usize,
    crossed: Vec<bool>,
    /// A step of the path that is left out, expired, or signed by another key.
    harm: Option<(Index, u8)>,
    is_for_servers: bool,
    strangers: usize,
    duplicates: Vec<Index>,
    has_root: bool,
    order: Vec<u32>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let harm = prop::option::weighted(0.3, (any::<Index>(), 0u8..3));
    (
        (0usize..4, prop::collection::vec(any::<bool>(), 4), harm),
        (prop::bool::weighted(0.1), 0usize..4),
        prop::collection::vec(any::<Index>(), 0..3),
        any::<bool>(),
        prop::collection::vec(any::<u32>(), 32),
    )
        .prop_map(
            |(
                (levels, crossed, harm),
                (is_for_servers, strangers),
                duplicates,
                has_root,
                order,
            )| {
                Recipe {
                    levels,
                    crossed,
                    harm,
                    is_for_servers,
                    strangers,
                    duplicates,
                    has_root,
                    order,
                }
            },
        )
}

/// The root, the leaf with its key, and the shuffled set.
fn made_of(recipe: &Recipe) -> (Der, Der, KeyPair, Vec<Der>) {
    let (root, other) = (Ca::new("root"), Ca::new("other root"));
    let root_der = root.by(&root);
    let harmed = recipe
        .harm
        .map(|(at, kind)| (at.index(recipe.levels.max(1)), kind));
    let mut issuer = root;
    let mut set = Vec::new();
    for level in 0..recipe.levels {
        let mut int = Ca::new(format!("int {level}"));
        let kind = harmed.filter(|(at, _)| *at == level).map(|(_, kind)| kind);
        if kind == Some(1) {
            int.params.not_after = date_time_ymd(2001, 1, 1);
        }
        match kind {
            Some(0) => {}
            Some(2) => set.push(Ca::new(format!("int {level}")).by(&issuer)),
            _ => set.push(int.by(&issuer)),
        }
        if recipe.crossed[level] {
            int.params.not_after = date_time_ymd(4000, 1, 1);
            set.push(int.by(&other));
        }
        issuer = int;
    }
    let key = KeyPair::generate().unwrap();
    let mut params = client();
    if recipe.is_for_servers {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }
    let leaf = issuer.sign(&params, &key);
    for name in ["stranger", "int 0", "app"]
        .into_iter()
        .take(recipe.strangers)
    {
        set.push(Ca::new(name).by(&other));
    }
    if recipe.has_root {
        set.extend([root_der.clone(), other.by(&other)]);
    }
    set.push(leaf.clone());
    let again: Vec<Der> = recipe
        .duplicates
        .iter()
        .map(|at| at.get(&set).clone())
        .collect();
    set.extend(again);
    let mut set: Vec<_> = recipe.order.iter().zip(set).collect();
    set.sort_by_key(|(place, _)| **place);
    (
        root_der,
        leaf,
        key,
        set.into_iter().map(|(_, der)| der).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Scenario: N01, N02, N04
    #[test]
    #[ignore = "needs openssl: a step of .ci/run"]
    fn every_set_that_openssl_verifies_as_a_clients_is_published(recipe in recipe()) {
        let (root, leaf, key, set) = made_of(&recipe);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, list: &[Der]| {
            let path = folder.path().join(name);
            let text: String = list.iter().map(pem).collect();
            std::fs::write(&path, text).unwrap();
            path
        };
        let verified = Command::new("openssl")
            .args(["verify", "-purpose", "sslclient", "-no-CApath", "-no-CAstore", "-CAfile"])
            .arg(file("root.pem", std::slice::from_ref(&root)))
            .arg("-untrusted")
            .arg(file("set.pem", &set))
            .arg(file("leaf.pem", &[leaf]))
            .output()
            .expect("openssl runs");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let material = CertMaterial::from_der(set, key, vec![root]).unwrap();
        let published = LiveCert::fixed(material);
        if verified.status.success() {
            prop_assert!(published.is_ok(), "{:?}", published);
        } else if recipe.is_for_servers {
            prop_assert!(published.is_err());
        }
    }
}
