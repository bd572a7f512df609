//! Broken files of every kind: the last good certificate stays in use, and the error names the
//! file and what was found, and quotes no byte of a key.

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding};
use tokio::task::JoinSet;

use super::super::testing::{Files, ask, assert_no_key_in, der, now, pem, shown, until};
use super::*;
use crate::testing::{MINUTE, TestCa};
use crate::{FetchReason, LiveCert, RenewError, SourceErrorKind};

/// Breaks good files; gets the key that was in them.
type Break = fn(&Files, &str);

struct Row {
    what: &'static str,
    harm: Break,
    /// What the error must contain.
    expected: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row {
        what: "the key is missing",
        harm: |files, _| fs::remove_file(files.path("tls.key")).unwrap(),
        expected: &["tls.key", "No such file"],
    },
    Row {
        what: "a folder in the key's place",
        harm: |files, _| {
            fs::remove_file(files.path("tls.key")).unwrap();
            fs::create_dir(files.path("tls.key")).unwrap();
        },
        expected: &["tls.key", "folder"],
    },
    #[cfg(unix)]
    Row {
        what: "a pipe without a writer",
        harm: |files, _| {
            fs::remove_file(files.path("tls.crt")).unwrap();
            let made = std::process::Command::new("mkfifo")
                .arg(files.path("tls.crt"))
                .status();
            assert!(made.unwrap().success());
        },
        expected: &["tls.crt", "pipe, socket or device"],
    },
    #[cfg(unix)]
    Row {
        what: "a device without end",
        harm: |files, _| {
            fs::remove_file(files.path("ca.crt")).unwrap();
            std::os::unix::fs::symlink("/dev/zero", files.path("ca.crt")).unwrap();
        },
        expected: &["ca.crt", "pipe, socket or device"],
    },
    Row {
        what: "100 MB",
        harm: |files, _| {
            let file = fs::File::create(files.path("ca.crt")).unwrap();
            file.set_len(100 << 20).unwrap();
        },
        expected: &["ca.crt", "larger than 4194304 bytes"],
    },
    Row {
        what: "nothing",
        harm: |files, _| files.write("tls.crt", ""),
        expected: &["tls.crt", "empty"],
    },
    Row {
        what: "blank lines",
        harm: |files, _| files.write("tls.crt", "\n \n"),
        expected: &["tls.crt", "is empty"],
    },
    Row {
        what: "binary garbage",
        harm: |files, _| files.write("tls.key", [0x9c; 4_000]),
        expected: &["tls.key", "neither PEM nor DER", "no BEGIN line"],
    },
    Row {
        what: "a text in UTF-16",
        harm: |files, key| {
            let units = std::iter::once(0xfeff).chain(key.encode_utf16());
            files.write(
                "tls.key",
                units.flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
            );
        },
        expected: &["tls.key", "UTF-16", "save it as UTF-8"],
    },
    Row {
        what: "the certificate in the key's file",
        harm: |files, _| {
            fs::copy(files.path("tls.crt"), files.path("tls.key")).unwrap();
        },
        expected: &["tls.key", "line 1 begins a certificate"],
    },
    Row {
        what: "key and certificate swapped",
        harm: |files, key| {
            fs::copy(files.path("tls.crt"), files.path("tls.key")).unwrap();
            files.write("tls.crt", key);
        },
        expected: &["tls.crt", "line 1 begins a private key"],
    },
    Row {
        what: "the key in the roots' file",
        harm: |files, key| files.write("ca.crt", key),
        expected: &["ca.crt", "trust roots", "begins a private key"],
    },
    Row {
        what: "the certificate's DER in the key's file",
        harm: |files, _| {
            let chain = fs::read_to_string(files.path("tls.crt")).unwrap();
            files.write("tls.key", der(&chain));
        },
        expected: &["tls.key", "private key is missing: found a certificate"],
    },
    Row {
        what: "the key's DER in the certificate's file",
        harm: |files, key| files.write("tls.crt", der(key)),
        expected: &["tls.crt", "chain is missing: found a private key"],
    },
    Row {
        what: "a certificate that is cut off",
        harm: |files, _| cut(&files.path("tls.crt"), 2),
        expected: &["tls.crt", "cut off", "line"],
    },
    Row {
        what: "a key that is cut off",
        harm: |files, _| cut(&files.path("tls.key"), 2),
        expected: &["tls.key", "cut off", "line 1"],
    },
    Row {
        what: "DER that is cut off",
        harm: |files, key| files.write("tls.key", &der(key)[..80]),
        expected: &["tls.key", "cut off: its DER is shorter"],
    },
    Row {
        what: "a Java key store",
        harm: |files, _| files.write("tls.key", b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\0"),
        expected: &["tls.key", "a Java key store", "keytool -importkeystore"],
    },
    Row {
        what: "an OpenSSH key",
        harm: |files, key| {
            let key = key
                .replace("BEGIN ", "BEGIN OPENSSH ")
                .replace("END ", "END OPENSSH ");
            files.write("tls.key", key);
        },
        expected: &["tls.key", "line 1 begins an OpenSSH key", "ssh-keygen -p"],
    },
    Row {
        what: "PKCS#7 in DER",
        harm: |files, _| files.write("tls.crt", PKCS7),
        expected: &["tls.crt", "found PKCS#7", "openssl pkcs7 -print_certs"],
    },
    Row {
        what: "PKCS#7 in PEM next to a certificate",
        harm: |files, _| {
            let base64 = Base64::encode_string(PKCS7);
            let mut chain = fs::read_to_string(files.path("tls.crt")).unwrap();
            chain += &format!("-----BEGIN PKCS7-----\n{base64}\n-----END PKCS7-----\n");
            files.write("tls.crt", chain);
        },
        expected: &["tls.crt", "begins PKCS#7", "openssl pkcs7 -print_certs"],
    },
    Row {
        what: "a certificate request in DER",
        harm: |files, _| {
            let key = rcgen::KeyPair::generate().unwrap();
            let request = rcgen::CertificateParams::default().serialize_request(&key);
            files.write("tls.crt", request.unwrap().der());
        },
        expected: &["tls.crt", "found a certificate request"],
    },
    Row {
        what: "a text in UTF-16 without a byte order mark",
        harm: |files, key| {
            let units = key.encode_utf16();
            files.write(
                "tls.key",
                units.flat_map(u16::to_be_bytes).collect::<Vec<_>>(),
            );
        },
        expected: &["tls.key", "UTF-16", "save it as UTF-8"],
    },
    Row {
        what: "a key that is not base64",
        harm: |files, key| files.write("tls.key", key.replacen("MIG", "!IG", 1)),
        expected: &["tls.key", "line 1", "not base64"],
    },
    Row {
        what: "a key with noise in it",
        harm: |files, key| {
            let mut key = der(key);
            key[4..20].fill(0xff);
            files.write("tls.key", key);
        },
        expected: &["tls.key"],
    },
    Row {
        what: "two keys",
        harm: |files, key| files.write("tls.key", format!("{key}{key}")),
        expected: &["tls.key", "second private key"],
    },
    Row {
        what: "the key of another certificate",
        harm: |files, _| files.write("tls.key", pem(&TestCa::new()).1),
        expected: &["tls.crt and ", "tls.key", "does not match"],
    },
    Row {
        what: "an encrypted key",
        harm: |files, _| {
            let key = include_str!("../../../tests/sources/keys/ec.encrypted.pem");
            files.write("tls.key", key);
        },
        expected: &["tls.key", "encrypted", "passphrase"],
    },
    Row {
        what: "roots without a root",
        harm: |files, _| files.write("ca.crt", "# to be filled in\n"),
        expected: &["ca.crt", "no BEGIN line"],
    },
    Row {
        what: "a root that is not a certificate",
        harm: |files, _| {
            let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
            files.write("ca.crt", noise);
        },
        expected: &["ca.crt", "certificate 0", "trust roots"],
    },
];

/// Signed data with nothing in it: `SEQUENCE { OID signedData, [0] … }`.
const PKCS7: &[u8] = b"\x30\x0f\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x02\x30\x00";

fn cut(path: &Path, to_one_in: usize) {
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() / to_one_in]).unwrap();
}

