//! Operators' mistakes: one line names cause and remedy, and the pool recovers once they are fixed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use perennial::{LiveCert, TlsSettings, with_causes};
use perennial_postgres::{
    CertConnectionManager, CertPool, ConnectError, ConnectProbe, FailureClass, PgTls,
};
use perennial_testbed::{Fault, Postgres};
use perennial_tests::{HOUR, Stage, eventually, renew, serials_seen_by};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, DnValue, IsCa, KeyPair,
};
use tokio_postgres::Config;

/// Longer than any answer takes, and short enough to wait for.
const PATIENCE: Duration = Duration::from_millis(600);

/// A pool, not connected yet, whose connects give up soon, and whose check-outs wait a little longer.
async fn impatient(live: &LiveCert, config: Config) -> CertPool {
    CertPool::builder(live.clone(), config)
        .connect_timeout(PATIENCE)
        .max_size(2)
        .connection_timeout(PATIENCE * 2)
        .build()
        .await
        .unwrap()
}

/// Asserts that the error is one line with all of these words.
fn assert_one_line(error: &(dyn Error + 'static), words: &[&str]) {
    let line = with_causes(error).to_string();
    assert_eq!(line.lines().count(), 1, "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

/// Asserts the error of a connect, and of a check-out, with this configuration.
async fn assert_fails(live: &LiveCert, config: &Config, class: FailureClass, words: &[&str]) {
    let pool = impatient(live, config.clone()).await;
    let error = pool.dedicated_connection().await.unwrap_err();
    assert_one_line(&error, words);
    assert_eq!(error.class(), class, "{error:?}");
    assert_cause_of_checkout(&pool, class, words).await;
}

async fn assert_cause_of_checkout(pool: &CertPool, class: FailureClass, words: &[&str]) {
    let error = pool.get().await.map(drop).unwrap_err();
    assert_one_line(&error, words);
    if let ConnectError::NoneFree { last, .. } = &error {
        assert!(last.is_some(), "the error carries its cause: {error:?}");
    }
    assert_eq!(error.class(), class, "{error:?}");
    assert!(pool.status().connect_errors[&class] > 0);
}

/// Asserts that the pool serves again and no longer shows an error.
async fn assert_recovers(pool: &CertPool) {
    eventually("the pool works again", async || match pool.get().await {
        Ok(client) => client.simple_query("select 1").await.is_ok(),
        Err(_) => false,
    })
    .await;
    assert!(pool.status().last_error.is_none());
}

/// Scenario: C15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_is_not_postgres_is_named_and_the_pool_recovers() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    let no_tls = ["the server has no TLS", "check host and port", "ssl = on"];
    let table: &[(Fault, FailureClass, &[&str])] = &[
        (
            Fault::Refuse,
            FailureClass::Unreachable,
            &["check host and port", "it runs", "onnection refused"],
        ),
        (
            Fault::Stall,
            FailureClass::TimedOut,
            &[
                "postgres did not answer",
                "600ms",
                "check that host and port",
            ],
        ),
        (
            Fault::Answer(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            FailureClass::NoTls,
            &no_tls,
        ),
        (Fault::Answer(b"N"), FailureClass::NoTls, &no_tls),
        (
            Fault::Answer(b"SSH-2.0-OpenSSH_9.2\r\n"),
            FailureClass::Handshake,
            &[
                "handshake failed",
                "check that the server is postgres",
                "corrupt message",
            ],
        ),
    ];
    for (fault, class, words) in table {
        let pool = impatient(&live, config.clone()).await;
        proxy.set(*fault).await.unwrap();
        let error = pool.dedicated_connection().await.unwrap_err();
        assert_one_line(&error, words);
        assert_eq!(error.class(), *class, "{error:?}");
        assert_cause_of_checkout(&pool, *class, words).await;
        proxy.set(Fault::None).await.unwrap();
        assert_recovers(&pool).await;
    }
}

/// Scenario: C15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_login_quotes_postgres_and_the_pool_recovers() {
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let live = stage.live(HOUR).await;

    let pool = impatient(&live, postgres.config()).await;
    let refused = [
        "check pg_hba.conf, pg_ident.conf",
        "certificate authentication failed",
    ];
    let ident = postgres.folder().join("private/pg_ident.conf");
    let mapped = std::fs::read_to_string(&ident).unwrap();
    std::fs::write(&ident, "clients another app\n").unwrap();
    postgres.reload().await.unwrap();
    assert_cause_of_checkout(&pool, FailureClass::CertificateRefused, &refused).await;
    std::fs::write(&ident, mapped).unwrap();
    postgres.reload().await.unwrap();
    assert_recovers(&pool).await;

    let mut config = postgres.config();
    config.user("stranger");
    let refused = ["pg_hba.conf rejects connection", "\"stranger\""];
    assert_fails(&live, &config, FailureClass::CertificateRefused, &refused).await;

    let mut config = postgres.config();
    config.dbname("nowhere");
    let pool = impatient(&live, config).await;
    let refused = ["check user and database", "\"nowhere\" does not exist"];
    assert_cause_of_checkout(&pool, FailureClass::LoginRefused, &refused).await;
    let create = "create database nowhere owner app";
    stage.admin.batch_execute(create).await.unwrap();
    assert_recovers(&pool).await;

    let pool = impatient(&live, postgres.config()).await;
    let full = ["max_connections", "too many connections"];
    let limit = async |connections: i32| {
        let limit = format!("alter role app connection limit {connections}");
        stage.admin.batch_execute(&limit).await.unwrap();
    };
    limit(0).await;
    assert_cause_of_checkout(&pool, FailureClass::NotNow, &full).await;
    limit(-1).await;
    assert_recovers(&pool).await;

    // Postgres' orderly stop waits for the superuser's session to end.
    let pool = impatient(&live, postgres.config()).await;
    let stopping = ["starting, stopping", "shutting down"];
    let pid = postgres.pid().unwrap().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(kill.unwrap().success());
    eventually("postgres accepts no login", async || {
        postgres.admin().await.is_err()
    })
    .await;
    assert_cause_of_checkout(&pool, FailureClass::NotNow, &stopping).await;
    postgres.stop().await.unwrap();
    postgres.start_again().await.unwrap();
    assert_recovers(&pool).await;
}

/// Scenario: C12, C15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrusted_server_is_named_and_the_pool_recovers() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live(HOUR).await;

    let mut config = Config::new();
    config
        .host("db.example")
        .hostaddr(Ipv4Addr::LOCALHOST.into());
    config.port(postgres.port());
    config.user(postgres.user()).dbname(postgres.database());
    let words = [
        "not trusted",
        "must name the host",
        "\"db.example\"",
        "\"localhost\"",
    ];
    assert_fails(&live, &config, FailureClass::ServerNotTrusted, &words).await;

    // The server's CA changes, and the client still has the old roots.
    let pool = impatient(&live, postgres.config()).await;
    let root_b = bao.change_root("B").await.unwrap();
    let certificate = bao.server_certificate().await.unwrap();
    postgres.present(&certificate).await.unwrap();
    let words = ["not trusted", "among the source's roots", "UnknownIssuer"];
    assert_cause_of_checkout(&pool, FailureClass::ServerNotTrusted, &words).await;
    postgres.trust(&root_b).await.unwrap();
    renew(&live).await;
    assert_recovers(&pool).await;
}

/// Scenario: C12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_certificate_quotes_vault_and_the_pool_recovers() {
    let stage = Stage::set().await;
    let (proxy, url) = stage.proxied_bao().await;
    proxy.set(Fault::Refuse).await.unwrap();
    let source = stage.pki_at(&url, "app").build().unwrap();
    let live = LiveCert::builder().start_lazy(source).unwrap();
    let pool = impatient(&live, stage.testbed.postgres.config()).await;
    let words = [
        "no certificate to connect with",
        "failed to fetch the certificate",
        "no connection to vault",
        "onnection refused",
    ];
    assert_cause_of_checkout(&pool, FailureClass::NoCertificate, &words).await;
    proxy.set(Fault::None).await.unwrap();
    assert_recovers(&pool).await;
}

