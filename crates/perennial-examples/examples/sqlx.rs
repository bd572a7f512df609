//! sqlx: each connect reads the certificate from files, and the pool closes older connections.
//!
//! `cargo run -p perennial-examples --example sqlx` starts a real OpenBao and a real Postgres, changes
//! the files once, and asks Postgres which certificates it saw.
//!
//! Limits: sqlx takes certificate and key only as PEM files or bytes, so a key generated in the process
//! cannot be used. Its pool closes an old connection at check-out, and that query waits for a connect.
//! Its built-in public roots stay trusted in addition to yours.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use perennial::{FileSource, LiveCert};
use perennial_testbed::{OpenBao, Testbed, serde_json::json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let testbed = Testbed::start().await?;
    let postgres = &testbed.postgres;
    let folder = testbed.bao.folder().join("files");
    std::fs::create_dir(&folder)?;
    // In production another program does this: cert-manager, certbot, an agent.
    issue(&testbed.bao, &folder).await?;
    let [chain, key, roots] = ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.join(name));

    // The part of Perennial: it notices each change, and publishes it only if the files match each other.
    let live = LiveCert::start(FileSource::new(&chain, &key, &roots)).await?;
    let options = PgConnectOptions::new()
        .host("localhost")
        .port(postgres.port())
        .username(postgres.user())
        .database(postgres.database())
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_client_cert(&chain)
        .ssl_client_key(&key)
        .ssl_root_cert(&roots);
    let rotated = Arc::new(Mutex::new(Instant::now()));
    let since = Arc::clone(&rotated);
    let pool = PgPoolOptions::new()
        .before_acquire(move |_connection, metadata| {
            // Close a connection that is older than the newest certificate; sqlx then opens a new one.
            let rotation = since.lock().map(|at| at.elapsed()).unwrap_or_default();
            Box::pin(async move { Ok(metadata.age <= rotation) })
        })
        .connect_with(options)
        .await?;
    let mut rotations = live.subscribe();
    rotations.next().await.context("no first certificate")?;

    let first = serial(&pool).await?;
    println!("Postgres sees {first}");
    ensure!(first == live.current()?.serial().to_decimal());
    issue(&testbed.bao, &folder).await?;
    let newest = rotations.next().await.context("no rotation")?;
    if let Ok(mut at) = rotated.lock() {
        // sqlx reads the files again for each connect, so this is all that is needed.
        *at = Instant::now();
    }
    let second = serial(&pool).await?;
    println!("after the rotation it sees {second}");
    ensure!(second == newest.serial().to_decimal());
    Ok(())
}

/// Writes a new certificate into the folder; each file changes atomically.
async fn issue(bao: &OpenBao, folder: &Path) -> anyhow::Result<()> {
    let path = format!("{}/issue/{}", bao.mount(), bao.client_role());
    let reply = bao
        .api("POST", &path, json!({"common_name": "app"}))
        .await?;
    let text = |field: &str| reply["data"][field].as_str().map(str::to_owned);
    let (leaf, issuer) = (text("certificate"), text("issuing_ca"));
    let chain = leaf
        .zip(issuer)
        .map(|(leaf, issuer)| format!("{leaf}\n{issuer}\n"));
    for (name, content) in [
        ("tls.key", text("private_key")),
        ("tls.crt", chain),
        ("ca.crt", Some(bao.roots_pem().to_owned())),
    ] {
        let new = folder.join("new");
        std::fs::write(
            &new,
            content.with_context(|| format!("no content for {name} in the reply"))?,
        )?;
        std::fs::rename(new, folder.join(name))?;
    }
    Ok(())
}

const SERIAL: &str = "select client_serial::text from pg_stat_ssl where pid = pg_backend_pid()";

async fn serial(pool: &PgPool) -> anyhow::Result<String> {
    // The pool retries a failing connect, so the query needs a limit.
    let query = sqlx::query_scalar(SERIAL).fetch_one(pool);
    Ok(tokio::time::timeout(Duration::from_secs(30), query).await??)
}
