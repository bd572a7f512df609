use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::error::TestbedError;
use crate::folder::Folder;

/// The CA behind OpenBao's own listener. It exists for one listener certificate; its key is forgotten at once.
pub(super) struct Listener {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
}

impl Listener {
    /// Makes a CA and a listener certificate, and writes the latter with its key into the folder.
    pub(super) fn create(folder: &Folder) -> Result<Self, TestbedError> {
        let (ca, certificate, key) = make().map_err(|error| TestbedError::Tls(error.into()))?;
        let private = folder.private();
        folder.write(&private.join("listener.crt"), &certificate, None)?;
        folder.write(&private.join("listener.key"), &key, None)?;
        Ok(ca)
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

fn make() -> Result<(Listener, String, String), rcgen::Error> {
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
    let listener = Listener {
        ca_pem: ca.pem(),
        ca_der: ca.der().clone(),
    };
    Ok((listener, certificate.pem(), key.serialize_pem()))
}
