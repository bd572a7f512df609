use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

use crate::access::{Access, AccessSettings};
use crate::answer::LastAboveLeaf;
use crate::auth::Auth;
use crate::key::KeyType;
use crate::pki::{Roots, VaultPki, Warnings};
use crate::request::CertRequest;
use crate::revocation::Revocations;

mod checks;
pub use checks::BuildError;
pub(crate) use checks::{address, distinct, namespace, path, positive, setting, trusted};
use checks::{checked, fingerprint, key_from};

/// Settings of a [`VaultPki`].
///
/// # Defaults
/// The platform's trust roots; no namespace; no names (at least one must be set); the role's own
/// `ttl` and issuer; `sign`, with a key of [`KeyType::EcP256`]; server roots those of
/// the mount's issuers; [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT),
/// [`REQUEST_TIMEOUT`](crate::REQUEST_TIMEOUT); the crypto provider of the feature that is on.
/// `auth`, `mount` and `role` have none and must be set; after [`VaultPki::another`], `mount` and
/// `role`.
#[must_use]
pub struct VaultPkiBuilder {
    access: AccessSettings,
    /// That of another source, in place of one of its own.
    shared: Option<Access>,
    request: CertRequest,
    key_type: Option<KeyType>,
    issue: bool,
    server_roots_pem: Option<Vec<u8>>,
    revoke: bool,
}

impl VaultPkiBuilder {
    pub(crate) fn new(address: String) -> Self {
        Self::with(None).address(address)
    }

    pub(crate) fn sharing(access: Access) -> Self {
        Self::with(Some(access))
    }

    fn with(shared: Option<Access>) -> Self {
        Self {
            access: AccessSettings::default(),
            shared,
            request: CertRequest::default(),
            key_type: None,
            issue: false,
            server_roots_pem: None,
            revoke: false,
        }
    }

    /// One more address of the same Vault, such as another node of its cluster.
    ///
    /// The one that served last is asked first; where it cannot serve, the next one is, each at
    /// most once in a fetch. What a *refusal* says holds for all of them, so no other is asked.
    /// Redirects between addresses are followed. Each name is resolved anew for each connection.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.access.addresses.push(address.into());
        self
    }

    /// The CA, or several, of Vault's own server certificate; then no other is trusted.
    ///
    /// Without it the platform's roots are trusted. On Linux these are where OpenSSL has them,
    /// or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say: the only variables that have a say in
    /// what is trusted, and none once a CA is given here.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.access.ca_pem = Some(pem.as_ref().to_vec());
        self
    }

    /// The namespace (OpenBao, Vault Enterprise) in which login and mount are.
    pub fn namespace(mut self, path: impl Into<String>) -> Self {
        self.access.namespace = Some(path.into());
        self
    }

    /// How this program proves who it is.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.access.auth = Some(auth);
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
        self.access.connect_timeout = Some(timeout);
        self
    }

    /// How long one request may take at one address, from connecting to the last byte.
    ///
    /// A fetch that asks every address in vain takes that long for each, which should stay below
    /// the renewer's [fetch timeout](perennial::LiveCertBuilder::fetch_timeout).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.access.request_timeout = Some(timeout);
        self
    }

    /// The crypto provider of the connection to Vault.
    ///
    /// The certificate's key is made by the feature that is on, aws-lc-rs where both are.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.access.provider = Some(provider);
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
        let request = checked(CertRequest {
            key_from: key_from(self.key_type, self.issue)?,
            ..self.request
        })?;
        let params = request.params()?;
        let server_roots = self
            .server_roots_pem
            .as_deref()
            .map(|pem| trusted("server_roots_pem", pem));
        let roots = match server_roots.transpose()? {
            Some((_, list)) => Roots::Fixed(list),
            None => Roots::Followed(Box::default()),
        };
        let access = match self.shared {
            None => self.access.open()?,
            Some(shared) => self.access.yield_to(shared)?,
        };
        Ok(VaultPki {
            fingerprint: fingerprint(&request, &access.transport),
            revocations: self
                .revoke
                .then(|| Revocations::new(access.clone(), request.mount.clone())),
            access,
            request,
            params,
            roots,
            warnings: Warnings::default(),
            last: LastAboveLeaf::default(),
        })
    }
}

impl fmt::Debug for VaultPkiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultPkiBuilder")
            .field("auth", &self.access.auth)
            .field("namespace", &self.access.namespace)
            .field("request", &self.request)
            // No address: until it is checked, it may hold a password.
            .finish_non_exhaustive()
    }
}
