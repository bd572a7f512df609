//! The login: credentials, and the token that they bring.

mod back_off;
mod credential;
mod lease;
mod method;
mod secret;
mod tokens;
mod wrapping;

#[cfg(any(test, fuzzing))]
pub(crate) use credential::granted;
pub use method::Auth;
pub use secret::Secret;
pub(crate) use tokens::{LoginBudget, Token, Tokens};

/// A digest, which identifies a credential without revealing it.
pub(crate) type CredentialId = perennial::CacheKey;
