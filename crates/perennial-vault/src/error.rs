use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use perennial::{MaterialError, SourceError, SourceErrorKind};

use crate::verdict::{Operation, Verdict};

/// Why a setting was not accepted, or why Vault delivered no certificate.
///
/// [`VaultPki`](crate::VaultPki)'s fetches return it as the cause of a [`SourceError`]; see
/// [`find_cause`](perennial::find_cause). It holds no token, credential, key or raw body; of a
/// refusal, it holds Vault's own `errors` strings.
#[derive(Clone, Debug)]
pub struct VaultError {
    kind: SourceErrorKind,
    problem: Arc<Problem>,
}

impl VaultError {
    /// What kind of failure this is; *invalid* for a setting that is missing or not accepted.
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// Which request failed, such as `login` or `signing request`; `None` for a setting.
    pub fn operation(&self) -> Option<&'static str> {
        self.problem.operation().map(Operation::name)
    }

    /// The HTTP status of Vault's refusal; `None` without an answer.
    pub fn status(&self) -> Option<u16> {
        match self.problem.refusal() {
            Problem::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What an operator can do about a refusal or a failed TLS handshake; it is part of the text.
    pub fn remedy(&self) -> Option<&str> {
        match self.problem.refusal() {
            Problem::Refused { remedy, .. } | Problem::Tls { remedy, .. } => Some(remedy),
            _ => None,
        }
    }
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl Error for VaultError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

impl From<Problem> for VaultError {
    fn from(problem: Problem) -> Self {
        Failure::unusable(problem).into()
    }
}

impl From<Failure> for VaultError {
    fn from(failure: Failure) -> Self {
        let kind = match failure.verdict {
            Verdict::TokenRefused
            | Verdict::PolicyRefused
            | Verdict::CredentialRefused { .. }
            | Verdict::BeyondCa { .. }
            | Verdict::Refused => SourceErrorKind::Denied,
            Verdict::Unusable => SourceErrorKind::Invalid,
            Verdict::Transient => SourceErrorKind::Unavailable,
        };
        Self {
            kind,
            problem: failure.problem,
        }
    }
}

impl From<Failure> for SourceError {
    fn from(failure: Failure) -> Self {
        let retry_after = failure.retry_after;
        let cause = VaultError::from(failure);
        let error = match cause.kind {
            SourceErrorKind::Denied => Self::denied(cause),
            SourceErrorKind::Unavailable => Self::unavailable(cause),
            _ => Self::invalid(cause),
        };
        match retry_after {
            Some(wait) => error.retry_after(wait),
            None => error,
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

/// What a [`VaultError`] is about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0} is not set")]
    Missing(&'static str),
    #[error("invalid {field} {got:?}: expected {takes}")]
    Setting {
        field: &'static str,
        got: String,
        takes: &'static str,
    },
    /// A setting whose value may be secret.
    #[error("invalid {0}: {1}")]
    Secret(&'static str, String),
    #[error("invalid variable {0}")]
    Variable(String, #[source] BoxError),
    #[error("failed to set up the connection to vault")]
    Client(#[source] BoxError),
    #[error("failed to read {0} from {path}", path = .1.display())]
    SecretFile(&'static str, PathBuf, #[source] io::Error),
    #[error(
        "{operation} failed with status {status} at {path}{} ({remedy})",
        Quoted(messages)
    )]
    Refused {
        operation: Operation,
        path: String,
        status: u16,
        /// Vault's own `errors`, each on one line and bounded.
        messages: Vec<String>,
        remedy: &'static str,
    },
    #[error("the refused credential is not sent again for {0:?}")]
    BackOff(Duration, #[source] Arc<Self>),
    #[error(
        "the wrapping token was used before or has expired: unless you used it, its secret_id \
         was intercepted (revoke it, read the audit log, and have another one wrapped)"
    )]
    WrappingTokenSpent(#[source] Arc<Self>),
    #[error(
        "the wrapping token is used up: vault's answer to this program was lost, or the token has \
         expired since (have another one wrapped; the audit log shows who unwrapped this one)"
    )]
    WrappingTokenLost(#[source] Arc<Self>),
    #[error(
        "the wrapping token was made by {0:?} and not for a secret_id of this AppRole: unless \
         you made it, an attacker replaced yours (revoke the secret_id, read the audit log, and \
         have another one wrapped)"
    )]
    WrappingTokenForeign(String),
    #[error("the agent has no valid token (it logs in by itself: read its log)")]
    AgentWithoutToken(#[source] Arc<Self>),
    #[error("the closure of login_with failed")]
    LoginFields(#[source] BoxError),
    #[error("{operation} timed out after {after:?} at {origin}")]
    TimedOut {
        operation: Operation,
        origin: String,
        after: Duration,
    },
    #[error("{operation} failed: no connection to vault at {origin}")]
    Unreachable {
        operation: Operation,
        origin: String,
        #[source]
        cause: BoxError,
    },
    #[error("the TLS handshake with vault at {origin} failed ({remedy})")]
    Tls {
        origin: String,
        remedy: &'static str,
        #[source]
        cause: rustls::Error,
    },
    #[error(
        "vault redirects the {0} to {1}, which is not configured \
         (nothing was sent there: add its address, or have standbys forward requests)"
    )]
    RedirectedElsewhere(Operation, String),
    #[error("vault redirects the {0} more than {1} times (has the cluster a leader?)")]
    RedirectedTooOften(Operation, usize),
    #[error("reading the mount's issuers took longer than {0:?}")]
    IssuersTimedOut(Duration),
    #[error("vault's answer to the {0} is longer than {1} bytes")]
    TooLarge(Operation, usize),
    #[error("vault's answer to the {0} is unusable: {1}")]
    Unusable(Operation, &'static str),
    #[error("failed to build the {0}")]
    Request(Operation, #[source] BoxError),
    #[error(
        "the certificate lacks the requested {0} {1:?} \
         (enable use_csr_common_name and use_csr_sans on the role)"
    )]
    Names(&'static str, String),
    #[error("the certificate had expired when it was issued (renew the issuing CA)")]
    Expired,
    #[error(
        "this machine's clock is {0:?} ahead of vault's: by it, the new certificate has expired \
         (fix its time synchronisation)"
    )]
    ClockAhead(Duration),
    #[error(
        "certificate lifetime is {got:?} but ttl {requested:?} was requested \
         (is the issuing CA about to expire?)"
    )]
    ShortLifetime { requested: Duration, got: Duration },
    #[error(
        "no trust root for servers: the answer's ca_chain holds no self-signed certificate \
         (set server_roots_pem)"
    )]
    NoRoots,
    #[error("the certificates in vault's answer are unusable")]
    Material(#[source] MaterialError),
    /// Without a cause, only the deadline was reached.
    #[error("{0} unexpired certificates are not revoked")]
    NotRevoked(usize, #[source] Option<Arc<Self>>),
}

impl Problem {
    /// The refusal that this problem repeats, or the problem itself.
    fn refusal(&self) -> &Self {
        match self {
            Self::BackOff(_, refusal)
            | Self::AgentWithoutToken(refusal)
            | Self::WrappingTokenSpent(refusal)
            | Self::WrappingTokenLost(refusal)
            | Self::NotRevoked(_, Some(refusal)) => refusal.refusal(),
            _ => self,
        }
    }

    fn operation(&self) -> Option<Operation> {
        match self.refusal() {
            Self::Refused { operation, .. }
            | Self::TimedOut { operation, .. }
            | Self::Unreachable { operation, .. }
            | Self::RedirectedElsewhere(operation, _)
            | Self::RedirectedTooOften(operation, _)
            | Self::TooLarge(operation, _)
            | Self::Unusable(operation, _)
            | Self::Request(operation, _) => Some(*operation),
            Self::WrappingTokenForeign(_) => Some(Operation::LookUpWrapping),
            Self::NotRevoked(..) => Some(Operation::Revoke),
            _ => None,
        }
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

/// A failed request, with the verdict on it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) verdict: Verdict,
    /// Shared by every fetch that fails for the same reason.
    pub(crate) problem: Arc<Problem>,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn transient(problem: Problem) -> Self {
        Self::new(Verdict::Transient, problem)
    }

    pub(crate) fn unusable(problem: Problem) -> Self {
        Self::new(Verdict::Unusable, problem)
    }

    pub(crate) fn new(verdict: Verdict, problem: Problem) -> Self {
        Self {
            verdict,
            problem: Arc::new(problem),
            retry_after: None,
        }
    }
}
