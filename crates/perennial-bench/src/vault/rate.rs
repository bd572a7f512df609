//! Renewals per second and their CPU time: ours compared with a bare client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use perennial::{LiveCert, Renewed};
use perennial_testbed::OpenBao;
use perennial_testbed::serde_json::json;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;

use super::Place;
use crate::process::cpu_time;

/// Requests in flight at once.
pub const IN_FLIGHT: usize = 8;

/// The renewer does not fetch more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

const LIFETIME: Duration = Duration::from_secs(3_600);

/// The result of a number of requests.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Turn {
    /// Requests per second.
    pub rate: f64,
    /// CPU time of this process per request, in microseconds.
    pub cpu: f64,
}

/// Our side: [`IN_FLIGHT`] connections, each with its own login, and the live certificates that each
/// connection renews one after the other.
#[derive(Debug)]
pub struct Ours(Arc<[Vec<LiveCert>]>);

impl Ours {
    /// Starts `each` certificates on each connection.
    ///
    /// The roots of servers are fixed, so that no issuers are read: the bare client does not read them
    /// either. Figures with these readings are those of [`Hundred`](super::Hundred).
    ///
    /// # Errors
    /// As [`LiveCert::start`].
    pub async fn new(place: &Place, each: usize) -> anyhow::Result<Self> {
        let mut all = Vec::with_capacity(IN_FLIGHT);
        for number in 0..IN_FLIGHT {
            let vault = place.vault().build()?;
            let name = format!("app-{number}");
            let mut certs = Vec::with_capacity(each);
            for _ in 0..each {
                let source = place.pki(&vault, &name, LIFETIME);
                let source = source.server_roots_pem(&place.roots_pem).build()?;
                certs.push(LiveCert::start(source).await?);
            }
            all.push(certs);
        }
        Ok(Self(all.into()))
    }

    /// Renews every certificate: new key, request, every check, and publication.
    ///
    /// # Errors
    /// A renewal fails, or returns no newer certificate.
    pub async fn turn(&self) -> anyhow::Result<Turn> {
        tokio::time::sleep(SHORTEST_INTERVAL).await;
        let all = Arc::clone(&self.0);
        measure(all[0].len(), move |number, round| {
            let live = all[number][round].clone();
            async move {
                match live.renew().await? {
                    Renewed::Newer(_) => Ok(()),
                    other => bail!("not renewed: {other:?}"),
                }
            }
        })
        .await
    }
}

/// The minimum of work: a keep-alive client that posts prepared requests and checks only the status of
/// each reply.
pub struct Bare {
    client: reqwest::Client,
    url: String,
    token: String,
    bodies: Arc<[Bytes]>,
}

impl Bare {
    /// Prepares the requests and opens the connections.
    ///
    /// # Errors
    /// The server refuses a request.
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
    /// The server refuses a request or is unreachable.
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
                ensure!(status.is_success() && !body.is_empty(), "status {status}");
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
    let csr = params
        .serialize_request(&key)?
        .pem()
        .context("failed to encode the CSR")?;
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

/// Runs [`IN_FLIGHT`] tasks that each send `each` requests one after the other.
async fn measure<F>(
    each: usize,
    request: impl Fn(usize, usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<Turn>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let (began, spent) = (Instant::now(), cpu_time()?);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..IN_FLIGHT {
        let request = request.clone();
        tasks.spawn(async move {
            for round in 0..each {
                request(number, round).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let (took, spent) = (began.elapsed(), cpu_time()?.saturating_sub(spent));
    let all = (each * IN_FLIGHT) as f64;
    Ok(Turn {
        rate: all / took.as_secs_f64(),
        cpu: 1e6 * spent.as_secs_f64() / all,
    })
}
