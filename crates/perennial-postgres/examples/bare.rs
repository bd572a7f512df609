//! Bare `tokio-postgres`: the current certificate for each connect; old connections stay open.
//!
//! `cargo run --example bare -- 'host=db.example user=app sslmode=require' tls.crt tls.key ca.crt`,
//! and then change the files.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::{FileSource, LiveCert};
use perennial_postgres::PgTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [connect, chain, key, roots] = arguments.as_slice() else {
        return Err("usage: bare CONNECTION_STRING CHAIN KEY ROOTS".into());
    };
    // A connector cannot see sslmode: without `require`, the driver may continue in plain text.
    let config: tokio_postgres::Config = connect.parse()?;
    let live = LiveCert::start(FileSource::new(chain, key, roots)).await?;

    let mut rotations = live.subscribe();
    while let Some(certificate) = rotations.next().await {
        // The connection closes when its client is dropped; finish reading its streams before that.
        let (client, connection) = config.connect(PgTls::new(live.clone())).await?;
        let driver = tokio::spawn(connection);
        let row = client.query_one("select current_user::text", &[]).await?;
        println!(
            "{} on generation {}",
            row.get::<_, String>(0),
            certificate.generation()
        );
        drop(client);
        driver.await??;
    }
    Ok(())
}
