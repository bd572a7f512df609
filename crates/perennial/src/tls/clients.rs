use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::roots::TrustedRoots;
use super::stages::Stages;

/// Whether a server asks its clients for a certificate.
///
/// One that is presented is always verified, by the snapshot's roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAuth {
    /// It does not ask. Anyone may connect.
    None,
    /// It asks. A client without a certificate may connect too; one whose certificate does not
    /// verify may not.
    Optional,
    /// It asks, and refuses a client without a certificate.
    Required,
}

/// Verifies the clients of one generation.
pub(super) struct ClientVerifier {
    stages: Stages<Arc<dyn ClientCertVerifier>>,
    /// All of the trusted roots.
    cas: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    /// `delivered` are the delivered roots of `trusted`, parsed; there is at least one.
    pub(super) fn new(
        delivered: Arc<RootCertStore>,
        trusted: &TrustedRoots,
        overlap: Duration,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let make = |roots| webpki(roots, provider);
        let stages = Stages::new(delivered, trusted, overlap, make)?;
        // At the epoch the overlap of no root has ended.
        let all = stages.at(UnixTime::since_unix_epoch(Duration::ZERO), make)?;
        Ok(Self {
            cas: all.root_hint_subjects().to_vec(),
            stages,
            provider: Arc::clone(provider),
        })
    }

    /// The names of the CAs that are trusted.
    pub(super) fn cas(&self) -> &[DistinguishedName] {
        &self.cas
    }

    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.stages.at(now, |roots| webpki(roots, &self.provider))?;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }
}

/// rustls' own verifier.
pub(super) fn webpki(
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").finish_non_exhaustive()
    }
}
