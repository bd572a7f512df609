//! Short-lived certificates that stay fresh, for services that prove who they are by mutual TLS.
//!
//! A [`CertSource`] delivers certificates. A [`LiveCert`] renews them before they expire, checks
//! each one before it is used, and provides numbered [`Snapshot`]s with ready rustls configs, and
//! configs for life that follow it, for clients and servers.
//!
//! ```text
//!  CertSource              renewer (one task)                        readers (any number)
//!  files, env,  ──fetch──► check ──► gate ──► Snapshot, generation n ══► LiveCert::current()
//!  Vault, yours            key = leaf, links,  ready rustls config       subscribe(), status(),
//!       └─────changed()──► validity, purpose                             events()
//!       ◄────────────────────────────────────  published(n)
//! ```
//!
//! # Quick start
//! ```no_run
//! use perennial::{CertSource, EnvSource, FileSource, LiveCert};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // From files that another program renews, where the variables are not set.
//! let source = EnvSource::new("TLS_CERT", "TLS_KEY", "TLS_CA")
//!     .or(FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt"));
//! let live = LiveCert::start(source).await?;
//!
//! // For each connection, the certificate of that moment:
//! let config = live.current()?.client_config();
//! // For a library that takes one config, and for servers: `live.client_config(&[])`,
//! // `live.server_config(ClientAuth::Required, &[])`.
//! // For code that must act on each new certificate:
//! let mut rotations = live.subscribe();
//! while let Some(snapshot) = rotations.next().await {
//!     println!("generation {} until {:?}", snapshot.generation(), snapshot.not_after());
//! }
//! # Ok(()) }
//! ```
//! A source of your own is one `async fn`: see [`CertSource`]. `perennial-vault` has the source for
//! Vault and OpenBao, `perennial-postgres` moves pooled connections onto each new certificate.
//!
//! # Vocabulary
//! - **fetch**: ask a source once. **renew**: fetch again before expiry and publish.
//!   **rotate**: what readers see when a new snapshot appears.
//! - **material**: chain, key and roots as fetched. **snapshot**: checked, numbered material.
//!   **generation**: its number, from 1. **roots**: the certificates that verify a peer.
//! - **usable lifetime**: from when a certificate was obtained (or becomes valid) until it expires;
//!   the only length that the schedule uses. **remaining lifetime**: from now until it expires.
//!
//! # What it promises
//! - A snapshot is whole: chain, key, roots and config belong together and were checked together.
//! - A failed renewal never removes a valid certificate, and the renewer never gives up.
//! - An expired certificate is never used for a new connection: the wall clock and the monotonic
//!   clock must both call it valid.
//! - Any number of waiters cause one fetch; the number of fetches in an outage is bounded.
//! - No private key is in any `Debug`, log or error.
//!
//! # Features
//! - `aws-lc-rs` (default), `ring`: the crypto provider; or pass one to
//!   [`LiveCertBuilder::provider`].
//! - `watch` (default): changed files are noticed at once, and not only by polling.
//! - `encrypted-keys`: private keys in encrypted PKCS#8.
//! - `system-roots`: servers verified by the system's roots.
//! - `pkcs12`: chain and key in PKCS#12, and what `encrypted-keys` reads.
//! - `export`: `Snapshot::export`, for libraries that take a certificate and its key as PEM alone.
//! - `test-util`: the module `testing`, for tests of your own.
//!
//! # Metrics
//! Reported through the `metrics` facade. Each has the label `certificate`, the name given to
//! [`LiveCertBuilder::name`].
//!
//! | metric | kind | unit |
//! |---|---|---|
//! | `perennial_certificate_expiry_timestamp_seconds` | gauge | Unix time at which the certificate in use expires |
//! | `perennial_certificate_renewal_timestamp_seconds` | gauge | Unix time at which its renewal is due |
//! | `perennial_certificate_generation` | gauge | the generation in use |
//! | `perennial_renewals_total` | counter, label `result`: `rotated`, `unchanged`, `refused`, `failed` | finished attempts |
//! | `perennial_source_errors_total` | counter, label `kind`: `denied`, `invalid`, `not_configured`, `unavailable` | attempts that failed in the source |
//! | `perennial_renewal_failures` | gauge | failures in a row |
//! | `perennial_fetch_duration_seconds` | histogram | one attempt, checks and gate included |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod causes;
mod clock;
mod digest;
mod error;
mod gate;
mod live;
mod material;
mod observe;
mod renewer;
mod schedule;
mod snapshot;
mod source;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
mod tls;

pub use causes::{find_cause, with_causes};
pub use error::{RenewError, SourceError, SourceErrorKind, StartError, Unavailable};
pub use gate::{Gate, Verdict};
pub use live::{LiveCert, LiveCertBuilder, Reporter, Rotations};
pub use material::chain::roots_of_chain;
pub use material::{CertMaterial, Certificate, MaterialError, Names, Serial, Usage};
pub use observe::{CertState, CertStatus, Event, Events};
pub use renewer::Renewed;
pub use schedule::RenewalSchedule;
#[cfg(feature = "export")]
pub use snapshot::Exported;
pub use snapshot::Snapshot;
pub use source::{
    BoxSource, CacheKey, CertSource, EnvSource, FetchContext, FetchReason, Fetched, FileSource,
    keyed_source_fn, source_fn,
};
pub use tls::{ClientAuth, TlsSettings, explaining_verifier, server_certificate_advice};

pub use rustls;
pub use rustls::pki_types;
