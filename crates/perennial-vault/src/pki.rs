use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use perennial::{
    CacheKey, CertMaterial, CertSource, FetchContext, FetchReason, Fetched, Snapshot, SourceError,
};
use rcgen::CertificateParams;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::client::Vault;
use crate::error::{Failure, Problem, VaultError};
use crate::http::{Reply, Round};
use crate::issue::{CertRequest, Expected, IssueReply, KeyOrigin, KeyType, NewKey, wall_clock};
use crate::issuers::{CertRoots, Issuers};
use crate::login::{LoginBudget, Token};
use crate::revocation::{IssuedCert, Revocations};
use crate::settings;
use crate::verdict::{Operation, Verdict};

/// A `ttl` for a CA that is about to expire is shorter than its remaining lifetime by this much: the
/// request takes time.
const CA_MARGIN: Duration = Duration::from_secs(5);

/// How many deliveries may wait for their publication; older ones are never revoked.
const MOST_PENDING: usize = 2;

/// The PKI secrets engine of Vault or OpenBao, as a certificate source.
///
/// Each fetch generates a key and has a role sign a request for it. [`Vault`] has an example.
///
/// A fetch fails with a [`SourceError`] whose cause is a [`VaultError`]: *denied* where role,
/// policy, credential or CA refuse; *invalid* where the answer or the server's certificate is
/// unusable; *unavailable* where waiting alone can cure it: the server is unreachable, sealed,
/// without a leader, or throttles requests (its `Retry-After` is kept).
///
/// Vault's warnings (a shortened lifetime, names that a role ignores), a CA that expires before the
/// certificate would, and clocks that differ too much are logged once, and shown in
/// [`CertStatus::warnings`](perennial::CertStatus::warnings).
pub struct VaultPki {
    vault: Vault,
    request: CertRequest,
    /// The names of `request`, in the form of a signing request.
    params: CertificateParams,
    server_roots: ServerRoots,
    revocations: Option<Revocations>,
    warnings: Warnings,
    deliveries: Mutex<Deliveries>,
}

/// The certificates that wait for their publication, and the one in use.
#[derive(Default)]
struct Deliveries {
    pending: VecDeque<Delivery>,
    in_use: Option<[u8; 32]>,
}

struct Delivery {
    leaf_sha256: [u8; 32],
    roots: CertRoots,
    revocation: Option<Arc<IssuedCert>>,
}

/// Where the trust roots for servers come from.
enum ServerRoots {
    Fixed(Vec<CertificateDer<'static>>),
    Followed(Issuers),
}

impl Vault {
    /// Starts a certificate source at the path where a PKI engine is mounted, such as `pki_int`.
    ///
    /// Call it again for another certificate; the token must be valid for each of the roles.
    pub fn pki(&self, mount: impl Into<String>) -> VaultPkiBuilder {
        VaultPkiBuilder {
            vault: self.for_source(),
            request: CertRequest {
                mount: mount.into(),
                ..CertRequest::default()
            },
            key_type: None,
            issue: false,
            server_roots_pem: None,
            revoke: false,
        }
    }
}

impl VaultPki {
    /// Revokes the certificates, if [`revoke_superseded`](VaultPkiBuilder::revoke_superseded) is set.
    ///
    /// Call it before the source is moved into a [`LiveCert`](perennial::LiveCert).
    pub fn revocations(&self) -> Option<Revocations> {
        self.revocations.clone()
    }

    /// Requests one certificate, with one login at most.
    async fn certificate(&self, live: Option<&Snapshot>) -> Result<CertMaterial, Failure> {
        let key = match self.request.key_origin {
            KeyOrigin::Vault => None,
            KeyOrigin::Here(kind) => {
                let generated = NewKey::generate(kind, &self.params).await;
                let refuse = |error| Failure::unusable(Problem::Request(Operation::Sign, error));
                Some(generated.map_err(refuse)?)
            }
        };
        let (tokens, key) = (&self.vault.tokens, key.as_ref());
        let round = &mut self.vault.transport.round();
        let (token, login) = tokens.ready(round, live).await?;
        match self.certificate_with(&token, round, key).await {
            Err(failure)
                if failure.verdict == Verdict::TokenRefused && login == LoginBudget::Available =>
            {
                tracing::debug!("vault refused the token; logging in again");
                let token = tokens.replacement(round, live).await?;
                self.certificate_with(&token, round, key).await
            }
            outcome => outcome,
        }
    }

