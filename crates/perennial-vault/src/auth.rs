use std::fmt;

use http::HeaderValue;
use zeroize::Zeroizing;

use crate::builder::BuildError;

/// How this program proves to Vault who it is.
///
/// A line end after a secret, as files have it, is not part of it. `Debug` shows no secret.
#[derive(Clone)]
#[must_use]
pub struct Auth {
    method: Method,
}

#[derive(Clone)]
enum Method {
    Token(Zeroizing<String>),
    AppRole {
        mount: String,
        role_id: Zeroizing<String>,
        secret_id: Zeroizing<String>,
    },
}

impl Auth {
    /// A token that somebody else keeps alive; when Vault refuses it, there is no other.
    pub fn token(token: impl Into<String>) -> Self {
        Self {
            method: Method::Token(secret(token)),
        }
    }

    /// The AppRole method at `auth/approle`.
    pub fn approle(role_id: impl Into<String>, secret_id: impl Into<String>) -> Self {
        Self {
            method: Method::AppRole {
                mount: "approle".to_owned(),
                role_id: secret(role_id),
                secret_id: secret(secret_id),
            },
        }
    }

    /// The login method's own mount, without `auth/`, where it is not the default.
    ///
    /// Has no effect on a token, which needs no login.
    pub fn login_mount(mut self, path: impl Into<String>) -> Self {
        if let Method::AppRole { mount, .. } = &mut self.method {
            *mount = path.into();
        }
        self
    }

    pub(crate) fn checked(self) -> Result<Credential, BuildError> {
        match self.method {
            Method::Token(token) => {
                let token = clean("auth token", token)?;
                // Only ASCII can be sent in a header.
                if HeaderValue::from_str(&token).is_err() || !token.is_ascii() {
                    return Err(BuildError::Secret {
                        field: "auth token",
                        problem: "a character that is not ASCII".to_owned(),
                    });
                }
                Ok(Credential::Token(token))
            }
            Method::AppRole {
                mount,
                role_id,
                secret_id,
            } => Ok(Credential::AppRole {
                mount: crate::builder::path("login_mount", mount)?,
                role_id: clean("auth role_id", role_id)?,
                secret_id: clean("auth secret_id", secret_id)?,
            }),
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Method::Token(_) => f.debug_struct("Token").finish_non_exhaustive(),
            Method::AppRole { mount, .. } => f
                .debug_struct("AppRole")
                .field("mount", mount)
                .finish_non_exhaustive(),
        }
    }
}

/// An [`Auth`] whose values have been checked.
pub(crate) enum Credential {
    Token(Zeroizing<String>),
    AppRole {
        mount: String,
        role_id: Zeroizing<String>,
        secret_id: Zeroizing<String>,
    },
}

fn secret(text: impl Into<String>) -> Zeroizing<String> {
    Zeroizing::new(text.into())
}

fn clean(field: &'static str, text: Zeroizing<String>) -> Result<Zeroizing<String>, BuildError> {
    let trimmed = text.trim_end_matches(['\r', '\n']);
    if trimmed.is_empty() {
        return Err(BuildError::Secret {
            field,
            problem: "nothing".to_owned(),
        });
    }
    // The place, never the value.
    if let Some(at) = trimmed.find(char::is_control) {
        return Err(BuildError::Secret {
            field,
            problem: format!("a control character at byte {at}"),
        });
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}
