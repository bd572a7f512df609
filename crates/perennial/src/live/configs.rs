//! Configs and resolvers for life: what they hold holds a handle, and no handle holds them.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, Error, ServerConfig};

use super::LiveCert;
use crate::material::MaterialError;
use crate::tls::{ClientAuth, Follower, Generation, InUse, other_error};

impl InUse for LiveCert {
    fn in_use(&self) -> Result<Arc<Generation>, Error> {
        let snapshot = self.current().map_err(other_error)?;
        Ok(Arc::clone(snapshot.tls()))
    }
}

/// # Configs for life
/// Built once, for libraries that take one config. Each handshake asks for the certificate and the
/// roots in use, so that a rotation needs no new config. Open connections keep the certificate that
/// they were made with.
///
/// - A handshake without a valid certificate fails with [`Unavailable`](crate::Unavailable), which
///   [`find_cause`](crate::find_cause) finds. None goes on without a certificate.
/// - No handshake resumes a session: a resumed one would bring an older certificate back.
/// - The certificate and the roots of a handshake in which a rotation falls may be of two
///   generations, both of which were checked. Where that matters, take a
///   [`Snapshot`](crate::Snapshot)'s config for each connection.
/// - They hold a handle: the renewer goes on until the last of them and of the connections made with
///   them is dropped, or [`shutdown`](Self::shutdown) is called. So a
///   [`CertSource`](crate::CertSource) must not hold one of its own certificate;
///   [`FetchContext`](crate::FetchContext) has the snapshot in use.
impl LiveCert {
    /// A config for life for connecting with the certificate in use.
    ///
    /// `alpn` lists the protocols that are offered, the preferred first. Most libraries set them
    /// themselves, and some fail if they are set: then give none. What the handshakes do is as with
    /// [`Snapshot::client_config`](crate::Snapshot::client_config), without resumption. Which key
    /// exchange each server takes is kept over rotations.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(live: &perennial::LiveCert) {
    /// let config = live.client_config(&[b"h2", b"http/1.1"]);
    /// # }
    /// ```
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        Arc::new(self.shared.tls.client_config(self.clone(), alpn))
    }

    /// A config for life for serving with the certificate in use.
    ///
    /// Clients are verified as with [`Snapshot::server_config`](crate::Snapshot::server_config), and
    /// the CAs that are named to them follow the roots.
    ///
    /// # Errors
    /// As [`Snapshot::server_config`](crate::Snapshot::server_config) for the certificate in use. If
    /// there is none yet, or a later one cannot serve so, handshakes fail with the same error.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(live: &perennial::LiveCert) -> Result<(), perennial::MaterialError> {
    /// use perennial::ClientAuth;
    ///
    /// let config = live.server_config(ClientAuth::Required, &[b"h2", b"http/1.1"])?;
    /// # Ok(()) }
    /// ```
    pub fn server_config(
        &self,
        auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, MaterialError> {
        let config = self.shared.tls.server_config(self.clone(), auth, alpn)?;
        if let Ok(snapshot) = self.current() {
            snapshot.tls().check_serving(auth)?;
        }
        Ok(Arc::new(config))
    }

    /// The certificate in use, for a client whose library keeps the sessions: whether one of an
    /// older certificate is resumed is then that library's affair.
    ///
    /// For libraries that take a resolver and no config: turn resumption off there. It never
    /// resolves to nothing.
    pub fn client_cert_resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(Follower(self.clone()))
    }

    /// The certificate in use, for a server whose library keeps the sessions: whether one of an
    /// older certificate, or of an expired client, is resumed is then that library's affair.
    ///
    /// For libraries that take a resolver and no config: turn tickets and session storage off there.
    /// It never resolves to nothing.
    pub fn server_cert_resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Follower(self.clone()))
    }
}
