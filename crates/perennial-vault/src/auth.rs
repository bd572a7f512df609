//! How this program proves to Vault who it is, method by method.

mod call;
mod certificate;
mod proof;
mod secret;
mod wrapping;

use std::fmt;
use std::path::PathBuf;

use perennial::{Fingerprint, Snapshot};
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::builder::{BuildError, path};
use crate::error::VaultError;
use certificate::Shown;
use proof::Way;
use secret::{header, line, pem};

pub(crate) use call::Call;
#[cfg(any(test, fuzzing))]
pub(crate) use proof::granted;
pub(crate) use proof::{Granted, Proof, renew};
pub use secret::Secret;
pub(crate) use wrapping::Opened;

/// Where Kubernetes mounts a pod's token unless told otherwise.
pub const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

const TOKEN: &str = "auth token";
const ROLE_ID: &str = "auth role_id";
const SECRET_ID: &str = "auth secret_id";
const WRAPPING_TOKEN: &str = "auth wrapping token";
const JWT: &str = "auth jwt";
const PASSWORD: &str = "auth password";

/// How this program proves to Vault who it is.
///
/// Every [`Secret`] is text, or a file that is read anew each time it is needed. A secret that
/// Vault refused is not sent again for [`CREDENTIAL_HOLD`](crate::CREDENTIAL_HOLD); another one in
/// its file is sent within [`CREDENTIAL_POLL`](crate::CREDENTIAL_POLL). `Debug` shows no secret.
///
/// # Example
/// ```
/// use perennial_vault::{Auth, Secret};
///
/// let auth = Auth::approle("app-role-id", Secret::file("/etc/app/secret-id"));
/// let auth = Auth::kubernetes("app").login_mount("k8s-prod");
/// ```
#[derive(Clone)]
#[must_use]
pub struct Auth {
    method: Method,
}

#[derive(Clone)]
pub(crate) enum Method {
    Token(Secret),
    AppRole {
        mount: String,
        role_id: Zeroizing<String>,
        secret_id: SecretId,
    },
    Jwt {
        mount: String,
        role: String,
        jwt: Secret,
    },
    Userpass {
        mount: String,
        user: String,
        password: Secret,
    },
    Certificate {
        mount: String,
        role: String,
        chain: Secret,
        key: Secret,
    },
}

#[derive(Clone)]
pub(crate) enum SecretId {
    Plain(Secret),
    Wrapped(Secret),
}

impl Auth {
    /// A token. It is renewed if Vault allows that; once it is refused, there is no other.
    ///
    /// Unless a file holds it: that is read before each fetch, and the token in it then is used.
    pub fn token(token: impl Into<Secret>) -> Self {
        Self::of(Method::Token(token.into()))
    }

    /// The AppRole method at `auth/approle`.
    pub fn approle(role_id: impl Into<String>, secret_id: impl Into<Secret>) -> Self {
        Self::approle_with(role_id, SecretId::Plain(secret_id.into()))
    }

    /// AppRole, with a response-wrapping token for the secret_id.
    ///
    /// It is unwrapped once, and the secret_id kept in memory. One that has been used before, or
    /// was not made by this mount for a secret_id, is a possible interception: told as
    /// [`VaultError::WrappingTokenSpent`] or [`VaultError::WrappingTokenForeign`], not sent again;
    /// one whose answer to us was lost as [`VaultError::WrappingTokenLost`].
    pub fn approle_wrapped(role_id: impl Into<String>, wrapping_token: impl Into<Secret>) -> Self {
        Self::approle_with(role_id, SecretId::Wrapped(wrapping_token.into()))
    }

    fn approle_with(role_id: impl Into<String>, secret_id: SecretId) -> Self {
        Self::of(Method::AppRole {
            mount: "approle".to_owned(),
            role_id: Zeroizing::new(role_id.into()),
            secret_id,
        })
    }

    /// The JWT method at `auth/jwt`: a signed token of a platform such as a CI system.
    pub fn jwt(role: impl Into<String>, jwt: impl Into<Secret>) -> Self {
        Self::of(Method::Jwt {
            mount: "jwt".to_owned(),
            role: role.into(),
            jwt: jwt.into(),
        })
    }

