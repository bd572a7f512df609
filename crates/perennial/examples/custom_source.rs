//! A source of your own: here, a folder in which each certificate is a folder of its own.
//!
//! `cargo run --example custom_source -- /srv/certificates`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::PathBuf;

use perennial::{CacheKey, CertMaterial, CertSource, FetchContext, LiveCert, SourceError};

/// Takes the newest of the folders, by name: `2026-01-31`, `2026-02-28` …
#[derive(Debug)]
struct Newest {
    folder: PathBuf,
}

impl CertSource for Newest {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<CertMaterial, SourceError> {
        println!("asked because: {:?}", context.reason);
        let newest = self.newest().map_err(SourceError::unavailable)?;
        let read = |name| std::fs::read(newest.join(name)).map_err(SourceError::unavailable);
        // The checks are done elsewhere: that key and leaf match, that the chain links, the dates.
        Ok(CertMaterial::from_pem(
            read("tls.crt")?,
            read("tls.key")?,
            read("ca.crt")?,
        )?)
    }

    /// Lets `.saved_at(path)` tell whether what it saved is still what is wanted.
    fn request(&self) -> Option<CacheKey> {
        Some(CacheKey::of([self.folder.as_os_str().as_encoded_bytes()]))
    }
}

impl Newest {
    fn newest(&self) -> std::io::Result<PathBuf> {
        let folders = std::fs::read_dir(&self.folder)?;
        let paths = folders.map(|entry| entry.map(|entry| entry.path()));
        let newest = paths.collect::<Result<Vec<_>, _>>()?.into_iter().max();
        newest.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or("usage: custom_source FOLDER")?
        .into();
    let live = LiveCert::start(Newest { folder }).await?;
    let mut rotations = live.rotations();
    while let Some(certificate) = rotations.next().await {
        println!(
            "generation {}: {:?}",
            certificate.generation(),
            certificate.names()
        );
    }
    Ok(())
}
