//! vaultrs' typed endpoints over an HTTP client of our own.
//!
//! An endpoint gives path, method and body; sending and reading are done here. rustify's own
//! `exec` is not used: it drops the reply's headers, keeps raw bodies in its errors, and logs
//! each refusal as an error of its own.

mod redirect;
mod reply;
mod tls;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use rustify::endpoint::Endpoint;
use zeroize::Zeroizing;

use crate::error::{Failure, Step, VaultError};
use crate::token::Token;
use redirect::Hop;

pub(crate) use reply::{Reply, presentable};
pub(crate) use tls::{client_config, default_provider};

/// How long making a connection, TLS included, may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one request may take, from connecting to the last byte, redirects included.
///
/// One fetch makes at most five (sign, and once more for less where the CA is near its end; login,
/// and both again), so it ends within the renewer's 30 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How many redirects one request follows.
///
/// A standby that does not forward names the leader: one. A leader that has just changed: two.
pub const MAX_REDIRECTS: usize = 2;

/// The longest answer that is read, in bytes; one with a long chain has some 10 kB.
pub const MAX_REPLY: usize = 1 << 20;

const X_VAULT_TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const X_VAULT_NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Vault's agents and proxies can be told to demand this, against forged browser requests.
const X_VAULT_REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// Connections to one Vault address.
pub(crate) struct Transport {
    http: reqwest::Client,
    base: Url,
    namespace: Option<HeaderValue>,
    request_timeout: Duration,
}

/// What a [`Transport`] is made of, checked by the builder.
pub(crate) struct Settings {
    pub(crate) base: Url,
    pub(crate) namespace: Option<HeaderValue>,
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(settings.tls)
            .https_only(settings.base.scheme() == "https")
            // Neither the environment nor a reply decides where the token goes.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // Signing is not idempotent, and retries are the renewer's.
            .retry(reqwest::retry::never())
            // Long enough from a login to its signing request, too short to outlive a restart.
            .pool_idle_timeout(Duration::from_secs(5))
            .connect_timeout(settings.connect_timeout)
            .user_agent(concat!("perennial-vault/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            base: settings.base,
            namespace: settings.namespace,
            request_timeout: settings.request_timeout,
        })
    }

    /// Sends one request and reads its answer; `Ok` is a success by status.
    ///
    /// # Cancel safety
    /// Dropped half-way, the request may have been carried out.
    pub(crate) async fn send(
        &self,
        step: Step,
        endpoint: &impl Endpoint,
        token: Option<&Token>,
    ) -> Result<Reply, Failure> {
        match tokio::time::timeout(self.request_timeout, self.follow(step, endpoint, token)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Failure::transient(VaultError::TimedOut {
                step,
                after: self.request_timeout,
            })),
        }
    }

    /// Sends, and follows redirects as far as they stay on the configured origin.
    async fn follow(
        &self,
        step: Step,
        endpoint: &impl Endpoint,
        token: Option<&Token>,
    ) -> Result<Reply, Failure> {
        let headers = self.headers(token)?;
        let body = endpoint
            .body()
            .map_err(|error| request_error(step, error))?;
        // It may hold a credential: one copy for every hop, wiped after the last.
        let body = Bytes::from_owner(Zeroizing::new(body.unwrap_or_default()));
        let method: Method = endpoint.method().into();
        let path = endpoint.path();
        let mut url = self.url(&path);
        for _hop in 0..=MAX_REDIRECTS {
            let response = self
                .http
                .request(method.clone(), url.clone())
                .headers(headers.clone())
                .body(body.clone())
                .send()
                .await
                .map_err(|error| self.broken(step, error))?;
            if !redirect::is_one(response.status()) {
                return self.read(step, &path, response).await;
            }
            let location = response.headers().get(header::LOCATION);
            match redirect::hop(&self.base, &url, location) {
                Hop::Follow(next) => url = next,
                Hop::Elsewhere { origin } => {
                    return Err(Failure::transient(VaultError::RedirectedElsewhere {
                        step,
                        origin,
                    }));
                }
                Hop::Nowhere => {
                    return Err(Failure::unusable(VaultError::Unusable {
                        step,
                        problem: "a redirect whose Location cannot be read",
                    }));
                }
            }
        }
        Err(Failure::transient(VaultError::RedirectedTooOften {
            step,
            limit: MAX_REDIRECTS,
        }))
    }

    /// Reads an answer up to [`MAX_REPLY`] bytes.
    async fn read(&self, step: Step, path: &str, mut response: Response) -> Result<Reply, Failure> {
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Zeroizing::new(Vec::new());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if chunk.len() > MAX_REPLY - body.len() => {
                    return cut_off(step, path, status, &headers);
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                // Go refuses plain HTTP on a TLS port so: no header, and a reset in place of an end.
                Err(_reset) if !status.is_success() && headers.is_empty() => break,
                Err(error) => return Err(self.broken(step, error)),
            }
        }
        Reply::of(step, path, status, headers, body)
    }

    fn broken(&self, step: Step, error: reqwest::Error) -> Failure {
        let origin = self.base.origin().ascii_serialization();
        match tls::lasting_error(&error) {
            Some(cause) => Failure::unusable(VaultError::Tls {
                origin,
                remedy: tls::remedy(&cause),
                cause,
            }),
            None => Failure::transient(VaultError::Unreachable {
                step,
                origin,
                // Its URL has the same origin, and a path that the message has no use for.
                cause: error.without_url().into(),
            }),
        }
    }

    fn headers(&self, token: Option<&Token>) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(X_VAULT_REQUEST, HeaderValue::from_static("true"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(namespace) = &self.namespace {
            headers.insert(X_VAULT_NAMESPACE, namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|error| Failure::unusable(VaultError::Request(error.into())))?;
            // Its `Debug` shows nothing, and HTTP/2 keeps it out of compression tables.
            value.set_sensitive(true);
            headers.insert(X_VAULT_TOKEN, value);
        }
        Ok(headers)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v1/{}", path.trim_start_matches('/')));
        url
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("base", &self.base.as_str())
            .field("namespace", &self.namespace)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// An answer without end: of a refusal the status says enough, of a success it does not.
fn cut_off(
    step: Step,
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Reply, Failure> {
    if status.is_success() {
        return Err(Failure::unusable(VaultError::TooLarge {
            step,
            limit: MAX_REPLY,
        }));
    }
    Reply::of(step, path, status, headers.clone(), Zeroizing::default())
}

/// rustify's error is not passed on: some of its variants hold what was sent or received.
fn request_error(step: Step, _with_content: impl Error) -> Failure {
    Failure::unusable(VaultError::Unusable {
        step,
        problem: "the request for it could not be serialised",
    })
}