    /// The Kubernetes method at `auth/kubernetes`, with the pod's [`SERVICE_ACCOUNT_TOKEN`].
    pub fn kubernetes(role: impl Into<String>) -> Self {
        Self::kubernetes_at(role, SERVICE_ACCOUNT_TOKEN)
    }

    /// The same with a token projected elsewhere, such as one with an audience of its own.
    pub fn kubernetes_at(role: impl Into<String>, token_file: impl Into<PathBuf>) -> Self {
        // Asked in the very same form as a JWT login.
        Self::jwt(role, Secret::file(token_file)).login_mount("kubernetes")
    }

    /// The userpass method at `auth/userpass`.
    pub fn userpass(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::of(Method::Userpass {
            mount: "userpass".to_owned(),
            user: user.into(),
            password: password.into(),
        })
    }

    /// The TLS certificate method at `auth/cert`, for one of its roles.
    ///
    /// `chain` and `key` (PEM, leaf first) are shown at the first login. Then it is the live
    /// certificate, as long as Vault takes it: after each rotation it logs in anew, and the token
    /// is not renewed. So the role must trust the CA that issues the live certificate.
    pub fn tls_certificate(
        role: impl Into<String>,
        chain: impl Into<Secret>,
        key: impl Into<Secret>,
    ) -> Self {
        Self::of(Method::Certificate {
            mount: "cert".to_owned(),
            role: role.into(),
            chain: chain.into(),
            key: key.into(),
        })
    }

    /// The login method's own mount, without `auth/`, where it is not the default.
    ///
    /// Has no effect on a token, which needs no login.
    pub fn login_mount(mut self, path: impl Into<String>) -> Self {
        match &mut self.method {
            Method::Token(_) => {}
            Method::AppRole { mount, .. }
            | Method::Jwt { mount, .. }
            | Method::Userpass { mount, .. }
            | Method::Certificate { mount, .. } => *mount = path.into(),
        }
        self
    }

    fn of(method: Method) -> Self {
        Self { method }
    }

    pub(crate) fn checked(self) -> Result<Method, BuildError> {
        let at = |mount| path("login_mount", mount);
        Ok(match self.method {
            Method::Token(token) => Method::Token(token.checked(TOKEN, header)?),
            Method::AppRole {
                mount,
                role_id,
                secret_id,
            } => Method::AppRole {
                mount: at(mount)?,
                role_id: line(&role_id).map_err(|problem| BuildError::Secret {
                    field: ROLE_ID,
                    problem,
                })?,
                secret_id: match secret_id {
                    SecretId::Plain(secret) => SecretId::Plain(secret.checked(SECRET_ID, line)?),
                    SecretId::Wrapped(token) => {
                        SecretId::Wrapped(token.checked(WRAPPING_TOKEN, header)?)
                    }
                },
            },
            Method::Jwt { mount, role, jwt } => Method::Jwt {
                mount: at(mount)?,
                role: name("auth role", role)?,
                jwt: jwt.checked(JWT, line)?,
            },
            Method::Userpass {
                mount,
                user,
                password,
            } => Method::Userpass {
                mount: at(mount)?,
                user: name("auth user", user)?,
                password: password.checked(PASSWORD, line)?,
            },
            Method::Certificate {
                mount,
                role,
                chain,
                key,
            } => Method::Certificate {
                mount: at(mount)?,
                role: name("auth role", role)?,
                chain: chain.checked(certificate::CHAIN, pem)?,
                key: key.checked(certificate::KEY, pem)?,
            },
        })
    }
}

