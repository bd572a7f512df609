use std::sync::Arc;
use std::time::Duration;

use perennial::Fingerprint;
use tokio::time::Instant;

use crate::error::{Failure, VaultError};
use crate::outcome::Verdict;

/// Refused credentials, and until when they are not sent again.
#[derive(Default)]
pub(crate) struct Holds(Vec<Hold>);

struct Hold {
    credential: Fingerprint,
    until: Instant,
    refusal: Arc<VaultError>,
}

impl Holds {
    /// The refusal of a credential that is held back.
    pub(crate) fn on(&mut self, credential: Fingerprint) -> Option<Failure> {
        let now = Instant::now();
        self.0.retain(|hold| now < hold.until);
        let hold = self.0.iter().find(|hold| hold.credential == credential)?;
        Some(held(hold.until - now, &hold.refusal))
    }

    /// Holds a credential back if that is what its failure asks for.
    pub(crate) fn note(&mut self, credential: Fingerprint, failure: Failure) -> Failure {
        let Verdict::CredentialRefused { hold } = failure.verdict else {
            return failure;
        };
        let refusal = Arc::from(failure.cause);
        let told = held(hold, &refusal);
        self.0.push(Hold {
            credential,
            until: Instant::now() + hold,
            refusal,
        });
        told
    }
}

fn held(wait: Duration, refusal: &Arc<VaultError>) -> Failure {
    Failure {
        verdict: Verdict::CredentialRefused { hold: wait },
        cause: Box::new(VaultError::HeldBack {
            wait,
            refusal: Arc::clone(refusal),
        }),
        retry_after: Some(wait),
    }
}
