//! No memory that this crate frees holds a secret: each freed block is searched.
//!
//! In a process of its own, with an allocator of its own. Buffers of the HTTP stack are not wiped
//! (SECURITY.md says so): they hold whole messages, and are known by their first line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::{CertSource, FetchContext, FetchReason, Fetched, LiveCert};
use perennial_freed::{Freed, found, watch};
use perennial_vault::{Auth, Secret, Vault};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: perennial_freed::Allocator = perennial_freed::Allocator;

const GIVEN: &str = "s.GIVENGIVENGIVENGIVEN";
const GRANTED: &str = "s.GRANTEDGRANTEDGRANTED";

/// A server that frees nothing: what a client frees is found alone.
async fn serve(replies: HashMap<&'static str, String>) -> String {
    let replies: &'static HashMap<_, _> = Box::leak(Box::new(replies));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let buffer: &'static mut [u8] = Box::leak(vec![0; 1 << 16].into_boxed_slice());
                let mut filled = 0;
                loop {
                    let count = stream.read(&mut buffer[filled..]).await.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    filled += count;
                    if !is_whole(&buffer[..filled]) {
                        continue;
                    }
                    let line = buffer[..filled]
                        .split(|byte| *byte == b'\r')
                        .next()
                        .unwrap();
                    let line = std::str::from_utf8(line).unwrap();
                    let path = line.split(' ').nth(1).unwrap();
                    let reply = replies.get(path).map_or(NOT_FOUND, String::as_str);
                    stream.write_all(reply.as_bytes()).await.unwrap();
                    // The next request goes behind it: what was read is not overwritten.
                    filled = 0;
                }
            });
        }
    });
    address
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n{\"errors\":[]}";

/// Whether a request has arrived whole.
fn is_whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|end| end == b"\r\n\r\n") else {
        return false;
    };
    let text = std::str::from_utf8(&request[..head]).unwrap();
    let length = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.parse().unwrap());
    request.len() >= head + 4 + length
}

fn reply(body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An `issue` reply with this key.
#[expect(clippy::disallowed_methods, reason = "a CA has a clock of its own")]
fn issued(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "app");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - Duration::from_secs(30)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3_600)).into();
    let leaf = params.signed_by(key, &ca).unwrap();
    reply(&json!({ "data": {
        "certificate": leaf.pem(), "issuing_ca": ca.pem(), "ca_chain": [ca.pem()],
        "private_key": key.serialize_pem().trim_end(), "private_key_type": "ec",
    }}))
}

/// Pieces of a key: of its base64 text, within one line, and of its bytes.
fn pieces(key: &KeyPair) -> [Vec<u8>; 2] {
    let pem = key.serialize_pem();
    let line = pem.lines().nth(2).unwrap();
    let der = key.serialized_der();
    // The secret number of P-256 is within its first 70 bytes; RSA's are nearly everywhere.
    let at = if der.len() < 200 { 40 } else { der.len() / 2 };
    [line.as_bytes()[8..40].to_vec(), der[at..at + 24].to_vec()]
}

/// What was freed by anything but the HTTP stack.
fn left_by_us() -> Vec<Freed> {
    let of_http = |freed: &Freed| freed.block.windows(8).any(|bytes| bytes == b"HTTP/1.1");
    let mut found = found();
    found.retain(|freed| !of_http(freed));
    found
}

/// Each with the secret's number, the block's length, and its text as far as it has one.
fn shown(found: &[Freed]) -> Vec<String> {
    let show = |freed: &Freed| {
        let text = String::from_utf8_lossy(&freed.block).into_owned();
        let begin: String = text.chars().take(80).collect();
        format!(
            "secret {} in {} bytes: {begin:?}",
            freed.secret,
            freed.block.len()
        )
    };
    found.iter().map(show).collect()
}

/// Fetches once, publishes what was fetched, and drops everything.
async fn use_once(address: &str, auth: Auth, issue: bool) {
    let vault = Vault::builder(address).auth(auth).build().unwrap();
    let mut builder = vault.pki("pki").role("app").common_name("app");
    if issue {
        builder = builder.issue();
    }
    let source = Arc::new(builder.build().unwrap());
    let fetched = source
        .fetch(FetchContext::new(FetchReason::Due, None))
        .await;
    match fetched {
        Ok(Fetched::Certificate(material)) => drop(LiveCert::fixed(material).unwrap()),
        Ok(other) => panic!("{other:?}"),
        // Without `issue` there is no answer to a signing request.
        Err(_) => assert!(!issue),
    }
}

/// Scenario: F14, F26
#[tokio::test]
async fn freed_memory_holds_no_token_no_credential_and_no_issued_key() {
    let ec = KeyPair::generate().unwrap();
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
    let rsa = rsa.unwrap();
    let login = reply(&json!({
        "auth": { "client_token": GRANTED, "lease_duration": 3_600, "renewable": true },
    }));
    let jwt = |path: &'static str, key: &KeyPair| {
        HashMap::from([
            ("/v1/auth/jwt/login", login.clone()),
            ("/v1/auth/cert/login", login.clone()),
            (path, issued(key)),
        ])
    };
    let with_ec = serve(jwt("/v1/pki/issue/app", &ec)).await;
    let with_rsa = serve(jwt("/v1/pki/issue/app", &rsa)).await;
    let first = KeyPair::generate().unwrap();
    let first_chain = CertificateParams::default()
        .self_signed(&first)
        .unwrap()
        .pem();
    let first_pem = first.serialize_pem();
    // Long, as those of platforms are, so that a growing buffer would be moved several times.
    let body: String = ('a'..='z').cycle().take(3_000).collect();
    let secret = "THE-SIGNATURE-OF-THE-JWT";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwt");
    std::fs::write(&file, format!("{body}.{secret}\n")).unwrap();
    let leaked: &'static str = Box::leak(format!("{body}.{secret}").into_boxed_str());

    let [ec_text, ec_der] = pieces(&ec);
    let [rsa_text, rsa_der] = pieces(&rsa);
    let [first_text, first_der] = pieces(&first);
    let secrets = [
        secret.as_bytes(),
        GIVEN.as_bytes(),
        GRANTED.as_bytes(),
        &ec_text,
        &ec_der,
        &rsa_text,
        &rsa_der,
        &first_text,
        &first_der,
    ];
    watch(&secrets);
    // The search works, or the rest would prove nothing.
    for secret in secrets {
        drop(secret.to_vec());
    }
    assert_eq!(found().len(), secrets.len());
    watch(&secrets);

    let jwt = || Auth::jwt("app", Secret::file(&file));
    use_once(&with_ec, jwt(), true).await;
    use_once(&with_rsa, jwt(), true).await;
    use_once(&with_ec, Auth::jwt("app", leaked), true).await;
    use_once(&with_ec, Auth::token(GIVEN), true).await;
    let (chain, key) = (first_chain.as_str(), first_pem.as_str());
    use_once(&with_ec, Auth::tls_certificate("app", chain, key), true).await;
    use_once(&with_ec, jwt(), false).await;
    let left = left_by_us();
    // They are freed by the test itself.
    watch(&[b"nothing more is searched"]);
    assert!(left.is_empty(), "{:#?}", shown(&left));
}
