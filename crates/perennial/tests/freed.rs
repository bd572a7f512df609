//! No memory that the core frees holds a private key or a passphrase: each freed block is searched.
//!
//! In a process of its own, with an allocator of its own.

#![cfg(all(feature = "aws-lc-rs", feature = "pkcs12"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use perennial::{
    CertMaterial, CertSource, EnvSource, FetchContext, FetchReason, Fetched, FileSource, LiveCert,
};
use perennial_freed::{Freed, found, watch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

#[global_allocator]
static ALLOCATOR: perennial_freed::Allocator = perennial_freed::Allocator;

const PASSPHRASE: &str = "open sesame";

/// The key in `keys/` and `p12/`, which all files of this test hold.
const KEY: &str = include_str!("sources/keys/ec.pkcs8.pem");
const SEC1: &str = include_str!("sources/keys/ec.sec1.pem");

/// Never freed: what the test itself frees must not be found.
fn kept(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn der(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    Base64::decode_vec(&lines.collect::<String>()).unwrap()
}

/// The certificates of the key and of another one, and their root.
#[expect(clippy::disallowed_methods, reason = "sources read the real clock")]
fn issue() -> [&'static str; 3] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3_600)).into();
    let key = KeyPair::from_pem(KEY).unwrap();
    let other = KeyPair::generate().unwrap();
    [
        kept(params.signed_by(&key, &ca).unwrap().pem()),
        kept(params.signed_by(&other, &ca).unwrap().pem()),
        kept(ca.pem()),
    ]
}

/// Pieces of the key: of its base64 within one line, in each form, and of the secret number.
fn secrets() -> Vec<Vec<u8>> {
    let der = der(KEY);
    // `privateKey [..] OCTET STRING (32)`: the number follows 04 20.
    let at = der.windows(2).position(|tag| tag == [4, 0x20]).unwrap() + 2;
    let number = der[at + 4..at + 28].to_vec();
    let piece = |pem: &str| {
        let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        // Past the first line, which is the same for all keys of a kind.
        lines.as_bytes()[66..98].to_vec()
    };
    let base64_of_pem = Base64::encode_string(KEY.as_bytes());
    let base64_of_pem = base64_of_pem.as_bytes()[150..182].to_vec();
    vec![
        number,
        piece(KEY),
        piece(SEC1),
        base64_of_pem,
        PASSPHRASE.into(),
    ]
}

/// Fails if a block with a secret was freed since the last time.
fn nothing_is_left(what: &str, secrets: &[Vec<u8>]) {
    let left: Vec<_> = found()
        .iter()
        .map(|Freed { secret, block }| format!("secret {secret} in {} bytes", block.len()))
        .collect();
    assert!(left.is_empty(), "{what}: {left:#?}");
    search(secrets);
}

fn search(secrets: &[Vec<u8>]) {
    let secrets: Vec<_> = secrets.iter().map(Vec::as_slice).collect();
    watch(&secrets);
}

async fn fetch(source: &impl CertSource) -> Option<CertMaterial> {
    let fetched = source.fetch(FetchContext::new(FetchReason::Start, None));
    match fetched.await {
        Ok(Fetched::Certificate(material)) => Some(material),
        Ok(other) => panic!("{other:?}"),
        Err(_refused) => None,
    }
}

/// Scenario: F14
#[tokio::test]
async fn freed_memory_holds_no_key_and_no_passphrase() {
    let secrets = secrets();
    let [chain, other_chain, roots] = issue();
    let unreadable = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let der = &*Box::leak(der(KEY).into_boxed_slice());
    let base64_of_pem = kept(Base64::encode_string(KEY.as_bytes()));
    let spaced = kept(KEY.replace('\n', " "));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, content: &[u8]| -> PathBuf {
        std::fs::write(path(name), content).unwrap();
        path(name)
    };
    let chain_file = write("tls.crt", chain.as_bytes());
    let other_file = write("other.crt", other_chain.as_bytes());
    let roots_file = write("ca.crt", roots.as_bytes());
    let bad_file = write("bad.crt", unreadable.as_bytes());
    let passphrase_file = write("passphrase", format!("{PASSPHRASE}\n").as_bytes());
    let fixture = |name: &str| {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/sources")
            .join(name)
    };

    search(&secrets);
    // The search works, or the rest would prove nothing.
    for secret in &secrets {
        drop(secret.clone());
    }
    assert_eq!(found().len(), secrets.len());
    search(&secrets);

    for key in [
        KEY.as_bytes(),
        SEC1.as_bytes(),
        der,
        base64_of_pem.as_bytes(),
        spaced.as_bytes(),
    ] {
        for (chain, roots) in [
            (chain, roots),
            (unreadable, roots),
            ("", roots),
            (chain, ""),
        ] {
            let _material = CertMaterial::from_bytes(chain, key, roots);
            let _material = CertMaterial::from_pem(chain, key, roots);
        }
        nothing_is_left("from bytes", &secrets);
    }

    let keys = ["keys/ec.pkcs8.pem", "keys/ec.sec1.pem"].map(fixture);
    for key in keys {
        for (chain, roots) in [
            (&chain_file, &roots_file),
            // Half of a pair has been replaced.
            (&other_file, &roots_file),
            (&bad_file, &roots_file),
            (&chain_file, &bad_file),
            (&chain_file, &path("missing")),
        ] {
            let source = FileSource::new(chain, &key, roots);
            let is_good = chain == &chain_file && roots == &roots_file;
            assert_eq!(fetch(&source).await.is_some(), is_good);
        }
    }
    nothing_is_left("files", &secrets);

    let encrypted = [
        "ec.encrypted.pem",
        "ec.scrypt.pem",
        "ec.des3.pem",
        "ec.pbes1.pem",
    ];
    for name in encrypted.map(|name| format!("keys/{name}")) {
        let source = FileSource::new(&chain_file, fixture(&name), &roots_file);
        let source = source.passphrase_file(&passphrase_file);
        assert!(fetch(&source).await.is_some(), "{name}");
        nothing_is_left(&name, &secrets);
    }

    let containers = [
        "modern.p12",
        "legacy.p12",
        "plain.p12",
        "without-mac.p12",
        "aria.p12",
    ];
    for name in containers.map(|name| format!("p12/{name}")) {
        let source = FileSource::combined(fixture(&name), &roots_file);
        let source = source.passphrase_file(&passphrase_file);
        assert_eq!(fetch(&source).await.is_some(), !name.contains("aria"));
        nothing_is_left(&name, &secrets);
    }

    let is_child = std::env::vars_os().any(|(name, _)| name == "PERENNIAL_TEST_CHAIN");
    search(&secrets);
    if is_child {
        let of = |chain: &str, roots: &str| EnvSource::new(chain, "PERENNIAL_TEST_KEY", roots);
        let (chain, roots) = ("PERENNIAL_TEST_CHAIN", "PERENNIAL_TEST_ROOTS");
        assert!(fetch(&of(chain, roots)).await.is_some());
        assert!(fetch(&of(roots, roots)).await.is_none());
        assert!(fetch(&of(chain, "PERENNIAL_TEST_UNSET")).await.is_none());
        let changed = of(chain, roots);
        let _ = fetch(&changed).await;
        let _never = tokio::time::timeout(Duration::from_millis(50), changed.changed()).await;
        nothing_is_left("variables", &secrets);
    }

    let source = || FileSource::new(&chain_file, fixture("keys/ec.pkcs8.pem"), &roots_file);
    for start in ["written", "read", "refused"] {
        if start == "refused" {
            let mut saved = std::fs::File::options()
                .append(true)
                .open(path("saved"))
                .unwrap();
            std::io::Write::write_all(&mut saved, b"more").unwrap();
        }
        let live = LiveCert::start(source().saved_at(path("saved")))
            .await
            .unwrap();
        #[cfg(feature = "export")]
        assert!(live.current().unwrap().export().is_ok());
        live.shutdown(Duration::from_secs(60)).await.unwrap();
        drop(live);
        nothing_is_left(start, &secrets);
    }
    assert!(path("saved").exists());
    // The test's own copies are freed after this.
    watch(&[b"nothing more is searched"]);
    if !is_child {
        run_with_variables(chain, roots);
    }
}

/// Runs this test again in a process whose variables hold what it reads.
fn run_with_variables(chain: &str, roots: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .arg("--exact")
        .arg("freed_memory_holds_no_key_and_no_passphrase")
        .env("PERENNIAL_TEST_CHAIN", chain)
        .env("PERENNIAL_TEST_KEY", KEY)
        .env("PERENNIAL_TEST_ROOTS", roots)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("1 passed"), "{output:?}");
}
