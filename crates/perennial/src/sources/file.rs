use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::SourceError;
use crate::material::{CertMaterial, MaterialError};
use crate::source::{Ask, CertSource};

/// Reads chain, key and roots from three PEM files at each fetch.
///
/// The files are read again when the certificate is due for renewal; until then a change on disk
/// is not noticed. A pair that does not match, as when a writer is halfway through, is refused
/// and read again later, while the last good certificate stays in use.
#[derive(Clone, Debug)]
pub struct FileSource {
    chain: PathBuf,
    key: PathBuf,
    roots: PathBuf,
}

impl FileSource {
    /// Names the files: leaf-first chain, private key, trust roots. Reads nothing yet.
    pub fn new(
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        roots: impl Into<PathBuf>,
    ) -> Self {
        Self {
            chain: chain.into(),
            key: key.into(),
            roots: roots.into(),
        }
    }
}

impl CertSource for FileSource {
    async fn fetch(&self, _ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        let chain = read(&self.chain).await?;
        let key = read(&self.key).await?;
        let roots = read(&self.roots).await?;
        CertMaterial::from_pem(chain, key, roots).map_err(|cause| {
            SourceError::invalid(InFiles {
                files: self.clone(),
                cause,
            })
        })
    }
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(cause) => {
            let denied = cause.kind() == io::ErrorKind::PermissionDenied;
            let error = Unreadable {
                path: path.to_owned(),
                cause,
            };
            // A file that is missing may be about to be written: waiting can cure it.
            Err(if denied {
                SourceError::denied(error)
            } else {
                SourceError::unavailable(error)
            })
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
struct Unreadable {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

#[derive(Debug)]
struct InFiles {
    files: FileSource,
    cause: MaterialError,
}

impl fmt::Display for InFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileSource { chain, key, roots } = &self.files;
        write!(
            f,
            "in {}, {} and {}",
            chain.display(),
            key.display(),
            roots.display()
        )
    }
}

impl std::error::Error for InFiles {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::testing::{MINUTE, TestCa};
    use crate::{LiveCert, StartError};

    struct Files(tempfile::TempDir);

    impl Files {
        fn of(chain: &str, key: &str, roots: &str) -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            for (name, text) in [("tls.crt", chain), ("tls.key", key), ("ca.crt", roots)] {
                std::fs::write(files.0.path().join(name), text).unwrap();
            }
            files
        }

        fn source(&self) -> FileSource {
            let path = |name| self.0.path().join(name);
            FileSource::new(path("tls.crt"), path("tls.key"), path("ca.crt"))
        }
    }

    fn pem(ca: &TestCa) -> (String, String, String) {
        #[expect(
            clippy::disallowed_methods,
            reason = "files are read by the real clock"
        )]
        let now = SystemTime::now() - Duration::from_secs(5);
        ca.pem(now, 10 * MINUTE)
    }

    #[tokio::test]
    async fn three_files_make_a_live_certificate() {
        let ca = TestCa::new();
        let (chain, key, roots) = pem(&ca);
        let files = Files::of(&chain, &key, &roots);
        let live = LiveCert::start(files.source()).await.unwrap();
        assert_eq!(live.current().unwrap().names().dns, ["app.test"]);
    }

    #[tokio::test]
    async fn torn_pair_is_refused_with_the_reason() {
        let ca = TestCa::new();
        let ((chain, ..), (_, key, roots)) = (pem(&ca), pem(&ca));
        let files = Files::of(&chain, &key, &roots);
        let StartError::Failed(error) = LiveCert::start(files.source()).await.unwrap_err() else {
            panic!("a torn pair is permanent at start");
        };
        assert!(format!("{error:?}").contains("KeyMismatch"), "{error:?}");
    }

    #[tokio::test]
    async fn missing_file_is_named_and_transient() {
        let files = Files::of("", "", "");
        std::fs::remove_file(files.0.path().join("tls.key")).unwrap();
        let ask = Ask {
            why: crate::Why::Start,
            current: None,
        };
        let error = files.source().fetch(ask).await.unwrap_err();
        assert!(error.is_transient());
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.ends_with("tls.key"), "{cause}");
    }
}
