//! Vault and OpenBao PKI as a certificate source for Perennial.
//!
//! [`VaultPki`] makes a key in the process, has Vault sign a request for it, and hands the result
//! to a [`LiveCert`](perennial::LiveCert), which renews it.
//!
//! ```no_run
//! use std::time::Duration;
//! use perennial::LiveCert;
//! use perennial_vault::{Auth, VaultPki};
//!
//! # async fn example(secret_id: String) -> Result<(), Box<dyn std::error::Error>> {
//! let source = VaultPki::builder("https://vault.example:8200")
//!     .ca_pem(std::fs::read("/etc/vault/ca.crt")?)
//!     .auth(Auth::approle("app-role-id", secret_id))
//!     .mount("pki_int")
//!     .role("app")
//!     .common_name("app")
//!     .ttl(Duration::from_secs(3_600))
//!     .build()?;
//! let live = LiveCert::start(source).await?;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//! - The private key is made here, anew each time, and never leaves the process: only a signing
//!   request travels. Not so with [`issue`](VaultPkiBuilder::issue), which is to be asked for.
//! - A token or credential is sent to the configured origin alone. A redirect to any other is not
//!   followed, and no proxy is used.
//! - With [`ca_pem`](VaultPkiBuilder::ca_pem) only that CA is trusted. No `VAULT_*`, `BAO_*` or
//!   `*_PROXY` variable is read; see [there](VaultPkiBuilder::ca_pem) for `SSL_CERT_FILE`.
//! - A fetch logs in at most once, and a login issues no certificate. Retries are the renewer's.
//! - A refused credential is not sent again for [`CREDENTIAL_HOLD`], so that a wrong secret does
//!   not lock the role for every instance that shares it.
//! - No token, credential or key is in any `Debug`, log or error. Wiping memory is best effort:
//!   the HTTP stack's own buffers are not wiped.
//!
//! # On the server
//! The role's `key_type` must fit [`KeyType`], by default `ec` (or `any`), and `use_csr_sans` and
//! `use_csr_common_name` must be on, as they are by default: names travel in the signing request.
//! Set `no_store=true` for short lives,
//! and leave `generate_lease` off: with it, a certificate is revoked when the token that asked for
//! it ends.

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("perennial-vault makes keys: enable its feature `aws-lc-rs` or `ring`");

mod answer;
mod auth;
mod builder;
mod error;
mod key;
mod outcome;
mod pki;
mod request;
mod skew;
mod token;
mod transport;

pub use answer::SHORTEST_SHARE;
pub use auth::Auth;
pub use builder::{BuildError, VaultPkiBuilder};
pub use error::{Step, VaultError};
pub use key::KeyType;
pub use outcome::{CREDENTIAL_HOLD, LOGIN_DENIED_HOLD};
pub use pki::VaultPki;
pub use token::{POLICY_TOKEN_AGE, SHORT_LEASE};
pub use transport::{CONNECT_TIMEOUT, MAX_REDIRECTS, MAX_REPLY, REQUEST_TIMEOUT};
