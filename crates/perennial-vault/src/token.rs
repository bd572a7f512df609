use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Fingerprint, Snapshot, with_causes};
use rustls::crypto::CryptoProvider;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::auth::{self, Granted, Method, Opened, Proof};
use crate::error::{Failure, VaultError};
use crate::holds::Holds;
use crate::metrics;
use crate::outcome::{CREDENTIAL_HOLD, Verdict};
use crate::token_life::{Decision, Facts, Lease, Renewal, after_failure, after_renewal};
use crate::transport::{Round, Transport};

/// The fetch after a policy's refusal logs in if the token is older than this.
///
/// Policies are bound to a token at login: a new one may see others, where a younger one's would
/// see none. Until a login succeeds, the old one serves.
pub const POLICY_TOKEN_AGE: Duration = Duration::from_secs(60);

/// How often the files of a refused credential are read again, to find another one in them.
pub const CREDENTIAL_POLL: Duration = Duration::from_secs(5);

/// The token in use, and the one place that logs in, renews and gives up.
pub(crate) struct Tokens {
    method: Method,
    /// Held across a request: whoever comes second finds what the first has brought.
    state: Mutex<State>,
    /// Tells each source that a login has brought another token.
    logged_in: Notify,
}

#[derive(Default)]
struct State {
    kept: Option<Arc<Token>>,
    /// When it was last tried to renew the kept token.
    tried: Option<Instant>,
    holds: Holds,
    opened: Opened,
    /// The kept token's policies have refused: it serves until a login has brought another.
    outdated: bool,
    /// No credential that is there now may be sent.
    stuck: bool,
    unanswered: Option<Unanswered>,
}

/// The last login that no answer came to: it is the one of everybody who waited for it.
///
/// If each of several sources waited in turn, the last would run out of time.
struct Unanswered {
    ended: Instant,
    told: String,
    retry_after: Option<Duration>,
}

/// Whether a fetch may still log in when its token is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Left,
    Spent,
}

impl Tokens {
    pub(crate) fn new(method: Method) -> Self {
        metrics::started();
        Self {
            method,
            state: Mutex::default(),
            logged_in: Notify::new(),
        }
    }

    /// Whether it is a certificate that logs in, with the live one in the place of the first.
    pub(crate) fn is_of_a_certificate(&self) -> bool {
        self.method.is_a_certificate()
    }

    /// A token to use: the kept one, renewed if it is time to, or that of a new login.
    ///
    /// Where a new one is due and cannot be had, the kept one serves as long as it lives.
    pub(crate) async fn ready(
        &self,
        round: &mut Round<'_>,
        current: Option<&Snapshot>,
    ) -> Result<(Arc<Token>, Login), Failure> {
        let since = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(token) = self.fit(&mut state, round, current).await {
            return Ok((token, Login::Left));
        }
        let failure = match self.log_in(&mut state, since, round, current).await {
            Ok(token) => return Ok((token, Login::Spent)),
            Err(failure) => failure,
        };
        match state.kept.clone() {
            Some(token) if token.facts().is_alive() => {
                let error = with_causes(&*failure.cause);
                tracing::warn!(%error, "no new vault token, the old one serves as long as it lives");
                // Nothing is missing yet: another credential can wait for the next fetch.
                state.stuck = false;
                Ok((token, Login::Spent))
            }
            _ => Err(failure),
        }
    }

    /// The token that there is, for what can be done without as well.
    pub(crate) async fn kept(&self) -> Option<Arc<Token>> {
        self.state.lock().await.kept.clone()
    }

    /// Another token, after Vault refused one that was kept.
    pub(crate) async fn another(
        &self,
        round: &mut Round<'_>,
        current: Option<&Snapshot>,
    ) -> Result<Arc<Token>, Failure> {
        let since = Instant::now();
        let mut state = self.state.lock().await;
        // Whoever was refused at the same moment has logged in already.
        if let Some(token) = &state.kept {
            return Ok(Arc::clone(token));
        }
        self.log_in(&mut state, since, round, current).await
    }

    /// Draws the consequence of a request that failed with this token.
    ///
    /// None where another one is kept by now: the refusal is older than that.
    pub(crate) async fn refused(&self, token: &Token, failure: Failure) -> Failure {
        let is_policy = failure.verdict == Verdict::PolicyRefused;
        if !is_policy && failure.verdict != Verdict::TokenRefused {
            return failure;
        }
        let mut state = self.state.lock().await;
        let kept = state.kept.as_ref();
        if kept.is_some_and(|kept| kept.value != token.value) {
            return failure;
        }
        if is_policy {
            let is_old = token.logged_in.elapsed() >= POLICY_TOKEN_AGE;
            state.outdated |= is_old && !self.method.is_given();
            return failure;
        }
        state.kept = None;
        if !self.method.is_given() {
            return failure;
        }
        state.stuck = true;
        let verdict = Verdict::CredentialRefused {
            hold: CREDENTIAL_HOLD,
        };
        state
            .holds
            .note(token.made_of, Failure { verdict, ..failure })
    }

