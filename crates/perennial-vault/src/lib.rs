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
//! - A token or credential is sent to the configured origins alone. A redirect to any other is not
//!   followed, and no proxy is used.
//! - Of [several addresses](VaultPkiBuilder::address) a fetch asks each at most once, and stays with
//!   the one that serves.
//! - Trust roots for servers are those of the mount's issuers that may issue, followed as these
//!   change. No answer that is empty or cannot be read replaces them.
//! - With [`ca_pem`](VaultPkiBuilder::ca_pem) only that CA is trusted. No `VAULT_*`, `BAO_*` or
//!   `*_PROXY` variable is read, save by [`VaultPki::from_env`], which says which; see
//!   [there](VaultPkiBuilder::ca_pem) for `SSL_CERT_FILE`.
//! - A fetch logs in at most once (with a TLS certificate that is refused, once more with the first
//!   one), and a login issues no certificate. Retries are the renewer's.
//! - A refused credential is not sent again for [`CREDENTIAL_HOLD`] ([`LOGIN_DENIED_HOLD`] after a
//!   403), so that a process with a wrong secret does not lock the role for every instance that
//!   shares it (one that is restarted again and again still can). Another one in its file is sent
//!   within [`CREDENTIAL_POLL`].
//! - No token, credential or key is in any `Debug`, log or error. Wiping memory is best effort:
//!   the HTTP stack's own buffers are not wiped.
//!
//! # The token
//! | [`Auth`] | where the secret comes from |
//! |---|---|
//! | [`token`](Auth::token) | given, or a file that is read before each fetch |
//! | [`approle`](Auth::approle), [`approle_wrapped`](Auth::approle_wrapped) | a secret_id as it is, in a file, or response-wrapped |
//! | [`kubernetes`](Auth::kubernetes) | the pod's projected token, read at each login |
//! | [`jwt`](Auth::jwt) | a platform's token, as text or in a file |
//! | [`tls_certificate`](Auth::tls_certificate) | one to begin with, then the live certificate |
//! | [`userpass`](Auth::userpass) | a password, as text or in a file |
//!
//! Whatever the login, the token has one life: it is kept between fetches and renewed by two
//! thirds of its lease, [a little earlier](RENEWAL_SPREAD) by a draw of its own. Once a renewal is
//! refused or grants less than before, the next fetch logs in again, and until that succeeds the
//! token serves as long as it lives. Of a refused token nothing is kept. A token that was given to the program is renewed at once, to learn its lease,
//! and serves until Vault refuses it. [`VaultPki::another`] has several certificates share it.
//!
//! The folder `examples` has one for each login.
//!
//! # Features
//! - `aws-lc-rs` (default), `ring`: what makes keys and speaks TLS.
//! - `metrics`: `perennial_vault_logins_total`, a counter with the label `result` (`ok`, `failed`), through
//!   the `metrics` facade: logins that were sent, of every source in the process.
//!
//! # On the server
//! The role's `key_type` must fit [`KeyType`], by default `ec` (or `any`), and `use_csr_sans` and
//! `use_csr_common_name` must be on, as they are by default: names travel in the signing request.
//! Set `no_store=true` for short lives,
//! and leave `generate_lease` off: with it, a certificate is revoked when the token that asked for
//! it ends.

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("perennial-vault makes keys: enable its feature `aws-lc-rs` or `ring`");

mod access;
mod answer;
mod auth;
mod builder;
mod error;
mod from_env;
mod holds;
mod issuers;
mod key;
mod metrics;
mod outcome;
mod pki;
mod request;
mod revocation;
mod skew;
mod token;
mod token_life;
mod transport;

pub use answer::SHORTEST_SHARE;
pub use auth::{Auth, SERVICE_ACCOUNT_TOKEN, Secret};
pub use builder::{BuildError, VaultPkiBuilder};
pub use error::{Step, VaultError};
pub use issuers::ISSUERS_POLL;
pub use key::KeyType;
pub use outcome::{CREDENTIAL_HOLD, LOGIN_DENIED_HOLD};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use pki::Reader;
pub use pki::VaultPki;
pub use revocation::{NotRevoked, REVOCATION_RETRY, Revocations};
pub use token::{CREDENTIAL_POLL, POLICY_TOKEN_AGE};
pub use token_life::{RENEWAL_SHARE, RENEWAL_SPACING, RENEWAL_SPREAD, SHORT_LEASE};
pub use transport::{CONNECT_TIMEOUT, MAX_REDIRECTS, MAX_REPLY, REQUEST_TIMEOUT};
