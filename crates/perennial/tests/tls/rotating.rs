//! A live certificate that the test rotates.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::rustls::ClientConfig;
use perennial::{
    CertMaterial, CertSource, FetchContext, Fetched, LiveCert, LiveCertBuilder, RenewError,
    Renewed, SourceError, TlsSettings,
};

/// A live certificate and its source, which delivers the given material in order. Needs a paused
/// clock.
pub(crate) struct Rotating {
    pub(crate) live: LiveCert,
    next: Next,
}

#[derive(Clone, Default)]
struct Next(Arc<Mutex<VecDeque<CertMaterial>>>);

impl CertSource for Next {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        let next = self.0.lock().unwrap().pop_front();
        next.map(Fetched::from)
            .ok_or_else(|| SourceError::unavailable("nothing newer"))
    }
}

impl Rotating {
    pub(crate) async fn start(tls: TlsSettings, first: CertMaterial) -> Self {
        Self::build(LiveCert::builder().tls(tls), first).await
    }

    pub(crate) async fn build(builder: LiveCertBuilder, first: CertMaterial) -> Self {
        let rotating = Self::lazily(builder);
        rotating.next.0.lock().unwrap().push_back(first);
        rotating.live.wait_valid().await.unwrap();
        rotating
    }

    /// Without a certificate yet.
    pub(crate) fn lazily(builder: LiveCertBuilder) -> Self {
        let next = Next::default();
        let live = builder.start_lazy(next.clone()).unwrap();
        Self { live, next }
    }

    /// Delivers the first material to a renewer that has none yet.
    pub(crate) async fn first(&self, material: CertMaterial) {
        self.next.0.lock().unwrap().push_back(material);
        // Paused time: past every wait after a failure.
        tokio::time::sleep(Duration::from_secs(600)).await;
        self.live.current().unwrap();
    }

    /// Rotates to this material; returns when readers see it.
    pub(crate) async fn rotate(&self, material: CertMaterial) {
        let renewed = self.try_rotate(material).await;
        assert!(matches!(renewed, Ok(Renewed::Newer(_))), "{renewed:?}");
    }

    pub(crate) async fn try_rotate(&self, material: CertMaterial) -> Result<Renewed, RenewError> {
        self.next.0.lock().unwrap().push_back(material);
        // Paused time: past every rate limit.
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.live.renew().await
    }

    /// The config for a connection made now.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.live.current().unwrap().client_config()
    }
}
