use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::{ServerCertVerifierBuilder, VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateRevocationListDer, Der, TrustAnchor};

use super::settings::{Given, TlsSettingsError};

/// Revocation lists for servers' certificates, and how strictly they are taken.
///
/// The lists are never fetched or replaced while a live certificate lives.
///
/// # Defaults
/// As strict as libpq's `sslcrl`: every certificate of the server's chain but the root is looked
/// up, so each CA of the chain needs its list, and a certificate without is refused. Unlike with
/// libpq, a list past its `nextUpdate` still counts: it stays in force for as long as the process
/// runs, and refusing every server from then on would be an outage.
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerCrls {
    lists: Given<CertificateRevocationListDer<'static>>,
    depth: Depth,
    unknown: Unknown,
    outdated: Outdated,
}

#[derive(Clone, Copy, Debug)]
enum Depth {
    Chain,
    Leaf,
}

#[derive(Clone, Copy, Debug)]
enum Unknown {
    Refused,
    Accepted,
}

#[derive(Clone, Copy, Debug)]
enum Outdated {
    Counts,
    Refused,
}

impl ServerCrls {
    /// Takes one or more lists in PEM; other kinds of block are passed over.
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Self {
        Self::new(Given::Pem(pem.as_ref().to_vec()))
    }

    /// Takes one or more lists in DER.
    pub fn from_der(
        lists: impl IntoIterator<Item = CertificateRevocationListDer<'static>>,
    ) -> Self {
        Self::new(Given::Der(lists.into_iter().collect()))
    }

    const fn new(lists: Given<CertificateRevocationListDer<'static>>) -> Self {
        Self {
            lists,
            depth: Depth::Chain,
            unknown: Unknown::Refused,
            outdated: Outdated::Counts,
        }
    }

    /// Looks up the server's own certificate only, not the intermediates above it.
    pub const fn leaf_only(mut self) -> Self {
        self.depth = Depth::Leaf;
        self
    }

    /// Accepts certificates of CAs that none of the lists is from.
    pub const fn allow_unknown(mut self) -> Self {
        self.unknown = Unknown::Accepted;
        self
    }

    /// Refuses every server that a list past its `nextUpdate` would have to speak for.
    pub const fn refuse_outdated(mut self) -> Self {
        self.outdated = Outdated::Refused;
        self
    }
}

/// [`ServerCrls`], read.
pub(super) struct Revocation {
    lists: Vec<CertificateRevocationListDer<'static>>,
    depth: Depth,
    unknown: Unknown,
    outdated: Outdated,
}

impl Revocation {
    pub(super) fn read(
        crls: ServerCrls,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsSettingsError> {
        let lists = crls.lists.read("server_crls")?;
        for (index, list) in lists.iter().enumerate() {
            parse(list, provider).map_err(|cause| TlsSettingsError::Crl { index, cause })?;
        }
        Ok(Self {
            lists,
            depth: crls.depth,
            unknown: crls.unknown,
            outdated: crls.outdated,
        })
    }

    pub(super) fn apply(&self, builder: ServerCertVerifierBuilder) -> ServerCertVerifierBuilder {
        let mut builder = builder.with_crls(self.lists.iter().cloned());
        if let Depth::Leaf = self.depth {
            builder = builder.only_check_end_entity_revocation();
        }
        if let Unknown::Accepted = self.unknown {
            builder = builder.allow_unknown_revocation_status();
        }
        if let Outdated::Refused = self.outdated {
            builder = builder.enforce_revocation_expiration();
        }
        builder
    }
}

/// Has rustls say whether it can use this list.
fn parse(
    list: &CertificateRevocationListDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), VerifierBuilderError> {
    // rustls parses lists only for a verifier that has an anchor; this one verifies nothing.
    let nobody = TrustAnchor {
        subject: Der::from_slice(&[]),
        subject_public_key_info: Der::from_slice(&[]),
        name_constraints: None,
    };
    let roots = Arc::new(RootCertStore {
        roots: vec![nobody],
    });
    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
        .with_crls([list.clone()])
        .build()
        .map(|_parsed| ())
}
