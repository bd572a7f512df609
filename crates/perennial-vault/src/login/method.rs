use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::secret::{Part, Secret, header, line, pem};
use crate::error::Problem;
use crate::http::Request;
use crate::settings;

/// Where Kubernetes mounts a pod's token by default.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How this program proves its identity to Vault.
///
/// Every [`Secret`] is text, or a file that is read each time it is needed. A refused secret is not
/// sent again for 5 minutes (after a 403, no login is sent for 60 s). If its file holds another
/// one, that is sent within 5 s. `Debug` shows no secret.
///
/// # Example
/// ```
/// use perennial_vault::{Auth, Secret};
///
/// let auth = Auth::approle("app-role-id", Secret::file("/etc/app/secret-id"));
/// let auth = Auth::kubernetes("app").login_mount("k8s-prod");
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Auth {
    pub(super) method: Method,
    /// The login method's mount; not used by a token.
    pub(super) mount: String,
}

#[derive(Clone, Debug)]
pub(super) enum Method {
    /// An agent adds the token to each request.
    Agent,
    Token(Part),
    AppRole {
        role_id: Part,
        /// `None` for a role that needs none.
        secret_id: Option<Part>,
    },
    WrappedAppRole {
        role_id: Part,
        wrapping_token: Part,
    },
    Jwt {
        role: String,
        jwt: Part,
    },
    Userpass {
        user: String,
        password: Part,
    },
    Certificate {
        role: String,
        chain: Part,
        key: Part,
    },
    Closure(LoginFields),
}

impl Auth {
    /// No token: the address is that of an OpenBao or Vault Agent or Proxy, which adds its own.
    ///
    /// Its listener needs `use_auto_auth_token = true`. The agent logs in and renews; while it has
    /// no valid token, fetches fail as *unavailable*, and are retried. Unix sockets are not
    /// supported: use a TCP listener at 127.0.0.1.
    ///
    /// # Example
    /// ```
    /// use perennial_vault::{Auth, Vault};
    ///
    /// # fn main() -> Result<(), perennial_vault::VaultError> {
    /// let vault = Vault::builder("http://127.0.0.1:8100").auth(Auth::agent()).build()?;
    /// # Ok(()) }
    /// ```
    pub fn agent() -> Self {
        Self::of("agent", Method::Agent)
    }

    /// A token. It is renewed if Vault allows that. Once it is refused, there is no other.
    ///
    /// A file is read before each fetch, and the token that it holds then is used.
    pub fn token(token: impl Into<Secret>) -> Self {
        Self::of(
            "token",
            Method::Token(Part::new("auth token", token, header)),
        )
    }

    /// The AppRole method at `auth/approle`.
    pub fn approle(role_id: impl Into<String>, secret_id: impl Into<Secret>) -> Self {
        let method = Method::AppRole {
            role_id: Part::new("auth role_id", role_id.into(), line),
            secret_id: Some(Part::new("auth secret_id", secret_id, line)),
        };
        Self::of("approle", method)
    }

    /// AppRole for a role with `bind_secret_id=false`, which must restrict the networks instead.
    ///
    /// Any process in these networks that knows the role_id can log in, so keep it as a secret.
    pub fn approle_without_secret_id(role_id: impl Into<Secret>) -> Self {
        let method = Method::AppRole {
            role_id: Part::new("auth role_id", role_id, line),
            secret_id: None,
        };
        Self::of("approle", method)
    }

    /// AppRole, with a response-wrapping token for the secret_id.
    ///
    /// The token is unwrapped once, and the secret_id is kept in memory. A token that was used
    /// before, or that this mount did not make for a secret_id, may mean an interception: the fetch
    /// is *denied*, an error is logged, and the token is not sent again. The error says so too if
    /// Vault's answer to this program's own unwrapping was lost.
    pub fn approle_wrapped(role_id: impl Into<String>, wrapping_token: impl Into<Secret>) -> Self {
        let method = Method::WrappedAppRole {
            role_id: Part::new("auth role_id", role_id.into(), line),
            wrapping_token: Part::new("auth wrapping token", wrapping_token, header),
        };
        Self::of("approle", method)
    }

    /// The JWT method at `auth/jwt`: a signed token of a platform such as a CI system.
    pub fn jwt(role: impl Into<String>, jwt: impl Into<Secret>) -> Self {
        let method = Method::Jwt {
            role: role.into(),
            jwt: Part::new("auth jwt", jwt, line),
        };
        Self::of("jwt", method)
    }

