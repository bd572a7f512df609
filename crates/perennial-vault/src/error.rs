use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use perennial::{MaterialError, SourceError};

use crate::outcome::Verdict;

/// Why Vault delivered no certificate: the cause within a [`SourceError`].
///
/// Holds no token, credential, key or raw body; of a refusal, Vault's own `errors` strings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// Vault refused, or could not do it.
    #[error(
        "vault answered {step} to {path} with status {status}{} ({remedy})",
        Quoted(messages)
    )]
    Refused {
        /// What was asked.
        step: Step,
        /// What was asked for it: mount and role, or the login's mount.
        path: String,
        /// The HTTP status.
        status: u16,
        /// Vault's own `errors`, each on one line and bounded; empty if it gave none.
        messages: Vec<String>,
        /// What a person can do about it.
        remedy: &'static str,
    },
    /// The credential was refused a short while ago, and is not sent again yet.
    #[error("the refused credential is not sent again for {wait:?}")]
    HeldBack {
        /// What is left of the hold.
        wait: Duration,
        /// The refusal.
        #[source]
        refusal: Arc<Self>,
    },
    /// The login that another source with the same token was making had no answer.
    #[error("the login that was waited for failed: {told}")]
    LoginOfAnother {
        /// What that source was told, on one line.
        told: String,
    },
    /// A file with a part of the credential cannot be read.
    #[error("{field} cannot be read from {}", path.display())]
    CredentialFile {
        /// Which part of [`Auth`](crate::Auth) it is.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A part of the credential cannot be used; its value is not shown.
    #[error("{field} holds {problem}")]
    Credential {
        /// Which part of [`Auth`](crate::Auth) it is.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Vault does not know the wrapping token: somebody else may have used it. Not sent again.
    #[error(
        "the wrapping token was used before or has expired: unless that was you, its secret_id \
         was intercepted (revoke it, look into the audit log, and have another one wrapped)"
    )]
    WrappingTokenSpent {
        /// The refusal.
        #[source]
        refusal: Arc<Self>,
    },
    /// Vault does not know the wrapping token any more, and the answer to our own unwrapping of it
    /// never came. Not sent again.
    #[error(
        "the wrapping token is used up: its answer to this program was lost, or it has expired \
         since (have another one wrapped; the audit log shows whether anybody else unwrapped it)"
    )]
    WrappingTokenLost {
        /// The refusal.
        #[source]
        refusal: Arc<Self>,
    },
    /// The wrapping token was not made for a secret_id by the login mount. It was not unwrapped.
    #[error(
        "the wrapping token was made by {made_by:?} and not for a secret_id of this AppRole: unless \
         that was you, somebody put it in the place of yours (revoke the secret_id, look into the \
         audit log, and have another one wrapped)"
    )]
    WrappingTokenForeign {
        /// The path that Vault says it was made by.
        made_by: String,
    },
    /// No complete answer within the request timeout.
    #[error("vault did not answer {step} within {after:?} at {origin}")]
    TimedOut {
        /// What was asked.
        step: Step,
        /// Scheme, host and port that were asked first; a redirect may have led on.
        origin: String,
        /// The request timeout in force.
        after: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("vault could not be reached for {step} at {origin}")]
    Unreachable {
        /// What was asked.
        step: Step,
        /// Scheme, host and port.
        origin: String,
        /// What the HTTP stack said.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// The TLS handshake failed for good: most often, another CA issued the server's certificate.
    #[error("the TLS handshake with vault at {origin} failed ({remedy})")]
    Tls {
        /// Scheme, host and port.
        origin: String,
        /// What a person can do about it.
        remedy: &'static str,
        /// What rustls said.
        #[source]
        cause: rustls::Error,
    },
    /// Vault redirects to an origin that is not configured; nothing was sent there.
    #[error(
        "vault redirects {step} to {origin}, which is not configured \
         (nothing was sent there: give its address, or let standbys forward)"
    )]
    RedirectedElsewhere {
        /// What was asked.
        step: Step,
        /// Scheme, host and port of the `Location`.
        origin: String,
    },
    /// More redirects than are followed: the cluster has no leader, most likely.
    #[error("vault redirects {step} more than {limit} times (has the cluster a leader?)")]
    RedirectedTooOften {
        /// What was asked.
        step: Step,
        /// [`MAX_REDIRECTS`](crate::MAX_REDIRECTS).
        limit: usize,
    },
    /// The answer is longer than any that Vault gives.
    #[error("vault's answer to {step} is longer than {limit} bytes")]
    TooLarge {
        /// What was asked.
        step: Step,
        /// [`MAX_REPLY`](crate::MAX_REPLY).
        limit: usize,
    },
    /// The answer is not one that Vault gives.
    #[error("vault's answer to {step} cannot be used: {problem}")]
    Unusable {
        /// What was asked.
        step: Step,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The signing request could not be made.
    #[error("the signing request could not be made")]
    Request(#[source] Box<dyn Error + Send + Sync>),
    /// The certificate does not name whom it was asked to.
    #[error(
        "the certificate lacks the {kind} {name:?} that was asked for \
         (does the role have use_csr_common_name and use_csr_sans on?)"
    )]
    Names {
        /// The kind of name: `common name`, `DNS name`, `IP address` or `URI`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The certificate had ended when it was issued.
    #[error("the certificate has expired already (has its CA? then renew that)")]
    Expired,
    /// The certificate ends (almost) at once.
    #[error("the certificate lives {got:?}, {asked:?} was asked for (does its CA expire?)")]
    ShortLife {
        /// The `ttl` asked for.
        asked: Duration,
        /// What is left of its life by the server's clock.
        got: Duration,
    },
    /// There is no trust root for servers.
    #[error(
        "no trust root for servers: the answer's ca_chain holds no self-signed certificate; \
         set server_roots_pem"
    )]
    NoRoots,
    /// The certificates cannot be used.
    #[error("the certificates of the answer cannot be used")]
    Material(#[source] MaterialError),
}