/// Scenario: S1, N17
#[tokio::test]
async fn broken_file_is_named_and_the_last_good_certificate_stays_and_recovers() {
    // S1, H1.
    let mut rows = JoinSet::new();
    for row in ROWS {
        rows.spawn(check(row));
    }
    while let Some(row) = rows.join_next().await {
        row.unwrap();
    }
}

async fn check(row: &Row) {
    let ca = TestCa::new();
    let set = pem(&ca);
    let files = Files::of(&set);
    let live = LiveCert::start(files.source()).await.unwrap();

    (row.harm)(&files, &set.1);
    let error = loop {
        match live.renew().await {
            Ok(_) | Err(RenewError::Limited { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => break error,
        }
    };
    let shown = shown(&error);
    for words in row.expected {
        assert!(shown.contains(words), "{}: {shown}", row.what);
    }
    assert_no_key_in(&format!("{shown} {error:?}"), &set.1);
    assert_eq!(live.current().unwrap().generation(), 1, "{}", row.what);

    // The operator fixes the files.
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        let path = files.path(name);
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
    }
    let (chain, key, roots) = pem(&ca);
    for (name, text) in [("tls.crt", chain), ("tls.key", key), ("ca.crt", roots)] {
        files.write(name, text);
    }
    until(row.what, || {
        live.current().is_ok_and(|now| now.generation() == 2)
    })
    .await;
}

#[tokio::test]
async fn key_given_instead_of_its_path_is_never_shown() {
    let (chain, key, roots) = pem(&TestCa::new());
    let source = FileSource::new(&chain, &key, &roots);
    let error = LiveCert::builder()
        .start_timeout(Duration::from_millis(200))
        .start(source)
        .await
        .unwrap_err();
    assert_no_key_in(&format!("{} {error:?}", shown(&error)), &key);
    let source = FileSource::new(&chain, &key, &roots);
    assert_no_key_in(&format!("{source:?}"), &key);
}

/// Scenario: F13
#[tokio::test]
async fn key_in_base64_given_instead_of_its_path_is_never_shown() {
    let (chain, key, roots) = pem(&TestCa::new());
    let base64 = Base64::encode_string(&der(&key));
    for key_as_path in [&base64[..], &base64[..base64.len() - 5]] {
        let source = FileSource::new(&chain, key_as_path, &roots);
        #[cfg(feature = "encrypted-keys")]
        let source = source.passphrase_file(key_as_path);
        let mut shown_text = format!("{source:?}");
        let folder = Files::empty();
        let saved =
            FileSource::new(folder.path("a"), key_as_path, folder.path("b")).saved_at(key_as_path);
        for error in [
            source.fetch(ask(FetchReason::Start)).await.unwrap_err(),
            saved.fetch(ask(FetchReason::Start)).await.unwrap_err(),
        ] {
            shown_text += &format!("{} {error:?}", shown(&error));
        }
        assert!(!shown_text.contains(&base64[..16]), "{shown_text}");
        assert_no_key_in(&shown_text, &key);
    }
}

/// Scenario: N11
#[tokio::test]
async fn file_that_is_cut_off_is_awaited_only_while_a_writer_may_be_at_work() {
    let set = pem(&TestCa::new());
    let files = Files::of(&set);
    let whole = files.source();
    for half in [&set.1.as_bytes()[..80], &der(&set.1)[..80]] {
        files.write("tls.key", half);
        let error = whole.fetch(ask(FetchReason::Start)).await.unwrap_err();
        assert!(error.is_transient(), "{}", shown(&error));
        let key = fs::File::options().append(true).open(files.path("tls.key"));
        key.unwrap().set_modified(now() - 2 * MINUTE).unwrap();
        let error = whole.fetch(ask(FetchReason::Start)).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid, "{}", shown(&error));
        assert!(shown(&error).contains("cut off"), "{}", shown(&error));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn path_at_which_no_file_can_be_fails_at_once() {
    let files = Files::of(&pem(&TestCa::new()));
    let (crt, ca) = (files.path("tls.crt"), files.path("ca.crt"));
    for key in [crt.join("tls.key"), files.path(&"k".repeat(300))] {
        let source = FileSource::new(&crt, key, &ca);
        let error = source.fetch(ask(FetchReason::Start)).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid, "{}", shown(&error));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn unreadable_file_is_denied() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::of(&pem(&TestCa::new()));
    let key = files.path("tls.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&key).is_ok() {
        return; // Nothing is unreadable to root.
    }
    let context = ask(FetchReason::Start);
    let error = files.source().fetch(context).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Denied);
    assert!(shown(&error).contains("tls.key"), "{error:?}");
}