    /// Requests with this token, and once more where the CA expires before the certificate would.
    async fn certificate_with(
        &self,
        token: &Token,
        round: &mut Round<'_>,
        key: Option<&NewKey>,
    ) -> Result<CertMaterial, Failure> {
        let (reply, ttl, warning) = self.reply(round, key, token).await?;
        let outcome = self.material(key, &reply, ttl, warning.clone());
        match (&self.server_roots, &outcome) {
            // An issuer's `manual_chain` need not name a root, but the mount may have it. Without
            // it, this certificate would be thrown away.
            (ServerRoots::Followed(issuers), Err(failure))
                if matches!(*failure.problem, Problem::NoRoots) =>
            {
                issuers.read_now(&self.vault, &self.request.mount).await;
                self.material(key, &reply, ttl, warning)
            }
            _ => outcome,
        }
    }

    /// The answer, with the `ttl` that was requested and a warning about it.
    async fn reply(
        &self,
        round: &mut Round<'_>,
        key: Option<&NewKey>,
        token: &Token,
    ) -> Result<(Reply, Option<Duration>, Option<String>), Failure> {
        let ttl = self.request.ttl;
        let failure = match self.send(round, key, ttl, token).await {
            Ok(reply) => return Ok((reply, ttl, None)),
            Err(failure) => failure,
        };
        match failure.verdict {
            Verdict::BeyondCa { expires, remaining } if remaining > CA_MARGIN => {
                let ttl = Some(remaining - CA_MARGIN);
                let reply = self.send(round, key, ttl, token).await?;
                Ok((reply, ttl, Some(shortened(expires))))
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
        let request = match key {
            Some(key) => self.request.sign(&key.request, ttl)?,
            None => self.request.issue(ttl)?,
        };
        match round.send(&request, token.expose()).await {
            Ok(reply) => Ok(reply),
            Err(failure) => Err(self.vault.tokens.refused(token, failure).await),
        }
    }

    fn material(
        &self,
        key: Option<&NewKey>,
        reply: &Reply,
        ttl: Option<Duration>,
        ca_warning: Option<String>,
    ) -> Result<CertMaterial, Failure> {
        let operation = match key {
            Some(_) => Operation::Sign,
            None => Operation::Issue,
        };
        let answer: IssueReply = reply.json(operation)?;
        let from_vault;
        let key = match key {
            Some(key) => &key.key,
            None => {
                from_vault = answer.key(operation).map_err(Failure::unusable)?;
                &from_vault
            }
        };
        let expected = Expected {
            operation,
            request: &self.request,
            ttl,
            server_now: reply.date(),
            now: wall_clock(),
        };
        let accepted = answer.accept(&expected).map_err(Failure::unusable)?;
        let roots = match &self.server_roots {
            ServerRoots::Fixed(roots) => roots.clone(),
            ServerRoots::Followed(issuers) => issuers.roots_with(&accepted.roots),
        };
        if roots.is_empty() {
            return Err(Failure::unusable(Problem::NoRoots));
        }
        let leaf_sha256 = Sha256::digest(accepted.chain.first().map_or(&[][..], |leaf| leaf));
        let issuers = accepted.chain.get(1..).unwrap_or_default().to_vec();
        let mut material = CertMaterial::from_der(accepted.chain, key.clone_key(), roots)
            .map_err(|error| Failure::unusable(Problem::Material(error)))?;
        if let Some(theirs) = accepted.issuers_clock {
            material = material.issuers_clock(theirs);
        }
        // The roots in the answer came as the leaf's own issuers.
        if matches!(self.server_roots, ServerRoots::Followed(_)) && !accepted.roots.is_empty() {
            material = material.roots_issue_leaf();
        }
        let roots = CertRoots {
            issuers,
            own: accepted.roots,
            delivered: material.roots().to_vec(),
        };
        let mut revocation = None;
        if let Some(revocations) = &self.revocations {
            let (certificate, guard) = revocations.delivered(accepted.pem, accepted.not_after);
            material = material.with_guard(guard);
            revocation = Some(certificate);
        }
        let mut deliveries = self.deliveries();
        if deliveries.pending.len() == MOST_PENDING {
            deliveries.pending.pop_front();
        }
        deliveries.pending.push_back(Delivery {
            leaf_sha256: leaf_sha256.into(),
            roots,
            revocation,
        });
        drop(deliveries);
        let mut warnings = reply.presentable(&answer.warnings.unwrap_or_default());
        warnings.extend(ca_warning);
        if let ServerRoots::Followed(issuers) = &self.server_roots {
            warnings.extend(issuers.warning());
        }
        warnings.extend(accepted.warning.map(str::to_owned));
        self.warnings.report(&warnings);
        Ok(material.with_warnings(warnings))
    }

    fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        let deliveries = self.deliveries.lock();
        deliveries.unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(ca_expires: SystemTime) -> String {
    format!(
        "the CA expires at {}, so the certificate has a shorter lifetime than requested: renew the CA",
        httpdate::fmt_http_date(ca_expires)
    )
}

impl CertSource for VaultPki {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        if let ServerRoots::Followed(issuers) = &self.server_roots
            && context.reason == FetchReason::Changed
            && context.current.is_some()
            && let Some(roots) = issuers.take_other_roots()
        {
            return Ok(Fetched::Roots(roots));
        }
        Ok(self.certificate(context.current).await?.into())
    }

    /// Ready once the file of a refused credential holds another one, or once the mount's issuers
    /// lead to other roots. Until then it renews the token and revokes unused certificates.
    async fn changed(&self) {
        let issuers = async {
            match &self.server_roots {
                ServerRoots::Fixed(_) => pending().await,
                ServerRoots::Followed(issuers) => {
                    issuers.changed(&self.vault, &self.request.mount).await;
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
            () = self.vault.tokens.maintain(&self.vault.transport) => {}
            () = issuers => {}
            () = revoking => {}
        }
    }

    /// Follows the issuers for this certificate, and arms its revocation.
    fn published(&self, snapshot: &Arc<Snapshot>) {
        let leaf_sha256 = snapshot.leaf_sha256();
        let mut deliveries = self.deliveries();
        if deliveries.in_use.replace(*leaf_sha256) == Some(*leaf_sha256) {
            return;
        }
        let pending = &mut deliveries.pending;
        let at = pending
            .iter()
            .position(|one| one.leaf_sha256 == *leaf_sha256);
        let delivery = at.and_then(|at| pending.drain(..=at).next_back());
        if let Some(certificate) = delivery.as_ref().and_then(|one| one.revocation.as_ref()) {
            certificate.published();
        }
        if let ServerRoots::Followed(issuers) = &self.server_roots {
            issuers.published(delivery.map(|delivery| delivery.roots));
        }
    }

    fn cache_key(&self) -> Option<CacheKey> {
        let transport = &self.vault.transport;
        let address = transport.addresses().next()?;
        Some(self.request.cache_key(address, transport.namespace()))
    }
}

impl fmt::Debug for VaultPki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultPki")
            .field("vault", &self.vault)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`VaultPki`].
///
/// # Defaults
/// The role's own `ttl` and issuer; `sign`, with a key of [`KeyType::EcP256`]; server roots those of
/// the mount's issuers; no revocation. [`role`](Self::role) and at least one name have no default
/// and must be set.
#[must_use]
pub struct VaultPkiBuilder {
    vault: Vault,
    request: CertRequest,
    key_type: Option<KeyType>,
    issue: bool,
    server_roots_pem: Option<Vec<u8>>,
    revoke: bool,
}

impl VaultPkiBuilder {
    /// The PKI engine's role, which decides what may be requested.
    pub fn role(mut self, name: impl Into<String>) -> Self {
        self.request.role = name.into();
        self
    }

    /// The name or id of the mount's issuer that must issue; without it, the role's.
    ///
    /// The request's path is then `MOUNT/issuer/ISSUER/sign/ROLE`, which the token's policy must
    /// allow.
    pub fn issuer(mut self, reference: impl Into<String>) -> Self {
        self.request.issuer = Some(reference.into());
        self
    }

    /// The type of the key that is generated for each certificate; the role must allow it.
    pub fn key_type(mut self, kind: KeyType) -> Self {
        self.key_type = Some(kind);
        self
    }

    /// Has Vault generate the key: `issue` instead of `sign`, where nothing else is allowed.
    ///
    /// The key has the role's type. Vault sends it over TLS.
    pub fn issue(mut self) -> Self {
        self.issue = true;
        self
    }

    /// The subject's common name; a role adds it to the DNS names if it is one.
    pub fn common_name(mut self, name: impl Into<String>) -> Self {
        self.request.common_name = Some(name.into());
        self
    }

    /// Adds a DNS name.
    pub fn dns_name(mut self, name: impl Into<String>) -> Self {
        self.request.dns.push(name.into());
        self
    }

    /// Adds an IP address.
    pub fn ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.request.ip.push(address.into());
        self
    }

    /// Adds a URI, such as a SPIFFE ID.
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.request.uri.push(uri.into());
        self
    }

    /// The certificate's lifetime in whole seconds; the role may shorten it.
    ///
    /// Less than 5 s is too short to be renewed in time: see
    /// [`RenewalSchedule`](perennial::RenewalSchedule).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl = Some(ttl);
        self
    }

