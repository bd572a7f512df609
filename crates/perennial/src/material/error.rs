use std::fmt;
use std::time::SystemTime;

/// A part of [`CertMaterial`](crate::CertMaterial), named in errors.
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
    /// Neither PEM nor DER nor DER in base64.
    #[error("the {part} is no PEM and no DER: {problem}")]
    Encoding {
        /// The part at fault.
        part: Part,
        /// What it is instead.
        problem: &'static str,
    },
    /// A text is not well-formed PEM.
    #[error("the {part} is not readable as PEM: line {line}: {problem}")]
    Pem {
        /// The text at fault.
        part: Part,
        /// The line at fault, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A text ends within a PEM block, as when its writer is halfway through.
    #[error("the {part} is cut off: the block that begins in line {line} has no end")]
    CutOff {
        /// The text at fault.
        part: Part,
        /// The line in which the block begins, counted from 1.
        line: usize,
    },
    /// A part is not there at all.
    #[error("the {part} holds nothing of its kind")]
    Missing {
        /// The part at fault.
        part: Part,
    },
    /// A part holds something else instead, as when two files were swapped.
    #[error("the {part} is not there: line {line} begins {found} instead")]
    OtherKind {
        /// The part at fault.
        part: Part,
        /// The line of the first block that is there, counted from 1.
        line: usize,
        /// What that block is.
        found: &'static str,
    },
    /// The private key is encrypted and could not be opened.
    #[error("the private key is encrypted: {problem}")]
    Encrypted {
        /// Why it could not be opened, and what to do.
        problem: &'static str,
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
    /// The first certificate of the chain is not for TLS clients: every server would refuse it.
    #[error("the certificate's extended key usage does not allow a TLS client")]
    NotForClients,
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
    #[error("{} expired at {not_after:?}", limited_by.as_deref().unwrap_or("the certificate"))]
    Expired {
        /// The earliest `not_after` of the chain, wall clock.
        not_after: SystemTime,
        /// The issuer in the chain that expired first, if it was not the leaf.
        limited_by: Option<String>,
    },
}

impl MaterialError {
    /// Whether waiting alone can cure it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotYetValid { .. })
    }
}
