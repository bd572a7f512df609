//! A certificate with a token that another program, such as an agent, keeps in a file.
//!
//! The file is read before each fetch. A token as text is `Auth::token("...")`; with `VAULT_TOKEN`
//! set, `Vault::from_env()` uses it, and no `auth` is needed.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example token -- TOKEN_FILE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, Vault};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [file] = arguments.as_slice() else {
        return Err("usage: token TOKEN_FILE".into());
    };
    let vault = Vault::from_env()?
        .auth(Auth::token(Secret::file(file)))
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
