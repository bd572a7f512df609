//! The one place that reads X.509; nothing of the parser leaves this file.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::error::MaterialError;

mod form;
pub(crate) use form::{Form, Link, PublicKey};
mod name;
use name::DistinguishedName;
pub(crate) use name::folded_der;

/// A certificate's serial number, unsigned and big-endian.
///
/// Displayed as Vault and OpenSSL print it: lower-case hex pairs with colons.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Takes big-endian bytes; leading zeros are ignored.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }

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
        BigUint::from_bytes_be(&self.0).to_string()
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

/// The names in a certificate.
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

/// The facts of one certificate, read once. Nothing in it has been verified.
///
/// # Example
/// ```no_run
/// use perennial::Certificate;
/// use perennial::pki_types::{CertificateDer, pem::PemObject};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let leaf = Certificate::from_der(&CertificateDer::from_pem_file("/etc/tls/tls.crt")?)?;
/// println!("{} expires at {:?}", leaf.subject(), leaf.not_after());
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    serial: Serial,
    names: Names,
    subject: DistinguishedName,
    issuer: DistinguishedName,
    not_before: SystemTime,
    not_after: SystemTime,
    allows_clients: bool,
    allows_servers: bool,
}

impl Certificate {
    /// Reads one certificate.
    ///
    /// # Errors
    /// [`MaterialError::Malformed`]: the bytes are not exactly one X.509 certificate.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, MaterialError> {
        let cert = parsed(der).and_then(|cert| Self::read(&cert));
        cert.map_err(|problem| MaterialError::Malformed { problem })
    }

    /// As [`from_der`](Self::from_der); the error names the certificate's place.
    pub(crate) fn in_part(
        part: &'static str,
        index: usize,
        der: &CertificateDer<'_>,
    ) -> Result<Self, MaterialError> {
        let cert = parsed(der).and_then(|cert| Self::read(&cert));
        cert.map_err(|problem| MaterialError::Certificate {
            part,
            index,
            problem,
        })
    }

    /// Reads one certificate with its form; the error is the parser's reason.
    pub(crate) fn with_form(der: &CertificateDer<'_>) -> Result<(Self, Form), String> {
        let cert = parsed(der)?;
        Ok((Self::read(&cert)?, Form::new(der, &cert)?))
    }

    fn read(cert: &X509Certificate<'_>) -> Result<Self, String> {
        let usage = cert.extended_key_usage().map_err(text)?;
        let allows = |purpose: fn(&ExtendedKeyUsage<'_>) -> bool| {
            usage
                .as_ref()
                .is_none_or(|usage| usage.value.any || purpose(usage.value))
        };
        Ok(Self {
            serial: Serial::from_bytes(cert.raw_serial()),
            names: names(cert)?,
            subject: DistinguishedName::new(cert.subject()),
            issuer: DistinguishedName::new(cert.issuer()),
            not_before: system_time(cert.validity().not_before)?,
            not_after: system_time(cert.validity().not_after)?,
            allows_clients: allows(|usage| usage.client_auth),
            allows_servers: allows(|usage| usage.server_auth),
        })
    }

    /// The serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The subject's common name and the alternative names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The subject's distinguished name, for people to read.
    pub fn subject(&self) -> &str {
        &self.subject.text
    }

    /// The issuer's distinguished name, for people to read.
    pub fn issuer(&self) -> &str {
        &self.issuer.text
    }

    /// When the validity begins, wall clock.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the validity ends, wall clock.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the certificate names itself as its issuer, as roots do. Verifies no signature.
    ///
    /// Names are compared as RFC 5280, 7.1 says, so two encodings of one name are equal. A CA that
    /// changes its key issues itself a certificate too, which another key signed.
    pub fn is_self_issued(&self) -> bool {
        self.subject.is(&self.issuer)
    }

    /// The issuer's name in the form that is compared.
    pub(crate) fn folded_issuer(&self) -> &[u8] {
        self.issuer.folded()
    }

    /// Whether this certificate's issuer has the subject name of `issuer`.
    pub(crate) fn names_issuer(&self, issuer: &Self) -> bool {
        self.issuer.is(&issuer.subject)
    }

    /// The subject for a line of a log: escaped, and cut after 80 characters.
    pub(crate) fn shown(&self) -> String {
        let subject = &self.subject.text;
        let mut shown: String = subject
            .chars()
            .take(80)
            .flat_map(char::escape_debug)
            .collect();
        if subject.chars().nth(80).is_some() {
            shown.push('…');
        }
        match shown.is_empty() {
            true => format!("the certificate with serial number {}", self.serial),
            false => shown,
        }
    }

    /// Whether the extended key usage allows a TLS client; without that extension it does.
    pub(crate) fn allows_clients(&self) -> bool {
        self.allows_clients
    }

    /// Whether the extended key usage allows a TLS server; without that extension it does.
    pub(crate) fn allows_servers(&self) -> bool {
        self.allows_servers
    }
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(text)?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the certificate", rest.len()));
    }
    Ok(cert)
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("serial", &self.serial)
            .field("subject", &self.subject.text)
            .field("issuer", &self.issuer.text)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn system_time(time: ASN1Time) -> Result<SystemTime, String> {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let read = if time.timestamp() < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    read.ok_or_else(|| format!("the validity time {time} is out of range"))
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
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
    let Some(extension) = cert.subject_alternative_name().map_err(text)? else {
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
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
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
            SanType::Rfc822Name("mail@example.org".try_into().unwrap()),
        ]);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate::from_der(certificate.der()).unwrap();
        let names = certificate.names();
        assert_eq!(names.dns, ["app.test"]);
        assert_eq!(names.ip, [v4, v6]);
        assert_eq!(names.uri, [uri]);
    }

    #[test]
    fn bytes_after_a_certificate_are_refused() {
        let ca = crate::testing::TestCa::new();
        let longer = [ca.root_der().as_ref(), &[0]].concat();
        let refused = Certificate::from_der(&longer.into()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the certificate is malformed: 1 bytes follow the certificate"
        );
    }

    #[test]
    fn root_is_self_issued_and_a_leaf_is_not() {
        let ca = crate::testing::TestCa::new();
        let root = Certificate::from_der(&ca.root_der()).unwrap();
        let intermediate = Certificate::from_der(&ca.intermediate_der()).unwrap();
        assert!(root.is_self_issued() && !intermediate.is_self_issued());
        assert_eq!(intermediate.issuer(), root.subject());
        assert!(intermediate.names_issuer(&root));
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
