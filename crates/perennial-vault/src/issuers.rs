//! The roots of servers, followed from the mount's issuers that may issue.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::{CertMaterial, Snapshot, with_causes};
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::answer::{self, AboveLeaf};
use crate::error::{Failure, Step, VaultError};
use crate::token::{Token, Tokens};
use crate::transport::{Reply, Round, Transport};

/// The mount's issuers are read after each renewal, and no less often than this.
pub const ISSUERS_POLL: Duration = Duration::from_secs(600);

/// They are read no more often than this, whoever asks.
const SPACING: Duration = Duration::from_secs(1);

/// What the mount's issuers lead to, and what was delivered of it.
#[derive(Default)]
pub(crate) struct Issuers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the last reading led to; empty before the first.
    roots: Vec<CertificateDer<'static>>,
    /// What the last fetch delivered; `None` while fetches fail, which have to be cured first.
    last: Option<Last>,
    due: Option<Instant>,
    tried: Option<Instant>,
    refusal_told: bool,
}

/// What is delivered again when only the roots have changed.
struct Last {
    chain: Vec<CertificateDer<'static>>,
    above_leaf: Arc<AboveLeaf>,
    key: Zeroizing<PrivateKeyDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    warnings: Vec<String>,
    guard: Option<Arc<dyn Any + Send + Sync>>,
}

impl Issuers {
    /// The roots that the last reading led to.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.state().roots.clone()
    }

    /// Takes note of what is being delivered.
    ///
    /// The issuers are read next: it may come from a new one, and there is a connection to ask over
    /// and a token that serves.
    pub(crate) fn delivered(
        &self,
        material: &CertMaterial,
        key: &PrivateKeyDer<'static>,
        above_leaf: Arc<AboveLeaf>,
        guard: Option<Arc<dyn Any + Send + Sync>>,
    ) {
        let mut state = self.state();
        state.due = Some(Instant::now());
        state.last = Some(Last {
            chain: material.chain().to_vec(),
            above_leaf,
            key: Zeroizing::new(key.clone_key()),
            roots: material.roots().to_vec(),
            warnings: material.warnings().to_vec(),
            guard,
        });
    }

    /// A fetch has begun: unless it delivers, the next one comes before the issuers do.
    pub(crate) fn asking(&self) {
        self.state().last = None;
    }

    /// The certificate in use with other roots, if these are all that has changed.
    pub(crate) fn again(&self, current: Option<&Snapshot>) -> Option<CertMaterial> {
        let mut state = self.state();
        let roots = state.other_roots()?;
        let current = current?;
        let last = state.last.as_mut()?;
        if Sha256::digest(last.chain.first()?)[..] != current.leaf_sha256()[..] {
            return None;
        }
        let material = CertMaterial::from_der(last.chain.clone(), last.key.clone_key(), roots);
        // Neither is empty.
        let material = material.ok()?.with_warnings(last.warnings.clone());
        last.roots = material.roots().to_vec();
        let material = match &last.guard {
            Some(guard) => material.with_guard(Arc::clone(guard)),
            None => material,
        };
        tracing::info!(
            roots = last.roots.len(),
            "the mount's issuers have changed, and with them the trust roots for servers"
        );
        // As old as it is: its renewal point stays where it was.
        Some(material.obtained_at(current.obtained_at()))
    }

    /// Reads the issuers whenever it is time to; ready while other roots are to be delivered.
    ///
    /// # Cancel safety
    /// A reading that is cancelled is made again.
    pub(crate) async fn changed(&self, transport: &Transport, tokens: &Tokens, mount: &str) {
        loop {
            let next = {
                let state = self.state();
                if state.other_roots().is_some() {
                    return;
                }
                state.next_reading()
            };
            let Some(next) = next else {
                return pending().await;
            };
            tokio::time::sleep_until(next).await;
            self.state().tried = Some(Instant::now());
            let reading = read(&mut transport.round(), tokens, mount).await;
            self.state().note(reading, mount);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The roots to deliver, if they are not those that were delivered.
    fn other_roots(&self) -> Option<Vec<CertificateDer<'static>>> {
        let last = self.last.as_ref()?;
        if self.roots.is_empty() {
            return None;
        }
        // The leaf's own stay, whatever a reading says.
        let now = answer::union(&last.above_leaf.roots, &self.roots);
        let same = now.len() == last.roots.len() && now.iter().all(|r| last.roots.contains(r));
        (!same).then_some(now)
    }

    fn next_reading(&self) -> Option<Instant> {
        self.last.as_ref()?;
        let due = self.due?;
        Some(match self.tried {
            Some(tried) => due.max(tried + SPACING),
            None => due,
        })
    }

    /// Nothing that is empty or cannot be read replaces what there is.
    fn note(&mut self, reading: Result<Vec<Issuer>, Failure>, mount: &str) {
        self.due = Some(Instant::now() + ISSUERS_POLL);
        let roots = reading.and_then(|issuers| roots_of(&issuers).map_err(Failure::unusable));
        let problem = match roots {
            Ok(roots) if !roots.is_empty() => {
                self.roots = roots;
                self.refusal_told = false;
                return;
            }
            Ok(_) => "no issuer that may issue leads to a self-signed certificate".to_owned(),
            Err(failure) => with_causes(&*failure.cause).to_string(),
        };
        if std::mem::replace(&mut self.refusal_told, true) {
            tracing::debug!(
                mount,
                problem,
                "the trust roots for servers stay as they are"
            );
        } else {
            tracing::warn!(
                mount,
                problem,
                "the mount's issuers cannot be followed: the trust roots for servers stay as they are"
            );
        }
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuers").finish_non_exhaustive()
    }
}

