use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::material::{Anchoring, Key, MaterialError, Part};

/// What every generation's TLS config has in common.
pub(crate) struct TlsPolicy {
    provider: Arc<CryptoProvider>,
    /// Shared over generations: it keeps the key-exchange hint for each server, and rustls
    /// resumes no ticket across different resolvers, so no session outlives its generation.
    resumption: Resumption,
}

impl TlsPolicy {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self {
            provider,
            resumption: Resumption::default(),
        }
    }

    /// Pairs the chain with its key; fails unless they belong together.
    pub(crate) fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: Key,
    ) -> Result<CertifiedKey, MaterialError> {
        let key = match key {
            Key::Der(der) => self
                .provider
                .key_provider
                .load_private_key(der.clone_key())
                .map_err(MaterialError::Key)?,
            Key::Signer(signer) => signer,
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
        let anchors = match (anchoring, intermediates.split_last()) {
            (Anchoring::RootsIssueLeaf, _) => roots.clone(),
            (Anchoring::ServersOnly, None) => return Ok(()),
            (Anchoring::ServersOnly, Some((last, _))) => {
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

    /// A fresh config with a fresh resolver: what makes old tickets unusable.
    pub(crate) fn client_config(
        &self,
        roots: Arc<RootCertStore>,
        certified: CertifiedKey,
    ) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
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
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "aws-lc-rs")]
    return Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
    None
}
