//! A client of rustls' own, with its default session store: the peer of our server configs.

use std::sync::{Arc, Mutex};

use perennial::Serial;
use perennial::rustls::client::ResolvesClientCert;
use perennial::rustls::sign::CertifiedKey;
use perennial::rustls::{
    ClientConfig, Error, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::pki::{Ca, Identity};
use crate::server::{HOST, connect, name_of, provider};

#[derive(Clone, Debug)]
pub(crate) struct Peer {
    config: ClientConfig,
    /// The CAs that the server named last.
    cas: Arc<Mutex<Vec<String>>>,
}

/// What either side saw.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Of the server's certificate.
    pub(crate) serial: Serial,
    /// The common name of the client's certificate, if it presented one.
    pub(crate) client: Option<String>,
    pub(crate) kind: HandshakeKind,
    pub(crate) alpn: Option<Vec<u8>>,
}

impl Peer {
    /// A client that trusts these servers.
    pub(crate) fn new(
        version: &'static SupportedProtocolVersion,
        servers: &Ca,
        identity: Option<Identity>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(servers.der()).unwrap();
        let provider = provider();
        let key = |identity: Identity| {
            let key = provider.key_provider.load_private_key(identity.key);
            Arc::new(CertifiedKey::new(identity.chain, key.unwrap()))
        };
        let cas = Arc::default();
        let resolver = Noting {
            key: identity.map(key),
            cas: Arc::clone(&cas),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(resolver));
        Self { config, cas }
    }

    pub(crate) fn offering(mut self, alpn: &[&[u8]]) -> Self {
        self.config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        self
    }

    pub(crate) fn visit(&self, server: Arc<ServerConfig>) -> Result<Visit, Error> {
        let (client, server) = connect(Arc::new(self.config.clone()), server, HOST)?;
        let leaf = &client.peer_certificates().unwrap()[0];
        let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
        Ok(Visit {
            serial: Serial::from_bytes(leaf.raw_serial()),
            client: name_of(server.peer_certificates()),
            kind: server.handshake_kind().unwrap(),
            alpn: client.alpn_protocol().map(<[u8]>::to_vec),
        })
    }

    /// The CAs that the server named last.
    pub(crate) fn cas(&self) -> Vec<String> {
        self.cas.lock().unwrap().clone()
    }
}

/// Presents a certificate, and notes the CAs that the server names.
#[derive(Debug)]
struct Noting {
    key: Option<Arc<CertifiedKey>>,
    cas: Arc<Mutex<Vec<String>>>,
}

impl ResolvesClientCert for Noting {
    fn resolve(&self, cas: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let name = |der: &&[u8]| X509Name::from_der(der).unwrap().1.to_string();
        *self.cas.lock().unwrap() = cas.iter().map(name).collect();
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}
