//! The roots of servers, read from the mount's issuers that may issue.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::with_causes;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use tokio::time::Instant;

use crate::client::Vault;
use crate::error::{Failure, Problem};
#[cfg(any(test, fuzzing))]
use crate::http::Reply;
use crate::http::{ListIssuersRequest, Request};
use crate::issue::{self, certificates, union};
use crate::login::Token;
use crate::verdict::Operation;

/// The longest time between two readings of every issuer.
///
/// After each renewal they are listed, and read only if the list or the issuers that came with the
/// certificate have changed. An issuer's usage can change without either.
const POLL_INTERVAL: Duration = Duration::from_secs(600);

/// The most issuers that are read.
const MOST_ISSUERS: usize = 64;

/// The longest time for all requests of one reading.
const READING_TIMEOUT: Duration = Duration::from_secs(30);

/// The shortest time between two readings.
const SPACING: Duration = Duration::from_secs(1);

/// The roots that the mount's issuers lead to, compared with those of the certificate in use.
#[derive(Default)]
pub(crate) struct Issuers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The result of the last reading; empty before the first.
    roots: Vec<CertificateDer<'static>>,
    in_use: Option<CertRoots>,
    due: Option<Instant>,
    tried: Option<Instant>,
    /// The list of the last reading of every issuer, and when that was.
    last: Option<(IssuerList, Instant)>,
    is_failure_logged: bool,
}

/// The issuers of the mount, as Vault lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct IssuerList {
    /// The default one first, those without a key last; at most [`MOST_ISSUERS`].
    read: Vec<(String, ListedIssuer)>,
    left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct ListedIssuer {
    /// Vault does not always send it.
    key_id: Option<String>,
    #[serde(default)]
    is_default: bool,
    serial_number: Option<String>,
}

impl IssuerList {
    fn of(all: BTreeMap<String, ListedIssuer>) -> Self {
        let mut read: Vec<_> = all.into_iter().collect();
        // Without a key: most often a root that was imported with its intermediate.
        read.sort_by_key(|(_, issuer)| (!issuer.is_default, issuer.key_id.as_deref() == Some("")));
        let left_out = read.len().saturating_sub(MOST_ISSUERS);
        read.truncate(MOST_ISSUERS);
        Self { read, left_out }
    }
}

/// The result of a reading.
enum Reading {
    Unchanged,
    Read(IssuerList, Vec<Issuer>),
}

/// The issuers and the roots of a certificate.
#[derive(Clone)]
pub(crate) struct CertRoots {
    /// The rest of its chain as it came, without the leaf.
    pub(crate) issuers: Vec<CertificateDer<'static>>,
    /// Those in its own chain, which are kept whatever the issuers are.
    pub(crate) own: Vec<CertificateDer<'static>>,
    /// All that were delivered with it.
    pub(crate) delivered: Vec<CertificateDer<'static>>,
}

impl Issuers {
    /// The roots for a new certificate: those in its own chain, and those of the issuers.
    pub(crate) fn roots_with(
        &self,
        own: &[CertificateDer<'static>],
    ) -> Vec<CertificateDer<'static>> {
        union(own, &self.state().roots)
    }

    /// Follows the issuers for the certificate in use; `None` if another source delivered it.
    ///
    /// They are read next: the certificate may come from a new one, and there are a connection and
    /// a token to read with. Other issuers than before mean another chain in the mount, which the
    /// last reading may not have seen: a CA is imported first, and named in a chain after that.
    pub(crate) fn published(&self, in_use: Option<CertRoots>) {
        let mut state = self.state();
        let before = state.in_use.as_ref().map(|roots| &roots.issuers);
        if before != in_use.as_ref().map(|roots| &roots.issuers) {
            state.last = None;
        }
        state.in_use = in_use;
        state.due = Some(Instant::now());
    }

