//! Changes of the CA: revocation lists, and a new root as Vault recommends it.

use std::time::Duration;

use anyhow::Context;
use perennial_testbed::OpenBao;
use perennial_testbed::serde_json::{Value, json};

/// The mounts of the testbed's roots and of its intermediate.
const ROOTS: &str = "pki";
const ISSUING: &str = "pki_int";

/// The CA at one time: its root, and the intermediate that issues.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    /// The root's issuer in its own mount.
    root: String,
    /// The root (PEM).
    pub(super) root_pem: String,
    /// The intermediate's issuer.
    issuer: String,
    /// The intermediate (PEM).
    pub(super) issuer_pem: String,
}

/// Both CAs while one replaces the other.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) from: Authority,
    pub(super) to: Authority,
}

impl Authority {
    /// The current one.
    pub(super) async fn current(bao: &OpenBao) -> anyhow::Result<Self> {
        let (root, root_pem) = default_issuer(bao, ROOTS).await?;
        let (issuer, issuer_pem) = default_issuer(bao, ISSUING).await?;
        Ok(Self {
            root,
            root_pem,
            issuer,
            issuer_pem,
        })
    }

    /// Creates a new root, which cross-signs the intermediate's key; `manual_chain` names both intermediates and roots.
    pub(super) async fn cross_sign(self, bao: &OpenBao, name: &str) -> anyhow::Result<Change> {
        let body = json!({"common_name": name, "ttl": "87600h", "key_type": "ec", "key_bits": 256});
        let path = format!("{ROOTS}/root/generate/internal");
        let generated = bao.api("POST", &path, body).await?["data"].take();
        let (root, root_pem) = (
            text(&generated["issuer_id"])?,
            pem(&generated["certificate"])?,
        );

        let issuer = format!("{ISSUING}/issuer/{}", self.issuer);
        let read = bao.api("GET", &issuer, Value::Null).await?["data"].take();
        let body =
            json!({"common_name": "Perennial testbed intermediate A", "key_ref": read["key_id"]});
        let path = format!("{ISSUING}/intermediate/cross-sign");
        let csr = bao.api("POST", &path, body).await?["data"]["csr"].take();
        let body = json!({"csr": csr, "use_csr_values": true, "ttl": "43800h"});
        let path = format!("{ROOTS}/issuer/{root}/sign-intermediate");
        let crossed = pem(&bao.api("POST", &path, body).await?["data"]["certificate"])?;

        let body = json!({"pem_bundle": format!("{crossed}{root_pem}")});
        let path = format!("{ISSUING}/issuers/import/bundle");
        bao.api("POST", &path, body).await?;
        let mut chain = vec![self.issuer.clone()];
        for wanted in [&self.root_pem, &crossed, &root_pem] {
            chain.push(find(bao, wanted).await?);
        }
        let to = Self {
            root,
            root_pem,
            issuer: chain[2].clone(),
            issuer_pem: crossed,
        };
        let body = json!({"manual_chain": chain.join(",")});
        bao.api("POST", &issuer, body).await?;
        Ok(Change { from: self, to })
    }

    /// Fresh revocation lists of this CA (PEM), valid for `lifetime`.
    pub(super) async fn lists(&self, bao: &OpenBao, lifetime: Duration) -> anyhow::Result<String> {
        let mut lists = String::new();
        for (mount, issuer) in [(ROOTS, &self.root), (ISSUING, &self.issuer)] {
            let body = json!({"expiry": format!("{}s", lifetime.as_secs())});
            bao.api("POST", &format!("{mount}/config/crl"), body)
                .await?;
            bao.api("GET", &format!("{mount}/crl/rotate"), Value::Null)
                .await?;
            let path = format!("{mount}/issuer/{issuer}/crl");
            lists += &pem(&bao.api("GET", &path, Value::Null).await?["data"]["crl"])?;
        }
        Ok(lists)
    }

    /// Refuses a certificate from now on, as soon as a fresh list is used.
    pub(super) async fn revoke(bao: &OpenBao, serial: &str) -> anyhow::Result<()> {
        let body = json!({"serial_number": serial});
        bao.api("POST", &format!("{ISSUING}/revoke"), body).await?;
        Ok(())
    }
}

impl Change {
    /// The lists of both.
    pub(super) async fn lists(&self, bao: &OpenBao, lifetime: Duration) -> anyhow::Result<String> {
        let old = self.from.lists(bao, lifetime).await?;
        Ok(old + &self.to.lists(bao, lifetime).await?)
    }

    /// Makes the new intermediate issue, and removes the old one from use.
    pub(super) async fn switch(&self, bao: &OpenBao) -> anyhow::Result<()> {
        for (mount, default) in [(ISSUING, &self.to.issuer), (ROOTS, &self.to.root)] {
            let path = format!("{mount}/config/issuers");
            bao.api("POST", &path, json!({"default": default})).await?;
        }
        Ok(())
    }

    /// Deletes the old intermediate and the old root.
    pub(super) async fn finish(self, bao: &OpenBao) -> anyhow::Result<Authority> {
        let old_root = find(bao, &self.from.root_pem).await?;
        for issuer in [&self.from.issuer, &old_root] {
            let path = format!("{ISSUING}/issuer/{issuer}");
            bao.api("DELETE", &path, Value::Null).await?;
        }
        Ok(self.to)
    }
}

async fn default_issuer(bao: &OpenBao, mount: &str) -> anyhow::Result<(String, String)> {
    let path = format!("{mount}/config/issuers");
    let default = text(&bao.api("GET", &path, Value::Null).await?["data"]["default"])?;
    let path = format!("{mount}/issuer/{default}");
    let certificate = pem(&bao.api("GET", &path, Value::Null).await?["data"]["certificate"])?;
    Ok((default, certificate))
}

/// The issuer in the intermediate's mount that has this certificate.
async fn find(bao: &OpenBao, certificate: &str) -> anyhow::Result<String> {
    let listed = bao
        .api("LIST", &format!("{ISSUING}/issuers"), Value::Null)
        .await?;
    for id in listed["data"]["keys"].as_array().context("no issuers")? {
        let id = text(id)?;
        let read = bao
            .api("GET", &format!("{ISSUING}/issuer/{id}"), Value::Null)
            .await?;
        if pem(&read["data"]["certificate"])? == certificate {
            return Ok(id);
        }
    }
    anyhow::bail!("an imported issuer is missing")
}

fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().context("a reply without a text")?.to_owned())
}

/// PEM with exactly one line end at its end.
fn pem(value: &Value) -> anyhow::Result<String> {
    Ok(text(value)?.trim_end().to_owned() + "\n")
}
