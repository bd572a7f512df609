//! What only this crate's own tests use.

use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{TestCa, TestClock, ca, client};
use crate::{LiveCert, LiveCertBuilder};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A moment of a whole second, as X.509 times are.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

impl TestCa {
    /// Under a root whose name constraints permit this DNS name alone.
    pub(crate) fn bound_to(name: &str) -> Self {
        let mut root = ca("test root");
        root.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(name.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        Self::under(root)
    }

    /// A leaf for this purpose only.
    pub(crate) fn leaf_for(
        &self,
        purpose: ExtendedKeyUsagePurpose,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = client("app.test", noon(), MINUTE);
        params.extended_key_usages = vec![purpose];
        let (cert, key) = self.sign(&params);
        (cert.der().clone(), key.into())
    }

    /// A leaf for clients and servers with these names.
    pub(crate) fn leaf_with(
        &self,
        names: Vec<SanType>,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = client("app.test", noon(), MINUTE);
        params.extended_key_usages = Vec::new();
        params.subject_alt_names = names;
        let (cert, key) = self.sign(&params);
        (cert.der().clone(), key.into())
    }

    /// A leaf of another DNS name.
    pub(crate) fn leaf_named(
        &self,
        name: &str,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (cert, key) = self.sign(&client(name, noon(), MINUTE));
        (cert.der().clone(), key.into())
    }
}

/// A builder whose wall clock is `wall`.
pub(crate) fn builder(wall: &TestClock) -> LiveCertBuilder {
    LiveCert::builder().clock(wall)
}

/// Lets paused time run until `condition` is true; fails after a (virtual) day.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let deadline = Duration::from_secs(86_400);
    assert!(
        tokio::time::timeout(deadline, waiting).await.is_ok(),
        "never happened: {what}"
    );
}
