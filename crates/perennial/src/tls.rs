//! One client config per generation, all under one policy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, InconsistentKeys, RootCertStore, WantsVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::material::{Anchoring, Key, MaterialError, Part};

mod anchors;
pub(crate) use anchors::Anchors;
mod crls;
pub use crls::ServerCrls;
#[cfg(feature = "aws-lc-rs")]
mod keys;
mod settings;
use settings::OldestVersion;
pub use settings::{TlsSettings, TlsSettingsError};
mod trust;
use trust::ServerTrust;
mod verifier;

/// What every generation's TLS config has in common.
pub(crate) struct TlsPolicy {
    provider: Arc<CryptoProvider>,
    versions: ConfigBuilder<ClientConfig, WantsVerifier>,
    /// Shared over generations: it keeps the key-exchange hint for each server, and rustls
    /// resumes no ticket across different resolvers, so no session outlives its generation.
    /// Never shared with another live certificate.
    resumption: Resumption,
    trust: ServerTrust,
}

impl TlsPolicy {
    /// Reads and checks the settings.
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        settings: TlsSettings,
    ) -> Result<Self, TlsSettingsError> {
        let versions: &[_] = match settings.oldest {
            OldestVersion::Tls13 => &[&TLS13],
            OldestVersion::Tls12 => &[&TLS13, &TLS12],
        };
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(TlsSettingsError::Provider)?;
        Ok(Self {
            versions,
            resumption: Resumption::default(),
            trust: ServerTrust::read(settings, &provider)?,
            provider,
        })
    }

    /// How long roots are carried that newer material lacks.
    pub(crate) fn anchor_overlap(&self) -> Duration {
        self.trust.anchor_overlap()
    }

    /// Whom servers are verified as, if not as what was dialled.
    pub(crate) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.trust.server_name()
    }

    /// Pairs the chain with its key; fails unless they belong together.
    pub(crate) fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &Key,
    ) -> Result<CertifiedKey, MaterialError> {
        let key = match key {
            Key::Der(der) => self
                .provider
                .key_provider
                .load_private_key(der.clone_key())
                .map_err(MaterialError::Key)?,
            Key::Signer(signer) => Arc::clone(signer),
        };
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(MaterialError::KeyMismatch)
            }
            Err(error) => Err(MaterialError::Key(error)),
        }
    }

    /// Verifies the presented chain's signatures and its use as a client's.
    ///
    /// Where the roots are not said to issue the leaf, the chain's own last certificate is the
    /// anchor: the links are checked, and where they lead is the server's business.
    pub(crate) fn verify_chain(
        &self,
        chain: &[CertificateDer<'static>],
        roots: &RootCertStore,
        anchoring: Anchoring,
        now: UnixTime,
    ) -> Result<(), MaterialError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(MaterialError::Missing { part: Part::Chain });
        };
        let anchors = match (anchoring, intermediates.last()) {
            (Anchoring::RootsIssueLeaf, _) => roots.clone(),
            (Anchoring::ServersOnly, None) => return Ok(()),
            (Anchoring::ServersOnly, Some(last)) => {
                let mut anchors = RootCertStore::empty();
                anchors.add(last.clone()).map_err(MaterialError::Chain)?;
                anchors
            }
        };
        WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(&self.provider))
            .build()
            .map_err(|error| MaterialError::Chain(rustls::Error::General(error.to_string())))?
            .verify_client_cert(leaf, intermediates, now)
            .map(|_verified| ())
            .map_err(MaterialError::Chain)
    }

    /// A fresh config with a fresh resolver and verifier: what makes old tickets unusable.
    ///
    /// `roots` are those that `anchors` calls delivered.
    pub(crate) fn client_config(
        &self,
        roots: Arc<RootCertStore>,
        anchors: &Anchors,
        certified: CertifiedKey,
    ) -> Result<ClientConfig, rustls::Error> {
        let verifier = self.trust.verifier(roots, anchors, &self.provider)?;
        let mut config = self
            .versions
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.resumption = self.resumption.clone();
        Ok(config)
    }
}

impl fmt::Debug for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPolicy").finish_non_exhaustive()
    }
}

/// The provider of the feature that is on; aws-lc-rs where both are.
///
/// With aws-lc-rs the hybrid X25519MLKEM768 is offered first: traffic recorded today stays closed
/// to a quantum computer. rustls' feature `prefer-post-quantum` would say so too, but for
/// everybody in the program.
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "aws-lc-rs")]
    {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.key_provider = &keys::CurvesFirst;
        // Stable: the order of the others stays.
        provider
            .kx_groups
            .sort_by_key(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
        Some(Arc::new(provider))
    }
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
    None
}
