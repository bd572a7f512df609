//! A CA in memory; its certificates are valid until 2120.

use std::time::SystemTime;

use perennial::CertMaterial;
use perennial::pki_types::{CertificateDer, PrivateKeyDer};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};

#[expect(clippy::disallowed_methods, reason = "rustls reads the same clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

pub(crate) struct Ca {
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A chain and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(ca(name), KeyPair::generate().unwrap());
        Self {
            name: name.to_owned(),
            issuer: issuer.unwrap(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A client's certificate with this name, and these roots for servers.
    pub(crate) fn client<'a>(
        &self,
        name: &str,
        roots: impl IntoIterator<Item = &'a Self>,
    ) -> CertMaterial {
        self.client_with(name, [], roots)
    }

    /// Like [`client`](Self::client), with the certificates of these CAs in its chain.
    pub(crate) fn client_with<'a, 'b>(
        &self,
        name: &str,
        chain: impl IntoIterator<Item = &'b Self>,
        roots: impl IntoIterator<Item = &'a Self>,
    ) -> CertMaterial {
        let mut client = self.client_until(name, date_time_ymd(2120, 1, 1).into());
        client.chain.extend(chain.into_iter().map(Self::der));
        client.with_roots(roots)
    }

    /// A client's certificate with this name and end.
    pub(crate) fn client_until(&self, name: &str, end: SystemTime) -> Identity {
        let mut params = leaf(ExtendedKeyUsagePurpose::ClientAuth);
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = end.into();
        self.issue(params)
    }

    /// A server's certificate with this serial number.
    pub(crate) fn server(&self, name: &str, serial: u64) -> Identity {
        self.server_until(name, serial, date_time_ymd(2120, 1, 1).into())
    }

    /// One with this end.
    pub(crate) fn server_until(&self, name: &str, serial: u64, end: SystemTime) -> Identity {
        let mut params = leaf(ExtendedKeyUsagePurpose::ServerAuth);
        params.not_after = end.into();
        params.subject_alt_names = CertificateParams::new([name.to_owned()])
            .unwrap()
            .subject_alt_names;
        params.serial_number = Some(SerialNumber::from(serial));
        self.issue(params)
    }

    /// A server's certificate whose issuer has a certificate by each of these CAs.
    pub(crate) fn server_of_both(name: &str, roots: [&Self; 2]) -> Identity {
        let (key, params) = (KeyPair::generate().unwrap(), ca("issuer"));
        let by = |root: &Self| params.signed_by(&key, &root.issuer).unwrap().der().clone();
        let issuers = roots.map(by);
        let ca = Self {
            name: "issuer".to_owned(),
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        };
        let mut server = ca.server(name, 7);
        server.chain.extend(issuers);
        server
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![leaf.der().clone()],
            key: key.into(),
        }
    }
}

impl Identity {
    pub(crate) fn with_roots<'a>(self, roots: impl IntoIterator<Item = &'a Ca>) -> CertMaterial {
        let roots = roots.into_iter().map(Ca::der).collect();
        CertMaterial::from_der(self.chain, self.key, roots).unwrap()
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf(purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params.extended_key_usages = vec![purpose];
    params
}
