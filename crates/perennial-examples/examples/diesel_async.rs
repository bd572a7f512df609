//! diesel-async on bb8: a custom setup gives each connect the current certificate.
//!
//! `cargo run -p perennial-examples --example diesel_async` starts a real OpenBao and a real Postgres,
//! rotates once, and asks Postgres what it saw.
//!
//! What it cannot do: diesel owns the connection, so nothing can be exchanged while it is idle. Old
//! ones are closed at check-out, by the recycling check, and that query waits for a connect.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use anyhow::{Context, ensure};
use diesel::sql_types::Text;
use diesel::{ConnectionError, QueryableByName};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, bb8::Pool};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt;
use perennial::{LiveCert, Renewal, with_causes};
use perennial_postgres::PgTls;
use perennial_testbed::Testbed;
use perennial_vault::{Auth, VaultPki};

#[derive(QueryableByName)]
struct Seen {
    #[diesel(sql_type = Text)]
    serial: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let testbed = Testbed::start().await?;
    let (bao, postgres) = (&testbed.bao, &testbed.postgres);
    let approle = bao.approle();
    let source = VaultPki::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(Auth::approle(&approle.role_id, &approle.secret_id))
        .mount(bao.mount())
        .role(bao.client_role())
        .common_name("app")
        .build()?;
    let live = LiveCert::start(source).await?;

    // What Perennial brings: the connector, in place of diesel's own.
    let mut setup = ManagerConfig::default();
    let certificate = live.clone();
    setup.custom_setup = Box::new(move |settings| {
        let tls = PgTls::new(certificate.clone());
        let settings = settings.to_owned();
        async move {
            let bad = |error: tokio_postgres::Error| {
                ConnectionError::BadConnection(with_causes(&error).to_string())
            };
            let config: tokio_postgres::Config = settings.parse().map_err(bad)?;
            let (client, connection) = config.connect(tls).await.map_err(bad)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
        .boxed()
    });
    // A connector cannot see sslmode: without `require`, the driver may go on in plain text.
    let settings = format!(
        "host={} port={} user={} dbname={} sslmode=require",
        postgres.host(),
        postgres.port(),
        postgres.user(),
        postgres.database()
    );
    let manager = AsyncDieselConnectionManager::new_with_config(settings, setup);
    // No connection outlives its certificate by this: shorter than what is left at a renewal.
    let max_lifetime = Some(Duration::from_secs(600));
    let pool = Pool::builder().max_lifetime(max_lifetime).build(manager);
    let pool: Pool<AsyncPgConnection> = pool.await?;

    let first = serial(&pool).await?;
    println!("Postgres sees {first}");
    ensure!(first == live.current()?.serial().to_decimal());
    // Renewals are at least a second apart.
    let newest = loop {
        if let Renewal::Newer(snapshot) = live.renew_now().await {
            break snapshot.serial().to_decimal();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let same = serial(&pool).await?;
    println!("after the rotation the pooled connection still stands on {same}");
    let mut extra = pool.dedicated_connection().await.context("a new connect")?;
    let seen: Seen = diesel::sql_query(SERIAL).get_result(&mut extra).await?;
    println!("a new one stands on {}", seen.serial);
    ensure!(same == first && seen.serial == newest);
    Ok(())
}

const SERIAL: &str =
    "select client_serial::text as serial from pg_stat_ssl where pid = pg_backend_pid()";

async fn serial(pool: &Pool<AsyncPgConnection>) -> anyhow::Result<String> {
    let mut connection = pool.get().await?;
    let seen: Seen = diesel::sql_query(SERIAL)
        .get_result(&mut *connection)
        .await?;
    Ok(seen.serial)
}
