use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use perennial::Fingerprint;
use reqwest::Url;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::auth::Auth;
use crate::key::KeyType;
use crate::pki::{Roots, VaultPki, Warnings};
use crate::request::{CertRequest, KeyFrom};
use crate::revocation::Revocations;
use crate::token::Tokens;
use crate::transport::{
    Addresses, CONNECT_TIMEOUT, REQUEST_TIMEOUT, Settings, Transport, client_config,
    default_provider,
};

/// Settings of a [`VaultPki`].
///
/// # Defaults
/// The platform's trust roots; no namespace; no names (at least one must be set); the role's own
/// `ttl` and issuer; `sign`, with a key of [`KeyType::EcP256`]; server roots those of
/// the mount's issuers; [`CONNECT_TIMEOUT`], [`REQUEST_TIMEOUT`]; the crypto provider of the feature
/// that is on. `auth`, `mount` and `role` have none and must be set.
#[must_use]
pub struct VaultPkiBuilder {
    addresses: Vec<String>,
    ca_pem: Option<Vec<u8>>,
    namespace: Option<String>,
    auth: Option<Auth>,
    request: CertRequest,
    key_type: Option<KeyType>,
    issue: bool,
    server_roots_pem: Option<Vec<u8>>,
    revoke: bool,
    connect_timeout: Duration,
    request_timeout: Duration,
    provider: Option<Arc<CryptoProvider>>,
}

impl VaultPkiBuilder {
    pub(crate) fn new(address: String) -> Self {
        Self {
            addresses: vec![address],
            ca_pem: None,
            namespace: None,
            auth: None,
            request: CertRequest::default(),
            key_type: None,
            issue: false,
            server_roots_pem: None,
            revoke: false,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            provider: None,
        }
    }

    /// One more address of the same Vault, such as another node of its cluster.
    ///
    /// The one that served last is asked first; where it cannot serve, the next one is, each at
    /// most once in a fetch. What a *refusal* says holds for all of them, so no other is asked.
    /// Redirects between addresses are followed. Each name is resolved anew for each connection.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// The CA, or several, of Vault's own server certificate; then no other is trusted.
    ///
    /// Without it the platform's roots are trusted. On Linux these are where OpenSSL has them,
    /// or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say: the only variables that have a say in
    /// what is trusted, and none once a CA is given here.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca_pem = Some(pem.as_ref().to_vec());
        self
    }

    /// The namespace (OpenBao, Vault Enterprise) in which login and mount are.
    pub fn namespace(mut self, path: impl Into<String>) -> Self {
        self.namespace = Some(path.into());
        self
    }

    /// How this program proves who it is.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// The path at which the PKI engine is mounted, such as `pki_int`.
    pub fn mount(mut self, path: impl Into<String>) -> Self {
        self.request.mount = path.into();
        self
    }

    /// The PKI engine's role, which decides what may be asked for.
    pub fn role(mut self, name: impl Into<String>) -> Self {
        self.request.role = name.into();
        self
    }

    /// Which of the mount's issuers shall issue: its name or id; without it, the role's.
    ///
    /// The path is then `MOUNT/issuer/ISSUER/sign/ROLE`, which the token's policy must name.
    pub fn issuer(mut self, reference: impl Into<String>) -> Self {
        self.request.issuer = Some(reference.into());
        self
    }

    /// The kind of key that is made for each certificate; the role must allow it.
    pub fn key_type(mut self, kind: KeyType) -> Self {
        self.key_type = Some(kind);
        self
    }

    /// Has Vault make the key too: `issue` in place of `sign`, where nothing else is allowed.
    ///
    /// The key is of the role's type, and travels: from Vault's memory, over TLS, into ours.
    pub fn issue(mut self) -> Self {
        self.issue = true;
        self
    }

    /// The subject's common name; a role adds it to the DNS names, if it is one.
    pub fn common_name(mut self, name: impl Into<String>) -> Self {
        self.request.common_name = Some(name.into());
        self
    }

    /// A DNS name; call again for more.
    pub fn dns_name(mut self, name: impl Into<String>) -> Self {
        self.request.dns.push(name.into());
        self
    }

    /// An IP address; call again for more.
    pub fn ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.request.ip.push(address.into());
        self
    }

    /// A URI, such as a SPIFFE ID; call again for more.
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.request.uri.push(uri.into());
        self
    }

    /// How long the certificate shall live, in whole seconds; the role may shorten it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl = Some(ttl);
        self
    }

    /// The roots for verifying servers, where they are not those of the mount's issuers.
    ///
    /// Without it they are the self-signed certificates to which the mount's issuers lead that may
    /// issue, [read again](crate::ISSUERS_POLL) while the certificate lives; the token needs `read`
    /// on `MOUNT/issuer/+` for it. Without that right they are those of the answer's `ca_chain`.
    /// Needed where there is none, as with an intermediate that was imported without its root.
    pub fn server_roots_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.server_roots_pem = Some(pem.as_ref().to_vec());
        self
    }

    /// Revokes each certificate once a newer one is in use and no snapshot of it is held.
    ///
    /// The pool's connections hold theirs; a connection that was made with a config taken out of a
    /// snapshot does not. It is revoked by what it is and not by its number, so that it need not
    /// be stored; the token needs `update` on `MOUNT/revoke`. The last one is revoked only by
    /// [`Revocations::finish`].
    pub fn revoke_superseded(mut self) -> Self {
        self.revoke = true;
        self
    }

    /// How long making a connection to Vault, TLS included, may take.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one request may take at one address, from connecting to the last byte.
    ///
    /// A fetch that asks every address in vain takes that long for each, which should stay below
    /// the renewer's [fetch timeout](perennial::LiveCertBuilder::fetch_timeout).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The crypto provider of the connection to Vault.
    ///
    /// The certificate's key is made by the feature that is on, aws-lc-rs where both are.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Checks the settings; talks to nobody.
    ///
    /// # Errors
    /// - [`BuildError::Missing`]: `auth`, `mount`, `role` or every name is not set.
    /// - [`BuildError::Setting`]: a value that cannot be used, with what it takes.
    /// - [`BuildError::Secret`]: the same of a secret, without the value.
    /// - [`BuildError::Client`]: TLS or HTTP cannot be set up, as without any platform root.
    pub fn build(self) -> Result<VaultPki, BuildError> {
        let addresses = self.addresses.iter().map(|text| address(text));
        let addresses = distinct(addresses.collect::<Result<_, _>>()?)?;
        let auth = self.auth.ok_or(BuildError::Missing { field: "auth" })?;
        let request = checked(CertRequest {
            key_from: key_from(self.key_type, self.issue)?,
            ..self.request
        })?;
        let params = request.params()?;
        let namespace = self.namespace.as_deref().map(namespace).transpose()?;
        let roots = self.ca_pem.as_deref().map(|pem| trusted("ca_pem", pem));
        let server_roots = self
            .server_roots_pem
            .as_deref()
            .map(|pem| trusted("server_roots_pem", pem));
        let provider = self.provider.unwrap_or_else(default_provider);
        let tls = client_config(provider, roots.transpose()?.map(|(store, _)| store))
            .map_err(|error| BuildError::Client(error.into()))?;
        let fingerprint = fingerprint(&request, addresses.first(), namespace.as_ref());
        let transport = Transport::new(Settings {
            addresses: Arc::new(addresses),
            namespace,
            tls,
            connect_timeout: positive("connect_timeout", self.connect_timeout)?,
            request_timeout: positive("request_timeout", self.request_timeout)?,
        })
        .map_err(|error| BuildError::Client(error.into()))?;
        let transport = Arc::new(transport);
        let tokens = Arc::new(Tokens::new(auth.checked()?));
        let revocations = self.revoke.then(|| {
            let (transport, tokens) = (Arc::clone(&transport), Arc::clone(&tokens));
            Revocations::new(transport, tokens, request.mount.clone())
        });
        Ok(VaultPki {
            transport,
            tokens,
            request,
            params,
            roots: match server_roots.transpose()? {
                Some((_, list)) => Roots::Fixed(list),
                None => Roots::Followed(Box::default()),
            },
            revocations,
            fingerprint,
            warnings: Warnings::default(),
        })
    }
}