    /// The roots for verifying servers, where they are not those of the mount's issuers.
    ///
    /// Needed where these lead to no root, as with an intermediate that was imported without its
    /// root.
    ///
    /// # Defaults
    /// The self-signed certificates that the mount's issuers lead to which may issue: of at most 64
    /// issuers that have their key there, the default one among them. They are listed after each
    /// renewal, and read if the list has changed, and every 10 minutes, for which the token must be allowed to read
    /// `MOUNT/issuer/+`. Otherwise they are those of the answer's `ca_chain`.
    pub fn server_roots_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.server_roots_pem = Some(pem.as_ref().to_vec());
        self
    }

    /// Revokes each certificate once a newer one is in use and no snapshot of the old one is held.
    ///
    /// The pool's connections hold theirs; a connection that was made with a config taken out of a
    /// snapshot does not. Vault need not store the certificate, which is sent whole. The token must
    /// be allowed to update `MOUNT/revoke`. Only [`Revocations::finish`] revokes the last one.
    pub fn revoke_superseded(mut self) -> Self {
        self.revoke = true;
        self
    }

    /// Checks the settings; connects to no server.
    ///
    /// # Errors
    /// [`VaultError`], whose text names the setting: the mount, `role` or every name is not set, or
    /// a value is not accepted, with what is expected.
    pub fn build(self) -> Result<VaultPki, VaultError> {
        Ok(self.checked()?)
    }

