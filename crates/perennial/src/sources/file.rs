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
