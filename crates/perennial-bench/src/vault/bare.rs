use std::fmt;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use perennial_testbed::OpenBao;
use perennial_testbed::serde_json::json;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::rate::{IN_FLIGHT, Turn, measure};

/// The least that can be done: a keep-alive client that posts ready-made requests, and looks at the
/// status of what comes back.
pub struct Bare {
    client: reqwest::Client,
    url: String,
    token: String,
    bodies: Arc<[Bytes]>,
}

impl Bare {
    /// Makes the requests, and the connections.
    ///
    /// # Errors
    /// A server that refuses.
    pub async fn new(bao: &OpenBao) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(bao.ca_pem().as_bytes())?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()?;
        let bodies: anyhow::Result<Vec<_>> = (0..IN_FLIGHT).map(body).collect();
        let bare = Self {
            client,
            url: format!(
                "{}/v1/{}/sign/{}",
                bao.address(),
                bao.mount(),
                bao.client_role()
            ),
            token: bao.app_token().await?,
            bodies: bodies?.into(),
        };
        bare.turn(1).await?;
        Ok(bare)
    }

    /// Posts `each` requests in each of [`IN_FLIGHT`] tasks.
    ///
    /// # Errors
    /// A server that refuses or cannot be reached.
    pub async fn turn(&self, each: usize) -> anyhow::Result<Turn> {
        let (client, url) = (self.client.clone(), Arc::<str>::from(&*self.url));
        let (token, bodies) = (Arc::<str>::from(&*self.token), self.bodies.clone());
        measure(each, move |number, _round| {
            let request = client
                .post(&*url)
                .header("X-Vault-Token", &*token)
                .body(bodies[number].clone());
            async move {
                let reply = request.send().await?;
                let status = reply.status();
                let body = reply.bytes().await?;
                ensure!(status.is_success() && !body.is_empty(), "got {status}");
                Ok(())
            }
        })
        .await
    }
}

fn body(number: usize) -> anyhow::Result<Bytes> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = format!("app-{number}");
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let csr = params.serialize_request(&key)?.pem().context("the CSR")?;
    let body = json!({"csr": csr, "ttl": "3600s"});
    Ok(body.to_string().into())
}

impl fmt::Debug for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bare")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
