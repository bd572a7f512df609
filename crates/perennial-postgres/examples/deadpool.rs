//! A deadpool pool that moves onto each new certificate.
//!
//! `cargo run --features deadpool --example deadpool -- 'host=db.example user=app' tls.crt tls.key
//! ca.crt`, and then change the files.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::{FileSource, LiveCert};
use perennial_postgres::CertConnectionManager;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [connect, chain, key, roots] = arguments.as_slice() else {
        return Err("usage: deadpool CONNECTION_STRING CHAIN KEY ROOTS".into());
    };
    let live = LiveCert::start(FileSource::new(chain, key, roots)).await?;
    let manager = CertConnectionManager::new(live.clone(), connect.parse()?)?;
    let pool = manager.deadpool_builder().max_size(5).build()?;

    let mut rotations = live.subscribe();
    while rotations.next().await.is_some() {
        // The error has its cause: deadpool, unlike bb8, returns it.
        let client = pool.get().await?;
        let row = client.query_one("select current_user::text", &[]).await?;
        println!(
            "{} on generation {}",
            row.get::<_, String>(0),
            client.generation()
        );
    }
    Ok(())
}
