use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::digest::digest;

#[cfg(feature = "encrypted-keys")]
pub(crate) mod encrypted;
mod error;
pub(crate) mod formats;
pub(crate) mod pem;

pub use error::{MaterialError, Part};

/// Chain, key and trust roots as one fetch delivered them.
///
/// All three belong together: they are checked together and swapped together. The private key
/// is wiped from memory when the material is dropped.
pub struct CertMaterial {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    roots: Vec<CertificateDer<'static>>,
    anchoring: Anchoring,
    obtained_at: Option<SystemTime>,
    warnings: Vec<String>,
    guard: Option<Guard>,
}

/// Dropped with the last holder of what came with it.
pub(crate) type Guard = Arc<dyn Any + Send + Sync>;

/// Whether the roots are meant to issue the leaf too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchoring {
    /// The CA of clients and the CA of servers may differ: the roots only verify servers.
    ServersOnly,
    /// One PKI for both: a leaf that the roots do not reach is a mistake.
    RootsIssueLeaf,
}

#[derive(Clone)]
pub(crate) enum Key {
    Der(Arc<Zeroizing<PrivateKeyDer<'static>>>),
    Signer(Arc<dyn SigningKey>),
}

impl CertMaterial {
    /// Takes PEM texts: a leaf-first chain, one private key, one or more roots.
    ///
    /// The key may be PKCS#1, SEC1 or PKCS#8. Text between PEM blocks and other kinds of block
    /// are passed over.
    ///
    /// # Errors
    /// - [`MaterialError::Pem`], [`MaterialError::CutOff`]: a text is not well-formed PEM.
    /// - [`MaterialError::Missing`], [`MaterialError::OtherKind`]: a text holds no block of the
    ///   kind it should.
    /// - [`MaterialError::Encrypted`]: the key needs a passphrase.
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
        let key = formats::pem_private_key(key.as_ref(), &formats::closed)?;
        Self::from_der(
            formats::pem_certificates(Part::Chain, chain.as_ref())?,
            key,
            formats::pem_certificates(Part::Roots, roots.as_ref())?,
        )
    }

    /// Takes each part in whatever encoding it has: PEM, DER, or DER in base64.
    ///
    /// A part in DER is one certificate or one key. What a part is encoded in is found out from
    /// its bytes; each may be another.
    ///
    /// # Errors
    /// As [`CertMaterial::from_pem`], and [`MaterialError::Encoding`]: a part is none of the three.
    pub fn from_bytes(
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        roots: impl AsRef<[u8]>,
    ) -> Result<Self, MaterialError> {
        let key = formats::private_key(key.as_ref(), &formats::closed)?;
        Self::from_der(
            formats::certificates(Part::Chain, chain.as_ref())?,
            key,
            formats::certificates(Part::Roots, roots.as_ref())?,
        )
    }

    /// Takes DER: a leaf-first chain, one private key, one or more roots.
    ///
    /// # Errors
    /// [`MaterialError::Missing`]: the chain or the roots are empty.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        Self::new(chain, Key::Der(Arc::new(Zeroizing::new(key))), roots)
    }

    /// Takes a key that never leaves its device: only its signer is held.
    ///
    /// # Errors
    /// [`MaterialError::Missing`]: the chain or the roots are empty.
    pub fn with_signing_key(
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
            return Err(MaterialError::Missing { part: Part::Chain });
        }
        if roots.is_empty() {
            return Err(MaterialError::Missing { part: Part::Roots });
        }
        Ok(Self {
            chain,
            key,
            roots,
            anchoring: Anchoring::ServersOnly,
            obtained_at: None,
            warnings: Vec::new(),
            guard: None,
        })
    }

    /// Says that the roots issue the leaf, so that a leaf they do not reach is refused.
    #[must_use]
    pub fn roots_issue_leaf(mut self) -> Self {
        self.anchoring = Anchoring::RootsIssueLeaf;
        self
    }

    /// Says when it was issued to this service, if that is not now.
    ///
    /// For a source that delivers what was kept from an earlier run: the renewal point is counted
    /// from here, so that it does not move with restarts. Wall clock.
    #[must_use]
    pub fn obtained_at(mut self, at: SystemTime) -> Self {
        self.obtained_at = Some(at);
        self
    }

    /// Keeps what the CA said beside the certificate, such as that it shortened its life.
    ///
    /// For people to read, in [`CertStatus::warnings`](crate::CertStatus::warnings). Must hold no
    /// secret. Not part of the material: other warnings alone publish nothing.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// Keeps this until the last holder of the snapshot lets go, then drops it.
    ///
    /// For a source that has something to do once nobody uses the certificate any more, such as
    /// revoking it. Its `Drop` runs wherever the last holder is: it must not block. A config that
    /// was cloned out of the snapshot does not hold it.
    #[must_use]
    pub fn with_guard(mut self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The same certificate and key with these roots.
    pub(crate) fn with_other_roots(
        &self,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, MaterialError> {
        let mut other = Self::new(self.chain.clone(), self.key.clone(), roots)?;
        other.anchoring = self.anchoring;
        other.obtained_at = self.obtained_at;
        other.warnings.clone_from(&self.warnings);
        other.guard.clone_from(&self.guard);
        Ok(other)
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The trust roots for verifying servers.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// What [`CertMaterial::with_warnings`] said.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What [`CertMaterial::obtained_at`] said.
    pub(crate) fn when_obtained(&self) -> Option<SystemTime> {
        self.obtained_at
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The first certificate of the chain, which is never empty.
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    pub(crate) fn anchoring(&self) -> Anchoring {
        self.anchoring
    }

    /// A digest over chain, key and roots: equal material publishes nothing.
    pub(crate) fn digest(&self) -> [u8; 32] {
        // A signer shows only its public half; the chain tells generations of it apart.
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
