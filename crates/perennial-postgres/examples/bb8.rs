//! A bb8 pool that moves onto each new certificate.
//!
//! `cargo run --example bb8 -- 'host=db.example user=app' tls.crt tls.key ca.crt`, and then change
//! the files.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::{FileSource, LiveCert, with_causes};
use perennial_postgres::{CertPool, ConnectProbe, PoolEvent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [connect, chain, key, roots] = arguments.as_slice() else {
        return Err("usage: bb8 CONNECTION_STRING CHAIN KEY ROOTS".into());
    };
    let config: tokio_postgres::Config = connect.parse()?;
    let live = LiveCert::builder()
        // A certificate that Postgres refuses is not published.
        .gate(ConnectProbe::new(config.clone())?)
        .start(FileSource::new(chain, key, roots))
        .await?;
    let pool = CertPool::builder(live, config).max_size(5).min_idle(5);
    let pool = pool.build().await?;

    let client = pool.get().await?;
    let row = client.query_one("select current_user::text", &[]).await?;
    println!("logged in as {}", row.get::<_, String>(0));
    drop(client);

    let mut events = pool.events();
    while let Some(event) = events.next().await {
        match event {
            PoolEvent::Moved { generation, took } => {
                println!("on generation {generation} after {took:?}");
            }
            PoolEvent::ConnectFailed { error } => println!("{}", with_causes(&error)),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
