//! One client config per generation, all made by one policy.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::StartError;
use crate::material::chain::{Chains, check_key};
use crate::material::{Certificate, Key, MaterialError, PublicKey, Usage, part};

mod advice;
pub use advice::{explaining_verifier, server_certificate_advice};
mod identity;
use identity::ClientIdentity;
mod provider;
pub(crate) use provider::default_provider;
mod resolver;
use resolver::PathToServersCa;
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
    usage: Usage,
    needs_roots: bool,
}

impl TlsPolicy {
    /// Reads and checks the settings.
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        settings: TlsSettings,
        usage: Usage,
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
        let trust = settings.read(&provider)?;
        Ok(Self {
            versions,
            resumption: Resumption::default(),
            needs_roots: usage.verifies_servers() && !trust.brings_roots(),
            trust: Arc::new(trust),
            provider,
            usage,
        })
    }

    /// For material that was published once, whatever it was used for and whatever verified servers.
    pub(crate) fn of_saved(provider: Arc<CryptoProvider>) -> Result<Self, StartError> {
        Ok(Self {
            needs_roots: false,
            ..Self::new(provider, TlsSettings::new(), Usage::Both)?
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

    /// What the certificate is used for.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn provider(&self) -> &CryptoProvider {
        &self.provider
    }

    /// Whether material without roots is refused.
    pub(crate) fn needs_roots(&self) -> bool {
        self.needs_roots
    }

    pub(crate) fn signing_key(&self, key: &Key) -> Result<Arc<dyn SigningKey>, MaterialError> {
        match key {
            Key::Der(der) => load_key(&self.provider, der.clone_key()),
            Key::Signer(signer) => Ok(Arc::clone(signer)),
        }
    }

    /// Fails unless a verified path leads from the leaf to the roots.
    pub(crate) fn verify_chain(
        &self,
        chain: &[CertificateDer<'static>],
        leaf: &Certificate,
        roots: &Arc<RootCertStore>,
        now: UnixTime,
    ) -> Result<(), MaterialError> {
        let refused = |cause| MaterialError::Chain {
            subject: leaf.shown(),
            cause,
        };
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Err(MaterialError::Missing { part: part::CHAIN });
        };
        if self.usage == Usage::Server || !leaf.allows_clients() {
            let algorithms = self.provider.signature_verification_algorithms.all;
            return ParsedCertificate::try_from(end_entity)
                .and_then(|leaf| {
                    verify_server_cert_signed_by_trust_anchor(
                        &leaf,
                        roots,
                        intermediates,
                        now,
                        algorithms,
                    )
                })
                .map_err(refused);
        }
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
            .and_then(|verifier| verifier.verify_client_cert(end_entity, intermediates, now))
            .map(|_verified| ())
            .map_err(refused)
    }

    /// A new config with a new resolver and verifier, so that rustls resumes no older session.
    ///
    /// `delivered` are the delivered roots of `trusted`, parsed.
    pub(crate) fn client_config(
        &self,
        delivered: Arc<RootCertStore>,
        trusted: &TrustedRoots,
        chains: Chains,
        key: Arc<dyn SigningKey>,
    ) -> Result<ClientConfig, MaterialError> {
        let verifier = ServerVerifier::new(&self.trust, delivered, trusted, &self.provider)
            .map_err(MaterialError::ServerVerifier)?;
        let identity = |chain| ClientIdentity::from(CertifiedKey::new(chain, Arc::clone(&key)));
        let others = chains.others.into_iter();
        let resolver = PathToServersCa {
            first: identity(chains.first),
            issuers: chains.issuers,
            others: others
                .map(|(issuer, chain)| (issuer, identity(chain)))
                .collect(),
        };
        let mut config = self
            .versions
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(resolver));
        config.resumption = self.resumption.clone();
        Ok(config)
    }
}

/// Loads a key; fails unless it is that of a certificate in the chain.
pub(crate) fn load_pair(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<dyn SigningKey>, MaterialError> {
    let key = load_key(provider, key)?;
    if let Some(public) = public_key(&*key) {
        check_key(&chain, &public)?;
    }
    Ok(key)
}

fn load_key(
    provider: &CryptoProvider,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<dyn SigningKey>, MaterialError> {
    let key = provider.key_provider.load_private_key(key);
    key.map_err(MaterialError::Key)
}

/// `None` for a signer that does not reveal it.
pub(crate) fn public_key(key: &dyn SigningKey) -> Option<PublicKey> {
    PublicKey::from_der(&key.public_key()?)
}
