//! One client config per generation, all made by one policy.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, InconsistentKeys, RootCertStore, WantsVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::StartError;
use crate::material::{Key, MaterialError, part};

mod advice;
pub use advice::{explaining_verifier, server_certificate_advice};
mod provider;
pub(crate) use provider::default_provider;
mod roots;
pub(crate) use roots::TrustedRoots;
mod settings;
pub use settings::TlsSettings;
use settings::{ServerTrust, invalid};
mod verifier;
use verifier::ServerVerifier;

/// What every generation's TLS config has in common.
pub(crate) struct TlsPolicy {
    provider: Arc<CryptoProvider>,
    versions: ConfigBuilder<ClientConfig, WantsVerifier>,
    /// Shared over generations: it keeps the key-exchange hint for each server, and rustls
    /// resumes no ticket across different resolvers, so no session outlives its generation.
    /// Never shared with another live certificate.
    resumption: Resumption,
    trust: Arc<ServerTrust>,
}

impl TlsPolicy {
    /// Reads and checks the settings.
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        settings: TlsSettings,
    ) -> Result<Self, StartError> {
        let versions: &[_] = match settings.allow_tls12 {
            false => &[&TLS13],
            true => &[&TLS13, &TLS12],
        };
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|cause| {
                let problem = "expected support for the TLS versions that are allowed";
                invalid("provider", None, problem, Some(cause.into()))
            })?;
        Ok(Self {
            versions,
            resumption: Resumption::default(),
            trust: Arc::new(settings.read()?),
            provider,
        })
    }

    /// How long old roots stay trusted that newer material does not contain.
    pub(crate) fn roots_overlap(&self) -> Duration {
        self.trust.overlap
    }

    /// The name that servers are verified as, if it is not the dialled one.
    pub(crate) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.trust.name.as_ref()
    }

    /// Pairs the chain with its key; fails unless they belong together.
    pub(crate) fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &Key,
    ) -> Result<CertifiedKey, MaterialError> {
        match key {
            Key::Der(der) => load_pair(&self.provider, chain, der.clone_key()),
            Key::Signer(signer) => pair(chain, Arc::clone(signer)),
        }
    }

    /// Verifies the presented chain's signatures and its use as a client's.
    ///
    /// Unless the roots must issue the leaf, the chain's own last certificate is the anchor: the
    /// links are checked, and the server decides whether it trusts their end.
    pub(crate) fn verify_chain(
        &self,
        chain: &[CertificateDer<'static>],
        roots: &RootCertStore,
        roots_issue_leaf: bool,
        now: UnixTime,
    ) -> Result<(), MaterialError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(MaterialError::Missing { part: part::CHAIN });
        };
        let anchors = match intermediates.last() {
            _ if roots_issue_leaf => roots.clone(),
            None => return Ok(()),
            Some(last) => {
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

    /// A new config with a new resolver and verifier, so that rustls resumes no older session.
    ///
    /// `delivered` are the delivered roots of `trusted`, parsed.
    pub(crate) fn client_config(
        &self,
        delivered: Arc<RootCertStore>,
        trusted: &TrustedRoots,
        certified: CertifiedKey,
    ) -> Result<ClientConfig, MaterialError> {
        let verifier = ServerVerifier::new(&self.trust, delivered, trusted, &self.provider)
            .map_err(MaterialError::ServerVerifier)?;
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

/// Pairs a chain with its key; fails unless they belong together.
pub(crate) fn load_pair(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, MaterialError> {
    let key = provider.key_provider.load_private_key(key);
    pair(chain, key.map_err(MaterialError::Key)?)
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<CertifiedKey, MaterialError> {
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(MaterialError::KeyMismatch)
        }
        Err(error) => Err(MaterialError::Key(error)),
    }
}
