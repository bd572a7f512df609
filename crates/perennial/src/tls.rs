//! The TLS configs of each generation and those for life, all made by one policy.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::{
    ClientSessionMemoryCache, Resumption, verify_server_cert_signed_by_trust_anchor,
};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ConfigBuilder, Error, OtherError, RootCertStore, ServerConfig, WantsVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::StartError;
use crate::material::chain::{Chains, Refused, check_key};
use crate::material::{Certificate, Key, MaterialError, PublicKey, Usage, part};

mod advice;
pub use advice::{explaining_verifier, server_certificate_advice};
mod clients;
pub use clients::ClientAuth;
use clients::{ClientVerifier, webpki};
mod following;
pub(crate) use following::{Follower, InUse};
mod generation;
pub(crate) use generation::Generation;
mod identity;
mod provider;
pub(crate) use provider::default_provider;
mod resolver;
use resolver::PathToPeersCa;
mod roots;
pub(crate) use roots::TrustedRoots;
mod sessions;
use sessions::HintsAlone;
mod settings;
pub use settings::TlsSettings;
use settings::{ServerTrust, invalid};
mod stages;
mod verifier;
use verifier::ServerVerifier;

/// As many as rustls keeps by default.
const SESSIONS: usize = 256;

/// What every generation's TLS config has in common.
pub(crate) struct TlsPolicy {
    provider: Arc<CryptoProvider>,
    client_versions: ConfigBuilder<ClientConfig, WantsVerifier>,
    server_versions: ConfigBuilder<ServerConfig, WantsVerifier>,
    /// Shared over generations: it keeps the key-exchange hint for each server, and rustls
    /// resumes no ticket across different resolvers, so no session outlives its generation.
    /// Never shared with another live certificate.
    sessions: Arc<ClientSessionMemoryCache>,
    trust: Arc<ServerTrust>,
    /// Whether a key was exported, of any generation.
    #[cfg(feature = "export")]
    is_exported: Arc<std::sync::atomic::AtomicBool>,
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
        let unsupported = |cause: Error| {
            let problem = "expected support for the TLS versions that are allowed";
            invalid("provider", None, problem, Some(cause.into()))
        };
        let client_versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(unsupported)?;
        let server_versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(unsupported)?;
        let trust = settings.read(&provider)?;
        Ok(Self {
            client_versions,
            server_versions,
            sessions: Arc::new(ClientSessionMemoryCache::new(SESSIONS)),
            needs_roots: usage.verifies_servers() && !trust.brings_roots(),
            trust: Arc::new(trust),
            #[cfg(feature = "export")]
            is_exported: Arc::default(),
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
        webpki(Arc::clone(roots), &self.provider)
            .and_then(|verifier| verifier.verify_client_cert(end_entity, intermediates, now))
            .map(|_verified| ())
            .map_err(refused)
    }

    /// The TLS side of a snapshot. Resolver and verifier are new, so that rustls resumes no older
    /// session.
    ///
    /// `delivered` are the delivered roots of `trusted`, parsed.
    pub(crate) fn generation(
        &self,
        delivered: Arc<RootCertStore>,
        trusted: &TrustedRoots,
        chains: Chains,
        refused: Refused,
        key: &Arc<dyn SigningKey>,
    ) -> Result<Generation, MaterialError> {
        let (no_client, no_server) = match self.usage {
            Usage::Client => (
                None,
                Some(MaterialError::NotServing {
                    used_as: self.usage,
                }),
            ),
            Usage::Server => (refused.as_client, refused.as_server),
            // The servers decide.
            Usage::Both => (None, refused.as_server),
        };
        let has_roots = !delivered.is_empty();
        let clients = || {
            let (delivered, overlap) = (Arc::clone(&delivered), self.trust.overlap);
            ClientVerifier::new(delivered, trusted, overlap, &self.provider)
        };
        let clients = match no_server.is_none() && has_roots {
            true => Some(clients().map_err(MaterialError::ServerVerifier)?),
            false => None,
        };
        let servers = ServerVerifier::new(&self.trust, delivered, trusted, &self.provider)
            .map_err(MaterialError::ServerVerifier)?;
        let servers = Arc::new(servers);
        let presented = Arc::new(PathToPeersCa::new(chains, key, no_client));
        let mut client_config = self
            .client_versions
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&servers) as _)
            .with_client_cert_resolver(Arc::clone(&presented) as _);
        client_config.resumption = Resumption::store(Arc::clone(&self.sessions) as _);
        Ok(Generation {
            presented,
            no_server,
            servers,
            clients,
            client_config: Arc::new(client_config),
            server_versions: self.server_versions.clone(),
            #[cfg(feature = "export")]
            is_exported: Arc::clone(&self.is_exported),
            sessions: OnceLock::new(),
        })
    }

    /// A client's config that follows the generation in use.
    pub(crate) fn client_config(&self, generations: impl InUse, alpn: &[&[u8]]) -> ClientConfig {
        let hints = HintsAlone(Arc::clone(&self.sessions));
        Follower(generations).client_config(self.client_versions.clone(), hints, alpn)
    }

    /// A server's config that follows the generation in use.
    ///
    /// # Errors
    /// The certificate is not used as a server's.
    pub(crate) fn server_config(
        &self,
        generations: impl InUse,
        auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, MaterialError> {
        let used_as = self.usage;
        if used_as == Usage::Client {
            return Err(MaterialError::NotServing { used_as });
        }
        Ok(Follower(generations).server_config(self.server_versions.clone(), auth, alpn))
    }
}

/// For a cause of ours within rustls.
pub(crate) fn other_error(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(OtherError(Arc::new(cause)))
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