/// What Vault says of an issuer.
#[derive(Clone, Debug, Deserialize)]
struct Issuer {
    certificate: String,
    ca_chain: Option<Vec<String>>,
    /// Separated by commas.
    usage: String,
    #[serde(default)]
    key_id: String,
    #[serde(default)]
    revoked: bool,
}

impl Issuer {
    fn may_issue(&self) -> bool {
        let mut usages = self.usage.split(',').map(str::trim);
        !self.revoked
            && !self.key_id.is_empty()
            && usages.any(|usage| usage == "issuing-certificates")
    }
}

/// The roots that issuers lead to which may issue.
fn roots_of(issuers: &[Issuer]) -> Result<Vec<CertificateDer<'static>>, VaultError> {
    let mut roots = Vec::new();
    for issuer in issuers.iter().filter(|issuer| issuer.may_issue()) {
        let mut chain = answer::certificates(&issuer.certificate)?;
        for text in issuer.ca_chain.iter().flatten() {
            chain.extend(answer::certificates(text)?);
        }
        roots = answer::union(&roots, &answer::self_issued(&chain)?);
    }
    Ok(roots)
}

async fn read(round: &mut Round<'_>, tokens: &Tokens, mount: &str) -> Result<Vec<Issuer>, Failure> {
    #[derive(Deserialize)]
    struct List {
        key_info: BTreeMap<String, Info>,
    }
    #[derive(Deserialize)]
    struct Info {
        /// Vault does not always tell it.
        key_id: Option<String>,
    }
    let token = tokens.kept().await;
    let token = token.as_deref();
    let list = Read::list(format!("{mount}/issuers"));
    let list: List = data(round, &list, token).await?;
    let mut issuers = Vec::new();
    for (id, info) in list.key_info {
        // It has no key here: a root that was imported with its intermediate, most often.
        if info.key_id.is_some_and(|key| key.is_empty()) {
            continue;
        }
        // It becomes a part of a path.
        let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !id.chars().all(is_id) {
            let (step, problem) = (Step::ReadIssuers, "an issuer's id is none");
            return Err(Failure::unusable(VaultError::Unusable { step, problem }));
        }
        let issuer = Read::get(format!("{mount}/issuer/{id}"));
        issuers.push(data(round, &issuer, token).await?);
    }
    Ok(issuers)
}

async fn data<T: DeserializeOwned>(
    round: &mut Round<'_>,
    endpoint: &Read,
    token: Option<&Token>,
) -> Result<T, Failure> {
    taken(&round.send(Step::ReadIssuers, endpoint, token).await?)
}

fn taken<T: DeserializeOwned>(reply: &Reply) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Whole<T> {
        data: T,
    }
    let whole: Whole<T> = reply.json(Step::ReadIssuers)?;
    Ok(whole.data)
}

/// One issuer in a reply, with the roots that it leads to: for the fuzz target and its test.
#[cfg(any(test, fuzzing))]
pub(crate) fn of_one(reply: &Reply) -> Result<(), Failure> {
    roots_of(&[taken(reply)?]).map_err(Failure::unusable)?;
    Ok(())
}

/// A request without a body. vaultrs has none for an issuer's usages.
struct Read {
    path: String,
    lists: bool,
}

impl Read {
    fn get(path: String) -> Self {
        Self { path, lists: false }
    }

    fn list(path: String) -> Self {
        Self { path, lists: true }
    }
}

impl Endpoint for Read {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        if self.lists {
            RequestMethod::LIST
        } else {
            RequestMethod::GET
        }
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
