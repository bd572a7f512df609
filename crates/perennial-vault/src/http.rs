//! The HTTP client: requests, replies, redirects and the fail-over between addresses.

mod failover;
mod redirect;
mod reply;
mod request;
mod strike;
mod text;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Response, Url};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::error::{Failure, Problem};
use crate::verdict::Operation;
use redirect::Hop;

pub(crate) use failover::{Addresses, Round};
pub(crate) use reply::Reply;
pub(crate) use request::{
    GenerateCertificateRequest, ListIssuersRequest, Request, SignCertificateRequest,
};
pub(crate) use strike::{SHORTEST_PIECE, Sent};
pub(crate) use text::{SecretText, private_key};
pub(crate) use tls::{client_config, default_provider};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default for one request at one address, redirects included.
///
/// One fetch sends at most eight requests: renew the token, sign, and sign again with a shorter
/// `ttl` where the CA is about to expire; look up a wrapping token, unwrap it, log in; sign twice
/// more. Where no address answers, only the token renewal and one more request time out, so with up
/// to four addresses a fetch ends within the renewer's 30 s.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an unused connection is kept.
///
/// Long enough from a login to its signing request; for a single source, too short to outlive a
/// restart of the server or a change in DNS. Many sources that share a connection keep it in use
/// until its server closes it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many redirects one request follows.
///
/// A standby that does not forward names the leader: one. A leader that has just changed: two.
const MAX_REDIRECTS: usize = 2;

/// The longest answer that is read, in bytes; one with a long chain has about 10 kB.
const MAX_REPLY: usize = 1 << 20;

const X_VAULT_TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const X_VAULT_NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Vault's agents and proxies can require this header, against forged browser requests.
const X_VAULT_REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// Connections to the addresses of one Vault.
pub(crate) struct Transport {
    http: reqwest::Client,
    settings: TransportSettings,
}

/// What a [`Transport`] is made of, already checked.
#[derive(Clone)]
pub(crate) struct TransportSettings {
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) namespace: Option<HeaderValue>,
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
}

impl Transport {
    pub(crate) fn new(settings: TransportSettings) -> Result<Self, reqwest::Error> {
        let http = client(&settings).build()?;
        Ok(Self { http, settings })
    }

    /// Connections to the same addresses that present a client certificate.
    pub(crate) fn presenting(
        &self,
        certificate: Arc<dyn ResolvesClientCert>,
    ) -> Result<Self, reqwest::Error> {
        let mut settings = self.settings.clone();
        settings.tls.client_auth_cert_resolver = certificate;
        // A resumed session presents none.
        settings.tls.resumption = Resumption::disabled();
        Self::new(settings)
    }

