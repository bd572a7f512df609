use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::digest::digest;

mod certificate;
pub(crate) mod chain;
#[cfg(feature = "encrypted-keys")]
mod closed;
#[cfg(feature = "encrypted-keys")]
mod encrypted;
mod error;
pub(crate) mod formats;
mod kind;
#[cfg(feature = "pkcs12")]
mod pbe;
pub(crate) mod pem;
#[cfg(feature = "pkcs12")]
mod pkcs12;
mod usage;

pub use certificate::{Certificate, Names, Serial};
pub(crate) use certificate::{Form, PublicKey, folded_der};
pub use error::MaterialError;
pub(crate) use error::part;
pub use usage::Usage;

/// A private key that is wiped when dropped, on every path.
pub(crate) type SecretKey = Zeroizing<PrivateKeyDer<'static>>;

/// Chain, key and trust roots as one fetch delivered them.
///
/// The chain is a set: the leaf is the certificate whose key is the private key, and of several the
/// first that is valid now. More than 256 certificates are refused. Presented are the leaf, its
/// path and the others, each once and without self-signed ones: at most 64, of 64 KiB. What some
/// servers may refuse is a warning in [`CertStatus::warnings`](crate::CertStatus::warnings): the
/// server decides.
///
/// They are checked and replaced together. The private key is wiped from memory when the material
/// is dropped.
pub struct CertMaterial {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    roots: Vec<CertificateDer<'static>>,
    /// One PKI for clients and servers; if not, the roots verify servers alone.
    roots_issue_leaf: bool,
    obtained_at: Option<SystemTime>,
    issuers_clock: Option<SystemTime>,
    warnings: Vec<String>,
    /// The file or variable of the chain.
    origin: Option<Arc<str>>,
    guard: Option<Guard>,
}

/// Dropped with the last snapshot or material that holds it.
pub(crate) type Guard = Arc<dyn Any + Send + Sync>;

#[derive(Clone)]
pub(crate) enum Key {
    Der(Arc<Zeroizing<PrivateKeyDer<'static>>>),
    Signer(Arc<dyn SigningKey>),
}

impl CertMaterial {
    /// Takes PEM texts: a chain, one private key, one or more roots.
    ///
    /// The key may be PKCS#1, SEC1 or PKCS#8. Text between PEM blocks and blocks of other kinds are
    /// ignored.
    ///
    /// # Errors
    /// - A text is not well-formed PEM: [`MaterialError::Pem`], [`MaterialError::CutOff`].
    /// - A text has no block of the expected kind: [`MaterialError::Missing`],
    ///   [`MaterialError::OtherKind`].
    /// - The key needs a passphrase: [`MaterialError::Encrypted`].
    ///
    /// # Example
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let read = |name: &str| std::fs::read(format!("/etc/tls/{name}"));
    /// let material =
    ///     perennial::CertMaterial::from_pem(read("tls.crt")?, read("tls.key")?, read("ca.crt")?)?;
    /// # Ok(()) }
    /// ```
    pub fn from_pem(
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        roots: impl AsRef<[u8]>,
    ) -> Result<Self, MaterialError> {
        let key = formats::pem_private_key(key.as_ref(), None)?;
        Self::with_key(
            formats::pem_certificates(part::CHAIN, chain.as_ref())?,
            key,
            formats::pem_certificates(part::ROOTS, roots.as_ref())?,
        )
    }

    /// Takes each part in PEM, in DER, or in DER as base64.
    ///
    /// The encoding of each part is detected from its bytes; the parts may differ. A part in DER is
    /// one certificate or one key.
    ///
    /// # Errors
    /// As [`CertMaterial::from_pem`]. A part in another encoding: [`MaterialError::Encoding`].
    pub fn from_bytes(
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        roots: impl AsRef<[u8]>,
    ) -> Result<Self, MaterialError> {
        let key = formats::private_key(key.as_ref(), None)?;
        Self::with_key(
            formats::certificates(part::CHAIN, chain.as_ref(), None)?,
            key,
            formats::certificates(part::ROOTS, roots.as_ref(), None)?,
        )
    }

    /// As [`CertMaterial::from_bytes`], without roots.
    ///
    /// For a server that verifies no clients ([`Usage::Server`]), and for clients whose
    /// [`TlsSettings`](crate::TlsSettings) bring the roots: `server_roots`, `system_roots`, or a
    /// `server_verifier` that needs none. Other clients refuse it: [`MaterialError::NoRoots`].
    ///
    /// # Errors
    /// As [`CertMaterial::from_bytes`].
    pub fn without_roots(
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, MaterialError> {
        let key = formats::private_key(key.as_ref(), None)?;
        let chain = formats::certificates(part::CHAIN, chain.as_ref(), None)?;
        Self::with_key(chain, key, Vec::new())
    }

    /// Takes DER: the chain, one private key, the roots.
    ///
    /// Without roots, it is as [`CertMaterial::without_roots`].
    ///
    /// # Errors
    /// The chain is empty: [`MaterialError::Missing`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        Self::with_key(chain, Zeroizing::new(key), roots)
    }

