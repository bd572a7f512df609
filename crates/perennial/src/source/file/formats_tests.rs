//! S5: certificates and keys in every form are read, or refused with the reason.

use base64ct::{Base64, Encoding};

use super::super::testing::{EC_PKCS8, Files, ask, certificate, der, issued_for, now, pem};
use super::*;
use crate::testing::{MINUTE, TestCa};
use crate::{CertMaterial, FetchReason};

const EC_SEC1: &str = include_str!("../../../tests/sources/keys/ec.sec1.pem");
const RSA_PKCS8: &str = include_str!("../../../tests/sources/keys/rsa.pkcs8.pem");
const RSA_PKCS1: &str = include_str!("../../../tests/sources/keys/rsa.pkcs1.pem");

type Form = fn(&str) -> Vec<u8>;

/// The forms that any one part may have.
const FORMS: [(&str, Form); 15] = [
    ("PEM", |pem| pem.into()),
    ("CRLF", |pem| pem.replace('\n', "\r\n").into()),
    ("CR", |pem| pem.replace('\n', "\r").into()),
    ("text around", |pem| {
        format!("Bag Attributes\n  x: y\n{pem}\nthe end\n").into()
    }),
    ("indented", |pem| pem.replace('\n', "\n  ").into()),
    ("spaces for line ends", |pem| pem.replace('\n', " ").into()),
    ("no line ends", |pem| pem.replace('\n', "").into()),
    ("escaped line ends", |pem| pem.replace('\n', r"\n").into()),
    ("JSON within JSON", |pem| {
        let pem = pem.replace('/', r"\/").replace('\n', r"\\r\\n");
        format!("\"{pem}\"").into()
    }),
    ("byte order mark", |pem| format!("\u{feff}{pem}").into()),
    ("base64 of PEM", |pem| {
        Base64::encode_string(pem.as_bytes()).into()
    }),
    ("base64 of PEM with its mark and line ends", |pem| {
        let pem = format!("\u{feff}{}", pem.replace('\n', "\r\n"));
        lines_of(&Base64::encode_string(pem.as_bytes()))
    }),
    ("DER", der),
    ("base64", |pem| Base64::encode_string(&der(pem)).into()),
    ("base64 in lines", |pem| {
        lines_of(&Base64::encode_string(&der(pem)))
    }),
];

fn lines_of(base64: &str) -> Vec<u8> {
    let lines = base64.as_bytes().chunks(76);
    lines.flat_map(|line| [line, b"\r\n"].concat()).collect()
}

/// Scenario: S5, N11
#[tokio::test]
async fn every_kind_of_key_is_read_in_every_form() {
    let keys = [
        ("SEC1", EC_SEC1, EC_PKCS8),
        ("PKCS#8 of EC", EC_PKCS8, EC_PKCS8),
        ("PKCS#1", RSA_PKCS1, RSA_PKCS8),
        ("PKCS#8 of RSA", RSA_PKCS8, RSA_PKCS8),
    ];
    for (kind, key, pkcs8) in keys {
        let (chain, roots) = issued_for(pkcs8);
        let files = Files::empty();
        for (form, encode) in FORMS {
            files.write("tls.crt", encode(&chain));
            files.write("tls.key", encode(key));
            files.write("ca.crt", encode(&roots));
            let material = files.source().fetch(ask(FetchReason::Start)).await;
            assert!(material.is_ok(), "{kind} in {form}: {material:?}");
        }
    }
}

/// Scenario: N10
#[tokio::test]
async fn key_under_the_label_of_any_other_form_is_read() {
    let labels = [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "ED25519 PRIVATE KEY",
    ];
    let keys = [
        (EC_SEC1, EC_PKCS8),
        (EC_PKCS8, EC_PKCS8),
        (RSA_PKCS1, RSA_PKCS8),
    ];
    for (key, pkcs8) in keys {
        let (chain, roots) = issued_for(pkcs8);
        for label in labels {
            let files = Files::of(&(chain.clone(), labelled(label, &der(key)), roots.clone()));
            let material = files.source().fetch(ask(FetchReason::Start)).await;
            assert!(material.is_ok(), "{label}: {material:?}");
        }
    }
}

