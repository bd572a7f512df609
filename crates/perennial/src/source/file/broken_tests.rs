//! Broken files of every kind: the last good certificate stays in use, and the error names the
//! file and what was found, and quotes no byte of a key.

use std::fs;
use std::path::Path;

use tokio::task::JoinSet;

use super::super::testing::{Files, assert_no_key_in, der, pem, shown, until};
use super::*;
use crate::testing::TestCa;
use crate::{LiveCert, RenewError};

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
        expected: &["tls.key", "the DER is not a private key"],
    },
    Row {
        what: "the key's DER in the certificate's file",
        harm: |files, key| files.write("tls.crt", der(key)),
        expected: &["tls.crt", "certificate 0", "malformed"],
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
        expected: &["tls.key", "neither PEM nor DER"],
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

fn cut(path: &Path, to_one_in: usize) {
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() / to_one_in]).unwrap();
}

/// Scenario: S1
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
    let context = super::super::testing::ask(crate::FetchReason::Start);
    let error = files.source().fetch(context).await.unwrap_err();
    assert_eq!(error.kind(), crate::SourceErrorKind::Denied);
    assert!(shown(&error).contains("tls.key"), "{error:?}");
}