    /// Other roots for the certificate in use, once per change.
    pub(crate) fn take_other_roots(&self) -> Option<Vec<CertificateDer<'static>>> {
        let mut state = self.state();
        let roots = state.other_roots()?;
        if let Some(in_use) = &mut state.in_use {
            in_use.delivered.clone_from(&roots);
        }
        let count = roots.len();
        tracing::info!(
            count,
            "the mount's issuers have changed the trust roots for servers"
        );
        Some(roots)
    }

    /// Reads the issuers whenever that is due; ready while other roots are to be delivered.
    ///
    /// # Cancel safety
    /// A cancelled reading is repeated.
    pub(crate) async fn changed(&self, vault: &Vault, mount: &str) {
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
            let known = self.state().known();
            self.read_unless(known, vault, mount).await;
        }
    }

    /// Reads every issuer; a failure is logged.
    ///
    /// # Cancel safety
    /// A cancelled reading changes nothing.
    pub(crate) async fn read_now(&self, vault: &Vault, mount: &str) {
        self.read_unless(None, vault, mount).await;
    }

    /// Reads the issuers unless their list is the `known` one; a failure is logged.
    async fn read_unless(&self, known: Option<IssuerList>, vault: &Vault, mount: &str) {
        self.state().tried = Some(Instant::now());
        let reading = tokio::time::timeout(READING_TIMEOUT, read(vault, mount, known)).await;
        let reading = reading.unwrap_or_else(|_elapsed| {
            let problem = Problem::IssuersTimedOut(READING_TIMEOUT);
            Err(Failure::transient(problem))
        });
        self.state().take(reading, mount);
    }

    /// What an operator should know about the mount.
    pub(crate) fn warning(&self) -> Option<String> {
        let state = self.state();
        let (list, _) = state.last.as_ref().filter(|(list, _)| list.left_out > 0)?;
        Some(format!(
            "the mount has {} issuers, of which {MOST_ISSUERS} are read for the trust roots of \
             servers: remove old ones, or set server_roots_pem",
            list.left_out + MOST_ISSUERS
        ))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn other_roots(&self) -> Option<Vec<CertificateDer<'static>>> {
        let in_use = self.in_use.as_ref()?;
        if self.roots.is_empty() {
            return None;
        }
        let now = union(&in_use.own, &self.roots);
        let is_same =
            now.len() == in_use.delivered.len() && now.iter().all(|r| in_use.delivered.contains(r));
        (!is_same).then_some(now)
    }

    fn next_reading(&self) -> Option<Instant> {
        self.in_use.as_ref()?;
        let due = self.due?;
        Some(self.tried.map_or(due, |tried| due.max(tried + SPACING)))
    }

    /// The list for which the issuers need not be read again yet.
    fn known(&self) -> Option<IssuerList> {
        let (list, at) = self.last.as_ref()?;
        (at.elapsed() < POLL_INTERVAL).then(|| list.clone())
    }

    fn take(&mut self, reading: Result<Reading, Failure>, mount: &str) {
        match reading {
            Ok(Reading::Unchanged) => {
                self.due = self.last.as_ref().map(|(_, at)| *at + POLL_INTERVAL);
            }
            Ok(Reading::Read(list, issuers)) => {
                let more = list.left_out;
                let had = self.last.take().map_or(0, |(list, _)| list.left_out);
                if more > 0 && had == 0 {
                    tracing::warn!(
                        mount,
                        more,
                        "the mount has more issuers than are read for the trust roots of servers"
                    );
                }
                self.note(Ok(issuers), mount);
                // What led to no roots is read again after the next renewal.
                self.last = (!self.is_failure_logged).then(|| (list, Instant::now()));
            }
            Err(failure) => self.note(Err(failure), mount),
        }
    }

    /// A reading that failed or led to no root replaces nothing.
    fn note(&mut self, reading: Result<Vec<Issuer>, Failure>, mount: &str) {
        self.due = Some(Instant::now() + POLL_INTERVAL);
        let roots = reading.and_then(|issuers| roots_of(&issuers).map_err(Failure::unusable));
        let problem = match roots {
            Ok(roots) if !roots.is_empty() => {
                self.roots = roots;
                self.is_failure_logged = false;
                return;
            }
            Ok(_) => "no issuer that may issue leads to a self-signed certificate".to_owned(),
            Err(failure) => with_causes(&*failure.problem).to_string(),
        };
        if std::mem::replace(&mut self.is_failure_logged, true) {
            tracing::debug!(mount, problem, "failed to read the mount's issuers again");
        } else {
            tracing::warn!(
                mount,
                problem,
                "failed to read the mount's issuers; the trust roots for servers are kept"
            );
        }
    }
}

/// An issuer as Vault describes it.
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

/// The roots that the issuers lead to which may issue.
///
/// Every issuer of the mount may be a part of a path: a `manual_chain` need not name the root.
fn roots_of(issuers: &[Issuer]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let operation = Operation::ReadIssuers;
    let mut mount = Vec::new();
    for issuer in issuers.iter().filter(|issuer| !issuer.revoked) {
        mount.extend(certificates(&issuer.certificate, operation)?);
    }
    let mut roots = Vec::new();
    for issuer in issuers.iter().filter(|issuer| issuer.may_issue()) {
        let mut chain = certificates(&issuer.certificate, operation)?;
        for text in issuer.ca_chain.iter().flatten() {
            chain.extend(certificates(text, operation)?);
        }
        chain.extend(mount.iter().cloned());
        roots = union(&roots, &issue::roots_of(&chain, operation)?);
    }
    Ok(roots)
}

async fn read(vault: &Vault, mount: &str, known: Option<IssuerList>) -> Result<Reading, Failure> {
    #[derive(Deserialize)]
    struct List {
        key_info: BTreeMap<String, ListedIssuer>,
    }
    let operation = Operation::ReadIssuers;
    let round = &mut vault.transport.round();
    let token = vault.tokens.current().await;
    let token = token.as_deref().and_then(Token::expose);
    let list = ListIssuersRequest {
        mount: mount.to_owned(),
    };
    let list = Request::typed(operation, &list)?;
    let list: List = round.send(&list, token).await?.data(operation)?;
    let list = IssuerList::of(list.key_info);
    if known.is_some_and(|known| known == list) {
        return Ok(Reading::Unchanged);
    }
    let mut issuers = Vec::new();
    for (id, _) in &list.read {
        // It becomes a part of a path.
        let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !id.chars().all(is_id) {
            let problem = "an issuer's id is malformed";
            return Err(Failure::unusable(Problem::Unusable(operation, problem)));
        }
        // vaultrs' own request reads an issuer without its usage.
        let issuer = Request::get(operation, format!("{mount}/issuer/{id}"));
        issuers.push(round.send(&issuer, token).await?.data(operation)?);
    }
    Ok(Reading::Read(list, issuers))
}

/// Reads one issuer in a reply, with the roots that it leads to; for the fuzz target and its test.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_reply(reply: &Reply) -> Result<(), Failure> {
    roots_of(&[reply.data(Operation::ReadIssuers)?]).map_err(Failure::unusable)?;
    Ok(())
}

#[cfg(test)]
mod tests;
