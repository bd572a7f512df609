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
const FORMS: [(&str, Form); 7] = [
    ("PEM", |pem| pem.into()),
    ("CRLF", |pem| pem.replace('\n', "\r\n").into()),
    ("text around", |pem| {
        format!("Bag Attributes\n  x: y\n{pem}\nthe end\n").into()
    }),
    ("indented", |pem| pem.replace('\n', "\n  ").into()),
    ("DER", der),
    ("base64", |pem| Base64::encode_string(&der(pem)).into()),
    ("base64 in lines", |pem| {
        let base64 = Base64::encode_string(&der(pem));
        let lines = base64
            .as_bytes()
            .chunks(76)
            .map(|line| [line, b"\r\n"].concat());
        lines.collect::<Vec<_>>().concat()
    }),
];

/// Scenario: S5
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

    #[tokio::test]
    async fn encrypted_key_is_decrypted_in_every_form() {
        for key in [ENCRYPTED.as_bytes(), SCRYPT.as_bytes(), &der(ENCRYPTED)] {
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
        files.write("passphrase", format!("{PASSPHRASE}\r\n"));
        in_time("a new passphrase", source.changed()).await;
        assert!(source.fetch(ask(FetchReason::Changed)).await.is_ok());
    }

    #[tokio::test]
    async fn key_that_cannot_be_decrypted_is_refused_with_the_remedy() {
        type Given = fn(FileSource) -> FileSource;
        // p = 127: 127 times the memory that OpenSSL takes.
        let mut costly = der(SCRYPT);
        let at = costly
            .windows(6)
            .position(|w| w == [2, 1, 8, 2, 1, 1])
            .unwrap();
        costly[at + 5] = 127;
        let given: Given = |source| source.passphrase(PASSPHRASE);
        let table: [(&[u8], Given, &str); 6] = [
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
            (SHA1.as_bytes(), given, "openssl pkcs8 -topk8"),
            (OLD.as_bytes(), given, "openssl pkcs8 -topk8"),
            (&costly, given, "too much time or memory"),
        ];
        for (key, set, reason) in table {
            let files = files(key);
            let source = set(files.source());
            let shown = fetch(source).await.unwrap_err();
            assert!(shown.contains(reason), "{shown}");
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
