//! A response-wrapped secret_id: looked at, unwrapped once, and an alarm if somebody was there first.

use std::sync::Arc;

use perennial::Fingerprint;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::call::Call;
use crate::error::{Failure, Step, VaultError};
use crate::outcome::{CREDENTIAL_HOLD, Verdict};
use crate::token::Token;
use crate::transport::{Round, presentable};

/// What wrapping tokens brought; none that did is sent a second time.
#[derive(Default)]
pub(crate) struct Opened {
    /// The last one, and what came of it.
    last: Option<(Fingerprint, Result<Zeroizing<String>, Alarm>)>,
    /// The one that was to be unwrapped, while no answer has come.
    asked: Option<Fingerprint>,
}

/// Why a wrapping token is not to be trusted.
#[derive(Clone)]
enum Alarm {
    Spent(Arc<VaultError>),
    /// Most likely by ourselves.
    Lost(Arc<VaultError>),
    Foreign {
        made_by: String,
    },
}

impl Opened {
    /// The secret_id in memory, with which wrapping token brought it.
    pub(super) fn secret_id(&self) -> Option<(Fingerprint, &str)> {
        let (by, outcome) = self.last.as_ref()?;
        Some((*by, outcome.as_ref().ok()?))
    }
}

/// Gives the secret_id within `wrapping`, from memory where it was unwrapped before.
pub(super) async fn open(
    wrapping: Zeroizing<String>,
    mount: &str,
    opened: &mut Opened,
    round: &mut Round<'_>,
) -> Result<Zeroizing<String>, Failure> {
    let by = Fingerprint::of([wrapping.as_bytes()]);
    if let Some((_, before)) = opened.last.as_ref().filter(|(last, _)| *last == by) {
        return before.clone().map_err(Failure::from);
    }
    let outcome = match first_look(wrapping, by, mount, &mut opened.asked, round).await? {
        Err(alarm) => {
            let error = alarm.clone().error();
            // For people, who alone can tell whether it was one of them.
            if matches!(alarm, Alarm::Lost(_)) {
                tracing::error!(%error, "the wrapping token is used up, most likely by ourselves");
            } else {
                tracing::error!(%error, "the wrapping token is not as it was made: possible interception");
            }
            Err(alarm)
        }
        unwrapped => unwrapped,
    };
    opened.last = Some((by, outcome.clone()));
    outcome.map_err(Failure::from)
}

async fn first_look(
    wrapping: Zeroizing<String>,
    by: Fingerprint,
    mount: &str,
    asked: &mut Option<Fingerprint>,
    round: &mut Round<'_>,
) -> Result<Result<Zeroizing<String>, Alarm>, Failure> {
    let made_by = match made_by(&wrapping, round).await {
        Ok(path) => path,
        Err(failure) => {
            let is_lost = *asked == Some(by);
            let alarm = if is_lost { Alarm::Lost } else { Alarm::Spent };
            return Ok(Err(alarm(spent(failure)?)));
        }
    };
    // Whoever unwraps a secret_id can wrap it again, but not in the name of this path.
    if !makes_secret_ids(&made_by, mount) {
        let made_by = presentable(&[made_by]).concat();
        return Ok(Err(Alarm::Foreign { made_by }));
    }
    // Before the request: one that is cancelled counts too.
    *asked = Some(by);
    match unwrap(wrapping, round).await {
        Ok(secret_id) => Ok(Ok(secret_id)),
        Err(failure) => {
            if matches!(&*failure.cause, VaultError::Refused { .. }) {
                *asked = None;
            }
            Ok(Err(Alarm::Spent(spent(failure)?)))
        }
    }
}

/// The path whose answer was wrapped. Looking needs no token and uses nothing up.
async fn made_by(wrapping: &str, round: &mut Round<'_>) -> Result<String, Failure> {
    let step = Step::LookUpWrapping;
    let call = Call::new("sys/wrapping/lookup", &[("token", wrapping)]);
    let reply = round.send(step, &call, None).await?;
    let about: Answer<About> = reply.json(step)?;
    Ok(about.data.creation_path)
}

/// Whether `path` is that of an AppRole's secret_ids, of whichever role, at `mount`.
fn makes_secret_ids(path: &str, mount: &str) -> bool {
    path.strip_prefix("auth/")
        .and_then(|rest| rest.strip_prefix(mount)?.strip_prefix("/role/"))
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(role, what)| {
            !role.is_empty() && matches!(what, "secret-id" | "custom-secret-id")
        })
}

/// The wrapping token authenticates its own unwrapping.
async fn unwrap(
    wrapping: Zeroizing<String>,
    round: &mut Round<'_>,
) -> Result<Zeroizing<String>, Failure> {
    let token = Token::bare(wrapping);
    let call = Call::new("sys/wrapping/unwrap", &[]);
    let reply = round.send(Step::Unwrap, &call, Some(&token)).await?;
    let wrapped: Answer<Wrapped> = reply.json(Step::Unwrap)?;
    Ok(wrapped.data.secret_id)
}

/// OpenBao and Vault answer 400 to a wrapping token that was used, expired or never was.
fn spent(failure: Failure) -> Result<Arc<VaultError>, Failure> {
    // A proxy's refusal, not in Vault's words, says nothing about the token.
    let unknown = matches!(
        &*failure.cause,
        VaultError::Refused { status: 400 | 403, messages, .. } if !messages.is_empty()
    );
    match failure.verdict {
        Verdict::Refused if unknown => Ok(Arc::from(failure.cause)),
        _ => Err(failure),
    }
}

impl Alarm {
    fn error(self) -> VaultError {
        match self {
            Self::Spent(refusal) => VaultError::WrappingTokenSpent { refusal },
            Self::Lost(refusal) => VaultError::WrappingTokenLost { refusal },
            Self::Foreign { made_by } => VaultError::WrappingTokenForeign { made_by },
        }
    }
}

impl From<Alarm> for Failure {
    fn from(alarm: Alarm) -> Self {
        let hold = CREDENTIAL_HOLD;
        Self::new(Verdict::CredentialRefused { hold }, alarm.error())
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct About {
    creation_path: String,
}

#[derive(Deserialize)]
struct Wrapped {
    secret_id: Zeroizing<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_ids_of_the_login_mount_are_taken() {
        let table = [
            ("auth/approle/role/app/secret-id", "approle", true),
            ("auth/a/b/role/app/secret-id", "a/b", true),
            ("auth/other/role/app/secret-id", "approle", false),
            ("auth/approle2/role/app/secret-id", "approle", false),
            ("auth/approle/role/app/custom-secret-id", "approle", true),
            ("auth/approle/role/a/b/secret-id", "approle", false),
            ("auth/approle/role//secret-id", "approle", false),
            ("auth/approle/role/app/role-id", "approle", false),
            ("sys/wrapping/wrap", "approle", false),
            ("secret/auth/approle/role/app/secret-id", "approle", false),
            ("", "approle", false),
        ];
        for (path, mount, expected) in table {
            assert_eq!(makes_secret_ids(path, mount), expected, "{path}");
        }
    }
}
