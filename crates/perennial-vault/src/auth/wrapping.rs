//! A response-wrapped secret_id: unwrapped once, and an alarm if somebody was there first.

use std::sync::Arc;

use perennial::Fingerprint;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::call::Call;
use crate::error::{Failure, Step, VaultError};
use crate::outcome::{CREDENTIAL_HOLD, Verdict};
use crate::token::Token;
use crate::transport::Transport;

/// What the last wrapping token brought; it is never sent a second time.
pub(crate) struct Opened {
    by: Fingerprint,
    outcome: Result<Zeroizing<String>, Arc<VaultError>>,
}

impl Opened {
    /// The secret_id in memory, with which wrapping token brought it.
    pub(super) fn secret_id(&self) -> Option<(Fingerprint, &str)> {
        let secret_id = self.outcome.as_ref().ok()?;
        Some((self.by, secret_id))
    }
}

/// Gives the secret_id within `wrapping`, from memory where it was unwrapped before.
pub(super) async fn open(
    wrapping: Zeroizing<String>,
    opened: &mut Option<Opened>,
    transport: &Transport,
) -> Result<Zeroizing<String>, Failure> {
    let by = Fingerprint::of([wrapping.as_bytes()]);
    let before = opened.as_ref().filter(|opened| opened.by == by);
    let outcome = match before {
        Some(before) => before.outcome.clone(),
        None => {
            let outcome = match unwrap(wrapping, transport).await {
                Ok(secret) => Ok(secret),
                Err(failure) if is_spent(&failure) => {
                    // An alarm for people, who alone can tell whether it was one of them.
                    tracing::error!(
                        "vault does not know the wrapping token (any more): possible interception"
                    );
                    Err(Arc::new(failure.cause))
                }
                Err(failure) => return Err(failure),
            };
            *opened = Some(Opened {
                by,
                outcome: outcome.clone(),
            });
            outcome
        }
    };
    outcome.map_err(|refusal| {
        Failure::new(
            Verdict::CredentialRefused {
                hold: CREDENTIAL_HOLD,
            },
            VaultError::WrappingTokenSpent { refusal },
        )
    })
}

/// The wrapping token authenticates its own unwrapping.
async fn unwrap(
    wrapping: Zeroizing<String>,
    transport: &Transport,
) -> Result<Zeroizing<String>, Failure> {
    let token = Token::bare(wrapping);
    let call = Call::new("sys/wrapping/unwrap", &[]);
    let reply = transport.send(Step::Unwrap, &call, Some(&token)).await?;
    let wrapped: Unwrapped = reply.json(Step::Unwrap)?;
    Ok(wrapped.data.secret_id)
}

/// OpenBao and Vault answer 400 to a wrapping token that was used, expired or never was.
fn is_spent(failure: &Failure) -> bool {
    failure.verdict == Verdict::Refused
        && matches!(
            failure.cause,
            VaultError::Refused {
                status: 400 | 403,
                ..
            }
        )
}

#[derive(Deserialize)]
struct Unwrapped {
    data: UnwrappedData,
}

#[derive(Deserialize)]
struct UnwrappedData {
    secret_id: Zeroizing<String>,
}