/// Scenario: C15, F9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_socket_is_refused_also_next_to_an_address() {
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let live = stage.live(HOUR).await;
    let socket = || {
        let mut config = Config::new();
        config.host_path(postgres.folder()).port(postgres.port());
        config.user(postgres.user()).dbname(postgres.database());
        config
    };
    let refused = ["Unix socket"];
    let mut next_to_address = socket();
    next_to_address.hostaddr(Ipv4Addr::LOCALHOST.into());
    for config in [socket(), next_to_address] {
        let error = CertConnectionManager::new(live.clone(), config.clone()).unwrap_err();
        assert_one_line(&error, &refused);
        let error = ConnectProbe::new(config).unwrap_err();
        assert_one_line(&error, &refused);
    }
}

/// Scenario: C15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multi_line_error_of_postgres_becomes_one_line() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage
        .pool(&live)
        .on_connect(|client| Box::pin(client.batch_execute("select no_such_function()")))
        .build_manager()
        .unwrap();
    let error = manager.dedicated_connection().await.unwrap_err();
    assert_one_line(&error, &["on_connect failed", "does not exist", "HINT: "]);
    assert_eq!(error.class(), FailureClass::OnConnect);
}

/// Lets the app in without a certificate.
async fn trust_everybody(postgres: &Postgres) {
    let hba = postgres.folder().join("private/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    let open = "hostssl all app 127.0.0.1/32 trust";
    std::fs::write(&hba, format!("{open}\n{rules}")).unwrap();
    postgres.reload().await.unwrap();
}

/// Scenario: F15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_takes_no_signature_of_our_key_gets_no_login_without_a_certificate() {
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let live = stage.live(HOUR).await;
    trust_everybody(postgres).await;
    let manager = stage.manager(&live);
    drop(manager.dedicated_connection().await.unwrap());
    assert!(!manager.status().certificate_not_requested);

    // Our key is on P-256.
    let only_rsa = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n\
        ClientSignatureAlgorithms = RSA-PSS+SHA256\n";
    std::fs::write(postgres.folder().join("openssl.cnf"), only_rsa).unwrap();
    postgres.stop().await.unwrap();
    postgres.start_again().await.unwrap();
    for version in ["TLSv1.3", "TLSv1.2"] {
        let set = postgres.set("ssl_max_protocol_version", version).await;
        set.unwrap();
        let tls = TlsSettings::new().allow_tls12();
        let source = stage.pki().ttl(HOUR).build().unwrap();
        let builder = || LiveCert::builder().tls(tls.clone());
        let live = builder().start(source).await.unwrap();
        let words = ["accepts no signature", "use another kind of key"];
        let class = FailureClass::CertificateRefused;
        assert_fails(&live, &postgres.config(), class, &words).await;
        let gate = ConnectProbe::new(postgres.config()).unwrap();
        let source = stage.pki().ttl(HOUR).build().unwrap();
        let started = builder().gate(gate).start(source).await;
        assert_one_line(&started.unwrap_err(), &words);
        let bare = postgres.config().connect(PgTls::new(live)).await;
        assert!(bare.is_err());
    }
    let admin = postgres.admin().await.unwrap();
    assert!(serials_seen_by(&admin).await.is_empty());
}

