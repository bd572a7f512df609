//! Keys, names and lifetimes, as requested and as received.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use perennial::{CertMaterial, LiveCert, Renewed};
use perennial_vault::KeyType;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::once::fetch;
use crate::{bao, role, source_at, source_with};

/// Type and size of the leaf's key, and the key.
fn public_key(material: &CertMaterial) -> (String, Vec<u8>) {
    let (_, leaf) = X509Certificate::from_der(&material.chain()[0]).unwrap();
    let key = leaf.public_key();
    let kind = match key.parsed().unwrap() {
        PublicKey::EC(point) => format!("ec {}", point.key_size()),
        PublicKey::RSA(rsa) => format!("rsa {}", rsa.key_size()),
        _ => key.algorithm.algorithm.to_id_string(),
    };
    (kind, key.raw.to_vec())
}

/// Scenario: S8, S15
#[tokio::test]
async fn every_key_type_is_signed_with_a_new_key_each_time() {
    let bao = bao().await;
    let table = [
        (KeyType::EcP256, "ec", 256, "ec 256"),
        (KeyType::EcP384, "ec", 384, "ec 384"),
        (KeyType::Ed25519, "ed25519", 0, "1.3.101.112"),
        (KeyType::Rsa2048, "rsa", 2_048, "rsa 2048"),
        (KeyType::Rsa3072, "rsa", 3_072, "rsa 3072"),
        (KeyType::Rsa4096, "rsa", 4_096, "rsa 4096"),
    ];
    for (key_type, role_type, bits, expected) in table {
        let fields = json!({ "key_type": role_type, "key_bits": bits });
        role(bao, "keys", fields).await;
        let builder = source_with(bao, "keys").await.key_type(key_type);
        let source = Arc::new(builder.build().unwrap());
        let material = fetch(&source).await.unwrap();
        let (kind, key) = public_key(&material);
        assert_eq!(kind, expected);
        // The longer RSA keys take a second or two each.
        if bits <= 2_048 {
            let next = fetch(&source).await.unwrap();
            assert_ne!(key, public_key(&next).1, "{key_type:?}");
        }
        // The core checks that key and certificate match, and that rustls can use them.
        drop(LiveCert::fixed(material).unwrap());
    }
}

/// Scenario: S15
#[tokio::test]
async fn issued_key_has_the_roles_type() {
    let bao = bao().await;
    let table = [
        ("ec", 256, "ec 256"),
        ("ed25519", 0, "1.3.101.112"),
        ("rsa", 2_048, "rsa 2048"),
    ];
    for (key_type, bits, expected) in table {
        let fields = json!({ "key_type": key_type, "key_bits": bits });
        role(bao, "issued-keys", fields).await;
        let builder = source_with(bao, "issued-keys").await.issue();
        let source = Arc::new(builder.build().unwrap());
        let material = fetch(&source).await.unwrap();
        assert_eq!(public_key(&material).0, expected);
        drop(LiveCert::fixed(material).unwrap());
    }
}

/// Scenario: S15
#[tokio::test]
async fn sign_and_issue_by_a_chosen_issuer_return_all_kinds_of_names() {
    let bao = bao().await;
    role(bao, "names", json!({})).await;
    for issue in [false, true] {
        let mut builder = source_with(bao, "names")
            .await
            .issuer("default")
            .dns_name("a.example")
            .dns_name("b.example")
            .ip(Ipv4Addr::LOCALHOST)
            .uri("spiffe://example/app")
            .uri("spiffe://example/app-2");
        if issue {
            builder = builder.issue();
        }
        let live = LiveCert::start(builder.build().unwrap()).await.unwrap();
        let snapshot = live.current().unwrap();
        let names = snapshot.names();
        assert_eq!(names.common_name.as_deref(), Some("app"));
        for name in ["a.example", "b.example"] {
            assert!(names.dns.iter().any(|n| n == name), "{names:?}");
        }
        assert_eq!(names.ip, [Ipv4Addr::LOCALHOST]);
        let uris = ["spiffe://example/app", "spiffe://example/app-2"];
        assert_eq!(names.uri, uris);
        assert_eq!(live.status().warnings, [""; 0]);
    }
}

