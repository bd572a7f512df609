//! Configs that ask in each handshake which generation is in use.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme, WantsVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::SESSIONS;
use super::clients::ClientAuth;
use super::generation::Generation;
use super::identity::cannot_sign;
use super::sessions::HintsAlone;
use crate::material::MaterialError;

/// As many as rustls sends by default.
const TICKETS: usize = 2;

/// Knows the generation for a handshake made now.
pub(crate) trait InUse: Clone + fmt::Debug + Send + Sync + 'static {
    /// The error holds the cause.
    fn in_use(&self) -> Result<Arc<Generation>, Error>;
}

/// A config that belongs to a generation stays with it.
impl InUse for Arc<Generation> {
    fn in_use(&self) -> Result<Arc<Generation>, Error> {
        Ok(Self::clone(self))
    }
}

impl Generation {
    /// A server's config that belongs to this generation.
    pub(crate) fn server_config(
        self: &Arc<Self>,
        auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, MaterialError> {
        self.check_serving(auth)?;
        let follower = Follower(Arc::clone(self));
        let mut config = follower.server_config(self.server_versions.clone(), auth, alpn);
        if auth == ClientAuth::None {
            let new = || ServerSessionMemoryCache::new(SESSIONS);
            let sessions = Arc::clone(self.sessions.get_or_init(new));
            config.session_storage = sessions;
            config.send_tls13_tickets = TICKETS;
        }
        Ok(config)
    }
}

/// Follows the generation in use.
#[derive(Clone, Debug)]
pub(crate) struct Follower<G>(pub(crate) G);

impl<G: InUse> Follower<G> {
    /// A client's config that resumes no session, since rustls would resume one of an older
    /// generation: for rustls, resolver and verifier stay the same.
    pub(super) fn client_config(
        &self,
        versions: ConfigBuilder<ClientConfig, WantsVerifier>,
        hints: HintsAlone,
        alpn: &[&[u8]],
    ) -> ClientConfig {
        let verifier = FollowedServers {
            generations: self.0.clone(),
            cas: LentNames::default(),
            provider: Arc::clone(versions.crypto_provider()),
        };
        let mut config = versions
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(self.clone()));
        let resumption = Resumption::store(Arc::new(hints));
        config.resumption = resumption.tls12_resumption(Tls12Resumption::Disabled);
        config.alpn_protocols = protocols(alpn);
        config
    }

    /// A server's config that resumes no session: not one of an older generation, and not one of a
    /// client whose certificate has expired meanwhile, since a resumed one is not verified.
    pub(super) fn server_config(
        &self,
        versions: ConfigBuilder<ServerConfig, WantsVerifier>,
        auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> ServerConfig {
        let provider = Arc::clone(versions.crypto_provider());
        let verifier = |is_required| FollowedClients {
            generations: self.0.clone(),
            cas: LentNames::default(),
            is_required,
            provider,
        };
        let versions = match auth {
            ClientAuth::None => versions.with_no_client_auth(),
            ClientAuth::Optional => versions.with_client_cert_verifier(Arc::new(verifier(false))),
            ClientAuth::Required => versions.with_client_cert_verifier(Arc::new(verifier(true))),
        };
        let mut config = versions.with_cert_resolver(Arc::new(self.clone()));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = protocols(alpn);
        config
    }
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

/// Never presents nothing: rustls would go on without a certificate.
impl<G: InUse> ResolvesClientCert for Follower<G> {
    fn resolve(
        &self,
        servers_cas: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        match self.0.in_use() {
            Ok(generation) => generation.presented.resolve(servers_cas, schemes),
            Err(cause) => Some(cannot_sign(cause)),
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Never presents nothing: the cause would then be known to none.
impl<G: InUse> ResolvesServerCert for Follower<G> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let presented = self.0.in_use().and_then(|now| now.as_server(&hello));
        Some(presented.unwrap_or_else(cannot_sign))
    }
}

/// Verifies servers as the generation in use does.
#[derive(Debug)]
struct FollowedServers<G> {
    generations: G,
    cas: LentNames,
    provider: Arc<CryptoProvider>,
}

impl<G: InUse> ServerCertVerifier for FollowedServers<G> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let servers = &self.generations.in_use()?.servers;
        servers.verify_server_cert(end_entity, intermediates, dialled, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let servers = &self.generations.in_use()?.servers;
        servers.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let servers = &self.generations.in_use()?.servers;
        servers.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.generations.in_use() {
            Ok(generation) => generation.servers.supported_verify_schemes(),
            // The handshake fails later, with the cause.
            Err(_cause) => schemes(&self.provider),
        }
    }

    fn requires_raw_public_keys(&self) -> bool {
        let generation = self.generations.in_use();
        generation.is_ok_and(|generation| generation.servers.requires_raw_public_keys())
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        let generation = self.generations.in_use().ok()?;
        Some(self.cas.lend(generation.servers.root_hint_subjects()?))
    }
}

/// Verifies clients by the roots of the generation in use.
#[derive(Debug)]
struct FollowedClients<G> {
    generations: G,
    cas: LentNames,
    is_required: bool,
    provider: Arc<CryptoProvider>,
}

impl<G: InUse> ClientCertVerifier for FollowedClients<G> {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match self.generations.in_use() {
            Ok(generation) => self.cas.lend(generation.cas()),
            // The handshake fails later, with the cause.
            Err(_cause) => &[],
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let generation = self.generations.in_use()?;
        generation.clients()?.verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes(&self.provider)
    }
}

fn schemes(provider: &CryptoProvider) -> Vec<SignatureScheme> {
    provider
        .signature_verification_algorithms
        .supported_schemes()
}

/// Every distinct list of CAs so far: rustls borrows a list for as long as the config lives.
///
/// Grows with changes of CAs alone.
#[derive(Debug, Default)]
struct LentNames(OnceLock<Box<(Vec<DistinguishedName>, Self)>>);

impl LentNames {
    fn lend(&self, names: &[DistinguishedName]) -> &[DistinguishedName] {
        // The names themselves cannot be compared.
        let is_same = |list: &[DistinguishedName]| {
            let bytes = list.iter().map(AsRef::as_ref);
            bytes.eq(names.iter().map(AsRef::<[u8]>::as_ref))
        };
        let mut last = self;
        loop {
            let new = || Box::new((names.to_vec(), Self::default()));
            let (list, others) = &**last.0.get_or_init(new);
            if is_same(list) {
                return list;
            }
            last = others;
        }
    }
}
