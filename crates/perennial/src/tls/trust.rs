use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};

use super::anchors::Anchors;
use super::crls::Revocation;
use super::settings::{TlsSettings, TlsSettingsError, read_name};
use super::verifier::{Overlap, ServerVerifier};

/// By what every generation verifies servers: the settings, read.
pub(super) struct ServerTrust {
    roots: ServerRoots,
    revocation: Option<Revocation>,
    name: Option<ServerName<'static>>,
}

enum ServerRoots {
    Delivered { overlap: Duration },
    Fixed(Arc<RootCertStore>),
}

impl ServerTrust {
    pub(super) fn read(
        settings: TlsSettings,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsSettingsError> {
        let overlap = settings.anchor_overlap;
        let roots = match settings.server_roots {
            None => ServerRoots::Delivered { overlap },
            Some(given) if overlap.is_zero() => {
                ServerRoots::Fixed(Arc::new(fixed_roots(given.read("server_roots")?)?))
            }
            Some(_) => return Err(TlsSettingsError::OverlapOfFixedRoots { got: overlap }),
        };
        let revocation = settings
            .server_crls
            .map(|crls| Revocation::read(crls, provider));
        Ok(Self {
            roots,
            revocation: revocation.transpose()?,
            name: settings.server_name.map(read_name).transpose()?,
        })
    }

    pub(super) fn anchor_overlap(&self) -> Duration {
        match self.roots {
            ServerRoots::Delivered { overlap } => overlap,
            ServerRoots::Fixed(_) => Duration::ZERO,
        }
    }

    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.name.as_ref()
    }

    /// A verifier for one generation; `delivered` are the roots that `anchors` calls so.
    pub(super) fn verifier(
        &self,
        delivered: Arc<RootCertStore>,
        anchors: &Anchors,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ServerVerifier, rustls::Error> {
        let lasting = match &self.roots {
            ServerRoots::Delivered { .. } => delivered,
            ServerRoots::Fixed(roots) => Arc::clone(roots),
        };
        Ok(ServerVerifier {
            overlaps: self.overlaps(&lasting, anchors, provider)?,
            lasting: self.verifier_of(lasting, provider)?,
            overlap: self.anchor_overlap(),
            name: self.name.clone(),
        })
    }

    /// One stage for each moment at which carried roots fall away, the first moment first.
    fn overlaps(
        &self,
        lasting: &RootCertStore,
        anchors: &Anchors,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Vec<Overlap>, rustls::Error> {
        let mut roots = lasting.clone();
        let mut overlaps = Vec::new();
        // Who went missing last stays longest, so the stages grow from there.
        for together in anchors
            .carried
            .chunk_by(|a, b| a.missing_since == b.missing_since)
            .rev()
        {
            for old in together {
                roots.add(old.root.clone())?;
            }
            overlaps.push(Overlap {
                missing_since: together[0].missing_since,
                verifier: self.verifier_of(Arc::new(roots.clone()), provider)?,
            });
        }
        overlaps.reverse();
        Ok(overlaps)
    }

    fn verifier_of(
        &self,
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        if let Some(revocation) = &self.revocation {
            builder = revocation.apply(builder);
        }
        builder
            .build()
            .map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
    }
}

fn fixed_roots(list: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    for (index, root) in list.into_iter().enumerate() {
        roots
            .add(root)
            .map_err(|cause| TlsSettingsError::Root { index, cause })?;
    }
    Ok(roots)
}
