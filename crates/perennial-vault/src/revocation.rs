use std::any::Any;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use perennial::with_causes;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::access::Access;
use crate::auth::Call;
use crate::error::{Failure, Step, VaultError};
use crate::outcome::Verdict;
use crate::skew;
use crate::token::{Login, Token};
use crate::transport::Round;

/// How long after a revocation that failed the next one is tried.
pub const REVOCATION_RETRY: Duration = Duration::from_secs(30);

/// Revokes what one [`VaultPki`](crate::VaultPki) was issued; all clones are the same.
///
/// The renewer revokes a certificate while it is idle, once a newer one is in use and no snapshot
/// of it is held. One that has expired meanwhile needs no revocation.
#[derive(Clone)]
pub struct Revocations {
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    mount: String,
    issued: Mutex<Issued>,
    released: Notify,
}

#[derive(Default)]
struct Issued {
    next_id: u64,
    /// Neither revoked nor seen to have expired.
    left: BTreeMap<u64, Certificate>,
}

#[derive(Clone)]
struct Certificate {
    pem: String,
    not_after: SystemTime,
    /// Since nobody uses it any more: when it is revoked, or tried again.
    due: Option<Instant>,
}

/// Held by every snapshot of a certificate.
struct InUse {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(certificate) = self.shared.issued().left.get_mut(&self.id) {
            certificate.due = Some(Instant::now());
        }
        self.shared.released.notify_one();
    }
}

impl Revocations {
    pub(crate) fn new(access: Access, mount: String) -> Self {
        let shared = Shared {
            access,
            mount,
            issued: Mutex::default(),
            released: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What says by its drop that nobody uses this certificate any more.
    pub(crate) fn guard(
        &self,
        leaf: &CertificateDer<'_>,
        not_after: SystemTime,
    ) -> Arc<dyn Any + Send + Sync> {
        let mut issued = self.shared.issued();
        let id = issued.next_id;
        issued.next_id += 1;
        issued.left.insert(
            id,
            Certificate {
                pem: pem(leaf),
                not_after,
                due: None,
            },
        );
        Arc::new(InUse {
            id,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Revokes what is released, for ever.
    ///
    /// # Cancel safety
    /// A revocation that is cancelled is made again, which does no harm.
    pub(crate) async fn keep_revoking(&self) -> Infallible {
        loop {
            let released = self
                .shared
                .unexpired(|certificate| certificate.due.is_some());
            let dues = released
                .into_iter()
                .filter_map(|one| Some((one.1.due?, one)));
            let Some((due, (id, certificate))) = dues.min_by_key(|(due, _)| *due) else {
                self.shared.released.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.shared.released.notified() => continue,
            }
            // Before the request: one that is cancelled counts too.
            self.shared.put_off(id);
            let Some(token) = self.shared.access.tokens.kept().await else {
                continue;
            };
            let round = &mut self.shared.access.transport.round();
            if let Err(failure) = self.shared.revoke(round, id, &certificate, &token).await {
                let error = with_causes(&*failure.cause).to_string();
                tracing::warn!(error, "a certificate that nobody uses is not revoked yet");
            }
        }
    }

    /// Revokes everything that is left, the certificate in use included: the end of a program.
    ///
    /// To be called when the pool is closed and the [`LiveCert`](perennial::LiveCert) has been shut
    /// down. Not for a certificate that [is saved](perennial::CertSource::saved_at) for the next
    /// start, which could not use it. Logs in again if the token has ended.
    ///
    /// # Errors
    /// [`NotRevoked`]: the deadline has come or Vault refuses, with what is left.
    ///
    /// # Cancel safety
    /// Cancelled, it may have revoked some; calling it again goes on.
    pub async fn finish(&self, deadline: Duration) -> Result<(), NotRevoked> {
        let mut cause = None;
        let shared = &self.shared;
        let all = async {
            let round = &mut shared.access.transport.round();
            let (mut token, mut login) = shared.access.tokens.ready(round, None).await?;
            for (id, certificate) in shared.unexpired(|_| true) {
                // An address that is gone for one is tried again for the next.
                let round = &mut shared.access.transport.round();
                let mut outcome = shared.revoke(round, id, &certificate, &token).await;
                let is_over = |failure: &Failure| failure.verdict == Verdict::TokenRefused;
                // Somebody has ended the token: once, another login.
                if login == Login::Left && outcome.as_ref().is_err_and(is_over) {
                    login = Login::Spent;
                    token = shared.access.tokens.another(round, None).await?;
                    outcome = shared.revoke(round, id, &certificate, &token).await;
                }
                // One that Vault does not revoke holds up no other.
                if let Err(failure) = outcome {
                    cause.get_or_insert(failure.cause);
                }
            }
            Ok::<(), Failure>(())
        };
        if let Ok(Err(failure)) = tokio::time::timeout(deadline, all).await {
            cause = Some(failure.cause);
        }
        match shared.unexpired(|_| true).len() {
            0 => Ok(()),
            count => Err(NotRevoked { count, cause }),
        }
    }
}

impl Shared {
    /// Those that this is true of; forgets what has expired.
    fn unexpired(&self, which: impl Fn(&Certificate) -> bool) -> Vec<(u64, Certificate)> {
        let now = skew::now();
        let mut issued = self.issued();
        issued
            .left
            .retain(|_, certificate| certificate.not_after > now);
        let chosen = issued
            .left
            .iter()
            .filter(|(_, certificate)| which(certificate));
        chosen
            .map(|(id, certificate)| (*id, certificate.clone()))
            .collect()
    }

    fn put_off(&self, id: u64) {
        if let Some(certificate) = self.issued().left.get_mut(&id) {
            certificate.due = Some(Instant::now() + REVOCATION_RETRY);
        }
    }

    async fn revoke(
        &self,
        round: &mut Round<'_>,
        id: u64,
        certificate: &Certificate,
        token: &Token,
    ) -> Result<(), Failure> {
        let path = format!("{}/revoke", self.mount);
        let call = Call::new(path, &[("certificate", &certificate.pem)]);
        let sent = round.send(Step::Revoke, &call, Some(token)).await;
        if let Err(failure) = sent {
            return Err(self.access.tokens.refused(token, failure).await);
        }
        self.issued().left.remove(&id);
        tracing::debug!("revoked a certificate that nobody uses any more");
        Ok(())
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("left", &self.shared.issued().left.len())
            .finish_non_exhaustive()
    }
}

/// What [`Revocations::finish`] could not revoke in time.
#[derive(Debug, thiserror::Error)]
#[error("{count} unexpired certificates are not revoked")]
#[non_exhaustive]
pub struct NotRevoked {
    /// How many.
    pub count: usize,
    /// Why not; nothing where only the deadline has come.
    #[source]
    pub cause: Option<Box<VaultError>>,
}

fn pem(der: &CertificateDer<'_>) -> String {
    let text = Base64::encode_string(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
