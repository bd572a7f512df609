use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use perennial::{Snapshot, with_causes};
use rustls::crypto::CryptoProvider;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::CredentialId;
use super::back_off::BackOff;
use super::credential::{Credential, Credentials, Granted, renew};
use super::lease::{Decision, Lease, Renewal, TokenFacts, after_failure, after_renewal};
use super::method::Auth;
use super::wrapping::Unwrapped;
use crate::error::{Failure, Problem};
use crate::http::{Round, Transport};
use crate::verdict::{CREDENTIAL_BACK_OFF, Verdict};

/// After a policy's refusal, the next fetch logs in if the token is at least this old.
///
/// Policies are bound to a token at login: a new token may have others, but a young one hardly
/// differs from the next. Until a login succeeds, the old token stays in use.
const POLICY_TOKEN_AGE: Duration = Duration::from_secs(60);

/// How often the files of a refused credential are read again.
const CREDENTIAL_POLL: Duration = Duration::from_secs(5);

/// The token in use. Only this type logs in, renews and drops tokens.
pub(crate) struct Tokens {
    auth: Auth,
    /// Locked across requests, so that concurrent fetches share one login.
    state: Mutex<State>,
    /// Notifies the other sources of a new token.
    logged_in: Notify,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// The last attempt to renew the token.
    tried: Option<Instant>,
    back_off: BackOff,
    unwrapped: Unwrapped,
    /// The token's policies have refused a request: it stays in use until a login succeeds.
    outdated: bool,
    /// No credential that exists now may be sent.
    waits_for_credential: bool,
    /// The last login without an answer, and when it ended. Its failure counts for every fetch that
    /// waited for it: if each of several sources tried in turn, the last would run out of time.
    unanswered: Option<(Instant, Failure)>,
}

/// The credentials as they were read, or why they are unreadable.
type Reading = Result<Credentials, Problem>;

/// Whether a fetch may still log in when its token is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginBudget {
    Available,
    Used,
}

impl Tokens {
    pub(crate) fn new(auth: Auth) -> Self {
        // Both counters exist from the start: one that begins with 1 shows no increase.
        logins("ok").increment(0);
        logins("failed").increment(0);
        Self {
            auth,
            state: Mutex::default(),
            logged_in: Notify::new(),
        }
    }

    /// The same tokens, or, where the live certificate logs in, new ones for its source alone.
    pub(crate) fn for_source(shared: &Arc<Self>) -> Arc<Self> {
        match shared.auth.is_certificate() {
            true => Arc::new(Self::new(shared.auth.clone())),
            false => Arc::clone(shared),
        }
    }

    /// A token to use: the current one, renewed if that is due, or one of a new login.
    ///
    /// If a due login fails, the current token stays in use until it expires.
    pub(crate) async fn ready(
        &self,
        round: &mut Round<'_>,
        live: Option<&Snapshot>,
    ) -> Result<(Arc<Token>, LoginBudget), Failure> {
        let since = Instant::now();
        let provider = round.transport.provider();
        let mut credentials = None;
        if self.auth.replaces_tokens() {
            credentials = Some(self.read(None, provider, live).await);
        }
        loop {
            let mut state = self.state.lock().await;
            if let Some(token) = self.usable(&mut state, credentials.as_ref(), round).await {
                return Ok((token, LoginBudget::Available));
            }
            if let Some(credentials) = credentials.take() {
                let outcome = self.log_in(&mut state, since, credentials, round).await;
                let token = outcome.or_else(|failure| state.despite(failure))?;
                return Ok((token, LoginBudget::Used));
            }
            // Not under the lock, which a file that hangs would keep from all sources.
            let unwrapped = state.unwrapped.secret_id();
            drop(state);
            credentials = Some(self.read(unwrapped, provider, live).await);
        }
    }

    /// The current token, for requests that also work without one.
    pub(crate) async fn current(&self) -> Option<Arc<Token>> {
        self.state.lock().await.token.clone()
    }

    /// Another token, after Vault refused the current one.
    pub(crate) async fn replacement(
        &self,
        round: &mut Round<'_>,
        live: Option<&Snapshot>,
    ) -> Result<Arc<Token>, Failure> {
        let since = Instant::now();
        let unwrapped = {
            let state = self.state.lock().await;
            // A concurrent fetch whose token was refused too has logged in already.
            if let Some(token) = &state.token {
                return Ok(Arc::clone(token));
            }
            state.unwrapped.secret_id()
        };
        let provider = round.transport.provider();
        let credentials = self.read(unwrapped, provider, live).await;
        let mut state = self.state.lock().await;
        match &state.token {
            Some(token) => Ok(Arc::clone(token)),
            None => self.log_in(&mut state, since, credentials, round).await,
        }
    }

