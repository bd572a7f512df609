use std::net::IpAddr;
use std::time::Duration;

use perennial::Fingerprint;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use vaultrs::api::pki::requests::{GenerateCertificateRequest, SignCertificateRequest};

use crate::builder::BuildError;
use crate::key::KeyType;

/// Which certificate is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertRequest {
    pub(crate) mount: String,
    pub(crate) role: String,
    /// Of the mount's issuers, which; `None` leaves it to the role.
    pub(crate) issuer: Option<String>,
    pub(crate) key_from: KeyFrom,
    pub(crate) common_name: Option<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
    pub(crate) uri: Vec<String>,
    /// Whole seconds; `None` leaves it to the role.
    pub(crate) ttl: Option<Duration>,
}

/// Who makes the private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFrom {
    /// This process: only a signing request travels.
    Here(KeyType),
    /// Vault, of the type that the role says: the key travels.
    Vault,
}

impl Default for KeyFrom {
    fn default() -> Self {
        Self::Here(KeyType::default())
    }
}

impl CertRequest {
    /// The names in the form that a signing request holds them.
    pub(crate) fn params(&self) -> Result<CertificateParams, BuildError> {
        let mut params = CertificateParams::default();
        // rcgen would put in a name of its own.
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        for name in &self.dns {
            let name = ia5("dns_name", name)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        for &address in &self.ip {
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        for uri in &self.uri {
            let uri = ia5("uri", uri)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        Ok(params)
    }

    /// The names that have to be apart: with `issue` they travel joined by commas.
    pub(crate) fn no_comma(&self) -> Result<(), BuildError> {
        let dns = self.dns.iter().map(|name| ("dns_name", name));
        let uri = self.uri.iter().map(|name| ("uri", name));
        match dns.chain(uri).find(|(_, name)| name.contains(',')) {
            None => Ok(()),
            Some((field, name)) => Err(BuildError::Setting {
                field,
                got: name.clone(),
                takes: "with issue, a name without a comma",
            }),
        }
    }

    /// vaultrs' typed endpoint for a signing request (PEM).
    pub(crate) fn sign(&self, csr: &str, ttl: Option<Duration>) -> SignCertificateRequest {
        SignCertificateRequest {
            mount: self.engine(),
            role: self.role.clone(),
            // All names are in there: a role that takes them from it warns of any beside it.
            csr: Some(csr.to_owned()),
            ttl: ttl.map(seconds),
            ..SignCertificateRequest::default()
        }
    }

    /// vaultrs' typed endpoint for a certificate with its key.
    pub(crate) fn issue(&self, ttl: Option<Duration>) -> GenerateCertificateRequest {
        let joined = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
        let ip: Vec<String> = self.ip.iter().map(ToString::to_string).collect();
        GenerateCertificateRequest {
            mount: self.engine(),
            role: self.role.clone(),
            common_name: self.common_name.clone(),
            alt_names: joined(&self.dns),
            ip_sans: joined(&ip),
            uri_sans: joined(&self.uri),
            ttl: ttl.map(seconds),
            ..GenerateCertificateRequest::default()
        }
    }

    /// Mount and issuer: what the paths of `sign` and `issue` begin with.
    fn engine(&self) -> String {
        match &self.issuer {
            None => self.mount.clone(),
            Some(issuer) => format!("{}/issuer/{issuer}", self.mount),
        }
    }

    /// A digest over all that decides which certificate comes back.
    pub(crate) fn fingerprint(&self, address: &str, namespace: &str) -> Fingerprint {
        let ttl = self.ttl.unwrap_or_default().as_secs().to_be_bytes();
        let ip: Vec<String> = self.ip.iter().map(ToString::to_string).collect();
        // Counts first, so that a name cannot move from one list to the next unseen.
        let counts = [self.dns.len(), ip.len(), self.uri.len()].map(usize::to_be_bytes);
        let key_from = format!("vault {:?}", self.key_from);
        let fixed = [
            key_from.as_str(),
            address,
            namespace,
            &self.mount,
            &self.role,
            self.issuer.as_deref().unwrap_or_default(),
            self.common_name.as_deref().unwrap_or_default(),
        ];
        Fingerprint::of(
            fixed
                .iter()
                .map(|part| part.as_bytes())
                .chain(counts.iter().map(<[u8; size_of::<usize>()]>::as_slice))
                .chain([ttl.as_slice()])
                .chain(
                    [&self.dns, &ip, &self.uri]
                        .into_iter()
                        .flatten()
                        .map(String::as_bytes),
                ),
        )
    }
}

fn seconds(ttl: Duration) -> String {
    format!("{}s", ttl.as_secs())
}

fn ia5(field: &'static str, name: &str) -> Result<Ia5String, BuildError> {
    let takes = "printable ASCII, at least one character (an international name in its xn-- form)";
    let refuse = || BuildError::Setting {
        field,
        got: name.to_owned(),
        takes,
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
        return Err(refuse());
    }
    Ia5String::try_from(name).map_err(|_not_ascii| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CertRequest {
        CertRequest {
            mount: "pki".to_owned(),
            role: "app".to_owned(),
            common_name: Some("app".to_owned()),
            ..CertRequest::default()
        }
    }

    #[test]
    fn every_part_of_the_request_counts_in_its_fingerprint() {
        let base = request();
        let with = |change: fn(&mut CertRequest)| {
            let mut changed = request();
            change(&mut changed);
            changed.fingerprint("https://v", "")
        };
        let prints = [
            base.fingerprint("https://v", ""),
            base.fingerprint("https://w", ""),
            base.fingerprint("https://v", "team1"),
            with(|r| r.mount = "pki2".to_owned()),
            with(|r| r.role = "web".to_owned()),
            with(|r| r.issuer = Some("next".to_owned())),
            with(|r| r.key_from = KeyFrom::Vault),
            with(|r| r.key_from = KeyFrom::Here(KeyType::Ed25519)),
            with(|r| r.common_name = None),
            with(|r| r.ttl = Some(Duration::from_secs(60))),
            with(|r| r.dns.push("a.example".to_owned())),
            with(|r| r.uri.push("a.example".to_owned())),
            with(|r| r.ip.push(IpAddr::from([127, 0, 0, 1]))),
        ];
        for (i, one) in prints.iter().enumerate() {
            for other in &prints[i + 1..] {
                assert_ne!(one, other);
            }
        }
        assert_eq!(prints[0], request().fingerprint("https://v", ""));
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_refused_with_its_field() {
        for name in ["", "bücher.example", "a b", "a\n"] {
            let mut request = request();
            request.dns.push(name.to_owned());
            let error = request.params().expect_err("not sendable").to_string();
            assert!(error.starts_with("dns_name is "), "{error}");
        }
    }
}
