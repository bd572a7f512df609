//! Short-lived certificates that stay fresh, for services that prove who they are by mTLS.
//!
//! A [`CertSource`] delivers certificates; a [`LiveCert`] renews them ahead of expiry, checks each
//! one before anybody sees it, and hands out numbered [`Snapshot`]s with a ready rustls config.
//!
//! ```text
//!  CertSource ──fetch──► CertMaterial ──check──► Snapshot, generation n ══► LiveCert::current()
//! ```
//!
//! # Vocabulary
//! - **fetch**: ask a source once. **renew**: fetch again ahead of expiry and publish.
//!   **rotate**: what readers see when a new snapshot appears.
//! - **material**: chain, key and roots as fetched. **snapshot**: checked, numbered material.
//!   **generation**: its number, from 1.
//! - **usable life**: from when a certificate was obtained (or becomes valid) to its end; the only
//!   length that the schedule counts with.
//!
//! # What it promises
//! - A snapshot is whole: chain, key, roots and config of one fetch, checked before publishing.
//! - A failed renewal never removes a valid certificate, and the renewer never gives up.
//! - An expired certificate is never handed out.
//! - Any number of waiters cause one fetch; fetches in an outage have a closed bound.
//! - No private key is in any `Debug`, log or error.

mod certificate;
mod clock;
mod error;
mod live;
mod material;
mod renewer;
mod schedule;
mod snapshot;
mod source;
mod sources;
mod status;
#[cfg(test)]
mod testing;
mod tls;

pub use certificate::{Names, Serial};
pub use error::{RenewError, SourceError, SourceErrorKind, StartError, Unavailable};
pub use live::{FETCH_TIMEOUT, LiveCert, LiveCertBuilder, Rotations, START_TIMEOUT, StillRunning};
pub use material::{CertMaterial, MaterialError, Part};
pub use renewer::{Renewal, SHORTEST_FETCH_INTERVAL};
pub use schedule::{
    FIRST_RETRY, LEEWAY, LONGEST_LEEWAY, RENEWAL_BAND, RETRY_CAP, RETRY_CAP_BOUNDS,
    SHORTEST_FIRST_RETRY, START_RETRY_CAP,
};
pub use snapshot::Snapshot;
pub use source::{Ask, BoxSource, CertSource, Fingerprint, Why};
#[cfg(feature = "encrypted-keys")]
pub use sources::Passphrase;
#[cfg(all(feature = "serde", feature = "encrypted-keys"))]
pub use sources::PassphraseConfig;
#[cfg(feature = "serde")]
pub use sources::{EnvConfig, FileConfig, OneOrMore, SourceConfig};
pub use sources::{
    EnvSource, FileSource, LARGEST_FILE, Or, POLL_INTERVAL, Saved, SavedCert, SavedCertError,
    SourceFn, source_fn,
};
pub use status::{CertState, CertStatus};
pub use tls::{ServerCrls, TlsSettings, TlsSettingsError};

pub use rustls;
pub use rustls::pki_types;
