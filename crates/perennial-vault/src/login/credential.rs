//! A credential as it is now, and the requests that make a token of it.

use std::sync::Arc;

use perennial::Snapshot;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::CredentialId;
use super::lease::{Lease, Renewal};
use super::method::{Auth, Method};
use super::secret::Part;
use super::wrapping::{self, Unwrapped};
use crate::error::{Failure, Problem};
use crate::http::{Reply, Request, Round};
use crate::verdict::Operation;

/// A credential as it is now, ready to be sent.
pub(super) struct Credential {
    pub(super) id: CredentialId,
    exchange: Exchange,
}

/// How a [`Credential`] becomes a token.
enum Exchange {
    /// It is one.
    None(Zeroizing<String>),
    Login(Request),
    Certificate(Request, Arc<dyn ResolvesClientCert>),
    Unwrap {
        mount: String,
        role_id: Zeroizing<String>,
        wrapping_token: Zeroizing<String>,
    },
}

/// A token as Vault granted it.
pub(crate) struct Granted {
    pub(super) token: Zeroizing<String>,
    pub(super) lease: Lease,
    pub(super) renewal: Renewal,
}

impl Credential {
    /// Reads the credential, and a second one to fall back to where there is one.
    ///
    /// Sends nothing.
    pub(super) async fn read(
        auth: &Auth,
        current: Option<&Snapshot>,
        unwrapped: &Unwrapped,
        provider: &CryptoProvider,
    ) -> Result<(Self, Option<Self>), Problem> {
        let login = |suffix: &str, fields: &[(&str, &str)]| {
            let path = format!("auth/{}/login{suffix}", auth.mount);
            Request::post(Operation::Login, path, fields)
        };
        let credential = match &auth.method {
            Method::Token(token) => {
                let token = token.read().await?;
                let id = CredentialId::of([token.as_bytes()]);
                Self::new(id, Exchange::None(token))
            }
            Method::AppRole { role_id, secret_id } => {
                let (role_id, secret_id) = (role_id.read().await?, secret_id.read().await?);
                let fields = [("role_id", role_id.as_str()), ("secret_id", &secret_id)];
                Self::login(&secret_id, login("", &fields))
            }
            Method::WrappedAppRole {
                role_id,
                wrapping_token,
            } => {
                let role_id = role_id.read().await?;
                match (wrapping_token.read().await, unwrapped.secret_id()) {
                    (Ok(wrapping_token), _) => Self::new(
                        CredentialId::of([wrapping_token.as_bytes()]),
                        Exchange::Unwrap {
                            mount: auth.mount.clone(),
                            role_id,
                            wrapping_token,
                        },
                    ),
                    // A wrapping token may be deleted once it has been used.
                    (Err(_), Some((id, secret_id))) => {
                        let fields = [("role_id", role_id.as_str()), ("secret_id", secret_id)];
                        Self::new(id, Exchange::Login(login("", &fields)))
                    }
                    (Err(problem), None) => return Err(problem),
                }
            }
            Method::Jwt { role, jwt } => {
                let jwt = jwt.read().await?;
                Self::login(&jwt, login("", &[("role", role), ("jwt", &jwt)]))
            }
            Method::Userpass { user, password } => {
                let password = password.read().await?;
                let request = login(&format!("/{user}"), &[("password", &password)]);
                Self::login(&password, request)
            }
            Method::Certificate { role, chain, key } => {
                let present = |id, resolver| {
                    let login = login("", &[("name", role)]);
                    Self::new(id, Exchange::Certificate(login, resolver))
                };
                let first = first_certificate(chain, key, provider).await;
                let first = first.map(|(id, resolver)| present(id, resolver));
                return match current {
                    Some(live) => {
                        let id = CredentialId::of([live.leaf_sha256().as_slice()]);
                        let resolver = &live.client_config().client_auth_cert_resolver;
                        // The first certificate's files may be gone by now.
                        Ok((present(id, Arc::clone(resolver)), first.ok()))
                    }
                    None => Ok((first?, None)),
                };
            }
        };
        Ok((credential, None))
    }

    fn new(id: CredentialId, exchange: Exchange) -> Self {
        Self { id, exchange }
    }

    fn login(secret: &str, request: Request) -> Self {
        let id = CredentialId::of([secret.as_bytes()]);
        Self::new(id, Exchange::Login(request))
    }

    /// Exchanges it for a token; the login is the last of its requests.
    pub(super) async fn log_in(
        self,
        round: &mut Round<'_>,
        unwrapped: &mut Unwrapped,
    ) -> Result<Granted, Failure> {
        let operation = Operation::Login;
        match self.exchange {
            Exchange::None(token) => Ok(Granted {
                token,
                lease: Lease::Unknown,
                renewal: Renewal::Possible,
            }),
            Exchange::Login(request) => granted(operation, &round.send(&request, None).await?),
            Exchange::Unwrap {
                mount,
                role_id,
                wrapping_token,
            } => {
                let secret_id =
                    wrapping::secret_id(wrapping_token, self.id, &mount, unwrapped, round).await?;
                let fields = [("role_id", role_id.as_str()), ("secret_id", &secret_id)];
                let request = Request::post(operation, format!("auth/{mount}/login"), &fields);
                granted(operation, &round.send(&request, None).await?)
            }
            Exchange::Certificate(login, resolver) => {
                let transport = round.transport.presenting(resolver).map_err(|error| {
                    Failure::unusable(Problem::Request(operation, error.into()))
                })?;
                let reply = round.send_over(&transport, &login, None).await?;
                Ok(Granted {
                    // Vault renews it only for the certificate that logged in, soon replaced.
                    renewal: Renewal::Never,
                    ..granted(operation, &reply)?
                })
            }
        }
    }
}

/// The certificate for the first login, as its PEM is now.
async fn first_certificate(
    chain: &Part,
    key: &Part,
    provider: &CryptoProvider,
) -> Result<(CredentialId, Arc<dyn ResolvesClientCert>), Problem> {
    let (chain_pem, key_pem) = (chain.read().await?, key.read().await?);
    let id = CredentialId::of([chain_pem.as_bytes(), key_pem.as_bytes()]);
    let unusable = |part: &Part, problem: &str| part.unusable(problem.to_owned());
    // The parsers' errors are not kept, since they quote the text.
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_error| unusable(chain, "not PEM"))?;
    if certificates.is_empty() {
        return Err(unusable(chain, "no certificate in PEM"));
    }
    let private_key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_error| unusable(key, "no unencrypted private key in PEM"))?;
    let certified = CertifiedKey::from_der(certificates, private_key, provider)
        .map_err(|_error| unusable(key, "it does not match the auth certificate"))?;
    Ok((id, Arc::new(SingleCertAndKey::from(certified))))
}

/// Renews a token's lease.
pub(super) async fn renew(round: &mut Round<'_>, token: &str) -> Result<Granted, Failure> {
    let reply = round.send(&Request::renew_token()?, Some(token)).await?;
    granted(Operation::RenewToken, &reply)
}

/// The token in a reply.
pub(crate) fn granted(operation: Operation, reply: &Reply) -> Result<Granted, Failure> {
    // vaultrs' reply type is not used: its `Debug` prints the token, and it is not wiped.
    let LoginReply { auth } = reply.json(operation)?;
    let token = auth.client_token;
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        let problem = "its token is empty or holds a character that tokens do not have";
        return Err(Failure::unusable(Problem::Unusable(operation, problem)));
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
    /// Seconds; 0 for a token that does not expire.
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}
