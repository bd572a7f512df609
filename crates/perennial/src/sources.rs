//! The sources that come with the core, and what combines them.

mod closure;
#[cfg(feature = "serde")]
mod config;
mod env;
mod file;
#[cfg(feature = "watch")]
mod folders;
mod input;
mod inputs;
#[cfg(feature = "watch")]
mod notifier;
mod or;
#[cfg(feature = "encrypted-keys")]
mod passphrase;
mod reader;
mod saved;
#[cfg(test)]
mod testing;

pub use closure::{SourceFn, source_fn};
#[cfg(all(feature = "serde", feature = "encrypted-keys"))]
pub use config::PassphraseConfig;
#[cfg(feature = "serde")]
pub use config::{EnvConfig, FileConfig, OneOrMore, SourceConfig};
pub use env::EnvSource;
pub use file::FileSource;
pub use input::LARGEST_FILE;
pub use or::Or;
#[cfg(feature = "encrypted-keys")]
pub use passphrase::Passphrase;
pub use reader::POLL_INTERVAL;
pub use saved::{Saved, SavedCert, SavedCertError};
