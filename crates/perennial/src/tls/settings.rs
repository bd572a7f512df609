use std::fmt;
use std::time::Duration;

use rustls::client::VerifierBuilderError;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName};

use super::crls::ServerCrls;

/// How a live certificate's configs speak TLS, and by what they verify servers.
///
/// Nothing is read or checked before [`start`](crate::LiveCertBuilder::start), whose errors
/// name the setter at fault. The settings hold for the whole life of a
/// [`LiveCert`](crate::LiveCert): to change them, start another.
///
/// # Defaults
/// TLS 1.3 only. Servers are verified by the roots that came with the certificate and nothing
/// else, under the name that was dialled, without revocation lists. No overlap of old roots.
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
#[derive(Clone, Debug)]
#[must_use]
pub struct TlsSettings {
    pub(super) oldest: OldestVersion,
    pub(super) server_roots: Option<Given<CertificateDer<'static>>>,
    pub(super) server_crls: Option<ServerCrls>,
    pub(super) server_name: Option<String>,
    pub(super) anchor_overlap: Duration,
}

/// The oldest TLS version that is spoken.
#[derive(Clone, Copy, Debug)]
pub(super) enum OldestVersion {
    Tls12,
    Tls13,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsSettings {
    /// Every setting at its default.
    pub const fn new() -> Self {
        Self {
            oldest: OldestVersion::Tls13,
            server_roots: None,
            server_crls: None,
            server_name: None,
            anchor_overlap: Duration::ZERO,
        }
    }

    /// Speaks TLS 1.2 too, with servers that have no TLS 1.3.
    ///
    /// TLS 1.2 sends the client's certificate in the clear: whoever listens reads its names.
    pub const fn allow_tls12(mut self) -> Self {
        self.oldest = OldestVersion::Tls12;
        self
    }

    /// Verifies servers by these roots, in PEM, in place of the delivered ones.
    ///
    /// For servers whose CA is not the clients' CA. Roots that come with the certificate are then
    /// used only to check the certificate itself, where
    /// [`roots_issue_leaf`](crate::CertMaterial::roots_issue_leaf) says so. Blocks other than
    /// certificates are passed over. The last call of this and of
    /// [`server_roots`](Self::server_roots) counts.
    pub fn server_roots_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.server_roots = Some(Given::Pem(pem.as_ref().to_vec()));
        self
    }

    /// As [`server_roots_pem`](Self::server_roots_pem), in DER.
    pub fn server_roots(
        mut self,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Self {
        self.server_roots = Some(Given::Der(roots.into_iter().collect()));
        self
    }

    /// Refuses servers whose certificates these lists revoke.
    pub fn server_crls(mut self, crls: ServerCrls) -> Self {
        self.server_crls = Some(crls);
        self
    }

    /// Verifies each server as this DNS name or IP address, whatever host was dialled.
    ///
    /// For tunnels, port forwards and addresses that no certificate names. Every server that this
    /// live certificate meets must then bear this name. It says nothing about where to connect.
    ///
    /// The SNI that is sent is still the dialled host, or none for an IP address: rustls takes it
    /// from whoever connects. A connector that hands rustls [`Snapshot::server_name`] in place
    /// of the host sends this name there too, which servers that choose by SNI need.
    ///
    /// [`Snapshot::server_name`]: crate::Snapshot::server_name
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// How long roots are trusted on after newer material came without them.
    ///
    /// Lets a server's CA change from A to B though the servers get their certificates later than
    /// we get the roots: with one hour, a root that is missing in the material fetched at noon is
    /// trusted for handshakes until one o'clock, to the second, without a rotation. Sessions
    /// resumed within a generation are not verified again. A restart forgets old roots.
    ///
    /// Zero by default: a root is taken out for a reason, and at once, unless you say otherwise.
    /// A source that adds the new root before it drops the old one needs no overlap.
    pub const fn anchor_overlap(mut self, overlap: Duration) -> Self {
        self.anchor_overlap = overlap;
        self
    }
}

/// A list in the form in which it was given.
#[derive(Clone)]
pub(super) enum Given<T> {
    Pem(Vec<u8>),
    Der(Vec<T>),
}

/// A text may hold anything, a key by mistake: only its size is shown.
impl<T> fmt::Debug for Given<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(text) => f.debug_tuple("Pem").field(&text.len()).finish(),
            Self::Der(list) => f.debug_tuple("Der").field(&list.len()).finish(),
        }
    }
}

impl<T: PemObject> Given<T> {
    pub(super) fn read(self, field: &'static str) -> Result<Vec<T>, TlsSettingsError> {
        let list = match self {
            Self::Der(list) => list,
            Self::Pem(text) => T::pem_slice_iter(&text)
                .collect::<Result<_, _>>()
                .map_err(|error| unreadable(field, &error))?,
        };
        if list.is_empty() {
            return Err(TlsSettingsError::Empty { field });
        }
        Ok(list)
    }
}

/// The parser's own errors quote the text they stumbled on, which may be a key: not kept.
fn unreadable(field: &'static str, error: &pem::Error) -> TlsSettingsError {
    let problem = match error {
        pem::Error::MissingSectionEnd { .. } => "a block has no END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a block is not base64",
        _ => "the text is malformed",
    };
    TlsSettingsError::Pem { field, problem }
}

pub(super) fn read_name(name: String) -> Result<ServerName<'static>, TlsSettingsError> {
    ServerName::try_from(name.as_str())
        .map(|read| read.to_owned())
        .map_err(|cause| TlsSettingsError::ServerName { got: name, cause })
}

/// Why [`TlsSettings`] cannot be used; names the setter at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSettingsError {
    /// A text is not PEM.
    #[error("{field} is not readable as PEM: {problem}")]
    Pem {
        /// The setting's name.
        field: &'static str,
        /// What is wrong with the text.
        problem: &'static str,
    },
    /// A list holds nothing of its kind.
    #[error("{field} is empty: it takes at least one")]
    Empty {
        /// The setting's name.
        field: &'static str,
    },
    /// A certificate cannot be a trust root.
    #[error("certificate {index} of server_roots cannot be a trust root")]
    Root {
        /// Its place in the list, counted from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: rustls::Error,
    },
    /// A revocation list cannot be parsed.
    #[error("list {index} of server_crls is not a revocation list that can be used")]
    Crl {
        /// Its place in the list, counted from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: VerifierBuilderError,
    },
    /// A name that no certificate can bear.
    #[error("server_name is {got:?}: it must be a DNS name or an IP address")]
    ServerName {
        /// The name given.
        got: String,
        /// What is wrong with it.
        #[source]
        cause: InvalidDnsNameError,
    },
    /// An overlap for roots that never change.
    #[error("anchor_overlap is {got:?}: it must be zero where server_roots are given")]
    OverlapOfFixedRoots {
        /// The overlap given.
        got: Duration,
    },
    /// The crypto provider has no suite or no key exchange for the versions to be spoken.
    #[error("the provider cannot speak the TLS versions that are allowed")]
    Provider(#[source] rustls::Error),
}
