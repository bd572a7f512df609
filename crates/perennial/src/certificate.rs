//! What we read from a parsed X.509 certificate; nothing of the parser leaves this file.

use std::fmt;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::digest::digest;

/// A certificate's serial number, unsigned and big-endian.
///
/// Displayed as Vault and OpenSSL print it: lower-case hex pairs with colons.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// The number's bytes, most significant first, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number in base ten, as Postgres shows it in `pg_stat_ssl.client_serial`.
    ///
    /// # Example
    /// ```
    /// # use perennial::Serial;
    /// assert_eq!(Serial::from_bytes(&[0x01, 0x00]).to_decimal(), "256");
    /// ```
    pub fn to_decimal(&self) -> String {
        // Long division by ten, digit by digit: a serial has at most 20 bytes (RFC 5280, 4.1.2.2).
        let mut number = self.0.clone();
        let mut digits = Vec::new();
        while number.iter().any(|&byte| byte != 0) {
            let mut rest = 0u16;
            for byte in &mut number {
                let dividend = (rest << 8) | u16::from(*byte);
                *byte = (dividend / 10) as u8;
                rest = dividend % 10;
            }
            digits.push(char::from(b'0' + rest as u8));
        }
        if digits.is_empty() {
            digits.push('0');
        }
        digits.into_iter().rev().collect()
    }

    /// Takes big-endian bytes; leading zeros do not count.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// Whom a certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Names {
    /// The subject's first common name: what Postgres maps to a user.
    pub common_name: Option<String>,
    /// DNS names of the subject alternative name extension.
    pub dns: Vec<String>,
    /// IP addresses of the same extension.
    pub ip: Vec<IpAddr>,
    /// URIs of the same extension; a SPIFFE ID is one.
    pub uri: Vec<String>,
}

/// The facts of one certificate that the core decides on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) serial: Serial,
    pub(crate) names: Names,
    /// Over subject and alternative names as they are encoded, kinds that [`Names`] leaves out included.
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Raw DER of the names, for comparing links.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    /// The issuer's name as text.
    pub(crate) issuer_name: String,
    /// Its extended key usage, if it has one, allows a TLS client.
    pub(crate) for_clients: bool,
}

impl Facts {
    /// Reads one DER certificate; the error says what the parser did not like.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, cert) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        Ok(Self {
            serial: Serial::from_bytes(cert.raw_serial()),
            names: names(&cert)?,
            not_before: system_time(cert.validity().not_before)?,
            not_after: system_time(cert.validity().not_after)?,
            subject: cert.subject().as_raw().to_vec(),
            issuer: cert.issuer().as_raw().to_vec(),
            issuer_name: cert.issuer().to_string(),
            for_clients: for_clients(&cert)?,
        })
    }

    /// Whether the certificate names itself as its issuer, as roots do.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether that certificate bears the name of this one's issuer.
    pub(crate) fn names_issuer(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject
    }
}

fn for_clients(cert: &X509Certificate<'_>) -> Result<bool, String> {
    let usage = cert
        .extended_key_usage()
        .map_err(|error| error.to_string())?;
    Ok(usage.is_none_or(|usage| usage.value.any || usage.value.client_auth))
}

fn system_time(time: ASN1Time) -> Result<SystemTime, String> {
    let seconds = u64::try_from(time.timestamp())
        .map_err(|_before_1970| format!("the validity time {time} lies before 1970"))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn names(cert: &X509Certificate<'_>) -> Result<Names, String> {
    let mut names = Names {
        common_name: cert
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned),
        ..Names::default()
    };
    let extension = cert
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let Some(extension) = extension else {
        return Ok(names);
    };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
            GeneralName::URI(uri) => names.uri.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => names.ip.extend(ip_address(bytes)),
            _ => {}
        }
    }
    Ok(names)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn every_kind_of_name_is_read() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (v4, v6) = (ip("192.0.2.7"), ip("2001:db8::7"));
        let uri = "spiffe://example.org/app";
        let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
        params.subject_alt_names.extend([
            SanType::IpAddress(v4),
            SanType::IpAddress(v6),
            SanType::URI(uri.try_into().unwrap()),
            SanType::Rfc822Name("nobody@example.org".try_into().unwrap()),
        ]);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = Facts::read(certificate.der()).unwrap().names;
        assert_eq!(names.dns, ["app.test"]);
        assert_eq!(names.ip, [v4, v6]);
        assert_eq!(names.uri, [uri]);
    }

    #[test]
    fn bytes_after_a_certificate_are_refused() {
        let ca = crate::testing::TestCa::new();
        let longer = [ca.root_der().as_ref(), &[0]].concat();
        let problem = Facts::read(&longer.into()).unwrap_err();
        assert_eq!(problem, "1 bytes follow the certificate");
    }

    #[test]
    fn serial_reads_the_same_in_hex_and_in_base_ten() {
        let table: [(&[u8], &str, &str); 4] = [
            (&[], "00", "0"),
            (&[0, 0, 7], "07", "7"),
            (&[0x01, 0xff], "01:ff", "511"),
            (
                &[0xff; 20],
                "ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff",
                "1461501637330902918203684832716283019655932542975",
            ),
        ];
        for (bytes, hex, decimal) in table {
            let serial = Serial::from_bytes(bytes);
            assert_eq!(serial.to_string(), hex);
            assert_eq!(serial.to_decimal(), decimal);
        }
    }
}
