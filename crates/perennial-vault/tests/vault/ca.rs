//! A CA in the test process, which signs as Vault does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use crate::server::{Reply, Request};

pub(crate) const TOKEN: &str = "s.TOKENTOKENTOKEN";
pub(crate) const SECRET_ID: &str = "SECRETSECRETSECRET";

pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(ca_params(name), key).unwrap();
        Self { issuer }
    }

    /// An intermediate of this CA.
    pub(crate) fn issue_ca(&self, name: &str) -> Self {
        let issuer =
            CertifiedIssuer::signed_by(ca_params(name), KeyPair::generate().unwrap(), &self.issuer)
                .unwrap();
        Self { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The settings of an HTTPS server at 127.0.0.1.
    pub(crate) fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap()
    }

    /// Answers logins and renewals with [`TOKEN`], unwraps [`SECRET_ID`], and signs every request.
    pub(crate) fn vault(&self, request: &Request) -> Reply {
        if request.is_login() || request.is_renewal() {
            return login(TOKEN, 3_600);
        }
        if request.is_lookup() {
            return made_by("auth/approle/role/app/secret-id");
        }
        if request.is_unwrapping() {
            return unwrapped(SECRET_ID);
        }
        self.sign(request, |_data| ())
    }

    /// Signs a certificate without any name.
    pub(crate) fn drop_names(&self, request: &Request) -> Reply {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let nameless = params.signed_by(&key, &self.issuer).unwrap();
        self.sign(request, |data| data["certificate"] = json!(nameless.pem()))
    }

    /// Signs a certificate for `app` with another key.
    pub(crate) fn swap_keys(&self, request: &Request) -> Reply {
        let key = KeyPair::generate().unwrap();
        let mut params = named("app");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let another = params.signed_by(&key, &self.issuer).unwrap();
        self.sign(request, |data| data["certificate"] = json!(another.pem()))
    }

    /// Signs, and applies `change` to the answer's `data`.
    pub(crate) fn sign(&self, request: &Request, change: impl FnOnce(&mut Value)) -> Reply {
        self.sign_until(request, Duration::from_secs(3_600), change)
    }

    pub(crate) fn sign_until(
        &self,
        request: &Request,
        lifetime: Duration,
        change: impl FnOnce(&mut Value),
    ) -> Reply {
        self.sign_at(now_ahead(0), request, lifetime, change)
    }

    /// Signs by a clock that is ahead by so many seconds, with its `Date`.
    pub(crate) fn sign_ahead(&self, seconds: i64, request: &Request, lifetime: Duration) -> Reply {
        let now = now_ahead(seconds);
        self.sign_at(now, request, lifetime, |_| ())
            .with("Date", httpdate::fmt_http_date(now))
    }

    fn sign_at(
        &self,
        now: SystemTime,
        request: &Request,
        lifetime: Duration,
        change: impl FnOnce(&mut Value),
    ) -> Reply {
        let asked: Value = serde_json::from_str(&request.body).unwrap();
        let valid = |params: &mut CertificateParams| {
            params.not_before = (now - Duration::from_secs(30)).into();
            params.not_after = (now + lifetime).into();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        let (leaf, made) = match asked["csr"].as_str() {
            Some(csr) => {
                let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
                valid(&mut csr.params);
                (csr.signed_by(&self.issuer).unwrap(), None)
            }
            // `issue`: the key is generated here.
            None => {
                let key = KeyPair::generate().unwrap();
                let mut params = named(asked["common_name"].as_str().unwrap());
                valid(&mut params);
                (params.signed_by(&key, &self.issuer).unwrap(), Some(key))
            }
        };
        let mut data = json!({
            "certificate": leaf.pem().trim_end(),
            "issuing_ca": self.pem().trim_end(),
            "ca_chain": [self.pem().trim_end()],
            "serial_number": "1c:13:66:95",
            "expiration": 1,
        });
        if let Some(key) = made {
            data["private_key"] = json!(key.serialize_pem().trim_end());
        }
        change(&mut data);
        Reply::json(
            200,
            json!({
                "request_id": "82211991", "lease_id": "", "renewable": false,
                "lease_duration": 0, "data": data, "wrap_info": null, "warnings": null,
                "auth": null,
            })
            .to_string(),
        )
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Now, as a `Date` header.
pub(crate) fn date() -> String {
    date_ahead(0)
}

/// The `Date` of a server whose clock is ahead by so many seconds.
pub(crate) fn date_ahead(seconds: i64) -> String {
    httpdate::fmt_http_date(now_ahead(seconds))
}

#[expect(clippy::disallowed_methods, reason = "a server has a clock of its own")]
fn now_ahead(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    if seconds < 0 { now - by } else { now + by }
}

pub(crate) fn login(token: &str, lease: u64) -> Reply {
    Reply::json(
        200,
        json!({
            "request_id": "7", "lease_id": "", "renewable": false, "lease_duration": 0,
            "data": null, "wrap_info": null, "warnings": null,
            "auth": {"client_token": token, "accessor": "a", "lease_duration": lease,
                     "policies": null, "renewable": true},
        })
        .to_string(),
    )
}

pub(crate) fn made_by(path: &str) -> Reply {
    let data = json!({ "creation_path": path, "creation_time": "2026-01-01T00:00:00Z" });
    Reply::json(200, json!({ "data": data, "auth": null }).to_string())
}

pub(crate) fn unwrapped(secret_id: &str) -> Reply {
    let data = json!({ "secret_id": secret_id, "secret_id_accessor": "b", "secret_id_ttl": 0 });
    Reply::json(200, json!({ "data": data, "auth": null }).to_string())
}
