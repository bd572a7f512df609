use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::CredentialId;
use crate::error::{Failure, Problem};
use crate::verdict::Verdict;

/// Refused credentials, and until when they are not sent again.
#[derive(Default)]
pub(super) struct BackOff(Vec<RefusedCredential>);

struct RefusedCredential {
    id: CredentialId,
    until: Instant,
    refusal: Arc<Problem>,
}

impl BackOff {
    /// The refusal of a credential that must not be sent yet.
    pub(super) fn refusal(&mut self, id: CredentialId) -> Option<Failure> {
        let now = Instant::now();
        self.0.retain(|refused| now < refused.until);
        let refused = self.0.iter().find(|refused| refused.id == id)?;
        Some(failure(refused.until - now, &refused.refusal))
    }

    /// Starts a back-off if this failure is a refusal of the credential.
    pub(super) fn note(&mut self, id: CredentialId, failed: Failure) -> Failure {
        let Verdict::CredentialRefused { back_off } = failed.verdict else {
            return failed;
        };
        let refusal = failed.problem;
        let failure = failure(back_off, &refusal);
        self.0.push(RefusedCredential {
            id,
            until: Instant::now() + back_off,
            refusal,
        });
        failure
    }
}

fn failure(wait: Duration, refusal: &Arc<Problem>) -> Failure {
    Failure {
        verdict: Verdict::CredentialRefused { back_off: wait },
        problem: Arc::new(Problem::BackOff(wait, Arc::clone(refusal))),
        retry_after: Some(wait),
    }
}