    /// As [`from_der`](Self::from_der); the key is wiped on every path.
    pub(crate) fn with_key(
        chain: Vec<CertificateDer<'static>>,
        key: SecretKey,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        Self::new(chain, Key::Der(Arc::new(key)), roots)
    }

    /// Takes a signer instead of a key, for keys that never leave their device.
    ///
    /// If the signer does not reveal its public key, the leaf must be the first certificate.
    ///
    /// # Errors
    /// The chain is empty: [`MaterialError::Missing`].
    pub fn from_signing_key(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        Self::new(chain, Key::Signer(key), roots)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Key,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        if chain.is_empty() {
            return Err(MaterialError::Missing { part: part::CHAIN });
        }
        Ok(Self {
            chain,
            key,
            roots,
            roots_issue_leaf: false,
            obtained_at: None,
            issuers_clock: None,
            warnings: Vec::new(),
            origin: None,
            guard: None,
        })
    }

    /// Declares that the roots issue the leaf: a leaf that no root issued is then refused.
    #[must_use]
    pub fn roots_issue_leaf(mut self) -> Self {
        self.roots_issue_leaf = true;
        self
    }

    /// Sets when the certificate was issued to this service, wall clock.
    ///
    /// For a source that delivers a certificate of an earlier run: the renewal point is counted
    /// from this time, so restarts do not move it.
    ///
    /// # Defaults
    /// When the renewer receives the material.
    #[must_use]
    pub fn obtained_at(mut self, at: SystemTime) -> Self {
        self.obtained_at = Some(at);
        self
    }

    /// Sets what the CA's clock showed when it issued the certificate, if that differs from ours.
    ///
    /// The remaining lifetime is then counted from it, and not from a wall clock that may be wrong.
    ///
    /// # Defaults
    /// This machine's wall clock.
    #[must_use]
    pub fn issuers_clock(mut self, at: SystemTime) -> Self {
        self.issuers_clock = Some(at);
        self
    }

    /// Adds the CA's warnings, for example that it shortened the lifetime.
    ///
    /// For people to read, in [`CertStatus::warnings`](crate::CertStatus::warnings). Must not
    /// contain a secret. A change of the warnings alone publishes nothing.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// Keeps `guard` until the last `Arc` of the snapshot is dropped.
    ///
    /// For a source that must act when the certificate is no longer used, for example revoke it.
    /// The guard's `Drop` runs on the thread that drops the last `Arc`: it must not block. A
    /// config that was cloned out of the snapshot does not keep the guard.
    #[must_use]
    pub fn with_guard(mut self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// Sets from where the chain was read, for warnings.
    pub(crate) fn read_from(mut self, origin: &impl fmt::Display) -> Self {
        self.origin = Some(origin.to_string().into());
        self
    }

    /// From where the chain was read, if that has a name.
    pub(crate) fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The same certificate and key with these roots.
    pub(crate) fn with_other_roots(
        &self,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        let mut other = Self::new(self.chain.clone(), self.key.clone(), roots)?;
        other.roots_issue_leaf = self.roots_issue_leaf;
        other.obtained_at = self.obtained_at;
        other.issuers_clock = self.issuers_clock;
        other.warnings.clone_from(&self.warnings);
        other.origin.clone_from(&self.origin);
        other.guard.clone_from(&self.guard);
        Ok(other)
    }

    /// The certificates, in the order of delivery.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The trust roots for verifying servers.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The CA's warnings; see [`with_warnings`](Self::with_warnings).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The time set with [`CertMaterial::obtained_at`].
    pub(crate) fn when_obtained(&self) -> Option<SystemTime> {
        self.obtained_at
    }

    /// The time set with [`CertMaterial::issuers_clock`].
    pub(crate) fn when_issued(&self) -> Option<SystemTime> {
        self.issuers_clock
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Reads the first certificate of the chain.
    ///
    /// # Errors
    /// It cannot be parsed: [`MaterialError::Certificate`].
    pub fn leaf(&self) -> Result<Certificate, MaterialError> {
        Certificate::in_part(part::CHAIN, 0, self.leaf_der())
    }

    /// The first certificate of the chain, which is never empty.
    pub(crate) fn leaf_der(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    pub(crate) fn roots_must_issue_leaf(&self) -> bool {
        self.roots_issue_leaf
    }

    /// A digest over chain, key and roots: equal material publishes nothing.
    pub(crate) fn digest(&self) -> [u8; 32] {
        // A signer reveals only its public key; the chain distinguishes its generations.
        let public;
        let key: &[u8] = match &self.key {
            Key::Der(der) => der.secret_der(),
            Key::Signer(signer) => {
                public = signer.public_key();
                public.as_deref().unwrap_or_default()
            }
        };
        let certificates =
            |list: &[CertificateDer<'static>]| digest(list.iter().map(AsRef::as_ref));
        let parts = [
            certificates(&self.chain),
            digest([key]),
            certificates(&self.roots),
        ];
        digest(parts.iter().map(<[u8; 32]>::as_slice))
    }
}

impl fmt::Debug for CertMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertMaterial")
            .field("chain", &self.chain.len())
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}