    fn checked(self) -> Result<VaultPki, Problem> {
        let request = CertRequest {
            key_origin: KeyOrigin::checked(self.key_type, self.issue)?,
            ..self.request
        };
        let request = request.checked()?;
        let server_roots = match self.server_roots_pem.as_deref() {
            Some(pem) => ServerRoots::Fixed(settings::roots("server_roots_pem", pem)?.1),
            None => ServerRoots::Followed(Issuers::default()),
        };
        let revocations = || Revocations::new(self.vault.clone(), request.mount.clone());
        Ok(VaultPki {
            params: request.params()?,
            server_roots,
            revocations: self.revoke.then(revocations),
            request,
            vault: self.vault,
            warnings: Warnings::default(),
            deliveries: Mutex::default(),
        })
    }
}

impl fmt::Debug for VaultPkiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultPkiBuilder")
            .field("vault", &self.vault)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// The warnings, logged when they change and not with each renewal.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn report(&self, warnings: &[String]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == warnings {
            return;
        }
        if !warnings.is_empty() {
            tracing::warn!(?warnings, "vault issued the certificate with warnings");
        }
        *last = warnings.to_vec();
    }
}

#[cfg(any(test, fuzzing))]
mod fuzz_tests;
#[cfg(any(test, fuzzing))]
pub use fuzz_tests::Reader;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_logged_once_per_change() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(log.reopen().unwrap()))
            .finish();
        let warnings = Warnings::default();
        tracing::subscriber::with_default(subscriber, || {
            for round in ["", "clamped", "clamped", "", "clamped", "ignored"] {
                let list = Some(round).filter(|r| !r.is_empty());
                let list: Vec<String> = list.map(str::to_owned).into_iter().collect();
                warnings.report(&list);
            }
        });
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(text.matches("WARN").count(), 3, "{text}");
    }
}
