use std::fmt;
use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use perennial::{Ask, CertMaterial, CertSource, Fingerprint, Snapshot, SourceError, Why};
use rcgen::CertificateParams;
use rustls_pki_types::CertificateDer;

use crate::access::Access;
use crate::answer::{self, Answer, Asked, LastAboveLeaf, ServerRoots, Taken};
use crate::builder::VaultPkiBuilder;
use crate::error::{Failure, Step, VaultError};
use crate::issuers::Issuers;
use crate::key::NewKey;
use crate::outcome::Verdict;
use crate::request::{CertRequest, KeyFrom};
use crate::revocation::Revocations;
use crate::skew;
use crate::token::{Login, Token};
use crate::transport::{Reply, Round, presentable};

/// What is left of a CA is asked for but for this: the answer takes its time.
const CA_MARGIN: Duration = Duration::from_secs(5);

/// The PKI secrets engine of Vault or OpenBao, as a certificate source.
///
/// Each fetch makes a new key and has a role sign a request for it. The crate's front page
/// has an example.
///
/// A fetch fails with a [`SourceError`] whose cause is a [`VaultError`]: *denied* where role,
/// policy, credential or CA refuse, *invalid* where the answer or the server's certificate
/// cannot be used, *unavailable* where waiting alone can cure it: server unreachable, sealed,
/// without a leader, or throttling (its `Retry-After` is kept).
///
/// What Vault warns of (a shortened life, names that a role ignores), a CA that ends before the
/// certificate would, and clocks that differ too much are logged once, and stand in
/// [`CertStatus::warnings`](perennial::CertStatus::warnings).
pub struct VaultPki {
    pub(crate) access: Access,
    pub(crate) request: CertRequest,
    /// The names of `request`, ready for a signing request.
    pub(crate) params: CertificateParams,
    pub(crate) roots: Roots,
    pub(crate) revocations: Option<Revocations>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) warnings: Warnings,
    pub(crate) last: LastAboveLeaf,
}

/// Where the trust roots for servers come from.
pub(crate) enum Roots {
    Fixed(Vec<CertificateDer<'static>>),
    Followed(Box<Issuers>),
}

impl VaultPki {
    /// Starts with the address: `https://host:8200`, with a path if a proxy adds one.
    ///
    /// Plain `http` is taken only for this machine itself (`localhost`, `127.0.0.1`, `[::1]`).
    pub fn builder(address: impl Into<String>) -> VaultPkiBuilder {
        VaultPkiBuilder::new(address.into())
    }

    /// Starts another source that asks the same Vault over the same connections, with the same token.
    ///
    /// For a program with several certificates: it logs in once for all of them. To be called before
    /// this one is handed to a [`LiveCert`](perennial::LiveCert). Mount, role, names, and all else
    /// that belongs to a certificate, as key type, roots and revocation, begin at their defaults; `auth`, addresses, `ca_pem`, namespace,
    /// timeouts and provider cannot be. The token must be good for each of the roles. Not with
    /// [`Auth::tls_certificate`](crate::Auth::tls_certificate), where each certificate logs in for itself.
    ///
    /// Whichever source needs a token first logs in for all. One that is shut down in the midst of
    /// that gives the login up: a credential that is good for a single login may be spent by it.
    ///
    /// # Example
    /// ```
    /// # fn main() -> Result<(), perennial_vault::BuildError> {
    /// use perennial_vault::{Auth, VaultPki};
    ///
    /// let app = VaultPki::builder("https://vault.example:8200")
    ///     .auth(Auth::token("from a safe place"))
    ///     .mount("pki_int")
    ///     .role("app")
    ///     .common_name("app")
    ///     .build()?;
    /// let jobs = app.another().mount("pki_int").role("jobs").common_name("jobs").build()?;
    /// # Ok(()) }
    /// ```
    pub fn another(&self) -> VaultPkiBuilder {
        VaultPkiBuilder::sharing(self.access.clone())
    }

    /// What revokes the certificates, if [that is set](VaultPkiBuilder::revoke_superseded).
    ///
    /// To be taken before the source is handed to a [`LiveCert`](perennial::LiveCert).
    pub fn revocations(&self) -> Option<Revocations> {
        self.revocations.clone()
    }

    /// One certificate, with at most one login on the way.
    async fn ask(&self, current: Option<&Snapshot>) -> Result<CertMaterial, Failure> {
        let key = match self.request.key_from {
            KeyFrom::Vault => None,
            KeyFrom::Here(kind) => {
                let made = NewKey::make(kind, &self.params).await;
                Some(made.map_err(|e| Failure::unusable(VaultError::Request(e)))?)
            }
        };
        let key = key.as_ref();
        let round = &mut self.access.transport.round();
        let (token, login) = self.access.tokens.ready(round, current).await?;
        match self.certificate(round, key, &token).await {
            Err(failure) if failure.verdict == Verdict::TokenRefused && login == Login::Left => {
                tracing::debug!("vault refuses the token, logging in again");
                let token = self.access.tokens.another(round, current).await?;
                self.certificate(round, key, &token).await
            }
            outcome => outcome,
        }
    }

    /// Asks with this token; once more, for less, where the CA ends before the certificate would.
    async fn certificate(
        &self,
        round: &mut Round<'_>,
        key: Option<&NewKey>,
        token: &Token,
    ) -> Result<CertMaterial, Failure> {
        let asked = self.request.ttl;
        let failure = match self.send(round, key, asked, token).await {
            Ok(reply) => return self.material(key, &reply, asked, None),
            Err(failure) => failure,
        };
        match failure.verdict {
            Verdict::BeyondCa { ends, left } if left > CA_MARGIN => {
                let less = Some(left - CA_MARGIN);
                let reply = self.send(round, key, less, token).await?;
                self.material(key, &reply, less, Some(ends_first(ends)))
            }
            _ => Err(failure),
        }
    }

