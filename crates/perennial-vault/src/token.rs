use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustify::endpoint::Endpoint;
use serde::Deserialize;
use tokio::time::Instant;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use zeroize::{Zeroize, Zeroizing};

use crate::auth::Credential;
use crate::error::{Failure, Step, VaultError};
use crate::outcome::Verdict;
use crate::transport::Transport;

/// A token with less than this left is not used: a request under way could outlive it.
pub const SHORT_LEASE: Duration = Duration::from_secs(10);

/// A token older than this is given up when its policies refuse.
///
/// Policies are bound to a token at login, so the next fetch logs in and sees new ones; a younger
/// token would see none.
pub const POLICY_TOKEN_AGE: Duration = Duration::from_secs(60);

/// The token in use, and the one place that logs in.
///
/// The renewer never calls a source concurrently, so nothing here guards against two logins.
pub(crate) struct Tokens {
    credential: Credential,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<Arc<Token>>,
    hold: Option<Hold>,
}

/// A refused credential, and until when it is not sent again.
struct Hold {
    until: Instant,
    refusal: Arc<VaultError>,
}

impl Tokens {
    pub(crate) fn new(credential: Credential) -> Self {
        let kept = match &credential {
            Credential::Token(token) => Some(Arc::new(Token::endless(token.clone()))),
            Credential::AppRole { .. } => None,
        };
        Self {
            credential,
            state: Mutex::new(State { kept, hold: None }),
        }
    }

    /// The token of an earlier login, unless it should be renewed by now.
    pub(crate) fn kept(&self) -> Option<Arc<Token>> {
        let state = self.state();
        let token = state.kept.as_ref()?;
        token.is_fit(Instant::now()).then(|| Arc::clone(token))
    }

    /// Whether a login can bring another token than the one there is.
    pub(crate) fn can_log_in(&self) -> bool {
        match self.credential {
            Credential::Token(_) => false,
            Credential::AppRole { .. } => true,
        }
    }

    /// Gives a token up, so that the next fetch logs in.
    pub(crate) fn give_up(&self) {
        if self.can_log_in() {
            self.state().kept = None;
        }
    }

    /// Logs in, and keeps the token.
    ///
    /// Sends nothing while a refusal's hold lasts.
    pub(crate) async fn log_in(&self, transport: &Transport) -> Result<Arc<Token>, Failure> {
        let login = match &self.credential {
            Credential::Token(token) => return Ok(Arc::new(Token::endless(token.clone()))),
            Credential::AppRole {
                mount,
                role_id,
                secret_id,
            } => LoginWithApproleRequest {
                mount: mount.clone(),
                role_id: role_id.to_string(),
                secret_id: secret_id.to_string(),
            },
        };
        // Wiped also when this future is dropped half-way.
        let login = WipedLogin(login);
        self.held_back()?;
        match exchange(transport, &login.0).await {
            Ok(token) => {
                tracing::debug!(lease = ?token.lease, "logged in to vault");
                let token = Arc::new(token);
                self.state().kept = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(failure) => Err(self.hold_if_refused(failure)),
        }
    }

    fn held_back(&self) -> Result<(), Failure> {
        let mut state = self.state();
        let now = Instant::now();
        match &state.hold {
            Some(hold) if now < hold.until => Err(held(hold.until - now, &hold.refusal)),
            _ => {
                state.hold = None;
                Ok(())
            }
        }
    }

    fn hold_if_refused(&self, failure: Failure) -> Failure {
        let Verdict::CredentialRefused { hold } = failure.verdict else {
            return failure;
        };
        let refusal = Arc::from(failure.cause);
        self.state().hold = Some(Hold {
            until: Instant::now() + hold,
            refusal: Arc::clone(&refusal),
        });
        held(hold, &refusal)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
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

async fn exchange(
    transport: &Transport,
    login: &impl Endpoint<Response = ()>,
) -> Result<Token, Failure> {
    let reply = transport.send(Step::Login, login, None).await?;
    // Not vaultrs' own reply type: its `Debug` prints the token, and it is not wiped.
    let parsed: LoginReply = reply.json(Step::Login)?;
    let token = parsed.auth.client_token;
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(Failure::unusable(VaultError::Unusable {
            step: Step::Login,
            problem: "its token is empty or holds a character that no token has",
        }));
    }
    Ok(Token {
        value: token,
        obtained: Instant::now(),
        lease: Some(Duration::from_secs(parsed.auth.lease_duration)).filter(|l| !l.is_zero()),
    })
}

#[derive(Deserialize)]
struct LoginReply {
    auth: LoginAuth,
}

#[derive(Deserialize)]
struct LoginAuth {
    client_token: Zeroizing<String>,
    /// Seconds; 0 for a token that does not end.
    lease_duration: u64,
}

/// A login whose secrets are wiped when it is dropped.
struct WipedLogin(LoginWithApproleRequest);

impl Drop for WipedLogin {
    fn drop(&mut self) {
        self.0.role_id.zeroize();
        self.0.secret_id.zeroize();
    }
}

/// A token, wiped from memory when dropped.
pub(crate) struct Token {
    value: Zeroizing<String>,
    obtained: Instant,
    /// How long it lives; `None` if it does not end, or nobody said when.
    lease: Option<Duration>,
}

impl Token {
    fn endless(value: Zeroizing<String>) -> Self {
        Self {
            value,
            obtained: Instant::now(),
            lease: None,
        }
    }

    pub(crate) fn expose(&self) -> &str {
        &self.value
    }

    pub(crate) fn age(&self) -> Duration {
        self.obtained.elapsed()
    }

    /// Fit until two thirds of its lease are over or little is left, whichever comes first.
    fn is_fit(&self, now: Instant) -> bool {
        let Some(lease) = self.lease else {
            return true;
        };
        let age = now.duration_since(self.obtained);
        age < lease / 3 * 2 && lease.saturating_sub(age) >= SHORT_LEASE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_given_up_at_two_thirds_of_its_lease() {
        let leased = |seconds| Token {
            value: Zeroizing::new("t".to_owned()),
            obtained: Instant::now(),
            lease: Some(Duration::from_secs(seconds)),
        };
        let after = |token: &Token, seconds| {
            let at = token.obtained + Duration::from_secs(seconds);
            token.is_fit(at)
        };
        let hour = leased(3_600);
        assert!(after(&hour, 2_399));
        assert!(!after(&hour, 2_400));

        // Of 21 s two thirds are 14 s, but from 11 s on less than SHORT_LEASE is left.
        let short = leased(21);
        assert!(after(&short, 11));
        assert!(!after(&short, 12));
        assert!(!after(&leased(9), 0));
        assert!(after(
            &Token::endless(Zeroizing::new("t".to_owned())),
            u64::from(u32::MAX)
        ));
    }
}
