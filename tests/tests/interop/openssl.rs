//! A PKI in a scratch folder, by the `openssl` program: what people have made theirs with.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub(crate) const CA: &str = "basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
";
pub(crate) const CLIENT: &str = "basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth
";
pub(crate) const SERVER: &str = "basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
";

/// What `-subj` is followed by, without quotes, and how many days everything is valid.
const DAYS: &str = "3650";

/// Files by name in one folder.
pub(crate) struct OpenSsl {
    folder: TempDir,
}

impl OpenSsl {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Runs it in the folder, with the words of this line and then these.
    pub(crate) fn run(&self, line: &str, more: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl")
            .args(line.split_whitespace().chain(more.iter().copied()))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {line} {more:?}: {errors}");
        output.stdout
    }

    /// A key NAME.key, of P-256 or with these options of `genpkey`.
    pub(crate) fn key(&self, name: &str) {
        self.key_of(name, "EC -pkeyopt ec_paramgen_curve:P-256");
    }

    pub(crate) fn key_of(&self, name: &str, kind: &str) {
        self.run(&format!("genpkey -out {name}.key -algorithm {kind}"), &[]);
    }

    /// A self-signed CA NAME.crt with a new key.
    pub(crate) fn root(&self, name: &str, subject: &str) {
        self.key(name);
        let line = format!(
            "req -new -x509 -key {name}.key -days {DAYS} -out {name}.crt -addext keyUsage=critical,keyCertSign,cRLSign"
        );
        self.run(&line, &["-subj", subject]);
    }

    /// A certificate FILE for NAME.key by ISSUER, with these extensions; of version 1 without any.
    pub(crate) fn issue(
        &self,
        name: &str,
        subject: &str,
        issuer: &str,
        extensions: &str,
        file: &str,
    ) {
        self.run(
            &format!("req -new -key {name}.key -out {name}.csr"),
            &["-subj", subject],
        );
        self.sign(name, issuer, extensions, file);
    }

    /// As `issue`, for NAME.csr.
    pub(crate) fn sign(&self, name: &str, issuer: &str, extensions: &str, file: &str) {
        self.write("extensions.cnf", extensions);
        let with = if extensions.is_empty() {
            ""
        } else {
            "-extfile extensions.cnf"
        };
        let line = format!(
            "x509 -req -in {name}.csr -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial -sha256 -days {DAYS} -out {file} {with}"
        );
        self.run(&line, &[]);
    }
}
