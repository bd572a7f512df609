//! The PKI: its CAs, roles, policy and AppRole.

use std::time::Duration;

use serde_json::{Value, json};

use super::api::text;
use super::{AppRole, OpenBao};
use crate::error::TestbedError;

const ROOT: &str = "pki";
pub(super) const MOUNT: &str = "pki_int";
pub(super) const CLIENT_ROLE: &str = "app";
pub(super) const STORED_ROLE: &str = "stored";
const SERVER_ROLE: &str = "server";
pub(super) const POLICY: &str = "app";
const APPROLE: &str = "auth/approle/role/app";
pub(super) const LOGIN: &str = "auth/approle/login";

/// A certificate for a server on localhost and 127.0.0.1, valid for a year.
#[derive(Clone)]
#[non_exhaustive]
pub struct ServerCertificate {
    /// The certificate and its intermediate (PEM, leaf first).
    pub chain: String,
    /// Its key (PEM, PKCS#8).
    pub key: String,
    /// The root of the chain (PEM).
    pub root: String,
}

/// Whether a successful request to this path issues a client certificate.
pub(super) fn issues_for_clients(path: &str) -> bool {
    let rest = path
        .strip_prefix(MOUNT)
        .and_then(|rest| rest.strip_prefix('/'));
    matches!(
        rest,
        Some("sign/app" | "issue/app" | "sign/stored" | "issue/stored")
    )
}

/// Sets up everything that an app needs: the two CAs, the roles, the policy and the AppRole.
pub(super) async fn set_up(bao: &mut OpenBao) -> Result<(), TestbedError> {
    require_audit(bao).await?;
    for mount in [ROOT, MOUNT] {
        let body = json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}});
        bao.api("POST", &format!("sys/mounts/{mount}"), body)
            .await?;
    }
    bao.roots_pem = authorities(bao, "A").await?;
    roles(bao).await?;
    bao.approle = approle(bao).await?;
    Ok(())
}

pub(super) async fn server_certificate(bao: &OpenBao) -> Result<ServerCertificate, TestbedError> {
    let body = json!({
        "common_name": "localhost", "ip_sans": "127.0.0.1", "ttl": "8760h",
        "private_key_format": "pkcs8",
    });
    let path = format!("{MOUNT}/issue/{SERVER_ROLE}");
    let reply = bao.api("POST", &path, body).await?;
    let data = &reply["data"];
    // OpenBao's PEM has no newline at its end, and certificates must be separated by one.
    let leaf = text(&data["certificate"], "certificate")?;
    let intermediate = text(&data["ca_chain"][0], "ca_chain")?;
    let root = text(&data["ca_chain"][1], "the root in ca_chain")?;
    Ok(ServerCertificate {
        chain: format!("{leaf}\n{intermediate}\n"),
        key: text(&data["private_key"], "private_key")?,
        root: root + "\n",
    })
}

/// New revocation lists of the current CAs.
pub(super) async fn crls(bao: &OpenBao, lifetime: Duration) -> Result<String, TestbedError> {
    let mut lists = String::new();
    for mount in [ROOT, MOUNT] {
        let body = json!({"expiry": format!("{}s", lifetime.as_secs())});
        bao.api("POST", &format!("{mount}/config/crl"), body)
            .await?;
        bao.api("GET", &format!("{mount}/crl/rotate"), Value::Null)
            .await?;
        let reply = bao
            .api("GET", &format!("{mount}/cert/crl"), Value::Null)
            .await?;
        lists += &(text(&reply["data"]["certificate"], "the revocation list")? + "\n");
    }
    Ok(lists)
}

/// Without the declared audit device, no certificate would be counted.
async fn require_audit(bao: &OpenBao) -> Result<(), TestbedError> {
    let devices = bao.api("GET", "sys/audit", Value::Null).await?;
    match devices["data"].get("log/") {
        Some(_) => Ok(()),
        None => Err(TestbedError::Incomplete(
            "the declared audit device (OpenBao older than 2.4?)",
        )),
    }
}

/// Creates root and intermediate and makes them the default issuers. The bundle includes the root, so that
/// `ca_chain` is intermediate, root.
pub(super) async fn authorities(bao: &OpenBao, name: &str) -> Result<String, TestbedError> {
    let body = json!({
        "common_name": format!("Perennial testbed root {name}"), "ttl": "87600h", "key_type": "ec", "key_bits": 256,
    });
    let reply = bao
        .api("POST", &format!("{ROOT}/root/generate/internal"), body)
        .await?;
    let root = text(&reply["data"]["certificate"], "certificate")?;
    set_default_issuer(bao, ROOT, &text(&reply["data"]["issuer_id"], "issuer_id")?).await?;
    intermediate(bao, name).await?;
    Ok(root + "\n")
}

