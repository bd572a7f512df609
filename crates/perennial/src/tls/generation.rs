use std::fmt;
#[cfg(feature = "export")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::server::{ClientHello, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, DistinguishedName, Error, ServerConfig, WantsVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::clients::{ClientAuth, ClientVerifier};
use super::other_error;
use super::resolver::PathToPeersCa;
use super::verifier::ServerVerifier;
use crate::material::MaterialError;

/// What one generation presents, and by what it verifies its peers.
pub(crate) struct Generation {
    pub(super) presented: Arc<PathToPeersCa>,
    /// Why it is not presented to clients.
    pub(super) no_server: Option<MaterialError>,
    pub(super) servers: Arc<ServerVerifier>,
    /// `None` without roots.
    pub(super) clients: Option<ClientVerifier>,
    pub(super) client_config: Arc<ClientConfig>,
    pub(super) server_versions: ConfigBuilder<ServerConfig, WantsVerifier>,
    #[cfg(feature = "export")]
    pub(super) is_exported: Arc<AtomicBool>,
    /// Of all this generation's server configs that do not ask for a client's certificate.
    pub(super) sessions: OnceLock<Arc<ServerSessionMemoryCache>>,
}

impl Generation {
    pub(crate) fn client_config(&self) -> &Arc<ClientConfig> {
        &self.client_config
    }

    /// Whether it can be served with; the error says why not.
    pub(crate) fn check_serving(&self, auth: ClientAuth) -> Result<(), MaterialError> {
        if let Some(refused) = &self.no_server {
            return Err(refused.clone());
        }
        match (auth, &self.clients) {
            (ClientAuth::Optional | ClientAuth::Required, None) => {
                Err(MaterialError::NoClientRoots)
            }
            _ => Ok(()),
        }
    }

    /// Whether a client with this chain may connect at `now`.
    pub(crate) fn verify_client(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.clients()?.verify(end_entity, intermediates, now)?;
        Ok(())
    }

    /// What is presented to this client.
    pub(super) fn as_server(&self, hello: &ClientHello<'_>) -> Result<Arc<CertifiedKey>, Error> {
        self.check_serving(ClientAuth::None).map_err(other_error)?;
        let cas = hello.certificate_authorities().unwrap_or_default();
        let certified = self.presented.to(cas.iter().map(AsRef::as_ref));
        Ok(Arc::clone(certified.as_server()))
    }

    /// The chain for peers that name no CA.
    #[cfg(feature = "export")]
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        self.presented.first().as_server().cert.as_slice()
    }

    /// Notes that its key is exported; whether one of this live certificate was before.
    #[cfg(feature = "export")]
    pub(crate) fn note_export(&self) -> bool {
        self.is_exported.swap(true, Ordering::Relaxed)
    }

    /// The CAs whose clients it trusts.
    pub(super) fn cas(&self) -> &[DistinguishedName] {
        self.clients.as_ref().map_or(&[], ClientVerifier::cas)
    }

    pub(super) fn clients(&self) -> Result<&ClientVerifier, Error> {
        let clients = self.clients.as_ref();
        clients.ok_or_else(|| other_error(MaterialError::NoClientRoots))
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").finish_non_exhaustive()
    }
}
