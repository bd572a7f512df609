//! A live certificate that rotates when the test says so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use perennial::rustls::ClientConfig;
use perennial::{
    CertMaterial, CertSource, FetchContext, LiveCert, LiveCertBuilder, Renewal,
    SHORTEST_FETCH_INTERVAL, SourceError, TlsSettings,
};

/// Delivers what it was given, one after the other. Needs a paused clock.
pub(crate) struct Rotating {
    pub(crate) live: LiveCert,
    next: Next,
}

#[derive(Clone, Default)]
struct Next(Arc<Mutex<VecDeque<CertMaterial>>>);

impl CertSource for Next {
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<CertMaterial, SourceError> {
        let next = self.0.lock().unwrap().pop_front();
        next.ok_or_else(|| SourceError::unavailable("nothing newer"))
    }
}

impl Rotating {
    pub(crate) async fn start(tls: TlsSettings, first: CertMaterial) -> Self {
        Self::build(LiveCert::builder().tls(tls), first).await
    }

    pub(crate) async fn build(builder: LiveCertBuilder, first: CertMaterial) -> Self {
        let next = Next::default();
        next.0.lock().unwrap().push_back(first);
        let live = builder.start(next.clone()).await.unwrap();
        Self { live, next }
    }

    /// Rotates to this; returns when readers see it.
    pub(crate) async fn rotate(&self, material: CertMaterial) {
        self.next.0.lock().unwrap().push_back(material);
        // Paused time: a renewal is not refused for being too soon.
        tokio::time::sleep(SHORTEST_FETCH_INTERVAL).await;
        let renewal = self.live.renew_now().await;
        assert!(matches!(renewal, Renewal::Newer(_)), "{renewal:?}");
    }

    /// The config for a connection made now.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.live.current().unwrap().client_config()
    }
}