    async fn send(
        &self,
        round: &mut Round<'_>,
        key: Option<&NewKey>,
        ttl: Option<Duration>,
        token: &Token,
    ) -> Result<Reply, Failure> {
        let outcome = match key {
            Some(key) => {
                let endpoint = self.request.sign(&key.request, ttl);
                round.send(Step::Sign, &endpoint, Some(token)).await
            }
            None => {
                let endpoint = self.request.issue(ttl);
                round.send(Step::Issue, &endpoint, Some(token)).await
            }
        };
        match outcome {
            Ok(reply) => Ok(reply),
            Err(failure) => Err(self.access.tokens.refused(token, failure).await),
        }
    }

    fn material(
        &self,
        key: Option<&NewKey>,
        reply: &Reply,
        ttl: Option<Duration>,
        told: Option<String>,
    ) -> Result<CertMaterial, Failure> {
        let step = if key.is_some() {
            Step::Sign
        } else {
            Step::Issue
        };
        let answer: Answer = reply.json(step)?;
        let issued = answer.data.ok_or_else(|| {
            let problem = "it holds no data";
            Failure::unusable(VaultError::Unusable { step, problem })
        })?;
        let followed = match &self.roots {
            Roots::Fixed(_) => Vec::new(),
            Roots::Followed(issuers) => issuers.roots(),
        };
        let asked = Asked {
            request: &self.request,
            ttl,
            server_roots: match &self.roots {
                Roots::Fixed(roots) => ServerRoots::Fixed(roots),
                Roots::Followed(_) => ServerRoots::Followed(&followed),
            },
            last: &self.last,
            server_now: reply.date(),
            now: skew::now(),
        };
        let unusable = |error: VaultError| Failure::unusable(error.about(step));
        let made_by_vault;
        let key = match key {
            Some(key) => &key.key,
            None => {
                made_by_vault = issued.key().map_err(unusable)?;
                &made_by_vault
            }
        };
        let Taken {
            material,
            above_leaf,
            warning,
        } = answer::take(&issued, key, &asked).map_err(unusable)?;
        let mut warnings = presentable(&answer.warnings.unwrap_or_default());
        warnings.extend(told);
        warnings.extend(warning.map(str::to_owned));
        self.warnings.report(&warnings);
        let material = material.with_warnings(warnings);
        let guard = self.revocations.as_ref().and_then(|revocations| {
            let leaf = material.chain().first()?;
            Some(revocations.guard(leaf, answer::not_after(leaf)?))
        });
        if let Roots::Followed(issuers) = &self.roots {
            issuers.delivered(&material, key, above_leaf, guard.clone());
        }
        Ok(match guard {
            Some(guard) => material.with_guard(guard),
            None => material,
        })
    }
}

fn ends_first(ca_ends: SystemTime) -> String {
    format!(
        "the CA expires at {}, so the certificate lives less long than asked: renew the CA",
        httpdate::fmt_http_date(ca_ends)
    )
}

impl CertSource for VaultPki {
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        let Roots::Followed(issuers) = &self.roots else {
            return self.ask(ask.current).await.map_err(SourceError::from);
        };
        if ask.why == Why::Changed
            && let Some(material) = issuers.again(ask.current)
        {
            return Ok(material);
        }
        issuers.asking();
        self.ask(ask.current).await.map_err(SourceError::from)
    }

    /// Ready once the file of a refused credential holds another one, or once the mount's issuers
    /// lead to other roots. Meanwhile it renews the token, and revokes what nobody uses any more.
    async fn changed(&self) {
        let issuers = async {
            match &self.roots {
                Roots::Fixed(_) => pending().await,
                Roots::Followed(issuers) => {
                    let mount = &self.request.mount;
                    issuers
                        .changed(&self.access.transport, &self.access.tokens, mount)
                        .await;
                }
            }
        };
        let revoking = async {
            match &self.revocations {
                None => pending().await,
                Some(revocations) => match revocations.keep_revoking().await {},
            }
        };
        tokio::select! {
            () = self.access.tokens.upkeep(&self.access.transport) => {}
            () = issuers => {}
            () = revoking => {}
        }
    }

    fn request(&self) -> Option<Fingerprint> {
        Some(self.fingerprint)
    }
}

impl fmt::Debug for VaultPki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultPki")
            .field("transport", &self.access.transport)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// The warnings, told when they change and not with each renewal.
#[derive(Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn report(&self, warnings: &[String]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == warnings {
            return;
        }
        if !warnings.is_empty() {
            tracing::warn!(?warnings, "vault gave the certificate with warnings");
        }
        *last = warnings.to_vec();
    }
}

#[cfg(any(test, fuzzing))]
mod fuzzing;
#[cfg(any(test, fuzzing))]
pub use fuzzing::Reader;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_are_told_once_per_change() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let warnings = Warnings::default();
        tracing::subscriber::with_default(subscriber, || {
            for round in ["", "clamped", "clamped", "", "clamped", "ignored"] {
                let list = Some(round).filter(|r| !r.is_empty());
                let list: Vec<String> = list.map(str::to_owned).into_iter().collect();
                warnings.report(&list);
            }
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("WARN").count(), 3, "{text}");
    }
}
