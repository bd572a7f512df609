use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::material::MaterialError;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
type SharedError = Arc<dyn Error + Send + Sync>;

/// What kind of failure a [`SourceError`] is; decides how it is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The source answered and refused: credentials, policy or role.
    Denied,
    /// The source answered, but with something that cannot be used.
    Invalid,
    /// This source is not set up here.
    NotConfigured,
    /// The source cannot be reached or cannot answer now. Waiting alone can cure it.
    Unavailable,
}

/// Why a [`CertSource`](crate::CertSource) delivered nothing.
///
/// Causes are kept as [`Error::source`]; they must hold no secret, since they are logged.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use perennial::SourceError;
///
/// let busy = SourceError::unavailable("quota exceeded").retry_after(Duration::from_secs(9));
/// assert!(busy.is_transient());
/// assert!(!SourceError::denied("role app may not sign evil.example").is_transient());
/// ```
#[derive(Clone, Debug)]
pub struct SourceError {
    kind: SourceErrorKind,
    cause: SharedError,
    retry_after: Option<Duration>,
}

impl SourceError {
    /// The source refuses this caller.
    pub fn denied(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Denied, cause)
    }

    /// The source's answer cannot be used.
    pub fn invalid(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Invalid, cause)
    }

    /// The source is not set up here.
    pub fn not_configured(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::NotConfigured, cause)
    }

    /// The source cannot answer now; the only transient kind.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::new(SourceErrorKind::Unavailable, cause)
    }

    fn new(kind: SourceErrorKind, cause: impl Into<BoxError>) -> Self {
        Self {
            kind,
            cause: cause.into().into(),
            retry_after: None,
        }
    }

    /// Sets how long the source asked to be left alone, such as by `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// Whether waiting alone can cure it.
    pub fn is_transient(&self) -> bool {
        self.kind == SourceErrorKind::Unavailable
    }

    /// How long the source asked to be left alone, if it did.
    pub fn requested_wait(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SourceErrorKind::Denied => "the source refused",
            SourceErrorKind::Invalid => "the source's answer is not usable",
            SourceErrorKind::NotConfigured => "the source is not configured",
            SourceErrorKind::Unavailable => "the source is unavailable",
        })
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

impl From<MaterialError> for SourceError {
    fn from(cause: MaterialError) -> Self {
        Self::invalid(cause)
    }
}

/// Why a renewal published nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The source returned an error.
    #[error("failed to fetch the certificate")]
    Source(#[source] SourceError),
    /// The source did not answer in time.
    #[error("the source did not answer within {after:?}")]
    TimedOut {
        /// The fetch timeout in force.
        after: Duration,
    },
    /// The fetched material did not pass the checks.
    #[error("the fetched certificate is not usable")]
    Material(#[source] MaterialError),
    /// The source panicked, or a closure of the settings; the message is not kept, since it may
    /// hold a secret.
    #[error("the source or another callback panicked")]
    Panicked,
    /// The certificate in use has expired, and the source delivered it again.
    #[error("the source delivered the expired certificate again")]
    StillExpired,
    /// The gate refused the certificate.
    #[error("the gate refused the new certificate")]
    Refused(#[source] SharedError),
    /// The first certificate's lifetime is too short for what the renewal schedule promises.
    #[error(
        "a usable lifetime of {usable:?} is too short to {}: it needs {needed:?}, so request more \
         than that",
        match *outage {
            Duration::ZERO => "be renewed in time".to_owned(),
            outage => format!("survive an outage of {outage:?}"),
        }
    )]
    LifetimeTooShort {
        /// The certificate's usable lifetime.
        usable: Duration,
        /// The outage that must be survived.
        outage: Duration,
        /// The shortest usable lifetime for it.
        needed: Duration,
    },
    /// Not tried: the last fetch was too recent, or a back-off is under way.
    #[error("renewal is rate-limited; retry in {retry_in:?}")]
    Limited {
        /// When a renewal may be tried again.
        retry_in: Duration,
    },
    /// Not tried: the renewer has stopped.
    #[error("the renewer has stopped")]
    Stopped,
    /// The renewer did not stop within the deadline of a shutdown and was aborted.
    #[error("the renewer did not stop within {after:?}")]
    StillRunning {
        /// The deadline given.
        after: Duration,
    },
}

impl RenewError {
    /// Whether waiting alone can cure it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::TimedOut { .. } | Self::Limited { .. } => true,
            Self::Material(error) => error.is_transient(),
            Self::Panicked
            | Self::StillExpired
            | Self::Refused(_)
            | Self::LifetimeTooShort { .. }
            | Self::Stopped
            | Self::StillRunning { .. } => false,
        }
    }

    pub(crate) fn requested_wait(&self) -> Option<Duration> {
        match self {
            Self::Source(error) => error.requested_wait(),
            _ => None,
        }
    }
}

/// Why [`LiveCert::start`](crate::LiveCert::start) returned no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No crypto provider: neither feature is on and none was given to the builder.
    #[error("no crypto provider: enable the feature aws-lc-rs or ring, or give the builder one")]
    NoProvider,
    /// A setting of the builder or of [`TlsSettings`](crate::TlsSettings) is not usable.
    #[error("invalid {field}{}: {problem}", got.as_ref().map(|got| format!(" {got}")).unwrap_or_default())]
    Setting {
        /// The setter's name.
        field: &'static str,
        /// The value it got, unless that is too long or may hold a secret.
        got: Option<String>,
        /// What is wrong with it, and what the setter expects.
        problem: String,
        /// Why, if another error says more.
        #[source]
        cause: Option<Box<dyn Error + Send + Sync>>,
    },
    /// An error that waiting alone cannot cure.
    #[error("failed to obtain the first certificate")]
    Failed(#[source] RenewError),
    /// Only transient errors, or none, until the start timeout.
    #[error("no certificate within {after:?}")]
    TimedOut {
        /// The start timeout in force.
        after: Duration,
        /// The last failure seen, if any fetch ended.
        #[source]
        last: Option<RenewError>,
    },
}

/// Why there is no valid certificate now.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// Started lazily, and no fetch has succeeded so far.
    #[error("no certificate has been fetched yet")]
    NothingYet {
        /// The last failure, if a fetch has ended.
        #[source]
        last: Option<RenewError>,
    },
    /// The last good certificate is past its `not_after`.
    #[error("the certificate of generation {generation} has expired")]
    Expired {
        /// The generation that expired.
        generation: u64,
        /// When it expired, wall clock.
        not_after: SystemTime,
        /// Why no newer one took its place.
        #[source]
        last: Option<RenewError>,
    },
}
