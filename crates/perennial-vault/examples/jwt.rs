//! A certificate with the token of a platform, such as that of a CI job.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example jwt -- JWT_FILE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, Vault};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [file] = arguments.as_slice() else {
        return Err("usage: jwt JWT_FILE".into());
    };
    let vault = Vault::from_env()?
        .auth(Auth::jwt("app", Secret::file(file)))
        .build()?;
    let source = vault
        .pki("pki_int")
        .role("app")
        .common_name("app")
        .build()?;
    let live = LiveCert::start(source).await?;
    println!("{:?}", live.current()?);
    Ok(())
}