impl VaultError {
    /// The same of an answer to `asked`.
    pub(crate) fn about(self, asked: Step) -> Self {
        match self {
            Self::Unusable { problem, .. } => Self::Unusable {
                step: asked,
                problem,
            },
            other => other,
        }
    }
}

/// What was asked of Vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A login: a credential for a token.
    Login,
    /// A certificate, for a signing request.
    Sign,
    /// A certificate and its key.
    Issue,
    /// A longer lease for the token in use.
    RenewToken,
    /// Who made a wrapping token.
    LookUpWrapping,
    /// The secret_id within a wrapping token.
    Unwrap,
    /// The issuers of the mount, and what each of them may do.
    ReadIssuers,
    /// The revocation of a certificate that nobody uses any more.
    Revoke,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "the login",
            Self::Sign => "the signing request",
            Self::Issue => "the request to issue",
            Self::RenewToken => "the token's renewal",
            Self::LookUpWrapping => "the look at the wrapping token",
            Self::Unwrap => "the unwrapping of the secret_id",
            Self::ReadIssuers => "the reading of the issuers",
            Self::Revoke => "the revocation",
        })
    }
}

struct Quoted<'a>(&'a [String]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, message) in self.0.iter().enumerate() {
            write!(f, "{}{message}", if i == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

/// A failed step, with the verdict on it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) verdict: Verdict,
    /// Boxed: it is far larger than what a success returns.
    pub(crate) cause: Box<VaultError>,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn transient(cause: VaultError) -> Self {
        Self::new(Verdict::Transient, cause)
    }

    pub(crate) fn unusable(cause: VaultError) -> Self {
        Self::new(Verdict::Unusable, cause)
    }

    pub(crate) fn new(verdict: Verdict, cause: VaultError) -> Self {
        Self {
            verdict,
            cause: Box::new(cause),
            retry_after: None,
        }
    }
}

impl From<Failure> for SourceError {
    fn from(failure: Failure) -> Self {
        let error = match failure.verdict {
            Verdict::TokenRefused
            | Verdict::PolicyRefused
            | Verdict::CredentialRefused { .. }
            | Verdict::BeyondCa { .. }
            | Verdict::Refused => Self::denied(*failure.cause),
            Verdict::Unusable => Self::invalid(*failure.cause),
            Verdict::Transient => Self::unavailable(*failure.cause),
        };
        match failure.retry_after {
            Some(wait) => error.retry_after(wait),
            None => error,
        }
    }
}