impl fmt::Debug for VaultPkiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultPkiBuilder")
            .field("auth", &self.auth)
            .field("namespace", &self.namespace)
            .field("request", &self.request)
            // No address: until it is checked, it may hold a password.
            .finish_non_exhaustive()
    }
}

/// Why [`VaultPkiBuilder::build`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting without a default was not set.
    #[error("{field} is not set")]
    Missing {
        /// The setter's name.
        field: &'static str,
    },
    /// A setting that cannot be used.
    #[error("{field} is {got:?}: it takes {takes}")]
    Setting {
        /// The setter's name.
        field: &'static str,
        /// The value it got, or what it is.
        got: String,
        /// What it takes.
        takes: &'static str,
    },
    /// A secret that cannot be used; its value is not shown.
    #[error("{field} holds {problem}")]
    Secret {
        /// Which part of [`Auth`] it is.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A variable that [`VaultPki::from_env`] does not take.
    #[error("the variable {name} cannot be used")]
    Variable {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// TLS or HTTP could not be set up with these settings.
    #[error("the connection to vault could not be set up")]
    Client(#[source] Box<dyn Error + Send + Sync>),
}

fn setting(field: &'static str, got: impl Into<String>, takes: &'static str) -> BuildError {
    BuildError::Setting {
        field,
        got: got.into(),
        takes,
    }
}

pub(crate) fn address(text: &str) -> Result<Url, BuildError> {
    const FIELD: &str = "address";
    const TAKES: &str = "a URL such as https://vault.example:8200";
    let url = Url::parse(text).map_err(|_unparsed| {
        // Not parsed, so a password in it cannot be told apart.
        let shown = if text.contains('@') {
            "not a URL"
        } else {
            text
        };
        setting(FIELD, shown, TAKES)
    })?;
    // Before anything shows it: it may hold a password.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BuildError::Secret {
            field: FIELD,
            problem: "a user name or password; the credential goes into auth".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() || !url.has_host() {
        return Err(setting(FIELD, text, TAKES));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_this_machine(&url) => Ok(url),
        _ => Err(setting(
            FIELD,
            text,
            "https; http only for localhost, 127.0.0.1 or [::1], since a token travels in it",
        )),
    }
}

fn distinct(list: Vec<Url>) -> Result<Addresses, BuildError> {
    for (i, url) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.origin() == url.origin()) {
            let takes = "each host and port once";
            return Err(setting("address", url.as_str(), takes));
        }
    }
    Ok(Addresses::new(list))
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A mount: one or more segments, none of which changes what the URL means.
pub(crate) fn path(field: &'static str, text: String) -> Result<String, BuildError> {
    let trimmed = text.trim_matches('/');
    let is_plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .chars()
                .all(|c| c.is_ascii_graphic() && !r"?#%\".contains(c))
    };
    if trimmed.split('/').all(is_plain) {
        return Ok(trimmed.to_owned());
    }
    Err(setting(
        field,
        text,
        r"a path such as pki_int, without empty or dotted segments, spaces, ?, #, % or \",
    ))
}

fn checked(request: CertRequest) -> Result<CertRequest, BuildError> {
    let missing = |field| Err(BuildError::Missing { field });
    if request.mount.is_empty() {
        return missing("mount");
    }
    if request.role.is_empty() {
        return missing("role");
    }
    let san = request.dns.len() + request.ip.len() + request.uri.len();
    if request.common_name.is_none() && san == 0 {
        return missing("common_name");
    }
    if let Some(name) = &request.common_name
        && (name.is_empty() || name.chars().any(char::is_control))
    {
        let takes = "a name without control characters";
        return Err(setting("common_name", name, takes));
    }
    if let Some(ttl) = request.ttl
        && (ttl.is_zero() || ttl.subsec_nanos() != 0)
    {
        let takes = "whole seconds, at least one";
        return Err(setting("ttl", format!("{ttl:?}"), takes));
    }
    if request.role.contains('/') {
        return Err(setting("role", request.role, "a name without a slash"));
    }
    if let Some(issuer) = &request.issuer
        && issuer.contains('/')
    {
        return Err(setting("issuer", issuer, "a name or id without a slash"));
    }
    if request.key_from == KeyFrom::Vault {
        request.no_comma()?;
    }
    Ok(CertRequest {
        issuer: request
            .issuer
            .map(|issuer| path("issuer", issuer))
            .transpose()?,
        mount: path("mount", request.mount)?,
        role: path("role", request.role)?,
        ..request
    })
}

fn key_from(kind: Option<KeyType>, issue: bool) -> Result<KeyFrom, BuildError> {
    match kind {
        Some(kind) if issue => {
            let takes = "nothing with issue: there the role decides";
            Err(setting("key_type", format!("{kind:?}"), takes))
        }
        Some(kind) if kind.is_rsa() && !cfg!(feature = "aws-lc-rs") => {
            let takes = "RSA only with the feature aws-lc-rs";
            Err(setting("key_type", format!("{kind:?}"), takes))
        }
        None if issue => Ok(KeyFrom::Vault),
        kind => Ok(KeyFrom::Here(kind.unwrap_or_default())),
    }
}

pub(crate) fn namespace(text: &str) -> Result<HeaderValue, BuildError> {
    let takes = "a path of visible ASCII characters";
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() || !trimmed.chars().all(|c| c.is_ascii_graphic()) {
        return Err(setting("namespace", text, takes));
    }
    HeaderValue::from_str(trimmed).map_err(|_unsendable| setting("namespace", text, takes))
}

pub(crate) type Trusted = (RootCertStore, Vec<CertificateDer<'static>>);

/// The parser's errors quote the text they stumbled on, which may be a key: not kept.
pub(crate) fn trusted(field: &'static str, pem: &[u8]) -> Result<Trusted, BuildError> {
    let takes = "one or more CA certificates in PEM";
    let bytes = || format!("{} bytes", pem.len());
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_may_quote_a_key| setting(field, bytes(), takes))?;
    if list.is_empty() {
        return Err(setting(field, bytes(), takes));
    }
    let mut store = RootCertStore::empty();
    for (i, root) in list.iter().enumerate() {
        store
            .add(root.clone())
            .map_err(|error| setting(field, format!("certificate {i}: {error}"), takes))?;
    }
    Ok((store, list))
}

fn positive(field: &'static str, timeout: Duration) -> Result<Duration, BuildError> {
    if timeout.is_zero() {
        let takes = "a time longer than zero";
        return Err(setting(field, format!("{timeout:?}"), takes));
    }
    Ok(timeout)
}

/// Of several addresses the first one stands for the Vault, whatever nodes are added or leave.
fn fingerprint(request: &CertRequest, base: &Url, namespace: Option<&HeaderValue>) -> Fingerprint {
    let namespace = namespace.and_then(|value| value.to_str().ok());
    request.fingerprint(base.as_str(), namespace.unwrap_or_default())
}
