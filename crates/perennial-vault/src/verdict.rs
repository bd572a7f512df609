//! A reply's verdict and remedy: one pure table, each row of which a test covers.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::StatusCode;

mod table;

/// How long a refused credential is not sent again.
///
/// OpenBao 2.7 locks a role for every instance after 5 refused logins within 15 minutes.
pub(crate) const CREDENTIAL_BACK_OFF: Duration = Duration::from_secs(300);

/// How long no login is sent after one was answered with 403.
///
/// The role is then locked, or the auth method is not mounted. Neither says anything about the
/// credential, so this is shorter than [`CREDENTIAL_BACK_OFF`].
pub(crate) const LOCKED_BACK_OFF: Duration = Duration::from_secs(60);

/// What a request asks Vault to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Login,
    Sign,
    Issue,
    RenewToken,
    LookUpWrapping,
    Unwrap,
    ReadIssuers,
    Revoke,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Sign => "signing request",
            Self::Issue => "issue request",
            Self::RenewToken => "token renewal",
            Self::LookUpWrapping => "wrapping token lookup",
            Self::Unwrap => "unwrapping of the secret_id",
            Self::ReadIssuers => "issuer lookup",
            Self::Revoke => "revocation",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What follows from a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token is not valid (any more): log in, and send the request once more.
    TokenRefused,
    /// The token is valid, but its policies do not allow the request.
    PolicyRefused,
    /// The credential is refused: do not send it again before `back_off` is over.
    CredentialRefused { back_off: Duration },
    /// The CA expires before the certificate would: `remaining` is the longest `ttl` it can give.
    BeyondCa {
        expires: SystemTime,
        remaining: Duration,
    },
    /// An operator must change the role, the mount or the CA.
    Refused,
    /// The answer is not one that Vault gives.
    Unusable,
    /// Waiting alone can cure it.
    Transient,
}

/// A verdict, and what an operator can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) remedy: &'static str,
}

/// Judges a reply that is not a success.
///
/// `messages` are the reply's `errors`; `None` if its body does not have Vault's form. `date` is
/// the server's clock.
pub(crate) fn outcome(
    operation: Operation,
    status: StatusCode,
    messages: Option<&[String]>,
    date: Option<SystemTime>,
) -> Outcome {
    let outcome = table::outcome(operation, status.as_u16(), messages);
    match (outcome.verdict, messages.and_then(ca_expiry), date) {
        (Verdict::Refused, Some(expires), Some(now)) => Outcome {
            verdict: Verdict::BeyondCa {
                expires,
                remaining: expires.duration_since(now).unwrap_or_default(),
            },
            ..outcome
        },
        _ => outcome,
    }
}

/// When the CA expires, if Vault refuses for that reason.
fn ca_expiry(messages: &[String]) -> Option<SystemTime> {
    let (_, expiry) = messages
        .iter()
        .find_map(|text| text.split_once(table::BEYOND_CA))?;
    humantime::parse_rfc3339(expiry.trim().strip_prefix("at ")?).ok()
}

#[cfg(test)]
mod tests;
