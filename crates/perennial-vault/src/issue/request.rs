use std::net::IpAddr;
use std::time::Duration;

use perennial::CacheKey;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};

use super::key::KeyType;
use crate::error::{Failure, Problem};
use crate::http::{GenerateCertificateRequest, Request, SignCertificateRequest};
use crate::settings::{self, invalid};
use crate::verdict::Operation;

/// Which certificate is requested.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertRequest {
    pub(crate) mount: String,
    pub(crate) role: String,
    /// One of the mount's issuers; `None` leaves it to the role.
    pub(crate) issuer: Option<String>,
    pub(crate) key_origin: KeyOrigin,
    pub(crate) common_name: Option<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
    pub(crate) uri: Vec<String>,
    /// Whole seconds; `None` leaves it to the role.
    pub(crate) ttl: Option<Duration>,
}

/// Where the private key is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrigin {
    /// In this process: only a signing request is sent.
    Here(KeyType),
    /// In Vault, which sends it; the role decides about its type.
    Vault,
}

impl Default for KeyOrigin {
    fn default() -> Self {
        Self::Here(KeyType::default())
    }
}

impl KeyOrigin {
    pub(crate) fn checked(key_type: Option<KeyType>, issue: bool) -> Result<Self, Problem> {
        let refuse = |kind: KeyType, takes| Err(invalid("key_type", format!("{kind:?}"), takes));
        match key_type {
            Some(kind) if issue => refuse(kind, "no key type with issue, where the role decides"),
            Some(kind) if kind.is_rsa() && !cfg!(feature = "aws-lc-rs") => {
                refuse(kind, "RSA only with the feature aws-lc-rs")
            }
            None if issue => Ok(Self::Vault),
            kind => Ok(Self::Here(kind.unwrap_or_default())),
        }
    }
}

impl CertRequest {
    pub(crate) fn checked(self) -> Result<Self, Problem> {
        let missing = |field| Err(Problem::Missing(field));
        if self.mount.is_empty() {
            return missing("mount");
        }
        if self.role.is_empty() {
            return missing("role");
        }
        let alternative = self.dns.len() + self.ip.len() + self.uri.len();
        if self.common_name.is_none() && alternative == 0 {
            return missing("common_name");
        }
        if let Some(name) = &self.common_name
            && (name.is_empty() || name.chars().any(char::is_control))
        {
            let takes = "a name without control characters";
            return Err(invalid("common_name", name, takes));
        }
        if let Some(ttl) = self.ttl
            && (ttl.is_zero() || ttl.subsec_nanos() != 0)
        {
            let takes = "whole seconds, at least one";
            return Err(invalid("ttl", format!("{ttl:?}"), takes));
        }
        let issuer = self.issuer.map(|issuer| settings::name("issuer", issuer));
        let checked = Self {
            issuer: issuer.transpose()?,
            mount: settings::path("mount", self.mount)?,
            role: settings::name("role", self.role)?,
            ..self
        };
        if checked.key_origin == KeyOrigin::Vault {
            checked.no_comma()?;
        }
        Ok(checked)
    }

    /// An issue request sends names separated by commas.
    fn no_comma(&self) -> Result<(), Problem> {
        let dns = self.dns.iter().map(|name| ("dns_name", name));
        let uri = self.uri.iter().map(|name| ("uri", name));
        match dns.chain(uri).find(|(_, name)| name.contains(',')) {
            None => Ok(()),
            Some((field, name)) => Err(invalid(field, name, "with issue, a name without a comma")),
        }
    }

