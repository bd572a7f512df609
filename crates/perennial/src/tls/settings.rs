use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::error::{BoxError, StartError};
use crate::material::{MaterialError, formats, part};

/// How a live certificate's configs speak TLS and verify peers.
///
/// The settings are read and checked at [`start`](crate::LiveCertBuilder::start), whose error
/// names the setter at fault. They hold for as long as the [`LiveCert`](crate::LiveCert) does: to
/// change them, start another.
///
/// # Defaults
/// TLS 1.3 only. Clients are verified by the roots that came with the certificate, whatever is set
/// for servers. Servers are verified by the roots that came with the certificate and no others,
/// under the host name that was dialled. Old roots have no overlap. Revocation is not checked.
/// Suites and key exchanges are those of the crypto provider: the default one of the feature
/// `aws-lc-rs` offers the post-quantum hybrid X25519MLKEM768 first.
///
/// # Example
/// ```no_run
/// use perennial::{FileSource, LiveCert, TlsSettings};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // The database's CA is not the one that issues our certificate, and we dial a tunnel.
/// let tls = TlsSettings::new()
///     .server_roots_pem(std::fs::read("/etc/tls/database-ca.crt")?)
///     .server_name("db.internal");
/// let source = FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt");
/// let live = LiveCert::builder().tls(tls).start(source).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct TlsSettings {
    pub(super) allow_tls12: bool,
    /// As they were read: an error is reported at the start.
    server_roots: Option<Result<Vec<CertificateDer<'static>>, MaterialError>>,
    server_verifier: Option<Arc<MakeVerifier>>,
    verify_ca: bool,
    #[cfg(feature = "system-roots")]
    system_roots: bool,
    server_name: Option<String>,
    roots_overlap: Duration,
}

