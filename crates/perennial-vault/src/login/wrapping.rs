//! A response-wrapped secret_id: its token is looked up first, and unwrapped once.

use std::sync::Arc;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::CredentialId;
use crate::error::{Failure, Problem};
use crate::http::{Request, Round, SecretText};
use crate::verdict::{CREDENTIAL_BACK_OFF, Operation, Verdict};

/// The outcome of the last wrapping token; one that has an outcome is not sent again.
#[derive(Default)]
pub(super) struct Unwrapped {
    last: Option<(CredentialId, UnwrapOutcome)>,
    /// The wrapping token whose unwrapping was sent and not answered.
    unanswered: Option<CredentialId>,
}

/// The secret_id, or why its wrapping token must not be trusted.
type UnwrapOutcome = Result<Zeroizing<String>, Arc<Problem>>;

impl Unwrapped {
    /// The secret_id in memory, and the wrapping token that it came from.
    pub(super) fn secret_id(&self) -> Option<(CredentialId, Zeroizing<String>)> {
        let (id, outcome) = self.last.as_ref()?;
        Some((*id, outcome.as_ref().ok()?.clone()))
    }
}

/// The secret_id of a wrapping token, from memory if it was unwrapped before.
pub(super) async fn secret_id(
    wrapping_token: Zeroizing<String>,
    id: CredentialId,
    mount: &str,
    unwrapped: &mut Unwrapped,
    round: &mut Round<'_>,
) -> Result<Zeroizing<String>, Failure> {
    let outcome = match &unwrapped.last {
        Some((last, outcome)) if *last == id => outcome.clone(),
        _ => {
            let unanswered = &mut unwrapped.unanswered;
            let outcome = check_and_unwrap(&wrapping_token, id, mount, unanswered, round).await?;
            if let Err(error) = &outcome {
                // An error: only an operator knows who used the token.
                let outcome = match **error {
                    Problem::WrappingTokenLost(_) => "used up, most likely by this program",
                    _ => "not trusted: possible interception",
                };
                tracing::error!(%error, outcome, "the wrapping token is unusable");
            }
            unwrapped.last = Some((id, outcome.clone()));
            outcome
        }
    };
    outcome.map_err(|problem| Failure {
        verdict: Verdict::CredentialRefused {
            back_off: CREDENTIAL_BACK_OFF,
        },
        problem,
        retry_after: None,
    })
}

async fn check_and_unwrap(
    wrapping_token: &str,
    id: CredentialId,
    mount: &str,
    unanswered: &mut Option<CredentialId>,
    round: &mut Round<'_>,
) -> Result<UnwrapOutcome, Failure> {
    let (made_by, shown) = match made_by(wrapping_token, round).await {
        Ok(paths) => paths,
        Err(failure) => {
            let refusal = unknown_token(failure)?;
            return Ok(Err(Arc::new(match *unanswered == Some(id) {
                true => Problem::WrappingTokenLost(refusal),
                false => Problem::WrappingTokenSpent(refusal),
            })));
        }
    };
    // An attacker who has unwrapped a secret_id can wrap it again, but not in the name of this path.
    if !is_secret_id_path(&made_by, mount) {
        return Ok(Err(Arc::new(Problem::WrappingTokenForeign(shown))));
    }
    // Set before the request, which may be cancelled.
    *unanswered = Some(id);
    match unwrap(wrapping_token, round).await {
        Ok(secret_id) => Ok(Ok(secret_id)),
        Err(failure) => {
            if matches!(&*failure.problem, Problem::Refused { .. }) {
                *unanswered = None;
            }
            let refusal = unknown_token(failure)?;
            Ok(Err(Arc::new(Problem::WrappingTokenSpent(refusal))))
        }
    }
}

/// The path whose answer was wrapped, as it is and as it may be shown.
///
/// The lookup needs no token, and does not use up this one.
async fn made_by(wrapping_token: &str, round: &mut Round<'_>) -> Result<(String, String), Failure> {
    #[derive(Deserialize)]
    struct Lookup {
        creation_path: String,
    }
    let operation = Operation::LookUpWrapping;
    let path = "sys/wrapping/lookup".to_owned();
    let request = Request::post(operation, path, &[], &[("token", wrapping_token)]);
    let reply = round.send(&request, None).await?;
    let made_by = reply.data::<Lookup>(operation)?.creation_path;
    let shown = reply.presentable(std::slice::from_ref(&made_by)).concat();
    Ok((made_by, shown))
}

/// Whether `path` makes secret_ids of any AppRole at `mount`.
fn is_secret_id_path(path: &str, mount: &str) -> bool {
    path.strip_prefix("auth/")
        .and_then(|rest| rest.strip_prefix(mount)?.strip_prefix("/role/"))
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(role, what)| {
            !role.is_empty() && matches!(what, "secret-id" | "custom-secret-id")
        })
}

/// A wrapping token authenticates its own unwrapping.
async fn unwrap(wrapping_token: &str, round: &mut Round<'_>) -> Result<Zeroizing<String>, Failure> {
    #[derive(Deserialize)]
    struct Wrapped {
        secret_id: SecretText,
    }
    let reply = round
        .send(&Request::unwrap()?, Some(wrapping_token))
        .await?;
    let wrapped: Wrapped = reply.data(Operation::Unwrap)?;
    Ok(wrapped.secret_id.into_inner())
}

/// The refusal of a wrapping token that was used, has expired or never existed.
///
/// OpenBao and Vault answer 400 to all three. Any other failure is not about the token.
fn unknown_token(failure: Failure) -> Result<Arc<Problem>, Failure> {
    // A refusal without Vault's words comes from a proxy.
    let is_unknown = matches!(
        &*failure.problem,
        Problem::Refused { status: 400 | 403, messages, .. } if !messages.is_empty()
    );
    match failure.verdict {
        Verdict::Refused if is_unknown => Ok(failure.problem),
        _ => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secret_ids_of_the_login_mount_are_trusted() {
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
            assert_eq!(is_secret_id_path(path, mount), expected, "{path}");
        }
    }
}