fn labelled(label: &str, der: &[u8]) -> String {
    let base64 = Base64::encode_string(der);
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

/// As `openssl x509 -trustout -addtrust clientAuth` writes it: what is trusted follows.
fn trusted(pem: &str) -> String {
    let trust = [
        &[0x30, 12, 0x30, 10, 6, 8][..],
        b"\x2b\x06\x01\x05\x05\x07\x03\x02",
    ];
    labelled("TRUSTED CERTIFICATE", &[der(pem), trust.concat()].concat())
}

/// Scenario: N12
#[tokio::test]
async fn trusted_certificate_is_used_next_to_plain_ones_and_alone() {
    let (chain, key, roots) = pem(&TestCa::new());
    let other = pem(&TestCa::new()).2;
    let (leaf, intermediate) = chain.split_at(chain.rfind("-----BEGIN").unwrap());
    let x509 = labelled("X509 CERTIFICATE", &der(intermediate));
    let unknown = labelled("CERTIFICATE OF THE CA", &der(intermediate));
    let table = [
        (trusted(leaf) + intermediate, roots.clone() + &other, 2),
        (
            trusted(leaf) + &trusted(intermediate),
            trusted(&roots) + &other,
            2,
        ),
        (leaf.to_owned() + &x509, other.clone() + &trusted(&roots), 2),
        (
            leaf.to_owned() + &unknown,
            trusted(&other) + &trusted(&roots),
            2,
        ),
    ];
    for (chain, roots, expected) in table {
        let files = Files::of(&(chain, key.clone(), roots));
        let material = certificate(files.source().fetch(ask(FetchReason::Start)).await.unwrap());
        assert_eq!(material.chain().len(), 2);
        assert_eq!(material.roots().len(), expected);
    }
}

/// Scenario: N24
#[tokio::test]
async fn byte_order_mark_before_any_block_of_joined_files_is_ignored() {
    let (chain, key, roots) = pem(&TestCa::new());
    let marked = |text: &str| {
        let text = text.replace("-----BEGIN", "\u{feff}-----BEGIN");
        text.replace('\n', "\r\n")
            .replace("-----END", "\u{feff}-----END")
            + "\u{feff}"
    };
    let files = Files::of(&(
        marked(&chain),
        marked(&key),
        marked(&(roots.clone() + &roots)),
    ));
    let material = certificate(files.source().fetch(ask(FetchReason::Start)).await.unwrap());
    assert_eq!((material.chain().len(), material.roots().len()), (2, 2));
}

#[tokio::test]
async fn source_without_roots_delivers_none() {
    let files = Files::of(&pem(&TestCa::new()));
    let source = FileSource::without_roots(files.path("tls.crt"), files.path("tls.key"));
    let material = certificate(source.fetch(ask(FetchReason::Start)).await.unwrap());
    assert_eq!((material.chain().len(), material.roots().len()), (2, 0));
}

#[tokio::test]
async fn pair_in_one_file_is_read_in_either_order() {
    let (chain, key, roots) = pem(&TestCa::new());
    let files = Files::empty();
    files.write("ca.crt", &roots);
    for pair in [format!("{chain}{key}"), format!("{key}{chain}")] {
        files.write("pair.pem", pair);
        let source = FileSource::combined(files.path("pair.pem"), files.path("ca.crt"));
        let material = certificate(source.fetch(ask(FetchReason::Start)).await.unwrap());
        assert_eq!(material.chain().len(), 2);
        // The same file named twice is the same thing.
        let pair = || files.path("pair.pem");
        let twice = FileSource::new(pair(), pair(), files.path("ca.crt"));
        assert!(twice.fetch(ask(FetchReason::Start)).await.is_ok());
    }
}

/// Scenario: S5
#[tokio::test]
async fn roots_of_several_files_and_several_in_one_are_all_trusted() {
    let set = pem(&TestCa::new());
    let others = [TestCa::new(), TestCa::new(), TestCa::new()].map(|ca| pem(&ca).2);
    let files = Files::of(&set);
    files.write("ca.crt", format!("{}\nolder\n{}", set.2, others[0]));
    files.write("more.crt", others[1].clone() + &others[2]);
    let source = files.source().more_roots(files.path("more.crt"));
    let material = certificate(source.fetch(ask(FetchReason::Start)).await.unwrap());
    assert_eq!(material.roots().len(), 4);
}

#[tokio::test]
async fn from_bytes_takes_each_part_in_its_own_form() {
    let (chain, key, roots) = TestCa::new().pem(now(), MINUTE);
    let material = CertMaterial::from_bytes(chain, der(&key), Base64::encode_string(&der(&roots)));
    assert_eq!(material.unwrap().chain().len(), 2);
}

#[tokio::test]
async fn parameters_before_a_key_are_ignored() {
    // What `openssl ecparam -genkey` writes.
    let (chain, roots) = issued_for(EC_PKCS8);
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let files = Files::of(&(chain, format!("{parameters}{EC_SEC1}"), roots));
    assert!(files.source().fetch(ask(FetchReason::Start)).await.is_ok());
}

#[cfg(feature = "encrypted-keys")]
mod encrypted {
    use super::super::super::testing::{in_time, shown};
    use super::*;

    const ENCRYPTED: &str = include_str!("../../../tests/sources/keys/ec.encrypted.pem");
    const SCRYPT: &str = include_str!("../../../tests/sources/keys/ec.scrypt.pem");
    const SHA1: &str = include_str!("../../../tests/sources/keys/ec.sha1.pem");
    const DES3: &str = include_str!("../../../tests/sources/keys/ec.des3.pem");
    const PBES1: &str = include_str!("../../../tests/sources/keys/ec.pbes1.pem");
    const MD5: &str = include_str!("../../../tests/sources/keys/ec.md5.pem");
    const ARIA: &str = include_str!("../../../tests/sources/keys/ec.aria.pem");
    const ROUNDS: &str = include_str!("../../../tests/sources/keys/ec.rounds.pem");
    const OLD: &str = include_str!("../../../tests/sources/keys/ec.old.pem");
    const PASSPHRASE: &str = "open sesame";

    fn files(key: impl AsRef<[u8]>) -> Files {
        let (chain, roots) = issued_for(EC_PKCS8);
        let files = Files::of(&(chain, String::new(), roots));
        files.write("tls.key", key);
        files
    }

    async fn fetch(source: FileSource) -> Result<Fetched, String> {
        let fetched = source.fetch(ask(FetchReason::Start)).await;
        fetched.map_err(|error| shown(&error))
    }

    /// Scenario: N18
    #[tokio::test]
    async fn encrypted_key_is_decrypted_in_every_form() {
        let mislabelled = ENCRYPTED.replace("ENCRYPTED PRIVATE", "PRIVATE");
        let texts = [ENCRYPTED, &mislabelled, SCRYPT, SHA1, DES3];
        let mut keys = texts.map(|key| key.as_bytes().to_vec()).to_vec();
        keys.push(der(ENCRYPTED));
        if cfg!(feature = "pkcs12") {
            keys.push(PBES1.into());
        }
        for key in keys {
            let files = files(key);
            let source = files.source().passphrase(PASSPHRASE);
            let material = fetch(source).await;
            assert!(material.is_ok(), "{material:?}");
        }
    }

    #[tokio::test]
    async fn passphrase_in_a_file_may_end_with_a_line_end_and_may_change() {
        let files = files(ENCRYPTED);
        files.write("passphrase", "not yet");
        let source = files.source().passphrase_file(files.path("passphrase"));
        assert!(source.fetch(ask(FetchReason::Start)).await.is_err());
        files.write("passphrase", format!("\u{feff}{PASSPHRASE}\r\n"));
        in_time("a new passphrase", source.changed()).await;
        assert!(source.fetch(ask(FetchReason::Changed)).await.is_ok());
    }

    /// Scenario: N18
    #[tokio::test]
    async fn key_that_cannot_be_decrypted_is_refused_with_the_reason_and_the_remedy() {
        type Given = fn(FileSource) -> FileSource;
        // p = 127: 127 times the memory that OpenSSL takes.
        let mut costly = der(SCRYPT);
        let at = costly
            .windows(6)
            .position(|w| w == [2, 1, 8, 2, 1, 1])
            .unwrap();
        costly[at + 5] = 127;
        let given: Given = |source| source.passphrase(PASSPHRASE);
        const CONVERT: &str = "openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW";
        let table: [(&[u8], Given, &str); 9] = [
            (
                ENCRYPTED.as_bytes(),
                |source| source,
                "give the source the passphrase",
            ),
            (
                ENCRYPTED.as_bytes(),
                |source| source.passphrase("sesame"),
                "wrong passphrase",
            ),
            (
                ENCRYPTED.as_bytes(),
                |source| source.passphrase_env("PERENNIAL_NO_SUCH_VARIABLE"),
                "the variable PERENNIAL_NO_SUCH_VARIABLE: it is not set",
            ),
            (
                ARIA.as_bytes(),
                given,
                "ARIA-256-CBC (1.2.410.200046.1.1.12) is not supported; convert it with",
            ),
            (
                MD5.as_bytes(),
                given,
                "PBE-MD5-DES (1.2.840.113549.1.5.3) is not supported; convert it with",
            ),
            (
                ROUNDS.as_bytes(),
                given,
                "10000000 rounds (more than 2000000) would take too long",
            ),
            (OLD.as_bytes(), given, CONVERT),
            (OLD.as_bytes(), |source| source, "Proc-Type"),
            (
                &costly,
                given,
                "scrypt over 2130706432 bytes would take too long",
            ),
        ];
        for (key, set, reason) in table {
            let files = files(key);
            let source = set(files.source());
            let shown = fetch(source).await.unwrap_err();
            assert!(shown.contains(reason), "{shown}");
            assert!(
                !reason.contains("convert") || shown.contains(CONVERT),
                "{shown}"
            );
            assert!(!shown.contains("sesame"), "{shown}");
        }
    }

    #[test]
    fn debug_shows_where_a_passphrase_comes_from_and_never_its_value() {
        let shown = format!("{:?}", files("x").source().passphrase(PASSPHRASE));
        assert!(
            !shown.contains("sesame") && shown.contains("the program"),
            "{shown}"
        );
    }
}

#[cfg(feature = "pkcs12")]
mod pkcs12 {
    use super::super::super::testing::shown;
    use super::*;

    const PASSPHRASE: &str = "open sesame";

    fn container(name: &str) -> PathBuf {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        folder.join("tests/sources/p12").join(name)
    }

    fn source(name: &str) -> FileSource {
        FileSource::combined(container(name), container("root.pem"))
    }

    async fn fetch(source: FileSource) -> Result<CertMaterial, String> {
        let fetched = source.fetch(ask(FetchReason::Start)).await;
        fetched.map(certificate).map_err(|error| shown(&error))
    }

    /// Scenario: N17
    #[tokio::test]
    async fn chain_and_key_are_read_from_every_container_that_openssl_writes() {
        let table = [
            ("modern.p12", Some(PASSPHRASE), 2),
            // RC2 with 40 bits, 3DES, SHA-1, and the root in it.
            ("legacy.p12", Some(PASSPHRASE), 3),
            ("des3.p12", Some(PASSPHRASE), 2),
            ("plain.p12", Some(PASSPHRASE), 2),
            ("without-mac.p12", Some(PASSPHRASE), 2),
            ("unicode.p12", Some("pässwörd"), 2),
            ("empty.p12", Some(""), 2),
            ("empty.p12", None, 2),
        ];
        let leaf = fetch(source("empty.p12")).await.unwrap();
        for (name, passphrase, length) in table {
            let source = passphrase
                .into_iter()
                .fold(source(name), FileSource::passphrase);
            let material = fetch(source).await.unwrap();
            assert_eq!(material.chain().len(), length, "{name}");
            assert_eq!(material.roots().len(), 1, "{name}");
            let names = |material: &CertMaterial| material.leaf().unwrap().subject().to_owned();
            assert_eq!(names(&material), names(&leaf), "{name}");
        }
    }

    /// Scenario: N17
    #[tokio::test]
    async fn container_may_be_base64_hold_the_roots_and_be_named_for_each_part() {
        let files = Files::empty();
        let bytes = std::fs::read(container("modern.p12")).unwrap();
        files.write("pair", Base64::encode_string(&bytes));
        let pair = files.path("pair");
        for source in [
            FileSource::combined(&pair, container("roots.p12")),
            FileSource::new(&pair, container("modern.p12"), container("root.pem")),
            FileSource::without_roots(&pair, &pair),
        ] {
            let material = fetch(source.passphrase(PASSPHRASE)).await.unwrap();
            assert_eq!(material.chain().len(), 2);
        }
    }

    /// Scenario: N17
    #[tokio::test]
    async fn container_that_cannot_be_read_is_refused_with_the_reason() {
        let files = Files::empty();
        let modern = std::fs::read(container("modern.p12")).unwrap();
        files.write("cut", &modern[..modern.len() / 2]);
        let mut costly = modern.clone();
        // The rounds of the MAC, 2,048, are the last element.
        let rounds = costly.len() - 2;
        costly.splice(rounds - 2.., [2, 2, 0x08, 0x01]);
        files.write("changed", &costly);
        let table = [
            (source("modern.p12"), None, "give the source the passphrase"),
            (source("modern.p12"), Some("sesame"), "wrong passphrase"),
            (source("legacy.p12"), Some("sesame"), "wrong passphrase"),
            (
                source("aria.p12"),
                Some(PASSPHRASE),
                "ARIA-256-CBC (1.2.410.200046.1.1.12) is not supported; convert it with `openssl pkcs12 -in",
            ),
            (
                source("without-key.p12"),
                Some(PASSPHRASE),
                "holds no private key",
            ),
            (
                FileSource::combined(files.path("cut"), container("root.pem")),
                Some(PASSPHRASE),
                "cut off",
            ),
            (
                FileSource::combined(files.path("changed"), container("root.pem")),
                Some(PASSPHRASE),
                "wrong passphrase",
            ),
        ];
        for (source, passphrase, reason) in table {
            let source = passphrase.into_iter().fold(source, FileSource::passphrase);
            let shown = fetch(source).await.unwrap_err();
            assert!(shown.contains(reason), "{shown}");
            assert!(!shown.contains("sesame"), "{shown}");
        }
    }
}
