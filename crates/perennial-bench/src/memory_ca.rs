//! A CA in this process, by the wall clock: what a fetch costs without a network.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::testing::TestCa;
use perennial::{Ask, CertMaterial, CertSource, SourceError};

/// Issues from memory certificates of one hour, with a new P-256 key each; clones are one CA.
#[derive(Clone, Debug, Default)]
pub struct MemoryCa(Arc<TestCa>);

/// The life of what it issues.
pub const LIFE: Duration = Duration::from_secs(3_600);

impl MemoryCa {
    /// A leaf with its intermediate, key and root, valid from now on.
    pub fn issue(&self) -> CertMaterial {
        self.0.issue(wall_clock(), LIFE)
    }

    /// The certificate authority itself.
    pub fn authority(&self) -> &TestCa {
        &self.0
    }
}

impl CertSource for MemoryCa {
    async fn fetch(&self, _ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        Ok(self.issue())
    }
}

/// The time that certificates are issued by.
pub fn wall_clock() -> SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "measured as in production, on the real clock"
    )]
    SystemTime::now()
}