    /// The Kubernetes method at `auth/kubernetes`, with the pod's service account token.
    ///
    /// Its file is `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    pub fn kubernetes(role: impl Into<String>) -> Self {
        Self::kubernetes_at(role, SERVICE_ACCOUNT_TOKEN)
    }

    /// The same with a token at another path, such as one with an audience of its own.
    pub fn kubernetes_at(role: impl Into<String>, token_file: impl Into<PathBuf>) -> Self {
        // The request has the same form as a JWT login.
        Self::jwt(role, Secret::file(token_file)).login_mount("kubernetes")
    }

    /// The userpass method at `auth/userpass`.
    pub fn userpass(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        let method = Method::Userpass {
            user: user.into(),
            password: Part::new("auth password", password, line),
        };
        Self::of("userpass", method)
    }

    /// The TLS certificate method at `auth/cert`, for one of its roles.
    ///
    /// `chain` and `key` (PEM, leaf first) are presented at the first login, later the live
    /// certificate, as long as Vault accepts it. Each rotation causes a login, and the token is not
    /// renewed. So the role must trust the CA that issues the live certificate.
    pub fn tls_certificate(
        role: impl Into<String>,
        chain: impl Into<Secret>,
        key: impl Into<Secret>,
    ) -> Self {
        let method = Method::Certificate {
            role: role.into(),
            chain: Part::new("auth certificate", chain, pem),
            key: Part::new("auth key", key, pem),
        };
        Self::of("cert", method)
    }

    /// Any other method, such as AWS, GCP or Azure: a closure makes the fields of each login.
    ///
    /// They are sent as JSON to `auth/MOUNT/login`. The closure is called once for each login, not
    /// for each fetch, and must return within the
    /// [request timeout](crate::VaultBuilder::request_timeout); where it fails, the fetch fails as
    /// *unavailable* with its error, which must hold no secret. If Vault refuses the login, the
    /// closure is not called again for 5 minutes (after a 403, for 60 s). Each value but that of
    /// `role` is a secret, and is kept out of errors and logs.
    ///
    /// # Example
    /// GCP, whose metadata server signs a token for the machine:
    /// ```
    /// use std::error::Error;
    ///
    /// use perennial_vault::Auth;
    ///
    /// # async fn get(url: &str) -> Result<String, Box<dyn Error + Send + Sync>> { Ok(url.into()) }
    /// const IDENTITY: &str = "http://metadata.google.internal/computeMetadata/v1/instance/\
    ///     service-accounts/default/identity?audience=http://vault/app&format=full";
    ///
    /// let auth = Auth::login_with("gcp", || async {
    ///     // By your HTTP client, with the header `Metadata-Flavor: Google`.
    ///     let jwt = get(IDENTITY).await?;
    ///     Ok::<_, Box<dyn Error + Send + Sync>>(vec![
    ///         ("role".to_owned(), "app".to_owned()),
    ///         ("jwt".to_owned(), jwt),
    ///     ])
    /// });
    /// ```
    pub fn login_with<F, R, E>(mount: impl Into<String>, fields: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Vec<(String, String)>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let make: Make = Arc::new(move || {
            let made = fields();
            Box::pin(async move { made.await.map_err(Into::into) })
        });
        Self::of(&mount.into(), Method::Closure(LoginFields(make)))
    }

    /// The path of the login method, without `auth/`, where it is not the default.
    ///
    /// It does not affect a token, which needs no login.
    pub fn login_mount(mut self, path: impl Into<String>) -> Self {
        self.mount = path.into();
        self
    }

    fn of(mount: &str, method: Method) -> Self {
        Self {
            method,
            mount: mount.to_owned(),
        }
    }

    pub(crate) fn checked(mut self) -> Result<Self, Problem> {
        match &mut self.method {
            Method::Agent => return Ok(self),
            Method::Token(token) => {
                token.check()?;
                return Ok(self);
            }
            Method::Closure(_) => {}
            Method::AppRole { role_id, secret_id } => {
                role_id.check()?;
                secret_id.as_ref().map_or(Ok(()), Part::check)?;
            }
            Method::WrappedAppRole {
                role_id,
                wrapping_token: secret,
            } => {
                role_id.check()?;
                secret.check()?;
            }
            Method::Jwt { role, jwt } => {
                *role = settings::name("auth role", std::mem::take(role))?;
                jwt.check()?;
            }
            Method::Userpass { user, password } => {
                *user = settings::name("auth user", std::mem::take(user))?;
                password.check()?;
            }
            Method::Certificate { role, chain, key } => {
                *role = settings::name("auth role", std::mem::take(role))?;
                chain.check()?;
                key.check()?;
            }
        }
        self.mount = settings::path("login_mount", self.mount)?;
        Ok(self)
    }

    /// Whether it is a token, which leaves nothing to log in with.
    pub(super) fn is_token(&self) -> bool {
        matches!(self.method, Method::Token(_))
    }

    /// Whether a new credential replaces the token of the old one: with a given token, and with the
    /// live certificate.
    pub(super) fn replaces_tokens(&self) -> bool {
        self.is_token() || self.is_certificate()
    }

    pub(super) fn is_agent(&self) -> bool {
        matches!(self.method, Method::Agent)
    }

    pub(super) fn is_certificate(&self) -> bool {
        matches!(self.method, Method::Certificate { .. })
    }
}

type BoxError = Box<dyn Error + Send + Sync>;
type Fields = Vec<(String, String)>;
type Make =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Fields, BoxError>> + Send>> + Send + Sync>;

/// A closure that makes the fields of a login.
#[derive(Clone)]
pub(super) struct LoginFields(Make);

impl fmt::Debug for LoginFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closure")
    }
}

/// What it returned.
pub(super) struct MadeFields(Vec<(String, Zeroizing<String>)>);

impl LoginFields {
    pub(super) async fn make(&self, timeout: Duration) -> Result<MadeFields, Problem> {
        let Ok(made) = tokio::time::timeout(timeout, (self.0)()).await else {
            let error = format!("it did not return within {timeout:?}");
            return Err(Problem::LoginFields(error.into()));
        };
        let fields = made.map_err(Problem::LoginFields)?.into_iter();
        let fields = fields.map(|(name, value)| (name, Zeroizing::new(value)));
        Ok(MadeFields(fields.collect()))
    }
}

impl MadeFields {
    pub(super) fn login(&self, mount: &str) -> Request {
        let fields = self.0.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_str()));
        let (public, secret): (Vec<_>, Vec<_>) = fields.partition(|(name, _)| *name == "role");
        Request::login(mount, "", &public, &secret)
    }
}
