//! Certificates as the world writes them, at real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use perennial::{LiveCert, Snapshot};
use perennial_testbed::OpenBao;
use perennial_testbed::serde_json::{Value, json};
use perennial_tests::{HOUR, Load, Stage, eventually, renew};

/// Postgres logs this for a failed handshake, whichever side ended it.
const FAILED: &str = "could not accept SSL connection";

/// Vault's own guide for the change of a root: a new root certifies the intermediate too, and the
/// issuer's `manual_chain` names both certificates. Returns the new root and the new certificate.
async fn cross_sign(bao: &OpenBao) -> (String, String) {
    let ask = json!({"common_name": "Root B", "ttl": "87600h", "key_type": "ec", "issuer_name": "root-b"});
    let root = post(bao, "pki/root/generate/internal", ask).await["certificate"].clone();
    let config = bao.api("GET", "pki_int/config/issuers", Value::Null).await;
    let issuer = config.unwrap()["data"]["default"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("pki_int/issuer/{issuer}");
    let read = bao.api("GET", &path, Value::Null).await.unwrap()["data"].clone();
    let ask = json!({"common_name": "Perennial testbed intermediate A", "key_ref": read["key_id"]});
    let csr = post(bao, "pki_int/intermediate/cross-sign", ask).await["csr"].clone();
    let ask = json!({"csr": csr, "use_csr_values": true, "ttl": "43800h"});
    let signed = post(bao, "pki/issuer/root-b/sign-intermediate", ask).await;
    let (root, crossed) = (line_end(&root), line_end(&signed["certificate"]));
    let bundle = json!({"pem_bundle": format!("{crossed}{root}")});
    let imported = post(bao, "pki_int/issuers/import/bundle", bundle).await;
    let mut chain = issuer;
    for id in imported["imported_issuers"].as_array().unwrap() {
        let id = id.as_str().unwrap();
        let path = format!("pki_int/issuer/{id}");
        let read = bao.api("GET", &path, Value::Null).await.unwrap();
        if line_end(&read["data"]["certificate"]) == crossed {
            chain = format!("{chain},{id}");
        }
    }
    assert!(chain.contains(','), "{imported}");
    post(bao, &path, json!({"manual_chain": chain})).await;
    (root, crossed)
}

async fn post(bao: &OpenBao, path: &str, body: Value) -> Value {
    bao.api("POST", path, body).await.unwrap()["data"].clone()
}

fn line_end(pem: &Value) -> String {
    format!("{}\n", pem.as_str().unwrap().trim())
}

/// Scenario: N01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_changes_as_vault_recommends_without_a_failed_query_or_a_wasted_certificate() {
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 4).await;
    stage.all_on(&live.current().unwrap(), 4).await;
    let load = Load::on(&pool, 4);
    let before = bao.issued().await.unwrap();
    let mut published = 0;
    let mut move_all = async || {
        let snapshot = renew(&live).await;
        published += 1;
        stage.all_on(&snapshot, 4).await;
        assert_eq!(bao.issued().await.unwrap(), before + published);
        snapshot
    };

    let root_a = bao.roots_pem().to_owned();
    let (root_b, crossed) = cross_sign(bao).await;
    let snapshot = move_all().await;
    assert_eq!(
        presented(&snapshot),
        3,
        "the leaf and both certificates of its issuer"
    );
    postgres.trust(&format!("{root_a}{root_b}")).await.unwrap();
    move_all().await;

    // Other roots are a generation of their own, and cost no certificate.
    eventually("root B is trusted", async || {
        live.current().unwrap().generation() == 4
    })
    .await;
    // The server's certificate leads to root B alone.
    let mut server = bao.server_certificate().await.unwrap();
    let (leaf, _intermediate) = server
        .chain
        .split_at(server.chain.rfind("-----BEGIN").unwrap());
    server.chain = format!("{leaf}{crossed}");
    postgres.present(&server).await.unwrap();
    postgres.trust(&root_b).await.unwrap();
    move_all().await;

    // And a new start needs one certificate, too.
    let source = stage.pki().ttl(HOUR).build().unwrap();
    let started = LiveCert::start(source).await.unwrap();
    assert_eq!(bao.issued().await.unwrap(), before + 4);
    assert_eq!(started.current().unwrap().generation(), 1);
    assert!(load.finish().await > 0);
    assert!(!postgres.log().contains(FAILED), "{}", postgres.log());
    drop(pool);
}

/// How many certificates a snapshot presents.
fn presented(snapshot: &Snapshot) -> usize {
    let config = snapshot.client_config();
    let resolver = &config.client_auth_cert_resolver;
    let schemes = [perennial::rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
    resolver.resolve(&[], &schemes).unwrap().cert.len()
}