/// Scenario: F15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_does_not_ask_for_the_certificate_shows_in_the_status() {
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let live = stage.live(HOUR).await;
    // The rules that need a certificate need `ssl_ca_file` too.
    let hba = postgres.folder().join("private/pg_hba.conf");
    let open = "local all all trust\nhostssl all app 127.0.0.1/32 trust\n";
    std::fs::write(&hba, open).unwrap();
    postgres.set("ssl_ca_file", "").await.unwrap();
    let manager = stage.manager(&live);
    let anonymous = manager.dedicated_connection().await.unwrap();
    assert!(manager.status().certificate_not_requested);
    drop(anonymous);
    postgres.set("ssl_ca_file", "clients.crt").await.unwrap();
    drop(manager.dedicated_connection().await.unwrap());
    assert!(!manager.status().certificate_not_requested);
}

/// A server's certificate and the root that it is verified by, both in PEM.
struct Odd {
    chain: String,
    key: String,
    root: String,
}

/// Names of this kind, for a certificate that is valid for 127.0.0.1 unless `names` is empty.
fn params(common_name: impl Into<DnValue>, names: &[&str]) -> CertificateParams {
    let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn ca(common_name: impl Into<DnValue>, key: KeyPair) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(common_name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

/// A server's certificate by this CA, which the client trusts as `root`.
fn issued(params: &CertificateParams, ca: &CertifiedIssuer<'_, KeyPair>, root: &str) -> Odd {
    let key = KeyPair::generate().unwrap();
    Odd {
        chain: params.signed_by(&key, ca).unwrap().pem(),
        key: key.serialize_pem(),
        root: root.to_owned(),
    }
}

/// Scenario: N06, N07, N09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_that_no_server_should_have_is_named_with_its_remedy() {
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let host = ["127.0.0.1"];
    let root = ca("root", KeyPair::generate().unwrap());
    let pem = root.pem();

    let self_signed = ca("127.0.0.1", KeyPair::generate().unwrap());
    let as_server = Odd {
        chain: self_signed.pem(),
        key: self_signed.key().serialize_pem(),
        root: self_signed.pem(),
    };
    let mut critical = params("server", &host);
    let policies = vec![0x30, 0x07, 0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04];
    let mut policies = CustomExtension::from_oid_content(&[2, 5, 29, 32], policies);
    policies.set_criticality(true);
    critical.custom_extensions.push(policies);
    // The same name and key as the root's, in another encoding.
    let printable = DnValue::PrintableString("root".try_into().unwrap());
    let same_key = KeyPair::from_pem(&root.key().serialize_pem()).unwrap();
    let other_encoding = ca(printable, same_key);
    let remedy = "subjectAltName=IP:127.0.0.1";
    let table: [(Odd, &[&str]); 4] = [
        (
            issued(&params("127.0.0.1", &[]), &root, &pem),
            &["no subjectAltName", remedy],
        ),
        (as_server, &["CA:TRUE", "CA:FALSE", remedy]),
        (
            issued(&critical, &root, &pem),
            &["critical extension", "without that extension"],
        ),
        (
            issued(&params("server", &host), &other_encoding, &pem),
            &["another encoding", "string_mask"],
        ),
    ];
    for (odd, words) in table {
        let mut certificate = stage.testbed.bao.server_certificate().await.unwrap();
        (certificate.chain, certificate.key) = (odd.chain, odd.key);
        postgres.present(&certificate).await.unwrap();
        let tls = TlsSettings::new().server_roots_pem(odd.root);
        let source = stage.pki().ttl(HOUR).build().unwrap();
        let live = LiveCert::builder().tls(tls).start(source).await.unwrap();
        let manager = stage.manager(&live);
        let error = manager.dedicated_connection().await.unwrap_err();
        let words = [
            &["not trusted", "the form of the certificate", "127.0.0.1:"],
            words,
        ]
        .concat();
        assert_one_line(&error, &words);
        assert_eq!(error.class(), FailureClass::ServerNotTrusted);
        // No advice that would send the operator the wrong way.
        let said = with_causes(&error).to_string();
        assert!(!said.contains("among the source's roots"), "{said}");
    }
}