/// Creates an intermediate of the current root and makes it the default issuer for apps and servers.
pub(super) async fn intermediate(bao: &OpenBao, name: &str) -> Result<(), TestbedError> {
    let body = json!({
        "common_name": format!("Perennial testbed intermediate {name}"), "key_type": "ec", "key_bits": 256,
    });
    let path = format!("{MOUNT}/intermediate/generate/internal");
    let reply = bao.api("POST", &path, body).await?;
    let body = json!({"csr": reply["data"]["csr"], "format": "pem_bundle", "ttl": "43800h"});
    let reply = bao
        .api("POST", &format!("{ROOT}/root/sign-intermediate"), body)
        .await?;
    let body = json!({"certificate": reply["data"]["certificate"]});
    let reply = bao
        .api("POST", &format!("{MOUNT}/intermediate/set-signed"), body)
        .await?;
    // Both are imported, but only the intermediate has its key here.
    let issuers = reply["data"]["mapping"].as_object();
    let issuer = issuers
        .and_then(|issuers| issuers.iter().find(|(_, key)| *key != ""))
        .ok_or(TestbedError::Incomplete("an issuer with a key"))?;
    set_default_issuer(bao, MOUNT, issuer.0).await
}

async fn set_default_issuer(bao: &OpenBao, mount: &str, issuer: &str) -> Result<(), TestbedError> {
    let body = json!({"default": issuer});
    bao.api("POST", &format!("{mount}/config/issuers"), body)
        .await
        .map(drop)
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

async fn roles(bao: &OpenBao) -> Result<(), TestbedError> {
    let mut client = json!({
        "key_type": "ec", "key_bits": 256, "client_flag": true, "server_flag": false,
        "allowed_domains": ["app", "app-*"], "allow_bare_domains": true,
        "allow_glob_domains": true, "allow_localhost": false, "enforce_hostnames": false,
        "generate_lease": false, "ttl": "1h", "max_ttl": "72h",
        // Without this, a request's own `not_after` could exceed `max_ttl`.
        "not_after_bound": "ttl-limited",
    });
    for (role, is_stored) in [(CLIENT_ROLE, false), (STORED_ROLE, true)] {
        client["no_store"] = (!is_stored).into();
        let path = format!("{MOUNT}/roles/{role}");
        bao.api("POST", &path, client.clone()).await?;
    }
    let server = json!({
        "key_type": "ec", "key_bits": 256, "client_flag": false, "server_flag": true,
        "allow_localhost": true, "allow_ip_sans": true, "no_store": true,
        "generate_lease": false, "max_ttl": "8760h", "not_after_bound": "ttl-limited",
    });
    bao.api("POST", &format!("{MOUNT}/roles/{SERVER_ROLE}"), server)
        .await?;
    Ok(())
}

/// Allows the app to request client certificates, to revoke a certificate that it sends, and to read the issuers; apart
/// from that only what every token may do with itself.
async fn approle(bao: &OpenBao) -> Result<AppRole, TestbedError> {
    let policy = format!(
        r#"path "{MOUNT}/sign/{CLIENT_ROLE}" {{ capabilities = ["update"] }}
path "{MOUNT}/issue/{CLIENT_ROLE}" {{ capabilities = ["update"] }}
path "{MOUNT}/sign/{STORED_ROLE}" {{ capabilities = ["update"] }}
path "{MOUNT}/issue/{STORED_ROLE}" {{ capabilities = ["update"] }}
path "{MOUNT}/issuer/+" {{ capabilities = ["read"] }}
path "{MOUNT}/revoke" {{
  capabilities = ["update"]
  allowed_parameters = {{ "certificate" = [] }}
}}"#
    );
    let path = format!("sys/policies/acl/{POLICY}");
    bao.api("PUT", &path, json!({"policy": policy})).await?;
    bao.api("POST", "sys/auth/approle", json!({"type": "approle"}))
        .await?;
    let body = json!({"token_policies": [POLICY], "token_ttl": "1h", "token_max_ttl": "24h"});
    bao.api("POST", APPROLE, body).await?;
    let role = bao
        .api("GET", &format!("{APPROLE}/role-id"), Value::Null)
        .await?;
    let secret = bao
        .api("POST", &format!("{APPROLE}/secret-id"), json!({}))
        .await?;
    Ok(AppRole {
        role_id: text(&role["data"]["role_id"], "role_id")?,
        secret_id: text(&secret["data"]["secret_id"], "secret_id")?,
    })
}