    /// Renews the token whenever it is time to, and returns once a refused credential is replaced.
    ///
    /// It never logs in: a login that is cancelled could cost a secret that is good for one.
    ///
    /// # Cancel safety
    /// A renewal that is cancelled is made again.
    pub(crate) async fn upkeep(&self, transport: &Transport) {
        tokio::select! {
            () = self.keep_alive(transport) => {}
            () = self.other_credential(transport.provider()) => {}
        }
    }

    async fn keep_alive(&self, transport: &Transport) {
        loop {
            let mut logged_in = pin!(self.logged_in.notified());
            // From here on, so that no login falls between this and the look at the token.
            logged_in.as_mut().enable();
            let (token, next) = {
                let state = self.state.lock().await;
                (state.kept.clone(), state.next_renewal())
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
            // Another source may have renewed or replaced it meanwhile.
            let is_it = matches!((&token, &state.kept), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            if is_it {
                self.renew(&mut state, &mut transport.round()).await;
            }
        }
    }

    async fn other_credential(&self, provider: &CryptoProvider) {
        let mut was_stuck = false;
        loop {
            {
                let mut state = self.state.lock().await;
                match (state.stuck, was_stuck) {
                    (true, _) => was_stuck = true,
                    // Another source found it first.
                    (false, true) => return,
                    (false, false) => {
                        drop(state);
                        return pending().await;
                    }
                }
                if self.first_free(&mut state, provider, None).await.is_some() {
                    return;
                }
            }
            tokio::time::sleep(CREDENTIAL_POLL).await;
        }
    }

    /// The kept token, unless another one is due.
    async fn fit(
        &self,
        state: &mut State,
        round: &mut Round<'_>,
        current: Option<&Snapshot>,
    ) -> Option<Arc<Token>> {
        let made_of = state.kept.as_ref()?.made_of;
        if state.outdated {
            return None;
        }
        if self.method.outdates_tokens() {
            let first = self
                .first_free(state, round.transport.provider(), current)
                .await;
            // What cannot be read has replaced nothing yet.
            if first.is_some_and(|id| id != made_of) {
                return None;
            }
        }
        if state.kept.as_ref()?.facts().decide() == Decision::Renew {
            self.renew(state, round).await;
        }
        let token = state.kept.as_ref()?;
        // There is nothing to log in with beside a given token: it serves until Vault refuses it.
        let serves = self.method.is_given() || token.facts().decide() != Decision::LogIn;
        serves.then(|| Arc::clone(token))
    }

    /// The first credential, as they are now, that is not held back.
    async fn first_free(
        &self,
        state: &mut State,
        provider: &CryptoProvider,
        current: Option<&Snapshot>,
    ) -> Option<Fingerprint> {
        let proofs = self.method.proofs(current, &state.opened, provider);
        let (first, second) = proofs.await.ok()?;
        let mut ids = [Some(first), second].into_iter().flatten().map(|p| p.id);
        ids.find(|&id| state.holds.on(id).is_none())
    }

    /// A token of a new login, or what became of one that ended after `since`.
    async fn log_in(
        &self,
        state: &mut State,
        since: Instant,
        round: &mut Round<'_>,
        current: Option<&Snapshot>,
    ) -> Result<Arc<Token>, Failure> {
        if let Some(unanswered) = &state.unanswered
            && since < unanswered.ended
        {
            return Err(unanswered.failure());
        }
        let provider = round.transport.provider();
        let proofs = self.method.proofs(current, &state.opened, provider);
        let (first, second) = match proofs.await {
            Ok(proofs) => proofs,
            Err(unreadable) => {
                state.stuck = true;
                return Err(Failure::unusable(unreadable));
            }
        };
        let outcome = match (attempt(state, first, round).await, second) {
            (Err(failure), Some(second)) if failure.verdict != Verdict::Transient => {
                log_failure(&failure, "vault does not take the live certificate");
                attempt(state, second, round).await
            }
            (outcome, _) => outcome,
        };
        state.stuck = outcome
            .as_ref()
            .is_err_and(|failure| matches!(failure.verdict, Verdict::CredentialRefused { .. }));
        match &outcome {
            Ok(_) => self.logged_in.notify_waiters(),
            Err(failure) if failure.verdict == Verdict::Transient => {
                state.unanswered = Some(Unanswered::of(failure));
            }
            Err(_) => {}
        }
        outcome
    }

    async fn renew(&self, state: &mut State, round: &mut Round<'_>) {
        let Some(token) = state.kept.clone() else {
            return;
        };
        let is_early = state
            .tried
            .is_some_and(|at| at.elapsed() < token.facts().spacing());
        if is_early {
            return;
        }
        // Before the request: one that is cancelled counts too.
        state.tried = Some(Instant::now());
        let renewed = match auth::renew(round, &token).await {
            Ok(granted) => {
                tracing::debug!(lease = ?granted.lease, "renewed the vault token");
                token.renewed(&granted)
            }
            Err(failure) => {
                log_failure(&failure, "the vault token is not renewed");
                token.with(after_failure(&failure))
            }
        };
        state.kept = Some(Arc::new(renewed));
        // And from its end: of several sources that waited for it, none tries again at once.
        state.tried = Some(Instant::now());
    }
}

fn log_failure(failure: &Failure, what: &str) {
    tracing::debug!(error = %with_causes(&*failure.cause), "{what}");
}

async fn attempt(
    state: &mut State,
    proof: Proof,
    round: &mut Round<'_>,
) -> Result<Arc<Token>, Failure> {
    let made_of = proof.id;
    if let Some(held) = state.holds.on(made_of) {
        return Err(held);
    }
    match proof.log_in(round, &mut state.opened).await {
        Ok(granted) => {
            tracing::debug!(lease = ?granted.lease, "logged in to vault");
            metrics::logged_in();
            let token = Arc::new(Token::of(granted, made_of));
            state.kept = Some(Arc::clone(&token));
            state.tried = None;
            state.outdated = false;
            Ok(token)
        }
        Err(failure) => {
            metrics::login_failed();
            Err(state.holds.note(made_of, failure))
        }
    }
}

impl Unanswered {
    fn of(failure: &Failure) -> Self {
        Self {
            ended: Instant::now(),
            told: with_causes(&*failure.cause).to_string(),
            retry_after: failure.retry_after,
        }
    }

    fn failure(&self) -> Failure {
        let told = self.told.clone();
        Failure {
            retry_after: self.retry_after,
            ..Failure::transient(VaultError::LoginOfAnother { told })
        }
    }
}

impl State {
    fn next_renewal(&self) -> Option<Instant> {
        let token = self.kept.as_ref()?;
        let facts = token.facts();
        let due = token.renewal_due()?;
        Some(match self.tried {
            Some(tried) => due.max(tried + facts.spacing()),
            None => due,
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// A token, wiped from memory when dropped.
#[derive(Clone)]
pub(crate) struct Token {
    value: Zeroizing<String>,
    /// The credential that it was had for.
    made_of: Fingerprint,
    logged_in: Instant,
    /// When it was granted or renewed, whichever was later.
    granted: Instant,
    lease: Lease,
    renewal: Renewal,
    draw: f64,
}

impl Token {
    pub(crate) fn of(granted: Granted, made_of: Fingerprint) -> Self {
        let now = Instant::now();
        Self {
            value: granted.token,
            made_of,
            logged_in: now,
            granted: now,
            lease: granted.lease,
            renewal: granted.renewal,
            draw: rand::random(),
        }
    }

    /// One for a single request.
    pub(crate) fn bare(value: Zeroizing<String>) -> Self {
        let made_of = Fingerprint::of([value.as_bytes()]);
        let granted = Granted {
            token: value,
            lease: Lease::Unknown,
            renewal: Renewal::Never,
        };
        Self::of(granted, made_of)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.value
    }

    /// When it is renewed between fetches; `None` if never.
    pub(crate) fn renewal_due(&self) -> Option<Instant> {
        self.granted.checked_add(self.facts().renewed_at()?)
    }

    fn facts(&self) -> Facts {
        Facts {
            age: self.granted.elapsed(),
            lease: self.lease,
            renewal: self.renewal,
            draw: self.draw,
        }
    }

    fn renewed(&self, granted: &Granted) -> Self {
        Self {
            granted: Instant::now(),
            lease: granted.lease,
            renewal: after_renewal(self.lease, granted.lease, granted.renewal),
            ..self.clone()
        }
    }

    fn with(&self, renewal: Renewal) -> Self {
        Self {
            renewal,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests;
