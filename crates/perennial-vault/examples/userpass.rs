//! A certificate with a user name and a password in a file.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example userpass -- USER PASSWORD_FILE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, Vault};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [user, file] = arguments.as_slice() else {
        return Err("usage: userpass USER PASSWORD_FILE".into());
    };
    let vault = Vault::from_env()?
        .auth(Auth::userpass(user, Secret::file(file)))
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