/// Scenario: T4
#[tokio::test]
async fn shortened_lifetime_is_a_warning_in_the_status() {
    let bao = bao().await;
    role(bao, "short", json!({})).await;
    let builder = source_with(bao, "short")
        .await
        .ttl(Duration::from_secs(90_000));
    let live = LiveCert::start(builder.build().unwrap()).await.unwrap();
    let warnings = live.status().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("maxTTL"), "{warnings:?}");
    assert_eq!(live.current().unwrap().warnings(), warnings);
}

/// Scenario: T4
#[tokio::test]
async fn ca_that_is_about_to_expire_issues_a_shorter_certificate_with_a_warning() {
    let bao = bao().await;
    let mount = json!({ "type": "pki" });
    bao.api("POST", "sys/mounts/ending", mount).await.unwrap();
    let root = json!({ "common_name": "ending", "ttl": "600s", "key_type": "ec" });
    bao.api("POST", "ending/root/generate/internal", root)
        .await
        .unwrap();
    let role = json!({ "key_type": "ec", "allow_any_name": true, "ttl": "1h" });
    bao.api("POST", "ending/roles/app", role).await.unwrap();
    // Both the role's own `ttl` and the requested one are too long.
    for ttl in [None, Some(Duration::from_secs(3_600))] {
        let mut builder = source_at(bao, "ending", "app").await;
        if let Some(ttl) = ttl {
            builder = builder.ttl(ttl);
        }
        let live = LiveCert::start(builder.build().unwrap()).await.unwrap();
        let warnings = live.status().warnings;
        assert!(
            warnings[0].starts_with("the CA expires at "),
            "{warnings:?}"
        );
        let snapshot = live.current().unwrap();
        let lifetime = snapshot
            .not_after()
            .duration_since(snapshot.obtained_at())
            .unwrap();
        assert!(lifetime > Duration::from_secs(500), "{lifetime:?}");
    }
}

/// Scenario: F19
#[tokio::test]
async fn mount_with_many_issuers_costs_a_bounded_number_of_requests() {
    // Its audit log counts this test alone.
    let bao = &perennial_testbed::OpenBao::alone().await.unwrap();
    let mount = json!({ "type": "pki" });
    bao.api("POST", "sys/mounts/many", mount).await.unwrap();
    for n in 0..70 {
        let root = json!({ "common_name": format!("root {n}"), "ttl": "9000h", "key_type": "ec" });
        let path = "many/root/generate/internal";
        bao.api("POST", path, root).await.unwrap();
    }
    let role = json!({ "key_type": "ec", "allow_any_name": true, "ttl": "1h" });
    bao.api("POST", "many/roles/app", role).await.unwrap();
    let readings = || {
        let log = std::fs::read_to_string(bao.folder().join("audit.log")).unwrap();
        let of_one = |line: &&str| {
            line.contains(r#""type":"response""#) && line.contains(r#""path":"many/issuer/"#)
        };
        let listed = |line: &&str| {
            line.contains(r#""type":"response""#) && line.contains(r#""path":"many/issuers"#)
        };
        (
            log.lines().filter(of_one).count(),
            log.lines().filter(listed).count(),
        )
    };
    let builder = source_at(bao, "many", "app").await;
    let live = LiveCert::start(builder.build().unwrap()).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut renewals = 0;
    // Each renewal lists them once; the first list is followed by the only reading.
    while renewals < 4 || readings().1 < 3 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", readings());
        if let Ok(Renewed::Newer(_)) = live.renew().await {
            renewals += 1;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // A `manual_chain` or a new issuer would be read; nothing has changed since.
    assert_eq!(readings().0, 64);
    let warnings = live.status().warnings;
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("70 issuers, of which 64")),
        "{warnings:?}"
    );
}
