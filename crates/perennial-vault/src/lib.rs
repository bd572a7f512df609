//! Vault and OpenBao PKI as a certificate source for Perennial.
//!
//! A [`VaultPki`] generates a key in the process, has Vault sign a request for it, and delivers the
//! certificate to a [`LiveCert`](perennial::LiveCert), which renews it.
//!
//! ```no_run
//! use std::time::Duration;
//! use perennial::LiveCert;
//! use perennial_vault::{Auth, Vault};
//!
//! # async fn example(secret_id: String) -> Result<(), Box<dyn std::error::Error>> {
//! let vault = Vault::builder("https://vault.example:8200")
//!     .ca_pem(std::fs::read("/etc/vault/ca.crt")?)
//!     .auth(Auth::approle("app-role-id", secret_id))
//!     .build()?;
//! let source = vault
//!     .pki("pki_int")
//!     .role("app")
//!     .common_name("app")
//!     .ttl(Duration::from_secs(3_600))
//!     .build()?;
//! let live = LiveCert::start(source).await?;
//! # Ok(()) }
//! ```
//!
//! # Promises
//! - Each certificate has a new private key, which never leaves the process: only a signing request
//!   is sent. The exception is [`issue`](VaultPkiBuilder::issue), which must be requested.
//! - Tokens and credentials are sent to the configured origins alone. A redirect to any other origin
//!   is not followed, and no proxy is used.
//! - Of [several addresses](VaultBuilder::address) a fetch asks each at most once, and stays with
//!   the one that answers.
//! - The trust roots for servers are those of the mount's issuers that may issue. Changes are
//!   followed. An answer that is empty or unreadable replaces no root.
//! - With [`ca_pem`](VaultBuilder::ca_pem) only that CA is trusted. No `VAULT_*`, `BAO_*` or
//!   `*_PROXY` variable is read, except by [`Vault::from_env`], which documents which; see
//!   [there](VaultBuilder::ca_pem) for `SSL_CERT_FILE`.
//! - A fetch logs in at most once (where a live TLS certificate is refused, once more with the first
//!   one), and a login issues no certificate. The renewer retries.
//! - A refused credential is not sent again for 5 minutes; after a 403, no login is sent for 60 s.
//!   So a process with a wrong secret does not lock the role for every instance that shares it; one
//!   that restarts again and again still can. Another credential in the same file is sent within
//!   5 s.
//! - No token, credential or key appears in any `Debug`, log or error. Wiping memory is best effort:
//!   the HTTP stack's own buffers are not wiped.
//!
//! # The token
//! | [`Auth`] | the secret |
//! |---|---|
//! | [`token`](Auth::token) | a token, as text or in a file that is read before each fetch |
//! | [`approle`](Auth::approle), [`approle_wrapped`](Auth::approle_wrapped) | a secret_id, as text, in a file, or response-wrapped |
//! | [`kubernetes`](Auth::kubernetes) | the pod's projected token, read at each login |
//! | [`jwt`](Auth::jwt) | a platform's token, as text or in a file |
//! | [`tls_certificate`](Auth::tls_certificate) | a first certificate, then the live one |
//! | [`userpass`](Auth::userpass) | a password, as text or in a file |
//!
//! A token is kept between fetches and renewed after two thirds of its lease, or up to a fifteenth
//! earlier, at a point drawn at each login: a one-hour token after 36 to 40 minutes. A token with
//! less than 10 s left is not renewed. Once Vault refuses a renewal or grants a shorter lease, the
//! next fetch logs in. If that login fails, the current token stays in use until it expires. A
//! refused token is dropped at once. A token that was given to the program is renewed at once, to
//! learn its lease, and stays in use until Vault refuses it. After a policy's refusal, the next
//! fetch logs in if the token is at least 60 s old.
//!
//! The folder `examples` has an example for each login.
//!
//! # Features
//! - `aws-lc-rs` (default), `ring`: what generates keys and implements TLS.
//!
//! # Metrics
//! Through the `metrics` facade: `perennial_vault_logins_total`, a counter of the logins that were
//! sent by every source in the process, with the label `result` (`ok`, `failed`).
//!
//! # On the server
//! The role's `key_type` must match [`KeyType`] (by default `ec`) or be `any`. `use_csr_sans` and
//! `use_csr_common_name` must be on, as they are by default: the signing request holds the names.
//! Set `no_store=true` for short lifetimes, and keep `generate_lease` off: with it, Vault revokes a
//! certificate when the token that requested it expires.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("perennial-vault generates keys: enable its feature `aws-lc-rs` or `ring`");

mod client;
mod error;
mod from_env;
mod http;
mod issue;
mod issuers;
mod login;
mod pki;
mod revocation;
mod settings;
mod verdict;

pub use client::{Vault, VaultBuilder};
pub use error::VaultError;
pub use issue::KeyType;
pub use login::{Auth, Secret};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use pki::Reader;
pub use pki::{VaultPki, VaultPkiBuilder};
pub use revocation::Revocations;
