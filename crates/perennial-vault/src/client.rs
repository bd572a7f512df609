//! [`Vault`]: connections to the addresses of one Vault, and the token in use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

use crate::error::{Problem, VaultError};
use crate::http::{
    self, Addresses, CONNECT_TIMEOUT, REQUEST_TIMEOUT, Transport, TransportSettings,
};
use crate::login::{Auth, Tokens};
use crate::settings;

/// A Vault or OpenBao server or cluster: one login and one connection pool.
///
/// [`pki`](Self::pki) builds a certificate source; call it again for another certificate. All
/// sources of one `Vault` and its clones share the token: the first that needs one logs in for all.
/// A source that is shut down during a login cancels it, which may use up a credential that is
/// valid for a single login. With [`Auth::tls_certificate`] each source logs in for itself.
///
/// # Example
/// ```
/// use perennial_vault::{Auth, Vault};
///
/// # fn main() -> Result<(), perennial_vault::VaultError> {
/// let vault = Vault::builder("https://vault.example:8200")
///     .auth(Auth::token("from a safe place"))
///     .build()?;
/// let app = vault.pki("pki_int").role("app").common_name("app").build()?;
/// let jobs = vault.pki("pki_int").role("jobs").common_name("jobs").build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Vault {
    pub(crate) transport: Arc<Transport>,
    pub(crate) tokens: Arc<Tokens>,
}

impl Vault {
    /// Starts with the address: `https://host:8200`, with a path if a proxy adds one.
    ///
    /// Plain `http` is accepted only for this machine itself (`localhost`, `127.0.0.1`, `[::1]`).
    pub fn builder(address: impl Into<String>) -> VaultBuilder {
        let builder = VaultBuilder {
            addresses: Vec::new(),
            ca_pem: None,
            namespace: None,
            auth: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            provider: None,
        };
        builder.address(address)
    }

    /// The access of one more source.
    pub(crate) fn for_source(&self) -> Self {
        Self {
            transport: Arc::clone(&self.transport),
            tokens: Tokens::for_source(&self.tokens),
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("addresses", &self.transport.addresses().collect::<Vec<_>>())
            .field("namespace", &self.transport.namespace())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`Vault`].
///
/// # Defaults
/// The platform's trust roots, no namespace, 5 s to connect and 5 s for a request, and the crypto
/// provider of the enabled feature. [`auth`](Self::auth) has no default and must be set.
#[must_use]
pub struct VaultBuilder {
    addresses: Vec<String>,
    ca_pem: Option<Vec<u8>>,
    namespace: Option<String>,
    auth: Option<Auth>,
    connect_timeout: Duration,
    request_timeout: Duration,
    provider: Option<Arc<CryptoProvider>>,
}

impl VaultBuilder {
    /// Adds an address of the same Vault, such as another node of its cluster.
    ///
    /// Each fetch starts with the address that answered last, and asks the next one where an
    /// address cannot serve, each at most once. A *refusal* holds for all addresses, so no other is
    /// asked. Redirects between addresses are followed, at most two for each request. Each name is
    /// resolved again for each connection.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// The CAs of Vault's own server certificate; no others are trusted then.
    ///
    /// # Defaults
    /// The platform's roots. On Linux these are where OpenSSL has them, or where `SSL_CERT_FILE`
    /// and `SSL_CERT_DIR` point: the only variables that influence what is trusted, and only
    /// without this setting.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca_pem = Some(pem.as_ref().to_vec());
        self
    }

    /// The namespace (OpenBao, Vault Enterprise) of the login and of the mounts.
    pub fn namespace(mut self, path: impl Into<String>) -> Self {
        self.namespace = Some(path.into());
        self
    }

    /// How this program logs in.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// The longest time to establish a connection, TLS included.
    ///
    /// # Defaults
    /// 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest time for a request at one address, from connecting to the last byte.
    ///
    /// A fetch for which no address answers takes that long for each of them, twice if the token is
    /// due for renewal. Keep the sum below the renewer's
    /// [fetch timeout](perennial::LiveCertBuilder::fetch_timeout).
    ///
    /// # Defaults
    /// 5 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The crypto provider of the connection to Vault.
    ///
    /// The certificate's key is generated by the enabled feature, aws-lc-rs where both are.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Checks the settings; connects to no server and reads no file.
    ///
    /// # Errors
    /// [`VaultError`], whose text names the setting: `auth` is not set, a value is not accepted
    /// (with what is expected, but never with a secret), or TLS cannot be set up, as without any
    /// platform root.
    pub fn build(self) -> Result<Vault, VaultError> {
        Ok(self.checked()?)
    }

    fn checked(self) -> Result<Vault, Problem> {
        let addresses = settings::addresses(&self.addresses)?;
        let auth = self.auth.ok_or(Problem::Missing("auth"))?;
        let namespace = self.namespace.as_deref().map(settings::namespace);
        let ca = self.ca_pem.as_deref();
        let roots = ca.map(|pem| settings::roots("ca_pem", pem)).transpose()?;
        let provider = self.provider.unwrap_or_else(http::default_provider);
        let tls = http::client_config(provider, roots.map(|(store, _)| store))
            .map_err(|error| Problem::Client(error.into()))?;
        let transport = Transport::new(TransportSettings {
            namespace: namespace.transpose()?,
            tls,
            connect_timeout: settings::timeout("connect_timeout", self.connect_timeout)?,
            request_timeout: settings::timeout("request_timeout", self.request_timeout)?,
            addresses: Arc::new(Addresses::new(addresses)),
        })
        .map_err(|error| Problem::Client(error.into()))?;
        Ok(Vault {
            transport: Arc::new(transport),
            tokens: Arc::new(Tokens::new(auth.checked()?)),
        })
    }
}

impl fmt::Debug for VaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultBuilder")
            .field("auth", &self.auth)
            .field("namespace", &self.namespace)
            // No address: before the check, it may hold a password.
            .finish_non_exhaustive()
    }
}
