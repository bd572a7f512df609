use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::SigningKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::source::digest;

/// Chain, key and trust roots as one fetch delivered them.
///
/// All three belong together: they are checked together and swapped together. The private key
/// is wiped from memory when the material is dropped.
pub struct CertMaterial {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    roots: Vec<CertificateDer<'static>>,
    anchoring: Anchoring,
}

/// Whether the roots are meant to issue the leaf too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchoring {
    /// The CA of clients and the CA of servers may differ: the roots only verify servers.
    ServersOnly,
    /// One PKI for both: a leaf that the roots do not reach is a mistake.
    RootsIssueLeaf,
}

pub(crate) enum Key {
    Der(Zeroizing<PrivateKeyDer<'static>>),
    Signer(Arc<dyn SigningKey>),
}

impl CertMaterial {
    /// Takes PEM texts: a leaf-first chain, one private key, one or more roots.
    ///
    /// The key may be PKCS#1, SEC1 or PKCS#8. Text between PEM blocks and other kinds of block
    /// are passed over.
    ///
    /// # Errors
    /// - [`MaterialError::Pem`]: a text is not PEM or ends within a block.
    /// - [`MaterialError::Missing`]: a text holds no block of the kind it should.
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
        let key = PrivateKeyDer::from_pem_slice(key.as_ref())
            .map_err(|error| unreadable(Part::Key, &error))?;
        Self::from_der(
            certificates(Part::Chain, chain.as_ref())?,
            key,
            certificates(Part::Roots, roots.as_ref())?,
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
        Self::new(chain, Key::Der(Zeroizing::new(key)), roots)
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
        })
    }

    /// Says that the roots issue the leaf, so that a leaf they do not reach is refused.
    #[must_use]
    pub fn roots_issue_leaf(mut self) -> Self {
        self.anchoring = Anchoring::RootsIssueLeaf;
        self
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The trust roots for verifying servers.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
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

    pub(crate) fn into_parts(self) -> Parts {
        Parts {
            chain: self.chain,
            key: self.key,
            roots: self.roots,
            anchoring: self.anchoring,
        }
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

pub(crate) struct Parts {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Key,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) anchoring: Anchoring,
}

/// A part of [`CertMaterial`], named in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The leaf-first certificate chain.
    Chain,
    /// The private key.
    Key,
    /// The trust roots.
    Roots,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "certificate chain",
            Self::Key => "private key",
            Self::Roots => "trust roots",
        })
    }
}

/// Why material cannot be used.
///
/// Never holds a byte of the private key.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// A text is not PEM.
    #[error("the {part} is not readable as PEM: {problem}")]
    Pem {
        /// The text at fault.
        part: Part,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A part is not there at all.
    #[error("the {part} holds nothing of its kind")]
    Missing {
        /// The part at fault.
        part: Part,
    },
    /// A certificate cannot be parsed.
    #[error("certificate {index} of the {part} is malformed: {problem}")]
    Certificate {
        /// The part at fault.
        part: Part,
        /// Its place in that part, counted from 0.
        index: usize,
        /// What the parser said.
        problem: String,
    },
    /// The provider cannot use the private key.
    #[error("the private key is not usable")]
    Key(#[source] rustls::Error),
    /// The private key belongs to another certificate, or the leaf is not first.
    #[error("the private key does not match the first certificate of the chain")]
    KeyMismatch,
    /// A certificate was not issued by the one that follows it.
    #[error("certificate {index} of the chain was not issued by the one after it")]
    BrokenLink {
        /// The place of the certificate at fault, counted from 0.
        index: usize,
    },
    /// The chain does not verify as a client's.
    #[error("the certificate chain does not verify")]
    Chain(#[source] rustls::Error),
    /// The chain's validity has not begun by our clock.
    #[error("the certificate is not valid before {not_before:?}")]
    NotYetValid {
        /// The latest `not_before` of the chain, wall clock.
        not_before: SystemTime,
    },
    /// The chain's validity is over by our clock.
    #[error("the certificate expired at {not_after:?}")]
    Expired {
        /// The earliest `not_after` of the chain, wall clock.
        not_after: SystemTime,
    },
}

impl MaterialError {
    /// Whether waiting alone can cure it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotYetValid { .. })
    }
}

fn certificates(part: Part, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(part, &error))?;
    if found.is_empty() {
        return Err(MaterialError::Missing { part });
    }
    Ok(found)
}

/// The parser's own errors quote the text they stumbled on, which may be key bytes: not kept.
fn unreadable(part: Part, error: &pem::Error) -> MaterialError {
    let problem = match error {
        pem::Error::NoItemsFound => return MaterialError::Missing { part },
        pem::Error::MissingSectionEnd { .. } => "a block has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a block is not base64",
        _ => "the text is malformed",
    };
    MaterialError::Pem { part, problem }
}