    /// Applies the consequence of a request that failed with this token.
    ///
    /// There is none if the token has been replaced since the request was sent.
    pub(crate) async fn refused(&self, token: &Token, failure: Failure) -> Failure {
        let is_policy = failure.verdict == Verdict::PolicyRefused;
        if !is_policy && failure.verdict != Verdict::TokenRefused {
            return failure;
        }
        if self.auth.is_agent() && !is_policy {
            // The agent logs in by itself.
            return Failure {
                verdict: Verdict::Transient,
                problem: Arc::new(Problem::AgentWithoutToken(failure.problem)),
                ..failure
            };
        }
        let mut state = self.state.lock().await;
        let current = state.token.as_ref();
        if current.is_some_and(|current| current.value != token.value) {
            return failure;
        }
        if is_policy {
            let is_old = token.logged_in.elapsed() >= POLICY_TOKEN_AGE;
            state.outdated |= is_old && !self.auth.is_token() && !self.auth.is_agent();
            return failure;
        }
        state.token = None;
        if !self.auth.is_token() {
            return failure;
        }
        state.waits_for_credential = true;
        let verdict = Verdict::CredentialRefused {
            back_off: CREDENTIAL_BACK_OFF,
        };
        let failure = Failure { verdict, ..failure };
        state.back_off.note(token.credential, failure)
    }

    /// Renews the token whenever that is due; returns once a refused credential is replaced.
    ///
    /// It never logs in: a cancelled login could use up a credential that is valid for one.
    ///
    /// # Cancel safety
    /// A cancelled renewal is repeated.
    pub(crate) async fn maintain(&self, transport: &Transport) {
        tokio::select! {
            () = self.keep_alive(transport) => {}
            () = self.other_credential(transport.provider()) => {}
        }
    }

    async fn keep_alive(&self, transport: &Transport) {
        loop {
            let mut logged_in = pin!(self.logged_in.notified());
            // Enabled before the token is read, so that no login is missed in between.
            logged_in.as_mut().enable();
            let (token, next) = {
                let state = self.state.lock().await;
                (state.token.clone(), state.next_renewal())
            };
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = logged_in => continue,
            }
            let mut state = self.state.lock().await;
            // Another source may have renewed or replaced it in the meantime.
            if matches!((&token, &state.token), (Some(a), Some(b)) if Arc::ptr_eq(a, b)) {
                self.renew(&mut state, &mut transport.round()).await;
            }
        }
    }

    async fn other_credential(&self, provider: &CryptoProvider) {
        let mut was_waiting = false;
        loop {
            let unwrapped = {
                let state = self.state.lock().await;
                match (state.waits_for_credential, was_waiting) {
                    (true, _) => was_waiting = true,
                    // Another source found it first.
                    (false, true) => return,
                    (false, false) => {
                        drop(state);
                        return pending().await;
                    }
                }
                state.unwrapped.secret_id()
            };
            let credentials = self.read(unwrapped, provider, None).await;
            if self.state.lock().await.sendable(&credentials).is_some() {
                return;
            }
            tokio::time::sleep(CREDENTIAL_POLL).await;
        }
    }

    /// The current token, unless a login is due.
    async fn usable(
        &self,
        state: &mut State,
        credentials: Option<&Reading>,
        round: &mut Round<'_>,
    ) -> Option<Arc<Token>> {
        let credential = state.token.as_ref()?.credential;
        if state.outdated {
            return None;
        }
        if self.auth.replaces_tokens() {
            let first = credentials.and_then(|read| state.sendable(read));
            // A credential that cannot be read replaces nothing yet.
            if first.is_some_and(|id| id != credential) {
                return None;
            }
        }
        if state.token.as_ref()?.facts().decide() == Decision::Renew {
            self.renew(state, round).await;
        }
        let token = state.token.as_ref()?;
        // A given token stays in use until Vault refuses it: there is no credential to log in with.
        let is_usable = self.auth.is_token() || token.facts().decide() != Decision::LogIn;
        is_usable.then(|| Arc::clone(token))
    }

    /// Reads the credentials as they are now; called without the lock, since files may hang.
    async fn read(
        &self,
        unwrapped: Option<(CredentialId, Zeroizing<String>)>,
        provider: &CryptoProvider,
        live: Option<&Snapshot>,
    ) -> Reading {
        Credential::read(&self.auth, live, unwrapped, provider).await
    }

    /// A token of a new login, or the failure of one that ended after `since`.
    async fn log_in(
        &self,
        state: &mut State,
        since: Instant,
        credentials: Reading,
        round: &mut Round<'_>,
    ) -> Result<Arc<Token>, Failure> {
        if let Some((ended, failure)) = &state.unanswered
            && since < *ended
        {
            return Err(failure.clone());
        }
        let (first, second) = match credentials {
            Ok(credentials) => credentials,
            Err(unreadable) => {
                state.waits_for_credential = true;
                return Err(Failure::unusable(unreadable));
            }
        };
        let outcome = match (attempt(state, first, round).await, second) {
            (Err(failure), Some(second)) if failure.verdict != Verdict::Transient => {
                log_failure(&failure, "vault refuses the live certificate");
                attempt(state, second, round).await
            }
            (outcome, _) => outcome,
        };
        state.waits_for_credential = outcome
            .as_ref()
            .is_err_and(|failure| matches!(failure.verdict, Verdict::CredentialRefused { .. }));
        match &outcome {
            Ok(_) => self.logged_in.notify_waiters(),
            Err(failure) if failure.verdict == Verdict::Transient => {
                state.unanswered = Some((Instant::now(), failure.clone()));
            }
            Err(_) => {}
        }
        outcome
    }

    async fn renew(&self, state: &mut State, round: &mut Round<'_>) {
        let Some(token) = state.token.clone() else {
            return;
        };
        let is_early = state
            .tried
            .is_some_and(|at| at.elapsed() < token.facts().spacing());
        if is_early {
            return;
        }
        // Set before the request, which may be cancelled.
        state.tried = Some(Instant::now());
        let mut renewed = (*token).clone();
        match renew(round, token.expose()).await {
            Ok(granted) => {
                tracing::debug!(lease = ?granted.lease, "renewed the vault token");
                renewed.renewal = after_renewal(token.lease, granted.lease, granted.renewal);
                renewed.lease = granted.lease;
                renewed.granted = Instant::now();
            }
            Err(failure) => {
                log_failure(&failure, "failed to renew the vault token");
                renewed.renewal = after_failure(&failure);
            }
        }
        state.token = Some(Arc::new(renewed));
        // Set again at its end: no other source that waited for it retries at once.
        state.tried = Some(Instant::now());
    }
}

