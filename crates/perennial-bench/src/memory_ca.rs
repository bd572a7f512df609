//! A CA in this process, so that a fetch costs no network.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::testing::TestCa;
use perennial::{CertMaterial, CertSource, FetchContext, Fetched, SourceError};

/// Issues certificates valid for one hour, each with a new P-256 key; clones are one CA.
#[derive(Clone, Debug, Default)]
pub struct MemoryCa(Arc<TestCa>);

/// The lifetime of the certificates that it issues.
pub const LIFETIME: Duration = Duration::from_secs(3_600);

impl MemoryCa {
    /// Issues a leaf with its intermediate, key and root, valid from now on.
    pub fn issue(&self) -> CertMaterial {
        self.0.issue(wall_clock(), LIFETIME)
    }

    /// The certificate authority itself.
    pub fn authority(&self) -> &TestCa {
        &self.0
    }
}

impl CertSource for MemoryCa {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        Ok(self.issue().into())
    }
}

/// The current time, at which certificates are issued.
pub fn wall_clock() -> SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "benchmarks use the real clock, as in production"
    )]
    SystemTime::now()
}
