//! Certificates from environment variables if they are set, else from files.
//!
//! `TLS_CHAIN="$(cat tls.crt)" TLS_KEY=/run/secrets/tls.key TLS_ROOTS=ca.crt cargo run --example env`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::{CertSource, EnvSource, FileSource, LiveCert};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = EnvSource::new("TLS_CHAIN", "TLS_KEY", "TLS_ROOTS")
        // Used only if none of the variables is set: a half-set environment is an error.
        .or(FileSource::new(
            "/etc/tls/tls.crt",
            "/etc/tls/tls.key",
            "/etc/tls/ca.crt",
        ));
    let live = LiveCert::start(source).await?;
    println!("{:?}", live.current()?);
    Ok(())
}
