//! Short-lived certificates that stay fresh, for services that prove who they are by mTLS.
//!
//! A [`CertSource`] delivers certificates; a [`LiveCert`] renews them ahead of expiry, checks each
//! one before anybody sees it, and hands out numbered [`Snapshot`]s with a ready rustls config.
//!
//! ```text
//!  CertSource              renewer (one task)                         readers (any number)
//!  files, env,  ──fetch──► check ──► gate ──► Snapshot, generation n ══► LiveCert::current()
//!  Vault, yours            key = leaf, links,   ready rustls config      rotations(), status(),
//!       └─────changed()──► validity, purpose                             events()
//! ```
//!
//! # Quick start
//! ```no_run
//! use perennial::{CertSource, EnvSource, FileSource, LiveCert};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Where the environment says nothing, from files that somebody else renews.
//! let source = EnvSource::new("TLS_CERT", "TLS_KEY", "TLS_CA")
//!     .or(FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt"));
//! let live = LiveCert::start(source).await?;
//!
//! // For each connection, the certificate of that moment:
//! let config = live.current()?.client_config();
//! // For whoever must act on a new one:
//! let mut rotations = live.rotations();
//! while let Some(snapshot) = rotations.next().await {
//!     println!("generation {} until {:?}", snapshot.generation(), snapshot.not_after());
//! }
//! # Ok(()) }
//! ```
//! A source of your own is one `async fn`: see [`CertSource`]. `perennial-vault` has the one for Vault
//! and OpenBao, `perennial-postgres` moves pooled connections onto each new certificate.
//!
//! # Vocabulary
//! - **fetch**: ask a source once. **renew**: fetch again ahead of expiry and publish.
//!   **rotate**: what readers see when a new snapshot appears.
//! - **material**: chain, key and roots as fetched. **snapshot**: checked, numbered material.
//!   **generation**: its number, from 1.
//! - **usable life**: from when a certificate was obtained (or becomes valid) to its end; the only
//!   length that the schedule counts with. **remaining**: what of it is left.
//!
//! # What it promises
//! - A snapshot is whole: chain, key, roots and config of one fetch, checked before publishing.
//! - A failed renewal never removes a valid certificate, and the renewer never gives up.
//! - An expired certificate is never handed out.
//! - Any number of waiters cause one fetch; fetches in an outage have a closed bound.
//! - No private key is in any `Debug`, log or error.
//!
//! # Features
//! - `aws-lc-rs` (default), `ring`: the crypto provider; or give [`LiveCertBuilder::provider`] one.
//! - `watch` (default): files that change are noticed at once, and not only by polling.
//! - `encrypted-keys`: private keys in encrypted PKCS#8. `serde`: `SourceConfig`.
//! - `test-util`: the module `testing`, for tests of your own.
//! - `metrics`: these, through the `metrics` facade. Each has the label `certificate`, the name given
//!   to [`LiveCertBuilder::name`].
//!
//! | metric | kind | unit |
//! |---|---|---|
//! | `perennial_certificate_expiry_timestamp_seconds` | gauge | Unix time at which the certificate in use expires |
//! | `perennial_certificate_remaining_seconds` | gauge | seconds until then, negative once it is past |
//! | `perennial_certificate_renewal_timestamp_seconds` | gauge | Unix time from which its renewal is due |
//! | `perennial_certificate_generation` | gauge | the generation in use |
//! | `perennial_renewals_total` | counter, label `result`: `rotated`, `unchanged`, `refused`, `failed` | attempts that have ended |
//! | `perennial_source_errors_total` | counter, label `kind`: `denied`, `invalid`, `not_configured`, `unavailable` | attempts that the source failed |
//! | `perennial_renewal_failures` | gauge | failures in a row |
//! | `perennial_fetch_duration_seconds` | histogram | one attempt, checks and gate included |

mod causes;
mod certificate;
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
pub use certificate::{Names, Serial};
pub use error::{RenewError, SourceError, SourceErrorKind, StartError, Unavailable};
pub use gate::{Gate, Verdict};
pub use live::{LiveCert, LiveCertBuilder, Reporter, Rotations};
pub use material::{CertMaterial, MaterialError, Part};
pub use observe::{CertState, CertStatus, Event, Events};
pub use renewer::Renewed;
pub use schedule::RenewalSchedule;
pub use snapshot::Snapshot;
#[cfg(feature = "encrypted-keys")]
pub use source::Passphrase;
#[cfg(all(feature = "serde", feature = "encrypted-keys"))]
pub use source::PassphraseConfig;
pub use source::{
    BoxSource, CacheKey, CertSource, EnvSource, FetchContext, FetchReason, Fetched, FileSource,
    LARGEST_FILE, Or, POLL_INTERVAL, Saved, SavedCert, SavedCertError, SourceFn, source_fn,
};
#[cfg(feature = "serde")]
pub use source::{EnvConfig, FileConfig, OneOrMore, SourceConfig};
pub use tls::{ServerCrls, TlsSettings, TlsSettingsError};

pub use rustls;
pub use rustls::pki_types;
