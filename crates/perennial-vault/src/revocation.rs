use std::any::Any;
use std::collections::BTreeMap;
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
    issued: Mutex<Issued>,
    released: Notify,
}

#[derive(Default)]
struct Issued {
    next_id: u64,
    /// In the order of their delivery.
    certificates: BTreeMap<u64, IssuedCert>,
}

#[derive(Clone)]
struct IssuedCert {
    pem: String,
    not_after: SystemTime,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Delivered; it may still fail the renewer's checks.
    Pending,
    InUse,
    /// No snapshot of it is left: when it is revoked, or the next attempt is due.
    Released(Instant),
}

/// Held by every snapshot of a certificate.
struct UseGuard {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        let mut issued = self.shared.issued();
        match issued.certificates.get_mut(&self.id) {
            Some(certificate) if certificate.state == State::InUse => {
                certificate.state = State::Released(Instant::now());
            }
            _ => {
                issued.certificates.remove(&self.id);
            }
        }
        drop(issued);
        self.shared.released.notify_one();
    }
}

impl Revocations {
    pub(crate) fn new(vault: Vault, mount: String) -> Self {
        let shared = Shared {
            vault,
            mount,
            issued: Mutex::default(),
            released: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Remembers a certificate that is being delivered, under an id.
    ///
    /// The drop of the guard releases it.
    pub(crate) fn delivered(
        &self,
        pem: String,
        not_after: SystemTime,
    ) -> (u64, Arc<dyn Any + Send + Sync>) {
        let mut issued = self.shared.issued();
        let id = issued.next_id;
        issued.next_id += 1;
        let certificate = IssuedCert {
            pem,
            not_after,
            state: State::Pending,
        };
        issued.certificates.insert(id, certificate);
        let shared = Arc::clone(&self.shared);
        (id, Arc::new(UseGuard { id, shared }))
    }

    /// From now on, this certificate is revoked once it is released.
    pub(crate) fn published(&self, id: u64) {
        if let Some(certificate) = self.shared.issued().certificates.get_mut(&id)
            && certificate.state == State::Pending
        {
            certificate.state = State::InUse;
        }
    }

    /// Revokes released certificates, for ever.
    ///
    /// # Cancel safety
    /// A cancelled revocation is repeated, which does no harm.
    pub(crate) async fn keep_revoking(&self) -> Infallible {
        loop {
            let certificates = self.shared.unexpired().into_iter();
            let released = certificates.filter_map(|(id, certificate)| match certificate.state {
                State::Released(due) => Some((due, id, certificate)),
                State::Pending | State::InUse => None,
            });
            let Some((due, id, certificate)) = released.min_by_key(|(due, ..)| *due) else {
                self.shared.released.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.shared.released.notified() => continue,
            }
            // Postponed before the request, which may be cancelled.
            self.shared.postpone(id);
            let Some(token) = self.shared.vault.tokens.current().await else {
                continue;
            };
            let round = &mut self.shared.vault.transport.round();
            if let Err(failure) = self.shared.revoke(round, id, &certificate, &token).await {
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
            for (id, certificate) in shared.armed() {
                // Each certificate tries every address, also one that failed for another.
                let round = &mut shared.vault.transport.round();
                let mut outcome = shared.revoke(round, id, &certificate, &token).await;
                let is_token = |failure: &Failure| failure.verdict == Verdict::TokenRefused;
                if login == LoginBudget::Available && outcome.as_ref().is_err_and(is_token) {
                    login = LoginBudget::Used;
                    token = tokens.replacement(round, None).await?;
                    outcome = shared.revoke(round, id, &certificate, &token).await;
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
        match (shared.armed().len(), cause) {
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
    /// Forgets expired certificates, and returns the others.
    fn unexpired(&self) -> Vec<(u64, IssuedCert)> {
        let now = wall_clock();
        let certificates = &mut self.issued().certificates;
        certificates.retain(|_, certificate| certificate.not_after > now);
        let all = certificates.iter();
        all.map(|(id, certificate)| (*id, certificate.clone()))
            .collect()
    }

    /// The unexpired certificates that were published.
    fn armed(&self) -> Vec<(u64, IssuedCert)> {
        let mut certificates = self.unexpired();
        certificates.retain(|(_, certificate)| certificate.state != State::Pending);
        certificates
    }

    fn postpone(&self, id: u64) {
        if let Some(certificate) = self.issued().certificates.get_mut(&id) {
            certificate.state = State::Released(Instant::now() + RETRY);
        }
    }

    /// By its PEM and not by its serial number, so that Vault need not store it.
    async fn revoke(
        &self,
        round: &mut Round<'_>,
        id: u64,
        certificate: &IssuedCert,
        token: &Token,
    ) -> Result<(), Failure> {
        let path = format!("{}/revoke", self.mount);
        let fields = [("certificate", certificate.pem.as_str())];
        let request = Request::post(Operation::Revoke, path, &fields);
        if let Err(failure) = round.send(&request, Some(token.expose())).await {
            return Err(self.vault.tokens.refused(token, failure).await);
        }
        self.issued().certificates.remove(&id);
        tracing::debug!("revoked an unused certificate");
        Ok(())
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("unrevoked", &self.shared.issued().certificates.len())
            .finish_non_exhaustive()
    }
}