    /// The names in the form of a signing request.
    pub(crate) fn params(&self) -> Result<CertificateParams, Problem> {
        let mut params = CertificateParams::default();
        // rcgen's default has a name of its own.
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            let subject = &mut params.distinguished_name;
            subject.push(DnType::CommonName, name.as_str());
        }
        let names = &mut params.subject_alt_names;
        for name in &self.dns {
            names.push(SanType::DnsName(ia5("dns_name", name)?));
        }
        names.extend(self.ip.iter().copied().map(SanType::IpAddress));
        for uri in &self.uri {
            names.push(SanType::URI(ia5("uri", uri)?));
        }
        Ok(params)
    }

    /// A request to sign `csr` (PEM).
    pub(crate) fn sign(&self, csr: &str, ttl: Option<Duration>) -> Result<Request, Failure> {
        let request = SignCertificateRequest {
            mount: self.engine(),
            role: self.role.clone(),
            // All names are in it: a role that reads them there warns about any next to it.
            csr: Some(csr.to_owned()),
            ttl: ttl.map(seconds),
            ..SignCertificateRequest::default()
        };
        Request::typed(Operation::Sign, &request)
    }

    /// A request for a certificate with its key.
    pub(crate) fn issue(&self, ttl: Option<Duration>) -> Result<Request, Failure> {
        let joined = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
        let request = GenerateCertificateRequest {
            mount: self.engine(),
            role: self.role.clone(),
            common_name: self.common_name.clone(),
            alt_names: joined(&self.dns),
            ip_sans: joined(&self.ip_texts()),
            uri_sans: joined(&self.uri),
            ttl: ttl.map(seconds),
            ..GenerateCertificateRequest::default()
        };
        Request::typed(Operation::Issue, &request)
    }

    /// Mount and issuer, with which the paths of both requests begin.
    fn engine(&self) -> String {
        match &self.issuer {
            None => self.mount.clone(),
            Some(issuer) => format!("{}/issuer/{issuer}", self.mount),
        }
    }

    fn ip_texts(&self) -> Vec<String> {
        self.ip.iter().map(ToString::to_string).collect()
    }

    /// Identifies everything that decides which certificate Vault returns.
    pub(crate) fn cache_key(&self, address: &str, namespace: Option<&str>) -> CacheKey {
        let ttl = self.ttl.unwrap_or_default().as_secs().to_be_bytes();
        let ip = self.ip_texts();
        // The counts separate the lists, between which a name could move otherwise.
        let counts = [self.dns.len(), ip.len(), self.uri.len()].map(usize::to_be_bytes);
        let key_origin = format!("vault {:?}", self.key_origin);
        let fixed = [
            key_origin.as_str(),
            address,
            namespace.unwrap_or_default(),
            &self.mount,
            &self.role,
            self.issuer.as_deref().unwrap_or_default(),
            self.common_name.as_deref().unwrap_or_default(),
        ];
        let fixed = fixed.iter().map(|part| part.as_bytes());
        let counts = counts.iter().map(<[u8; size_of::<usize>()]>::as_slice);
        let names = [&self.dns, &ip, &self.uri].into_iter().flatten();
        CacheKey::of(
            fixed
                .chain(counts)
                .chain([ttl.as_slice()])
                .chain(names.map(String::as_bytes)),
        )
    }
}

fn seconds(ttl: Duration) -> String {
    format!("{}s", ttl.as_secs())
}

fn ia5(field: &'static str, name: &str) -> Result<Ia5String, Problem> {
    let takes = "printable ASCII, at least one character (an international name in its xn-- form)";
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
        return Err(invalid(field, name, takes));
    }
    Ia5String::try_from(name).map_err(|_error| invalid(field, name, takes))
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
    fn every_part_of_the_request_changes_its_cache_key() {
        let base = request();
        let with = |change: fn(&mut CertRequest)| {
            let mut changed = request();
            change(&mut changed);
            changed.cache_key("https://v", None)
        };
        let keys = [
            base.cache_key("https://v", None),
            base.cache_key("https://w", None),
            base.cache_key("https://v", Some("team1")),
            with(|r| r.mount = "pki2".to_owned()),
            with(|r| r.role = "web".to_owned()),
            with(|r| r.issuer = Some("next".to_owned())),
            with(|r| r.key_origin = KeyOrigin::Vault),
            with(|r| r.key_origin = KeyOrigin::Here(KeyType::Ed25519)),
            with(|r| r.common_name = None),
            with(|r| r.ttl = Some(Duration::from_secs(60))),
            with(|r| r.dns.push("a.example".to_owned())),
            with(|r| r.uri.push("a.example".to_owned())),
            with(|r| r.ip.push(IpAddr::from([127, 0, 0, 1]))),
        ];
        for (i, one) in keys.iter().enumerate() {
            for other in &keys[i + 1..] {
                assert_ne!(one, other);
            }
        }
        assert_eq!(keys[0], request().cache_key("https://v", None));
    }

    #[test]
    fn name_that_cannot_be_sent_is_refused_with_its_field() {
        for name in ["", "bücher.example", "a b", "a\n"] {
            let mut request = request();
            request.dns.push(name.to_owned());
            let error = request.params().expect_err("not sendable").to_string();
            assert!(error.starts_with("invalid dns_name "), "{error}");
        }
    }
}
