//! Reply → verdict and remedy: one pure table, so that every line of it is a row in a test.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::error::Step;

mod table;

/// How long a credential that Vault refused is not sent again.
///
/// OpenBao 2.7 locks a role for every instance after 5 refused logins within 15 minutes.
pub const CREDENTIAL_HOLD: Duration = Duration::from_secs(300);

/// How long no login is tried after one was answered with 403.
///
/// Then the role is locked, or the auth method is not mounted: neither says anything about the
/// credential, so this is shorter than [`CREDENTIAL_HOLD`].
pub const LOGIN_DENIED_HOLD: Duration = Duration::from_secs(60);

/// What follows from a reply that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token is not (or no longer) good: log in, and ask once more.
    TokenRefused,
    /// The token is good, but its policies do not allow this.
    PolicyRefused,
    /// The credential is refused: send nothing like it before `hold` is over.
    CredentialRefused { hold: Duration },
    /// The CA ends before the certificate would: `left` is what it can give.
    BeyondCa { ends: SystemTime, left: Duration },
    /// Role, mount or CA need an operator.
    Refused,
    /// Not an answer that Vault gives.
    Unusable,
    /// Waiting alone can cure it.
    Transient,
}

/// A verdict, and what a person can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) remedy: &'static str,
}

/// `messages` are the reply's `errors`; `None` if its body is not of Vault's form. `date` is the
/// server's clock.
pub(crate) fn outcome(
    step: Step,
    status: StatusCode,
    messages: Option<&[String]>,
    date: Option<SystemTime>,
) -> Outcome {
    let row = table::row(step, status.as_u16(), messages);
    let ca_ends = messages.and_then(ca_ends);
    let verdict = match (row.verdict, ca_ends, date) {
        (Verdict::Refused, Some(ends), Some(now)) => Verdict::BeyondCa {
            ends,
            left: ends.duration_since(now).unwrap_or_default(),
        },
        (verdict, ..) => verdict,
    };
    Outcome {
        verdict,
        remedy: row.remedy,
    }
}

/// When the CA ends, if that is why it refuses.
fn ca_ends(messages: &[String]) -> Option<SystemTime> {
    let (_, ends) = messages
        .iter()
        .find_map(|text| text.split_once(table::BEYOND_CA))?;
    humantime::parse_rfc3339(ends.trim().strip_prefix("at ")?).ok()
}

#[cfg(test)]
mod tests;
