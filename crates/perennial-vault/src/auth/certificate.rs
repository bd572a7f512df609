//! Login by TLS certificate: the live one, and one to begin with.

use std::sync::Arc;

use perennial::{Fingerprint, Snapshot};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::secret::{Secret, pem};
use crate::error::VaultError;

pub(super) const CHAIN: &str = "auth certificate";
pub(super) const KEY: &str = "auth certificate's key";

/// A certificate that can be shown in a handshake.
pub(super) struct Shown {
    pub(super) id: Fingerprint,
    pub(super) resolver: Arc<dyn ResolvesClientCert>,
}

/// The certificate that is published. Its key need not leave its TLS settings for that.
pub(super) fn live(snapshot: &Snapshot) -> Shown {
    Shown {
        id: Fingerprint::of([snapshot.leaf_sha256().as_slice()]),
        resolver: Arc::clone(&snapshot.client_config().client_auth_cert_resolver),
    }
}

/// The one to begin with, as its PEM is now.
pub(super) async fn bootstrap(
    chain: &Secret,
    key: &Secret,
    provider: &CryptoProvider,
) -> Result<Shown, VaultError> {
    let chain = chain.read(CHAIN, pem).await?;
    let key = key.read(KEY, pem).await?;
    let id = Fingerprint::of([chain.as_bytes(), key.as_bytes()]);
    let unusable = |field, problem: &str| VaultError::Credential {
        field,
        problem: problem.to_owned(),
    };
    // The parsers' errors quote the text.
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_quotes| unusable(CHAIN, "what is no PEM"))?;
    if chain.is_empty() {
        return Err(unusable(CHAIN, "no certificate in PEM"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_quotes| unusable(KEY, "no unencrypted private key in PEM"))?;
    let certified = CertifiedKey::from_der(chain, key, provider)
        .map_err(|_kind| unusable(KEY, "what is not the key of the certificate"))?;
    Ok(Shown {
        id,
        resolver: Arc::new(SingleCertAndKey::from(certified)),
    })
}
