use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method};
use rustls::ClientConfig;
use serde_json::Value;

use super::listener::Listener;
use crate::error::{BoxError, TestbedError};

/// Longer than any request takes; shorter than a test waits.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A paused server must not make [`Api::health`] hang.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// The HTTP client of one OpenBao, with the root token once there is one.
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

    /// The same for another node of the cluster, with the same token.
    pub(super) fn for_port(&self, port: u16) -> Self {
        Self {
            base: base(port),
            tls: self.tls.clone(),
            client: self.client.clone(),
        }
    }

    /// From now on every call carries this token.
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
        self.ask(method, path, body, None).await
    }

    /// The same, with the reply in a wrapping token for that long.
    pub(super) async fn call_wrapped(
        &self,
        method: &str,
        path: &str,
        body: Value,
        life: Duration,
    ) -> Result<String, TestbedError> {
        let reply = self.ask(method, path, body, Some(life)).await?;
        text(&reply["wrap_info"]["token"], "wrap_info")
    }

    async fn ask(
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
        if let Some(life) = wrapped_for {
            request = request.header("X-Vault-Wrap-TTL", format!("{}s", life.as_secs()));
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

/// Takes a string out of a reply.
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
        // No connection is kept: one to a server that was stopped meanwhile would fail the next call.
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| TestbedError::Tls(error.into()))
}
