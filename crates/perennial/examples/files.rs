//! Certificates from files that another program renews: cert-manager, certbot, an agent.
//!
//! `cargo run --example files -- /etc/tls/tls.crt /etc/tls/tls.key /etc/tls/ca.crt`, and then
//! change the files.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::{FileSource, LiveCert};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let source = match paths.as_slice() {
        [chain, key, roots] => FileSource::new(chain, key, roots),
        [pair, roots] => FileSource::combined(pair, roots),
        _ => return Err("usage: files CHAIN KEY ROOTS, or files PAIR ROOTS".into()),
    };
    let live = LiveCert::start(source).await?;
    let mut rotations = live.subscribe();
    while let Some(certificate) = rotations.next().await {
        println!(
            "generation {}: serial {}, valid until {:?}",
            certificate.generation(),
            certificate.serial(),
            certificate.not_after()
        );
        // Each new connection takes `live.current()?.client_config()`.
    }
    Ok(())
}
