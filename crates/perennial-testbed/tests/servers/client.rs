//! A client: its key, its certificate, its connection.

use std::sync::Arc;

use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::tokio_postgres::{Client, Config, Error};
use perennial_testbed::{Testbed, TestbedError};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(crate) struct Signed {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub(crate) serial: String,
    pub(crate) pem: String,
}

/// A new key, and the request to sign it.
pub(crate) fn request(common_name: &str) -> (KeyPair, Value) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (
        key,
        json!({"csr": csr, "common_name": common_name, "ttl": "10m"}),
    )
}

pub(crate) async fn try_sign(testbed: &Testbed, name: &str) -> Result<Signed, TestbedError> {
    let (key, body) = request(name);
    let reply = testbed.bao.api("POST", "pki_int/sign/app", body).await?;
    let data = &reply["data"];
    let der = |pem: &Value| CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes());
    let chain = vec![
        der(&data["certificate"]).unwrap(),
        der(&data["issuing_ca"]).unwrap(),
    ];
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    Ok(Signed {
        serial: leaf.tbs_certificate.serial.to_string(),
        pem: data["certificate"].as_str().unwrap().to_owned(),
        chain,
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    })
}

pub(crate) async fn sign(testbed: &Testbed, name: &str) -> Signed {
    try_sign(testbed, name).await.unwrap()
}

/// Connects over TLS to the testbed's own Postgres, trusting the PKI's first root.
pub(crate) async fn log_in_trusting(
    testbed: &Testbed,
    signed: Option<&Signed>,
) -> Result<Client, Error> {
    log_in(testbed.postgres.config(), testbed.bao.roots_pem(), signed).await
}

/// Connects over TLS and runs a query, because TLS 1.3 reports a refused certificate only then.
pub(crate) async fn log_in(
    server: Config,
    root_pem: &str,
    signed: Option<&Signed>,
) -> Result<Client, Error> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match signed {
        Some(signed) => builder
            .with_client_auth_cert(signed.chain.clone(), signed.key.clone_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    let tls = MakeRustlsConnect::new(config);
    let (client, connection) = server.connect(tls).await?;
    tokio::spawn(connection);
    client.simple_query("select 1").await?;
    Ok(client)
}

/// The serial number that the server saw in a login with this certificate.
pub(crate) async fn serial_seen(testbed: &Testbed, signed: &Signed) -> String {
    let client = log_in_trusting(testbed, Some(signed)).await.unwrap();
    let seen = "select client_serial::text from pg_stat_ssl where pid = pg_backend_pid()";
    client.query_one(seen, &[]).await.unwrap().get(0)
}
