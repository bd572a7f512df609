//! Reply → verdict: one pure table, so that every line of it is a row in a test.

use std::time::Duration;

use http::StatusCode;

use crate::error::Step;

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
    /// Role, mount or CA need an operator.
    Refused,
    /// Not an answer that Vault gives.
    Unusable,
    /// Waiting alone can cure it.
    Transient,
}

/// `messages` are the reply's `errors`; `None` if its body is not of Vault's form.
pub(crate) fn verdict(step: Step, status: StatusCode, messages: Option<&[String]>) -> Verdict {
    match (status.as_u16(), step) {
        // A standby that does not forward, or has lost its leader.
        (307 | 308, _) => Verdict::Transient,
        // Go's own HTTP server answers a plain request to a TLS port with 400 and no JSON.
        (400, _) if messages.is_none() => Verdict::Unusable,
        (400, Step::Login) => Verdict::CredentialRefused {
            hold: CREDENTIAL_HOLD,
        },
        (403, Step::Login) => Verdict::CredentialRefused {
            hold: LOGIN_DENIED_HOLD,
        },
        (403, Step::Sign) => match messages {
            Some(messages) if says_bad_token(messages) => Verdict::TokenRefused,
            Some(_) => Verdict::PolicyRefused,
            None => Verdict::Refused,
        },
        // 412 and some 429 mean a standby that lags behind, other 429 a quota.
        (408 | 412 | 429, _) => Verdict::Transient,
        (500, _) if messages.is_some_and(says_misconfigured) => Verdict::Refused,
        // 501 is a server not yet initialised, 503 a sealed one.
        (500..=599, _) => Verdict::Transient,
        (400..=499, _) => Verdict::Refused,
        _ => Verdict::Unusable,
    }
}

/// A bad token is refused in bare words, a policy's refusal comes as a list of errors.
///
/// OpenBao says `permission denied` alone, Vault since 1.17 `invalid token` with it. Only the
/// policy's text begins with `1 error occurred`.
fn says_bad_token(messages: &[String]) -> bool {
    messages
        .iter()
        .any(|text| text.contains("invalid token") || text.trim() == "permission denied")
}

/// Some of what Vault answers with 500 is cured by an operator alone.
fn says_misconfigured(messages: &[String]) -> bool {
    const TEXTS: [&str; 4] = [
        "no default issuer",
        "requested usage",
        "unable to find PKI issuer",
        "could not load backend configuration",
    ];
    messages
        .iter()
        .any(|message| TEXTS.iter().any(|text| message.contains(text)))
}

#[cfg(test)]
mod tests;