/// Makes a verifier for one set of roots.
pub(super) type MakeVerifier = dyn Fn(
        Arc<RootCertStore>,
        &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error>
    + Send
    + Sync;

impl Default for TlsSettings {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsSettings {
    /// Every setting at its default.
    pub const fn new() -> Self {
        Self {
            allow_tls12: false,
            server_roots: None,
            server_verifier: None,
            verify_ca: false,
            #[cfg(feature = "system-roots")]
            system_roots: false,
            server_name: None,
            roots_overlap: Duration::ZERO,
        }
    }

    /// Speaks TLS 1.2 too, with peers that do not support TLS 1.3.
    ///
    /// TLS 1.2 sends the client's certificate in the clear: anyone on the path can read its names.
    pub const fn allow_tls12(mut self) -> Self {
        self.allow_tls12 = true;
        self
    }

    /// Verifies servers by these roots, in PEM, instead of the delivered ones.
    ///
    /// For servers whose CA is not the clients' CA. The roots that come with the certificate are
    /// then used only to check the certificate itself, and only if
    /// [`roots_issue_leaf`](crate::CertMaterial::roots_issue_leaf) was called. Blocks other than
    /// certificates are ignored. Clients are still verified by the delivered roots. The last
    /// call of this and [`server_roots`](Self::server_roots) counts.
    pub fn server_roots_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.server_roots = Some(formats::pem_certificates(part::ROOTS, pem.as_ref()));
        self
    }

    /// As [`server_roots_pem`](Self::server_roots_pem), in DER.
    pub fn server_roots(
        mut self,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Self {
        self.server_roots = Some(Ok(roots.into_iter().collect()));
        self
    }

    /// Verifies servers by a verifier of your own: revocation lists, pinned keys, other rules.
    ///
    /// `make` is called with each set of roots by which a snapshot verifies servers: at each
    /// rotation, and when an overlap of old roots ends. It must not block. An error at a rotation
    /// refuses the new material, and the old snapshot stays in use. An error when an overlap ends
    /// fails that handshake; the next handshake calls `make` again. With
    /// [`server_name`](Self::server_name) the verifier gets that name instead of the dialled one.
    ///
    /// # Example
    /// Revocation lists, read again with each set of roots:
    /// ```
    /// use perennial::TlsSettings;
    /// use perennial::rustls::client::WebPkiServerVerifier;
    /// use perennial::rustls::{Error, OtherError};
    /// # fn lists() -> Vec<perennial::pki_types::CertificateRevocationListDer<'static>> { vec![] }
    ///
    /// let tls = TlsSettings::new().server_verifier(|roots, provider| {
    ///     let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
    ///     let verifier = builder.with_crls(lists()).build();
    ///     Ok(verifier.map_err(|error| Error::Other(OtherError(std::sync::Arc::new(error))))?)
    /// });
    /// ```
    pub fn server_verifier(
        mut self,
        make: impl Fn(
            Arc<RootCertStore>,
            &Arc<CryptoProvider>,
        ) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.server_verifier = Some(Arc::new(make));
        self
    }

    /// Verifies servers by the system's roots instead of the delivered ones.
    ///
    /// For servers with a certificate of a public CA, and for clients whose source delivers no
    /// roots. They are those of `rustls-platform-verifier`: on Linux, the folder or file that
    /// OpenSSL uses, `SSL_CERT_FILE` and `SSL_CERT_DIR` first. They are read once, at the start.
    /// Excludes [`server_roots`](Self::server_roots), [`server_verifier`](Self::server_verifier),
    /// [`roots_overlap`](Self::roots_overlap) and [`verify_ca`](Self::verify_ca): every public CA
    /// issues to anyone, so without the name any server would be trusted.
    #[cfg(feature = "system-roots")]
    #[cfg_attr(docsrs, doc(cfg(feature = "system-roots")))]
    pub const fn system_roots(mut self) -> Self {
        self.system_roots = true;
        self
    }

    /// Verifies the server's chain but not its host name, as libpq does with `sslmode=verify-ca`.
    ///
    /// Any server that holds a certificate of the roots' CA is then trusted, whatever name was
    /// dialled: use it only with a private CA that issues to no one else. A server's certificate
    /// that is itself one of the roots is accepted too, also if it is a CA's (`CA:TRUE`).
    pub const fn verify_ca(mut self) -> Self {
        self.verify_ca = true;
        self
    }

    /// Verifies each server as this DNS name or IP address, whatever host was dialled.
    ///
    /// For tunnels, port forwards and addresses that no certificate contains. Every server that
    /// this live certificate connects to must then have this name. It does not change where
    /// connections go.
    ///
    /// The SNI that is sent is still the dialled host, or none for an IP address: rustls takes it
    /// from the connector. A connector that gives rustls [`Snapshot::server_name`] instead of the
    /// host sends this name as SNI too; servers that choose their certificate by SNI need that.
    ///
    /// [`Snapshot::server_name`]: crate::Snapshot::server_name
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// How long old roots stay trusted after newer material came without them.
    ///
    /// Lets the peers' CA change from A to B although the peers get their certificates later than we
    /// get the roots. With one hour, a root that is missing in the material fetched at noon
    /// is trusted for handshakes until one o'clock, to the second, without a rotation. Sessions
    /// resumed within a generation are not verified again. Old roots are lost at a restart.
    ///
    /// # Defaults
    /// Zero: a root is removed for a reason, so it loses its trust at once. A source that adds the
    /// new root before it removes the old one needs no overlap.
    pub const fn roots_overlap(mut self, overlap: Duration) -> Self {
        self.roots_overlap = overlap;
        self
    }

    pub(super) fn read(self, provider: &Arc<CryptoProvider>) -> Result<ServerTrust, StartError> {
        let overlap = self.roots_overlap;
        let system = self.system_verifier(provider)?;
        if self.server_roots.is_some() && !overlap.is_zero() {
            let got = Some(format!("{overlap:?}"));
            let problem = "expected zero, because server_roots are fixed";
            return Err(invalid("roots_overlap", got, problem, None));
        }
        let fixed_roots = self.server_roots.map(root_store).transpose()?;
        let verification = match (self.verify_ca, self.server_verifier) {
            (false, None) => system.map_or(Verification::ChainAndName, Verification::System),
            (false, Some(make)) => Verification::Own(make),
            (true, None) if self.server_name.is_none() => Verification::Chain,
            (true, verifier) => {
                let other = verifier.map_or("server_name", |_| "server_verifier");
                let problem = format!("expected no {other} together with it");
                return Err(invalid("verify_ca", None, problem, None));
            }
        };
        let read_name = |name: String| {
            ServerName::try_from(name.clone()).map_err(|cause| {
                let problem = "expected a DNS name or an IP address";
                let got = Some(format!("{name:?}"));
                invalid("server_name", got, problem, Some(cause.into()))
            })
        };
        Ok(ServerTrust {
            fixed_roots: fixed_roots.map(Arc::new),
            overlap,
            verification,
            name: self.server_name.map(read_name).transpose()?,
        })
    }

    #[cfg(not(feature = "system-roots"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as with the feature"
    )]
    fn system_verifier(
        &self,
        _provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ServerCertVerifier>>, StartError> {
        Ok(None)
    }

    /// The verifier of the system, if it is asked for and nothing excludes it.
    #[cfg(feature = "system-roots")]
    fn system_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ServerCertVerifier>>, StartError> {
        if !self.system_roots {
            return Ok(None);
        }
        let others = [
            (self.verify_ca, "verify_ca"),
            (self.server_roots.is_some(), "server_roots"),
            (self.server_verifier.is_some(), "server_verifier"),
            (!self.roots_overlap.is_zero(), "roots_overlap"),
        ];
        if let Some((_, other)) = others.iter().find(|(is_set, _)| *is_set) {
            let problem = format!("expected no {other} together with it");
            return Err(invalid("system_roots", None, problem, None));
        }
        match rustls_platform_verifier::Verifier::new(Arc::clone(provider)) {
            Ok(verifier) => Ok(Some(Arc::new(verifier))),
            Err(cause) => {
                let problem = "expected roots in this system (install ca-certificates)";
                Err(invalid("system_roots", None, problem, Some(cause.into())))
            }
        }
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("TlsSettings");
        #[cfg(feature = "system-roots")]
        fields.field("system_roots", &self.system_roots);
        fields
            .field("allow_tls12", &self.allow_tls12)
            .field("server_roots", &self.server_roots.is_some())
            .field("server_verifier", &self.server_verifier.is_some())
            .field("verify_ca", &self.verify_ca)
            .field("server_name", &self.server_name)
            .field("roots_overlap", &self.roots_overlap)
            .finish()
    }
}

/// The settings about servers, read and checked.
pub(super) struct ServerTrust {
    /// `None`: servers are verified by the roots of the material.
    pub(super) fixed_roots: Option<Arc<RootCertStore>>,
    pub(super) overlap: Duration,
    pub(super) verification: Verification,
    /// Verified instead of the dialled name.
    pub(super) name: Option<ServerName<'static>>,
}

/// How a server's certificate is verified.
pub(super) enum Verification {
    ChainAndName,
    Chain,
    Own(Arc<MakeVerifier>),
    /// By the system's roots, which are the verifier's own.
    System(Arc<dyn ServerCertVerifier>),
}

impl ServerTrust {
    /// Whether servers can be verified without roots of the material.
    pub(super) fn brings_roots(&self) -> bool {
        let is_own = matches!(
            self.verification,
            Verification::Own(_) | Verification::System(_)
        );
        is_own || self.fixed_roots.is_some()
    }
}

fn root_store(
    list: Result<Vec<CertificateDer<'static>>, MaterialError>,
) -> Result<RootCertStore, StartError> {
    let refused = |problem: String, cause| invalid("server_roots", None, problem, cause);
    let list = list.map_err(|cause| {
        let problem = "expected certificates in PEM".to_owned();
        refused(problem, Some(cause.into()))
    })?;
    if list.is_empty() {
        return Err(refused(
            "expected at least one certificate".to_owned(),
            None,
        ));
    }
    let mut roots = RootCertStore::empty();
    for (index, root) in list.into_iter().enumerate() {
        roots.add(root).map_err(|cause| {
            let problem = format!("certificate {index} cannot be a root");
            refused(problem, Some(cause.into()))
        })?;
    }
    Ok(roots)
}

pub(super) fn invalid(
    field: &'static str,
    got: Option<String>,
    problem: impl Into<String>,
    cause: Option<BoxError>,
) -> StartError {
    StartError::Setting {
        field,
        got,
        problem: problem.into(),
        cause,
    }
}
