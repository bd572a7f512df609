//! vaultrs' typed endpoints over an HTTP client of our own.
//!
//! An endpoint gives path, method and body; sending and reading are done here. rustify's own
//! `exec` is not used: it drops the reply's headers, keeps raw bodies in its errors, and logs
//! each refusal as an error of its own.

mod addresses;
mod redirect;
mod reply;
mod round;
mod tls;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Request, Response, Url};
use rustify::endpoint::Endpoint;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::error::{Failure, Step, VaultError};
use crate::token::Token;
use redirect::Hop;

pub(crate) use addresses::Addresses;
pub(crate) use reply::{Reply, presentable};
pub(crate) use round::Round;
pub(crate) use tls::{client_config, default_provider};

/// How long making a connection, TLS included, may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one request may take at one address, from connecting to the last byte, redirects
/// included.
///
/// One fetch makes at most eight: renew the token, sign, and once more for less where the CA is near
/// its end; look at a wrapping token, unwrap it, log in; sign twice again. Where Vault does not
/// answer, the renewal and the request after it run out of time and no more, so with up to four
/// addresses a fetch ends within the renewer's 30 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept unused: long enough from a login to its signing request, and for
/// one source too short to outlive a restart, or a name that leads elsewhere now. Many sources that
/// share one keep it in use, until its server closes it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Connections to the addresses of one Vault.
pub(crate) struct Transport {
    http: reqwest::Client,
    settings: Settings,
}

/// What a [`Transport`] is made of, checked by the builder.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) namespace: Option<HeaderValue>,
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let http = client(&settings).build()?;
        Ok(Self { http, settings })
    }

    /// Connections to the same addresses that show a client certificate.
    pub(crate) fn showing(
        &self,
        certificate: Arc<dyn ResolvesClientCert>,
    ) -> Result<Self, reqwest::Error> {
        let mut settings = self.settings.clone();
        settings.tls.client_auth_cert_resolver = certificate;
        // A session that is resumed shows none.
        settings.tls.resumption = Resumption::disabled();
        Self::new(settings)
    }

    /// The one that stands for this Vault.
    pub(crate) fn first_address(&self) -> &Url {
        self.settings.addresses.first()
    }

    pub(crate) fn namespace(&self) -> Option<&HeaderValue> {
        self.settings.namespace.as_ref()
    }

    /// What makes keys and signatures in its handshakes.
    pub(crate) fn provider(&self) -> &CryptoProvider {
        self.settings.tls.crypto_provider()
    }

    fn request(
        &self,
        step: Step,
        endpoint: &impl Endpoint,
        token: Option<&Token>,
    ) -> Result<Sent, Failure> {
        let body = endpoint
            .body()
            .map_err(|error| request_error(step, error))?;
        Ok(Sent {
            step,
            method: endpoint.method().into(),
            path: endpoint.path(),
            headers: self.headers(token)?,
            body: Bytes::from_owner(Zeroizing::new(body.unwrap_or_default())),
        })
    }

    /// Once round the addresses, for a fetch or for a request beside one.
    pub(crate) fn round(&self) -> Round<'_> {
        Round::new(self)
    }

    async fn attempt(&self, base: &Url, sent: &Sent) -> Result<Reply, Failure> {
        let after = self.settings.request_timeout;
        match tokio::time::timeout(after, self.follow(base, sent)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Failure::transient(VaultError::TimedOut {
                step: sent.step,
                origin: base.origin().ascii_serialization(),
                after,
            })),
        }
    }

    /// Sends, and follows redirects as far as they stay on the configured origins.
    async fn follow(&self, base: &Url, sent: &Sent) -> Result<Reply, Failure> {
        let step = sent.step;
        let mut url = url(base, &sent.path);
        for _hop in 0..=MAX_REDIRECTS {
            let mut request = Request::new(sent.method.clone(), url.clone());
            *request.headers_mut() = sent.headers.clone();
            *request.body_mut() = Some(sent.body.clone().into());
            let response = self.http.execute(request).await;
            let response = response.map_err(|error| broken(step, &url, error))?;
            if !redirect::is_one(response.status()) {
                return read(step, &sent.path, response).await;
            }
            let location = response.headers().get(header::LOCATION);
            match redirect::hop(self.settings.addresses.all(), &url, location) {
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
                        problem: "a redirect whose Location cannot be read (is the address vault's own?)",
                    }));
                }
            }
        }
        Err(Failure::transient(VaultError::RedirectedTooOften {
            step,
            limit: MAX_REDIRECTS,
        }))
    }

    fn headers(&self, token: Option<&Token>) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(X_VAULT_REQUEST, HeaderValue::from_static("true"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(namespace) = &self.settings.namespace {
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
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("addresses", &self.settings.addresses)
            .field("namespace", &self.settings.namespace)
            .field("request_timeout", &self.settings.request_timeout)
            .finish_non_exhaustive()
    }
}

fn client(settings: &Settings) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(settings.tls.clone())
        .https_only(settings.addresses.are_https())
        // Neither the environment nor a reply decides where the token goes.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Signing is not idempotent, and retries are the renewer's.
        .retry(reqwest::retry::never())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .connect_timeout(settings.connect_timeout)
        .user_agent(concat!("perennial-vault/", env!("CARGO_PKG_VERSION")))
}

/// One request, as every address gets it.
struct Sent {
    step: Step,
    method: Method,
    path: String,
    headers: HeaderMap,
    /// It may hold a credential: one copy for every attempt, wiped after the last.
    body: Bytes,
}

fn url(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let prefix = base.path().trim_end_matches('/');
    url.set_path(&format!("{prefix}/v1/{}", path.trim_start_matches('/')));
    url
}

/// Reads an answer up to [`MAX_REPLY`] bytes.
async fn read(step: Step, path: &str, mut response: Response) -> Result<Reply, Failure> {
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
            Err(error) => return Err(broken(step, response.url(), error)),
        }
    }
    Reply::of(step, path, status, headers, body)
}

fn broken(step: Step, url: &Url, error: reqwest::Error) -> Failure {
    let origin = url.origin().ascii_serialization();
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

#[cfg(test)]
mod tests;
