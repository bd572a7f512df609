//! Until the core publishes its own `Certificate`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use perennial::Names;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(super) struct Certificate {
    names: Names,
    not_before: SystemTime,
    not_after: SystemTime,
    is_self_issued: bool,
}

impl Certificate {
    pub(super) fn from_der(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let mut names = Names::default();
        let common_name = cert.subject().iter_common_name().next();
        names.common_name = common_name.and_then(|name| name.as_str().ok().map(str::to_owned));
        if let Some(extension) = cert.subject_alternative_name().ok()? {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                    GeneralName::URI(uri) => names.uri.push((*uri).to_owned()),
                    GeneralName::IPAddress(bytes) => names.ip.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        Some(Self {
            names,
            not_before: time(cert.validity().not_before.timestamp()),
            not_after: time(cert.validity().not_after.timestamp()),
            is_self_issued: cert.subject().as_raw() == cert.issuer().as_raw(),
        })
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.is_self_issued
    }
}

fn time(timestamp: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(v6).into())
}