impl Method {
    /// Whether a token is all there is, and nothing to log in with.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    pub(crate) fn is_a_certificate(&self) -> bool {
        matches!(self, Self::Certificate { .. })
    }

    /// Whether a new credential takes the place of the token that the old one brought.
    pub(crate) fn outdates_tokens(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Certificate { .. })
    }

    /// Reads the credential as it is now, and a second one where there is one to fall back to.
    ///
    /// Talks to nobody.
    pub(crate) async fn proofs(
        &self,
        current: Option<&Snapshot>,
        opened: &Opened,
        provider: &CryptoProvider,
    ) -> Result<(Proof, Option<Proof>), VaultError> {
        let proof = match self {
            Self::Token(token) => {
                let token = token.read(TOKEN, header).await?;
                Proof {
                    id: Fingerprint::of([token.as_bytes()]),
                    way: Way::Is(token),
                }
            }
            Self::AppRole {
                mount,
                role_id,
                secret_id,
            } => app_role(mount, role_id, secret_id, opened).await?,
            Self::Jwt { mount, role, jwt } => {
                let jwt = jwt.read(JWT, line).await?;
                let fields = [("role", role.as_str()), ("jwt", jwt.as_str())];
                Proof::login(&jwt, login(mount), &fields)
            }
            Self::Userpass {
                mount,
                user,
                password,
            } => {
                let password = password.read(PASSWORD, line).await?;
                let path = format!("{}/{user}", login(mount));
                Proof::login(&password, path, &[("password", &password)])
            }
            Self::Certificate {
                mount,
                role,
                chain,
                key,
            } => {
                let show = |Shown { id, resolver }| Proof {
                    id,
                    way: Way::Certificate {
                        call: Call::new(login(mount), &[("name", role)]),
                        resolver,
                    },
                };
                let bootstrap = certificate::bootstrap(chain, key, provider).await;
                return match (current.map(certificate::live), bootstrap) {
                    // The one to begin with may be gone by now.
                    (Some(live), bootstrap) => Ok((show(live), bootstrap.ok().map(show))),
                    (None, bootstrap) => Ok((show(bootstrap?), None)),
                };
            }
        };
        Ok((proof, None))
    }
}

async fn app_role(
    mount: &str,
    role_id: &Zeroizing<String>,
    secret_id: &SecretId,
    opened: &Opened,
) -> Result<Proof, VaultError> {
    let with = |secret_id| [("role_id", role_id.as_str()), ("secret_id", secret_id)];
    match secret_id {
        SecretId::Plain(secret_id) => {
            let secret_id = secret_id.read(SECRET_ID, line).await?;
            Ok(Proof::login(&secret_id, login(mount), &with(&secret_id)))
        }
        SecretId::Wrapped(wrapping) => match wrapping.read(WRAPPING_TOKEN, header).await {
            Ok(wrapping) => Ok(Proof {
                id: Fingerprint::of([wrapping.as_bytes()]),
                way: Way::AppRole {
                    mount: mount.to_owned(),
                    role_id: role_id.clone(),
                    wrapping,
                },
            }),
            // Whoever delivers a wrapping token may remove it once it has been used.
            Err(error) => match opened.secret_id() {
                Some((id, secret_id)) => Ok(Proof {
                    id,
                    way: Way::Login(Call::new(login(mount), &with(secret_id))),
                }),
                None => Err(error),
            },
        },
    }
}

fn login(mount: &str) -> String {
    format!("auth/{mount}/login")
}

/// One segment of a path.
fn name(field: &'static str, text: String) -> Result<String, BuildError> {
    match path(field, text) {
        Ok(name) if name.contains('/') => Err(BuildError::Setting {
            field,
            got: name,
            takes: "a name without a slash",
        }),
        checked => checked,
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, mount, role) = match &self.method {
            Method::Token(secret) => return f.debug_tuple("Token").field(secret).finish(),
            Method::AppRole { mount, .. } => ("AppRole", mount, None),
            Method::Jwt { mount, role, .. } => ("Jwt", mount, Some(role)),
            Method::Userpass { mount, user, .. } => ("Userpass", mount, Some(user)),
            Method::Certificate { mount, role, .. } => ("Certificate", mount, Some(role)),
        };
        f.debug_struct(name)
            .field("mount", mount)
            .field("role", &role)
            .finish_non_exhaustive()
    }
}
