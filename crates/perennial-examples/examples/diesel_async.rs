//! diesel-async on bb8: a custom setup gives each connect the current certificate.
//!
//! `cargo run -p perennial-examples --example diesel_async` starts a real OpenBao and a real Postgres,
//! rotates once, and asks Postgres which certificates it saw.
//!
//! Limits: diesel owns the connections, so idle ones cannot be replaced. The recycling check closes
//! old ones at check-out, and that query waits for a connect.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::time::Duration;

use anyhow::{Context, ensure};
use diesel::sql_types::Text;
use diesel::{ConnectionError, QueryableByName};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, bb8::Pool};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt;
use perennial::{LiveCert, Renewed, with_causes};
use perennial_postgres::PgTls;
use perennial_testbed::Testbed;
use perennial_vault::{Auth, Vault};

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
    let auth = Auth::approle(&approle.role_id, &approle.secret_id);
    let vault = Vault::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(auth)
        .build()?;
    let pki = vault.pki(bao.mount()).role(bao.client_role());
    let source = pki.common_name("app").build()?;
    let live = LiveCert::start(source).await?;

    // The part of Perennial: its connector instead of diesel's own.
    let mut setup = ManagerConfig::default();
    let certificate = live.clone();
    setup.custom_setup = Box::new(move |settings| {
        let tls = PgTls::new(certificate.clone());
        let settings = settings.to_owned();
        async move {
            let failed = |error: tokio_postgres::Error| {
                ConnectionError::BadConnection(with_causes(&error).to_string())
            };
            let config: tokio_postgres::Config = settings.parse().map_err(failed)?;
            let (client, connection) = config.connect(tls).await.map_err(failed)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
        .boxed()
    });
    // A connector does not know sslmode: without `require`, the driver may continue in plain text.
    let settings = format!(
        "host={} port={} user={} dbname={} sslmode=require",
        postgres.host(),
        postgres.port(),
        postgres.user(),
        postgres.database()
    );
    let manager = AsyncDieselConnectionManager::new_with_config(settings, setup);
    // Shorter than the remaining lifetime at a renewal, so no connection is used after its certificate's expiry.
    let max_lifetime = Some(Duration::from_secs(600));
    let pool = Pool::builder().max_lifetime(max_lifetime).build(manager);
    let pool: Pool<AsyncPgConnection> = pool.await?;

    let first = serial(&pool).await?;
    println!("Postgres sees {first}");
    ensure!(first == live.current()?.serial().to_decimal());
    // Renewals are at least a second apart, so the first attempt may come too early.
    let newest = loop {
        if let Ok(Renewed::Newer(snapshot)) = live.renew().await {
            break snapshot.serial().to_decimal();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let same = serial(&pool).await?;
    println!("after the rotation the pooled connection still uses {same}");
    let mut extra = pool
        .dedicated_connection()
        .await
        .context("failed to open a new connection")?;
    let seen: Seen = diesel::sql_query(SERIAL).get_result(&mut extra).await?;
    println!("a new connection uses {}", seen.serial);
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
