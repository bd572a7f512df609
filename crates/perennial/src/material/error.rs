use std::time::SystemTime;

use super::usage::Usage;

/// The parts of [`CertMaterial`](crate::CertMaterial), as errors name them.
pub(crate) mod part {
    pub(crate) const CHAIN: &str = "certificate chain";
    pub(crate) const KEY: &str = "private key";
    pub(crate) const ROOTS: &str = "list of trust roots";
}

/// Why material cannot be used.
///
/// Never contains a byte of the private key. Lines are counted from 1, certificates from 0.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// Neither PEM nor DER nor DER in base64.
    #[error("the {part} is neither PEM nor DER: {problem}")]
    Encoding {
        /// The part at fault.
        part: &'static str,
        /// What was found instead.
        problem: &'static str,
    },
    /// A text is not well-formed PEM.
    #[error("the {part} is malformed PEM: line {line}: {problem}")]
    Pem {
        /// The part at fault.
        part: &'static str,
        /// The line at fault.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A text ends within a PEM block, as when its writer has not finished.
    #[error("the {part} is cut off: the block that begins in line {line} has no END line")]
    CutOff {
        /// The part at fault.
        part: &'static str,
        /// The line in which the block begins.
        line: usize,
    },
    /// A part is empty.
    #[error("the {part} is empty")]
    Missing {
        /// The part at fault.
        part: &'static str,
    },
    /// A part contains something else, as when two files were swapped.
    #[error("the {part} is missing: line {line} begins {found}")]
    OtherKind {
        /// The part at fault.
        part: &'static str,
        /// The line of the first block that was found.
        line: usize,
        /// What that block is.
        found: &'static str,
    },
    /// A part is something else as a whole, such as a container that must be converted.
    #[error("the {part} is missing: found {found}")]
    OtherContent {
        /// The part at fault.
        part: &'static str,
        /// What it is, and what to do.
        found: &'static str,
    },
    /// A part in DER ends too early, as when its writer has not finished.
    #[error("the {part} is cut off: its DER is shorter than it declares")]
    Truncated {
        /// The part at fault.
        part: &'static str,
    },
    /// The private key is encrypted and could not be decrypted.
    #[error("the private key is encrypted: {problem}")]
    Encrypted {
        /// Why it could not be decrypted, and what to do.
        problem: String,
    },
    /// A part is PKCS#12, and what is needed of it cannot be read.
    #[error("the {part} cannot be read from PKCS#12: {problem}")]
    Pkcs12 {
        /// The part at fault.
        part: &'static str,
        /// Why not, and what to do.
        problem: String,
    },
    /// A certificate of a part cannot be parsed.
    #[error("certificate {index} of the {part} is malformed: {problem}")]
    Certificate {
        /// The part at fault.
        part: &'static str,
        /// The certificate's place in that part.
        index: usize,
        /// The parser's reason.
        problem: String,
    },
    /// A single certificate cannot be parsed.
    #[error("the certificate is malformed: {problem}")]
    Malformed {
        /// The parser's reason.
        problem: String,
    },
    /// The provider cannot use the private key.
    #[error("the crypto provider cannot use the private key")]
    Key(#[source] rustls::Error),
    /// The private key is that of none of the chain's certificates.
    #[error(
        "the private key does not match the certificate {first}{}",
        match certificates { 0 | 1 => String::new(), all => format!(" nor any other of the chain's {all}") }
    )]
    KeyMismatch {
        /// The subject of the first certificate, escaped and cut.
        first: String,
        /// How many certificates the chain has, without duplicates.
        certificates: usize,
    },
    /// The leaf is for none of what it is used for: every peer would refuse it.
    #[error("the extended key usage of {subject} allows {allows}, but it is used as {used_as}")]
    WrongUsage {
        /// The leaf's subject, escaped and cut.
        subject: String,
        /// What its extended key usage allows.
        allows: String,
        /// What it is used for.
        used_as: Usage,
    },
    /// The leaf of a server has no name that clients could verify.
    #[error(
        "{subject} has no DNS name, IP address or URI as subject alternative name, so that no client \
         accepts it as a server's: request it with the names that clients dial"
    )]
    NoServerName {
        /// The leaf's subject, escaped and cut.
        subject: String,
    },
    /// Asked to serve with a certificate that is not used as a server's.
    #[error(
        "the certificate is used as {used_as}; to serve with it, start it with Usage::Server or Usage::Both"
    )]
    NotServing {
        /// What it is used for.
        used_as: Usage,
    },
    /// The roots must issue the leaf, but no verified path leads from it to them.
    #[error("the chain of {subject} does not verify with its roots")]
    Chain {
        /// The leaf's subject, escaped and cut.
        subject: String,
        /// What the verifier found.
        #[source]
        cause: rustls::Error,
    },
    /// There are no roots to verify servers with.
    #[error(
        "there are no roots to verify servers with (deliver some, or set TlsSettings::server_roots or system_roots)"
    )]
    NoRoots,
    /// There are no roots to verify clients with.
    #[error(
        "there are no roots to verify clients with (deliver some, or serve with ClientAuth::None)"
    )]
    NoClientRoots,
    /// The private key is held by a signer, such as a device.
    #[cfg(feature = "export")]
    #[error("the private key stays with its signer and cannot be exported: take a rustls config")]
    KeyOfSigner,
    /// No verifier for servers could be made with the roots.
    #[error("failed to make a verifier for servers with the trust roots")]
    ServerVerifier(#[source] rustls::Error),
    /// The chain is not valid yet by our clock.
    #[error(
        "the certificate is not valid before {not_before:?} by this machine's clock, which may be \
         behind: check its time synchronisation"
    )]
    NotYetValid {
        /// The latest `not_before` of the chain, wall clock.
        not_before: SystemTime,
    },
    /// The chain has expired by our clock.
    #[error("{} expired at {not_after:?} by this machine's clock", limited_by.as_deref().unwrap_or("the certificate"))]
    Expired {
        /// The earliest `not_after` of the chain, wall clock.
        not_after: SystemTime,
        /// The issuer in the chain that expired first, unless it was the leaf.
        limited_by: Option<String>,
    },
}

impl MaterialError {
    /// Whether waiting alone can cure it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotYetValid { .. })
    }
}
