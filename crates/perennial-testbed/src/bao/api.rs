//! OpenBao's HTTP API: the TLS of its listener, and a client.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use crate::error::{BoxError, TestbedError};
use crate::folder::Folder;

/// Longer than any request takes, shorter than any test waits.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A paused server must not block [`Api::health`].
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// The HTTP client of one OpenBao; it sends the root token once that exists.
pub(super) struct Api {
    base: String,
    tls: ClientConfig,
    client: Client,
}

impl Api {
    pub(super) fn new(port: u16, listener: &Listener) -> Result<Self, TestbedError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TestbedError::Tls(error.into()))?
            .with_root_certificates(listener.roots()?)
            .with_no_client_auth();
        let client = client(&tls, HeaderMap::new())?;
        Ok(Self {
            base: base(port),
            tls,
            client,
        })
    }

    /// A client for another node of the cluster, with the same token.
    pub(super) fn for_port(&self, port: u16) -> Self {
        Self {
            base: base(port),
            tls: self.tls.clone(),
            client: self.client.clone(),
        }
    }

    /// Sends this token with every later call.
    pub(super) fn set_token(&mut self, token: &str) -> Result<(), TestbedError> {
        let mut value = HeaderValue::from_str(token)
            .ok()
            .ok_or(TestbedError::Incomplete("a usable token"))?;
        value.set_sensitive(true);
        let headers = HeaderMap::from_iter([(
            reqwest::header::HeaderName::from_static("x-vault-token"),
            value,
        )]);
        self.client = client(&self.tls, headers)?;
        Ok(())
    }

    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<Value, TestbedError> {
        self.send(method, path, body, None).await
    }

    /// Like [`Api::call`], but returns a wrapping token for the reply with this lifetime.
    pub(super) async fn call_wrapped(
        &self,
        method: &str,
        path: &str,
        body: Value,
        lifetime: Duration,
    ) -> Result<String, TestbedError> {
        let reply = self.send(method, path, body, Some(lifetime)).await?;
        text(&reply["wrap_info"]["token"], "wrap_info")
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Value,
        wrapped_for: Option<Duration>,
    ) -> Result<Value, TestbedError> {
        let no_reply = |source: BoxError| TestbedError::NoReply {
            method: method.to_owned(),
            path: path.to_owned(),
            source,
        };
        let verb: Method = method.parse().map_err(|error| no_reply(Box::new(error)))?;
        let mut request = self.client.request(verb, format!("{}{path}", self.base));
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        if let Some(lifetime) = wrapped_for {
            request = request.header("X-Vault-Wrap-TTL", format!("{}s", lifetime.as_secs()));
        }
        let reply = request
            .send()
            .await
            .map_err(|error| no_reply(error.into()))?;
        let status = reply.status();
        let bytes = reply
            .bytes()
            .await
            .map_err(|error| no_reply(error.into()))?;
        if !status.is_success() {
            return Err(TestbedError::Refused {
                method: method.to_owned(),
                path: path.to_owned(),
                status: status.as_u16(),
                errors: String::from_utf8_lossy(&bytes).trim().to_owned(),
            });
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| no_reply(error.into()))
    }

    /// The status of the health endpoint: 200 active, 429 standby, 501 not initialised, 503 sealed.
    pub(super) async fn health(&self) -> Option<u16> {
        let request = self.client.get(format!("{}sys/health", self.base));
        let reply = request.timeout(HEALTH_TIMEOUT).send().await.ok()?;
        Some(reply.status().as_u16())
    }
}

fn base(port: u16) -> String {
    format!("https://127.0.0.1:{port}/v1/")
}

/// Reads a string from a reply.
pub(super) fn text(value: &Value, field: &'static str) -> Result<String, TestbedError> {
    let text = value.as_str().ok_or(TestbedError::Incomplete(field))?;
    Ok(text.to_owned())
}

fn client(tls: &ClientConfig, headers: HeaderMap) -> Result<Client, TestbedError> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .default_headers(headers)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        // Keep no connection: after a restart of the server it would fail the next call.
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| TestbedError::Tls(error.into()))
}

/// The TLS of OpenBao's own listener, the same on every node of a cluster. The key of its CA is not kept.
#[derive(Clone)]
pub(super) struct Listener {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

impl Listener {
    /// Creates a CA and a certificate for the listener.
    pub(super) fn create() -> Result<Self, TestbedError> {
        new_listener().map_err(|error| TestbedError::Tls(error.into()))
    }

    /// Writes the certificate and its key into the folder.
    pub(super) fn install(&self, folder: &Folder) -> Result<(), TestbedError> {
        let private = folder.private();
        folder.write(&private.join("listener.crt"), &self.certificate, None)?;
        folder.write(&private.join("listener.key"), &self.key, None)
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(super) fn roots(&self) -> Result<RootCertStore, TestbedError> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.ca_der.clone())
            .map_err(|error| TestbedError::Tls(error.into()))?;
        Ok(roots)
    }
}

fn new_listener() -> Result<Listener, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Perennial testbed, OpenBao listener");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &ca)?;
    Ok(Listener {
        ca_pem: ca.pem(),
        ca_der: ca.der().clone(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}
