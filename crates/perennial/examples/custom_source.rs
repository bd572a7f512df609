//! A source of your own: here, a folder with one folder for each certificate.
//!
//! `cargo run --example custom_source -- /srv/certificates`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::PathBuf;

use perennial::{CacheKey, CertMaterial, CertSource, FetchContext, Fetched, LiveCert, SourceError};

/// Takes the newest of the folders, by name: `2026-01-31`, `2026-02-28` …
#[derive(Debug)]
struct Newest {
    folder: PathBuf,
}

impl CertSource for Newest {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        println!("fetching because: {:?}", context.reason);
        let newest = self.newest().map_err(SourceError::unavailable)?;
        let read = |name| std::fs::read(newest.join(name)).map_err(SourceError::unavailable);
        // The renewer checks that key and leaf match, the chain, and the dates.
        let material = CertMaterial::from_pem(read("tls.crt")?, read("tls.key")?, read("ca.crt")?)?;
        Ok(material.into())
    }

    /// With it, `.saved_at(path)` uses a saved certificate only if it came from this folder.
    fn cache_key(&self) -> Option<CacheKey> {
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
    let mut rotations = live.subscribe();
    while let Some(certificate) = rotations.next().await {
        println!(
            "generation {}: {:?}",
            certificate.generation(),
            certificate.names()
        );
    }
    Ok(())
}
