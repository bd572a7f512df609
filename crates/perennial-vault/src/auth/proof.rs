use std::sync::Arc;

use perennial::Fingerprint;
use rustls::client::ResolvesClientCert;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::call::Call;
use super::login;
use super::wrapping::{self, Opened};
use crate::error::{Failure, Step, VaultError};
use crate::token::Token;
use crate::token_life::{Lease, Renewal};
use crate::transport::{Reply, Round};

/// A credential as it is now, ready to be sent.
pub(crate) struct Proof {
    /// Tells this credential from any other, and does not reveal it.
    pub(crate) id: Fingerprint,
    pub(super) way: Way,
}

/// How a [`Proof`] becomes a token.
pub(super) enum Way {
    /// It is one.
    Is(Zeroizing<String>),
    Login(Call),
    AppRole {
        mount: String,
        role_id: Zeroizing<String>,
        wrapping: Zeroizing<String>,
    },
    Certificate {
        call: Call,
        resolver: Arc<dyn ResolvesClientCert>,
    },
}

/// A token as Vault granted it.
pub(crate) struct Granted {
    pub(crate) token: Zeroizing<String>,
    pub(crate) lease: Lease,
    pub(crate) renewal: Renewal,
}

impl Proof {
    /// A login with one secret.
    pub(super) fn login(secret: &str, path: String, fields: &[(&str, &str)]) -> Self {
        Self {
            id: Fingerprint::of([secret.as_bytes()]),
            way: Way::Login(Call::new(path, fields)),
        }
    }

    /// Exchanges it for a token; of the requests, the last is the login.
    pub(crate) async fn log_in(
        self,
        round: &mut Round<'_>,
        opened: &mut Opened,
    ) -> Result<Granted, Failure> {
        match self.way {
            Way::Is(token) => Ok(Granted {
                token,
                lease: Lease::Unknown,
                renewal: Renewal::Possible,
            }),
            Way::Login(call) => grant(round, Step::Login, &call, None).await,
            Way::AppRole {
                mount,
                role_id,
                wrapping,
            } => {
                let secret_id = wrapping::open(wrapping, &mount, opened, round).await?;
                let call = Call::new(
                    login(&mount),
                    &[("role_id", &role_id), ("secret_id", &secret_id)],
                );
                grant(round, Step::Login, &call, None).await
            }
            Way::Certificate { call, resolver } => {
                let showing = round
                    .transport
                    .showing(resolver)
                    .map_err(|error| Failure::unusable(VaultError::Request(error.into())))?;
                let reply = round.send_over(&showing, Step::Login, &call, None).await?;
                Ok(Granted {
                    // Vault renews only for the very certificate that logged in, which is on its way out.
                    renewal: Renewal::Never,
                    ..granted(Step::Login, &reply)?
                })
            }
        }
    }
}

/// Prolongs a token's lease.
pub(crate) async fn renew(round: &mut Round<'_>, token: &Token) -> Result<Granted, Failure> {
    let call = Call::new("auth/token/renew-self", &[]);
    grant(round, Step::RenewToken, &call, Some(token)).await
}

async fn grant(
    round: &mut Round<'_>,
    step: Step,
    call: &Call,
    token: Option<&Token>,
) -> Result<Granted, Failure> {
    granted(step, &round.send(step, call, token).await?)
}

/// The token in a reply.
pub(crate) fn granted(step: Step, reply: &Reply) -> Result<Granted, Failure> {
    // Not vaultrs' own reply type: its `Debug` prints the token, and it is not wiped.
    let LoginReply { auth } = reply.json(step)?;
    let token = auth.client_token;
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(Failure::unusable(VaultError::Unusable {
            step,
            problem: "its token is empty or holds a character that no token has",
        }));
    }
    Ok(Granted {
        token,
        lease: Lease::of_seconds(auth.lease_duration),
        renewal: match auth.renewable {
            true => Renewal::Possible,
            false => Renewal::Never,
        },
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
    #[serde(default)]
    renewable: bool,
}
