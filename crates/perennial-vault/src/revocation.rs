use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use perennial::with_causes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::Vault;
use crate::error::{Failure, Problem, VaultError};
use crate::http::{Request, Round};
use crate::issue::wall_clock;
use crate::login::{LoginBudget, Token};
use crate::verdict::{Operation, Verdict};

/// The shortest time between two attempts to revoke a certificate.
const RETRY: Duration = Duration::from_secs(30);

/// Revokes the certificates of one [`VaultPki`](crate::VaultPki); all clones are the same.
///
/// The renewer revokes a certificate between fetches, once a newer one is in use and no snapshot of
/// the old one is held. A failed revocation is retried after 30 s. A certificate that was never
/// published, or that has expired, is not revoked.
#[derive(Clone)]
pub struct Revocations {
    shared: Arc<Shared>,
}

struct Shared {
    vault: Vault,
    mount: String,
    /// In the order of their delivery.
    issued: Mutex<Vec<Arc<IssuedCert>>>,
    released: Notify,
}

pub(crate) struct IssuedCert {
    pem: String,
    not_after: SystemTime,
    state: Mutex<Use>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Delivered; it may still fail the renewer's checks.
    Pending,
    Published,
    /// No snapshot of it is left: when it is revoked, or the next attempt is due.
    Over(Instant),
}

/// Held by every snapshot of a certificate.
struct UseGuard {
    certificate: Arc<IssuedCert>,
    shared: Arc<Shared>,
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        match self.certificate.state() {
            Use::Pending => self.shared.forget(&self.certificate),
            Use::Published | Use::Over(_) => self.certificate.set(Use::Over(Instant::now())),
        }
        self.shared.released.notify_one();
    }
}

impl IssuedCert {
    /// From now on, it is revoked once no snapshot of it is left.
    pub(crate) fn published(&self) {
        self.set(Use::Published);
    }

    fn state(&self) -> Use {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: Use) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Revocations {
    pub(crate) fn new(vault: Vault, mount: String) -> Self {
        Self {
            shared: Arc::new(Shared {
                vault,
                mount,
                issued: Mutex::default(),
                released: Notify::new(),
            }),
        }
    }

    /// Remembers a certificate that is being delivered; the drop of the guard ends its use.
    pub(crate) fn delivered(
        &self,
        pem: String,
        not_after: SystemTime,
    ) -> (Arc<IssuedCert>, Arc<dyn Any + Send + Sync>) {
        let certificate = Arc::new(IssuedCert {
            pem,
            not_after,
            state: Mutex::new(Use::Pending),
        });
        self.shared.issued().push(Arc::clone(&certificate));
        let guard = UseGuard {
            certificate: Arc::clone(&certificate),
            shared: Arc::clone(&self.shared),
        };
        (certificate, Arc::new(guard))
    }

    /// Revokes released certificates, for ever.
    ///
    /// # Cancel safety
    /// A cancelled revocation is repeated, which does no harm.
    pub(crate) async fn keep_revoking(&self) -> Infallible {
        loop {
            let published = self.shared.published().into_iter();
            let unused = published.filter_map(|certificate| match certificate.state() {
                Use::Over(due) => Some((due, certificate)),
                Use::Pending | Use::Published => None,
            });
            let Some((due, certificate)) = unused.min_by_key(|(due, _)| *due) else {
                self.shared.released.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.shared.released.notified() => continue,
            }
            // Postponed before the request, which may be cancelled.
            certificate.set(Use::Over(Instant::now() + RETRY));
            let Some(token) = self.shared.vault.tokens.current().await else {
                continue;
            };
            let round = &mut self.shared.vault.transport.round();
            if let Err(failure) = self.shared.revoke(round, &certificate, &token).await {
                let error = with_causes(&*failure.problem).to_string();
                tracing::warn!(
                    error,
                    "failed to revoke an unused certificate; retrying later"
                );
            }
        }
    }

    /// Revokes all published certificates, including the one in use: for the end of a program.
    ///
    /// Call it when the pool is closed and the [`LiveCert`](perennial::LiveCert) has been shut down.
    /// Do not call it where the certificate [is saved](perennial::CertSource::saved_at) for the next
    /// start, which could not use it. Logs in again if the token has expired.
    ///
    /// # Errors
    /// [`VaultError`], with the number of certificates that are not revoked: the deadline was
    /// reached, or Vault refused.
    ///
    /// # Cancel safety
    /// If cancelled, some certificates may be revoked; another call continues.
    pub async fn finish(&self, deadline: Duration) -> Result<(), VaultError> {
        let mut cause = None;
        let shared = &self.shared;
        let all = async {
            let tokens = &shared.vault.tokens;
            let round = &mut shared.vault.transport.round();
            let (mut token, mut login) = tokens.ready(round, None).await?;
            for certificate in shared.published() {
                // Each certificate tries every address, also one that failed for another.
                let round = &mut shared.vault.transport.round();
                let mut outcome = shared.revoke(round, &certificate, &token).await;
                let is_token = |failure: &Failure| failure.verdict == Verdict::TokenRefused;
                if login == LoginBudget::Available && outcome.as_ref().is_err_and(is_token) {
                    login = LoginBudget::Used;
                    token = tokens.replacement(round, None).await?;
                    outcome = shared.revoke(round, &certificate, &token).await;
                }
                // A certificate that Vault does not revoke must not delay the others.
                if let Err(failure) = outcome {
                    cause.get_or_insert(failure);
                }
            }
            Ok::<(), Failure>(())
        };
        if let Ok(Err(failure)) = tokio::time::timeout(deadline, all).await {
            cause = Some(failure);
        }
        match (shared.published().len(), cause) {
            (0, _) => Ok(()),
            (count, Some(cause)) => Err(Failure {
                problem: Arc::new(Problem::NotRevoked(count, Some(cause.problem))),
                ..cause
            }
            .into()),
            (count, None) => Err(Failure::transient(Problem::NotRevoked(count, None)).into()),
        }
    }
}

impl Shared {
    /// The published certificates; forgets expired ones.
    fn published(&self) -> Vec<Arc<IssuedCert>> {
        let now = wall_clock();
        let mut issued = self.issued();
        issued.retain(|certificate| certificate.not_after > now);
        let mut published = issued.clone();
        published.retain(|certificate| certificate.state() != Use::Pending);
        published
    }

    fn forget(&self, certificate: &Arc<IssuedCert>) {
        self.issued()
            .retain(|other| !Arc::ptr_eq(other, certificate));
    }

    /// By its PEM and not by its serial number, so that Vault need not store it.
    async fn revoke(
        &self,
        round: &mut Round<'_>,
        certificate: &Arc<IssuedCert>,
        token: &Token,
    ) -> Result<(), Failure> {
        let path = format!("{}/revoke", self.mount);
        let fields = [("certificate", certificate.pem.as_str())];
        let request = Request::post(Operation::Revoke, path, &fields, &[]);
        if let Err(failure) = round.send(&request, token.expose()).await {
            return Err(self.vault.tokens.refused(token, failure).await);
        }
        self.forget(certificate);
        tracing::debug!("revoked an unused certificate");
        Ok(())
    }

    fn issued(&self) -> MutexGuard<'_, Vec<Arc<IssuedCert>>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("unrevoked", &self.shared.published().len())
            .finish_non_exhaustive()
    }
}
