use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::error::TestbedError;
use crate::folder::Folder;

/// The TLS of OpenBao's own listener, the same on every node of a cluster. The key of its CA is forgotten at once.
#[derive(Clone)]
pub(super) struct Listener {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

impl Listener {
    /// Makes a CA and a listener certificate.
    pub(super) fn create() -> Result<Self, TestbedError> {
        make().map_err(|error| TestbedError::Tls(error.into()))
    }

    /// Writes the certificate and its key into the folder.
    pub(super) fn install(&self, folder: &Folder) -> Result<(), TestbedError> {
        let private = folder.private();
        folder.write(&private.join("listener.crt"), &self.certificate, None)?;
        folder.write(&private.join("listener.key"), &self.key, None)
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(super) fn roots(&self) -> Result<RootCertStore, TestbedError> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.ca_der.clone())
            .map_err(|error| TestbedError::Tls(error.into()))?;
        Ok(roots)
    }
}

fn make() -> Result<Listener, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Perennial testbed, OpenBao listener");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &ca)?;
    Ok(Listener {
        ca_pem: ca.pem(),
        ca_der: ca.der().clone(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}
