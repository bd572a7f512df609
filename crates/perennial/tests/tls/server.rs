//! A TLS server in process that requires a client certificate, and reports which client it saw.

use std::sync::Arc;

use perennial::Serial;
use perennial::pki_types::{CertificateDer, ServerName};
use perennial::rustls::client::ClientConnection;
use perennial::rustls::crypto::CryptoProvider;
use perennial::rustls::server::{NoServerSessionStorage, ServerConnection, WebPkiClientVerifier};
use perennial::rustls::version::{TLS12, TLS13};
use perennial::rustls::{
    ClientConfig, Error, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer, X509Certificate};

#[cfg(feature = "aws-lc-rs")]
use perennial::rustls::crypto::aws_lc_rs as crypto;
#[cfg(not(feature = "aws-lc-rs"))]
use perennial::rustls::crypto::ring as crypto;

use crate::pki::{Ca, Identity};

/// The provider of the feature that is on, as rustls has it.
pub(crate) fn provider() -> CryptoProvider {
    crypto::default_provider()
}

pub(crate) const HOST: &str = "db.test";

/// One connection as the server saw it.
#[derive(Debug)]
pub(crate) struct Login {
    /// The common name of the client, of the session's first handshake if it was resumed.
    pub(crate) name: String,
    pub(crate) serial: Serial,
    pub(crate) kind: HandshakeKind,
    pub(crate) version: ProtocolVersion,
    pub(crate) sni: Option<String>,
    /// `None` with TLS 1.2.
    pub(crate) group: Option<NamedGroup>,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    config: Arc<ServerConfig>,
}

/// How a server remembers sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sessions {
    Tickets,
    Stored,
}

impl Server {
    /// A server of all versions that issues tickets.
    pub(crate) fn new(identity: Identity, clients: &Ca) -> Self {
        Self::of_version(identity, clients, &[&TLS13, &TLS12])
    }

    pub(crate) fn of_version(
        identity: Identity,
        clients: &Ca,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        Self::build(identity, clients, versions, crypto::default_provider())
    }

    /// A server with one key exchange only, as PostgreSQL up to 17 has P-256.
    pub(crate) fn of_group(identity: Identity, clients: &Ca, group: NamedGroup) -> Self {
        let mut provider = crypto::default_provider();
        provider.kx_groups.retain(|known| known.name() == group);
        Self::build(identity, clients, &[&TLS13], provider)
    }

    fn build(
        identity: Identity,
        clients: &Ca,
        versions: &[&'static SupportedProtocolVersion],
        provider: CryptoProvider,
    ) -> Self {
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        roots.add(clients.der()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(identity.chain, identity.key)
            .unwrap();
        config.ticketer = crypto::Ticketer::new().unwrap();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Self {
            config: Arc::new(config),
        }
    }

    /// Its config, to change.
    pub(crate) fn config(&self) -> ServerConfig {
        ServerConfig::clone(&self.config)
    }

    pub(crate) fn remembering(mut self, sessions: Sessions) -> Self {
        if let Sessions::Stored = sessions {
            let blank =
                ServerConfig::builder_with_provider(Arc::clone(self.config.crypto_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_no_client_auth()
                    .with_cert_resolver(Arc::clone(&self.config.cert_resolver));
            let config = Arc::make_mut(&mut self.config);
            config.ticketer = blank.ticketer;
            config.session_storage = blank.session_storage;
        }
        self
    }

    /// One whole connection: handshake, tickets, data from either side.
    pub(crate) fn login(&self, client: Arc<ClientConfig>, dialled: &str) -> Result<Login, Error> {
        let (_client, server) = connect(client, Arc::clone(&self.config), dialled)?;
        let leaf = &server.peer_certificates().unwrap()[0];
        let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
        Ok(Login {
            name: name_of(server.peer_certificates()).unwrap(),
            serial: Serial::from_bytes(leaf.raw_serial()),
            kind: server.handshake_kind().unwrap(),
            version: server.protocol_version().unwrap(),
            sni: server.server_name().map(str::to_owned),
            group: server
                .negotiated_key_exchange_group()
                .map(|group| group.name()),
        })
    }
}

/// One whole connection: handshake, tickets, data from either side.
pub(crate) fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    dialled: &str,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from(dialled.to_owned()).unwrap();
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(server)?;
    exchange(&mut client, &mut server)?;
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// The common name that this peer presented.
pub(crate) fn name_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let (_, leaf) = X509Certificate::from_der(certificates?.first()?).unwrap();
    let name = leaf.subject().iter_common_name().next().unwrap();
    Some(name.as_str().unwrap().to_owned())
}

/// Carries bytes in both directions until neither side sends more.
pub(crate) fn exchange(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), Error> {
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        client.write_tls(&mut wire).unwrap();
        let mut arriving = wire.as_slice();
        while !arriving.is_empty() {
            server.read_tls(&mut arriving).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        let mut arriving = wire.as_slice();
        while !arriving.is_empty() {
            client.read_tls(&mut arriving).unwrap();
            client.process_new_packets()?;
        }
        wire.clear();
    }
    Ok(())
}