    /// The first identifies this Vault, whichever nodes are added or removed later.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.settings.addresses.all().iter().map(Url::as_str)
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.settings.namespace.as_ref()?.to_str().ok()
    }

    /// The provider of its handshakes.
    pub(crate) fn provider(&self) -> &CryptoProvider {
        self.settings.tls.crypto_provider()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    async fn attempt(
        &self,
        base: &Url,
        request: &Request,
        headers: &HeaderMap,
        sent: &Sent,
    ) -> Result<Reply, Failure> {
        let after = self.settings.request_timeout;
        let followed = self.follow(base, request, headers, sent);
        let Ok(outcome) = tokio::time::timeout(after, followed).await else {
            return Err(Failure::transient(Problem::TimedOut {
                operation: request.operation,
                origin: base.origin().ascii_serialization(),
                after,
            }));
        };
        outcome
    }

    /// Sends, and follows redirects as long as they lead to configured origins.
    async fn follow(
        &self,
        base: &Url,
        request: &Request,
        headers: &HeaderMap,
        sent: &Sent,
    ) -> Result<Reply, Failure> {
        let operation = request.operation;
        let mut url = url(base, &request.path);
        for _ in 0..=MAX_REDIRECTS {
            let mut hop = reqwest::Request::new(request.method.clone(), url.clone());
            *hop.headers_mut() = headers.clone();
            *hop.body_mut() = Some(request.body.clone().into());
            let response = self.http.execute(hop).await;
            let response = response.map_err(|error| broken(operation, &url, error))?;
            if !redirect::is_one(response.status()) {
                return read(operation, &request.path, response, sent).await;
            }
            let location = response.headers().get(header::LOCATION);
            match redirect::hop(self.settings.addresses.all(), &url, location) {
                Hop::Follow(next) => url = next,
                Hop::Elsewhere { origin } => {
                    let problem = Problem::RedirectedElsewhere(operation, sent.strike(&origin));
                    return Err(Failure::transient(problem));
                }
                Hop::Nowhere => {
                    let problem =
                        "a redirect with an unusable Location (is the address vault's own?)";
                    return Err(Failure::unusable(Problem::Unusable(operation, problem)));
                }
            }
        }
        let problem = Problem::RedirectedTooOften(operation, MAX_REDIRECTS);
        Err(Failure::transient(problem))
    }

    fn headers(&self, operation: Operation, token: Option<&str>) -> Result<HeaderMap, Failure> {
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
            let token = Bytes::from_owner(Zeroizing::new(token.as_bytes().to_vec()));
            let mut value = HeaderValue::from_maybe_shared(token)
                .map_err(|error| Failure::unusable(Problem::Request(operation, error.into())))?;
            // Hidden in `Debug`, and kept out of HTTP/2's compression tables.
            value.set_sensitive(true);
            headers.insert(X_VAULT_TOKEN, value);
        }
        Ok(headers)
    }
}

fn client(settings: &TransportSettings) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(settings.tls.clone())
        .https_only(settings.addresses.are_https())
        // Neither the environment nor a reply may decide where the token is sent.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Signing is not idempotent; the renewer retries.
        .retry(reqwest::retry::never())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .connect_timeout(settings.connect_timeout)
        .user_agent(concat!("perennial-vault/", env!("CARGO_PKG_VERSION")))
}

fn url(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let prefix = base.path().trim_end_matches('/');
    url.set_path(&format!("{prefix}/v1/{}", path.trim_start_matches('/')));
    url
}

/// Reads an answer of up to [`MAX_REPLY`] bytes.
async fn read(
    operation: Operation,
    path: &str,
    mut response: Response,
    sent: &Sent,
) -> Result<Reply, Failure> {
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    // Joined at the end, when their length is known: a buffer that grew would leave copies behind.
    let (mut chunks, mut length) = (Vec::new(), 0);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if chunk.len() > MAX_REPLY - length => {
                return cut_off(operation, path, status, headers, sent);
            }
            Ok(Some(chunk)) => {
                length += chunk.len();
                chunks.push(chunk);
            }
            Ok(None) => break,
            // Go answers plain HTTP on a TLS port without headers, and with a reset at the end.
            Err(_) if !status.is_success() && headers.is_empty() => break,
            Err(error) => return Err(broken(operation, response.url(), error)),
        }
    }
    let mut body = Zeroizing::new(Vec::with_capacity(length));
    for chunk in &chunks {
        body.extend_from_slice(chunk);
    }
    Reply::of(operation, path, status, headers, body, sent)
}

fn broken(operation: Operation, url: &Url, error: reqwest::Error) -> Failure {
    let origin = url.origin().ascii_serialization();
    match tls::lasting_error(&error) {
        Some(cause) => Failure::unusable(Problem::Tls {
            origin,
            remedy: tls::remedy(&cause),
            cause,
        }),
        None => Failure::transient(Problem::Unreachable {
            operation,
            origin,
            // Its URL only repeats the origin and adds the path.
            cause: error.without_url().into(),
        }),
    }
}

/// An endless answer: for a refusal the status is enough, for a success it is not.
fn cut_off(
    operation: Operation,
    path: &str,
    status: StatusCode,
    headers: HeaderMap,
    sent: &Sent,
) -> Result<Reply, Failure> {
    if status.is_success() {
        return Err(Failure::unusable(Problem::TooLarge(operation, MAX_REPLY)));
    }
    let body = Zeroizing::default();
    Reply::of(operation, path, status, headers, body, sent)
}

#[cfg(test)]
mod tests;
