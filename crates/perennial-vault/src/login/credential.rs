//! A credential as it is now, and the requests that make a token of it.

use std::sync::Arc;

use perennial::Snapshot;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::CredentialId;
use super::lease::{Lease, Renewal};
use super::method::{Auth, LoginFields, Method};
use super::secret::Part;
use super::wrapping::{self, Unwrapped};
use crate::error::{Failure, Problem};
use crate::http::{self, Reply, Request, Round, SHORTEST_PIECE, SecretText};
use crate::verdict::Operation;

/// A credential as it is now, ready to be sent.
pub(super) struct Credential {
    pub(super) id: CredentialId,
    exchange: Exchange,
}

/// The credential to send first, and one to fall back to where there is one.
pub(super) type Credentials = (Credential, Option<Credential>);

/// How a [`Credential`] becomes a token.
enum Exchange {
    /// It is one; `None` where an agent adds it.
    None(Option<Zeroizing<String>>),
    Login(Request),
    Closure(String, LoginFields),
    Certificate(Request, Arc<dyn ResolvesClientCert>),
    Unwrap {
        mount: String,
        role_id: Zeroizing<String>,
        wrapping_token: Zeroizing<String>,
    },
}

/// A token as Vault granted it.
pub(crate) struct Granted {
    /// `None` where an agent adds it.
    pub(super) token: Option<Zeroizing<String>>,
    pub(super) lease: Lease,
    pub(super) renewal: Renewal,
}

impl Credential {
    /// Reads the credentials; `unwrapped` is the secret_id of an earlier wrapping token.
    ///
    /// Sends nothing. Files are read, so this is called without a lock.
    pub(super) async fn read(
        auth: &Auth,
        current: Option<&Snapshot>,
        unwrapped: Option<(CredentialId, Zeroizing<String>)>,
        provider: &CryptoProvider,
    ) -> Result<Credentials, Problem> {
        let mount = &auth.mount;
        let credential = match &auth.method {
            Method::Agent => Self::new(
                CredentialId::of([b"agent".as_slice()]),
                Exchange::None(None),
            ),
            Method::Token(token) => {
                let token = token.read().await?;
                let id = CredentialId::of([token.as_bytes()]);
                Self::new(id, Exchange::None(Some(token)))
            }
            Method::AppRole { role_id, secret_id } => {
                let role_id = role_id.read().await?;
                let secret_id = match secret_id {
                    Some(secret_id) => Some(secret_id.read().await?),
                    None => None,
                };
                let secret_id = secret_id.as_ref().map(|text| text.as_str());
                let secret = secret_id.unwrap_or(&role_id);
                Self::login(secret, approle_login(mount, &role_id, secret_id))
            }
            Method::WrappedAppRole {
                role_id,
                wrapping_token,
            } => {
                let role_id = role_id.read().await?;
                match (wrapping_token.read().await, unwrapped) {
                    (Ok(wrapping_token), _) => Self::new(
                        CredentialId::of([wrapping_token.as_bytes()]),
                        Exchange::Unwrap {
                            mount: mount.clone(),
                            role_id,
                            wrapping_token,
                        },
                    ),
                    // A wrapping token may be deleted once it has been used.
                    (Err(_), Some((id, secret_id))) => {
                        let login = approle_login(mount, &role_id, Some(&secret_id));
                        Self::new(id, Exchange::Login(login))
                    }
                    (Err(problem), None) => return Err(problem),
                }
            }
            Method::Jwt { role, jwt } => {
                let jwt = jwt.read().await?;
                Self::login(
                    &jwt,
                    Request::login(mount, "", &[("role", role)], &[("jwt", &jwt)]),
                )
            }
            Method::Userpass { user, password } => {
                let password = password.read().await?;
                let fields = [("password", password.as_str())];
                Self::login(
                    &password,
                    Request::login(mount, &format!("/{user}"), &[], &fields),
                )
            }
            Method::Closure(fields) => {
                // What it returns may differ each time, so a refusal concerns all that it returns.
                let id = CredentialId::of([b"closure".as_slice(), mount.as_bytes()]);
                Self::new(id, Exchange::Closure(mount.clone(), fields.clone()))
            }
            Method::Certificate { role, chain, key } => {
                let present = |id, resolver| {
                    let login = Request::login(mount, "", &[("name", role)], &[]);
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
        let login = match self.exchange {
            Exchange::None(token) => {
                let renewal = match token {
                    Some(_) => Renewal::Possible,
                    None => Renewal::Never,
                };
                return Ok(Granted {
                    token,
                    lease: Lease::Unknown,
                    renewal,
                });
            }
            Exchange::Certificate(login, resolver) => {
                let transport = round.transport.presenting(resolver).map_err(|error| {
                    Failure::unusable(Problem::Request(operation, error.into()))
                })?;
                let reply = round.send_over(&transport, &login, None).await?;
                return Ok(Granted {
                    // Vault renews it only for the certificate that logged in, soon replaced.
                    renewal: Renewal::Never,
                    ..granted(operation, &reply)?
                });
            }
            Exchange::Login(request) => request,
            Exchange::Closure(mount, fields) => {
                let made = fields.make(round.transport.request_timeout()).await;
                made.map_err(Failure::transient)?.login(&mount)
            }
            Exchange::Unwrap {
                mount,
                role_id,
                wrapping_token,
            } => {
                let secret_id =
                    wrapping::secret_id(wrapping_token, self.id, &mount, unwrapped, round).await?;
                approle_login(&mount, &role_id, Some(&secret_id))
            }
        };
        granted(operation, &round.send(&login, None).await?)
    }
}

fn approle_login(mount: &str, role_id: &str, secret_id: Option<&str>) -> Request {
    let role_id = [("role_id", role_id)];
    let secret_id = secret_id.map(|text| ("secret_id", text));
    // A short one is a word that an operator chose, and that Vault's own texts may hold.
    if role_id[0].1.len() < SHORTEST_PIECE {
        return Request::login(mount, "", &role_id, secret_id.as_slice());
    }
    let secret: Vec<_> = role_id.into_iter().chain(secret_id).collect();
    Request::login(mount, "", &[], &secret)
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
    let private_key = http::private_key(&key_pem)
        .ok_or_else(|| unusable(key, "no unencrypted private key in PEM"))?;
    // The provider wipes what it loads.
    let certified = CertifiedKey::from_der(certificates, private_key.clone_key(), provider)
        .map_err(|_error| unusable(key, "it does not match the auth certificate"))?;
    Ok((id, Arc::new(SingleCertAndKey::from(certified))))
}

/// Renews a token's lease.
pub(super) async fn renew(round: &mut Round<'_>, token: Option<&str>) -> Result<Granted, Failure> {
    let reply = round.send(&Request::renew_token()?, token).await?;
    granted(Operation::RenewToken, &reply)
}

/// The token in a reply.
pub(crate) fn granted(operation: Operation, reply: &Reply) -> Result<Granted, Failure> {
    // vaultrs' reply type is not used: its `Debug` prints the token, and it is not wiped.
    let LoginReply { auth } = reply.json(operation)?;
    let token = auth.client_token.into_inner();
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        let problem = "its token is empty or holds a character that tokens do not have";
        return Err(Failure::unusable(Problem::Unusable(operation, problem)));
    }
    Ok(Granted {
        token: Some(token),
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
    client_token: SecretText,
    /// Seconds; 0 for a token that does not expire.
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}