/// Counts the logins that were sent, of every source in the process.
fn logins(result: &'static str) -> Counter {
    metrics::counter!("perennial_vault_logins_total", "result" => result)
}

fn log_failure(failure: &Failure, what: &str) {
    tracing::debug!(error = %with_causes(&*failure.problem), "{what}");
}

async fn attempt(
    state: &mut State,
    credential: Credential,
    round: &mut Round<'_>,
) -> Result<Arc<Token>, Failure> {
    let id = credential.id;
    if let Some(refusal) = state.back_off.refusal(id) {
        return Err(refusal);
    }
    match credential.log_in(round, &mut state.unwrapped).await {
        Ok(granted) => {
            tracing::debug!(lease = ?granted.lease, "logged in to vault");
            logins("ok").increment(1);
            let token = Arc::new(Token::of(granted, id));
            state.token = Some(Arc::clone(&token));
            state.tried = None;
            state.outdated = false;
            Ok(token)
        }
        Err(failure) => {
            logins("failed").increment(1);
            Err(state.back_off.note(id, failure))
        }
    }
}

impl State {
    /// The first of the credentials that may be sent.
    fn sendable(&mut self, credentials: &Reading) -> Option<CredentialId> {
        let (first, second) = credentials.as_ref().ok()?;
        [Some(first), second.as_ref()]
            .into_iter()
            .flatten()
            .map(|credential| credential.id)
            .find(|&id| self.back_off.refusal(id).is_none())
    }

    /// The current token, although a login failed: it stays in use until it expires.
    fn despite(&mut self, failure: Failure) -> Result<Arc<Token>, Failure> {
        let token = self.token.as_ref();
        let Some(token) = token.filter(|token| token.facts().is_alive()) else {
            return Err(failure);
        };
        let error = with_causes(&*failure.problem);
        tracing::warn!(
            %error,
            "vault login failed; continuing with the current token until it expires"
        );
        // Nothing is missing yet: another credential can wait for the next fetch.
        self.waits_for_credential = false;
        Ok(Arc::clone(token))
    }

    fn next_renewal(&self) -> Option<Instant> {
        let token = self.token.as_ref()?;
        let due = token.renewal_due()?;
        let next = |tried| due.max(tried + token.facts().spacing());
        Some(self.tried.map_or(due, next))
    }
}

/// A token, wiped from memory when dropped.
#[derive(Clone)]
pub(crate) struct Token {
    /// `None` where an agent adds it.
    value: Option<Zeroizing<String>>,
    /// The credential of its login.
    credential: CredentialId,
    logged_in: Instant,
    /// When it was granted or last renewed.
    granted: Instant,
    lease: Lease,
    renewal: Renewal,
    draw: f64,
}

impl Token {
    pub(crate) fn of(granted: Granted, credential: CredentialId) -> Self {
        let now = Instant::now();
        Self {
            value: granted.token,
            credential,
            logged_in: now,
            granted: now,
            lease: granted.lease,
            renewal: granted.renewal,
            draw: rand::random(),
        }
    }

    pub(crate) fn expose(&self) -> Option<&str> {
        self.value.as_ref().map(|value| value.as_str())
    }

    /// When it is renewed between fetches; `None` if never.
    pub(crate) fn renewal_due(&self) -> Option<Instant> {
        self.granted.checked_add(self.facts().renewed_at()?)
    }

    fn facts(&self) -> TokenFacts {
        TokenFacts {
            age: self.granted.elapsed(),
            lease: self.lease,
            renewal: self.renewal,
            draw: self.draw,
        }
    }
}

#[cfg(test)]
mod tests;
