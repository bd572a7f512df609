//! The string that psql is given, on real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::time::Duration;

use perennial::{LiveCert, with_causes};
use perennial_postgres::libpq::{self, Libpq};
use perennial_postgres::{CertPool, FailureClass};
use perennial_tests::{HOUR, Stage, eventually};

/// A pool of one connection, as the page of libpq makes it.
async fn pool(libpq: Libpq) -> CertPool {
    let live = LiveCert::builder().tls(libpq.tls).start(libpq.source);
    let live = live.await.unwrap();
    let pool = CertPool::builder(live, libpq.config).max_size(1);
    pool.build().await.unwrap()
}

async fn asked(libpq: Libpq, query: &str) -> String {
    let pool = pool(libpq).await;
    let client = pool.get().await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Scenario: C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn string_of_psql_logs_in_and_verifies_the_server_as_it_says() {
    let stage = Stage::set().await;
    let (bao, port) = (&stage.testbed.bao, stage.testbed.postgres.port());
    // OpenBao's own agent writes the files, key and chain in one.
    let agent = bao.agent(bao.client_role(), &["app".to_owned()], HOUR);
    let agent = agent.unwrap();
    let pair = &agent.certificates()[0];
    eventually("the agent's file", async || pair.exists()).await;
    let roots = pair.with_file_name("roots.pem");
    std::fs::write(&roots, bao.roots_pem()).unwrap();
    let (pair, roots) = (pair.display(), roots.display());

    let who = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    let files = format!("sslcert={pair} sslkey='{pair}' sslrootcert={roots}");
    let words = format!("host=localhost port={port} user=app dbname=app {files}");
    let libpq = libpq::parse_with(&words, |_| None).unwrap();
    assert_eq!(asked(libpq, who).await, "/CN=app");

    // The first host of the list is not there.
    let uri = format!(
        "postgresql://app@localhost:1,127.0.0.1:{port}/app?sslmode=verify-full&sslcert={pair}\
         &sslkey={pair}&sslrootcert={roots}&application_name=of%20a%20URI&options=-c%20work_mem%3D1MB"
    );
    let uri = uri.replace('/', "%2F").replacen("%2F", "/", 3);
    let libpq = libpq::parse_with(&uri, |_| None).unwrap();
    let settings =
        "select current_setting('application_name') || ', ' || current_setting('work_mem')";
    assert_eq!(asked(libpq, settings).await, "of a URI, 1MB");

    let variable = |name: &str| {
        let value = match name {
            "PGHOST" => "localhost".to_owned(),
            "PGPORT" => port.to_string(),
            "PGUSER" | "PGDATABASE" => "app".to_owned(),
            "PGSSLCERT" | "PGSSLKEY" => pair.to_string(),
            "PGSSLROOTCERT" => roots.to_string(),
            _ => return None,
        };
        Some(OsString::from(value))
    };
    let libpq = libpq::parse_with("", variable).unwrap();
    assert_eq!(asked(libpq, who).await, "/CN=app");

    // A name that the server's certificate does not contain.
    let words = words.replace("localhost", "db.example hostaddr=127.0.0.1");
    let libpq = libpq::parse_with(&words, |_| None).unwrap();
    let error = pool(libpq).await.dedicated_connection().await.unwrap_err();
    assert_eq!(error.class(), FailureClass::ServerNotTrusted, "{error:?}");
    let line = with_causes(&error).to_string();
    assert!(line.contains("db.example"), "{line}");
    let libpq = libpq::parse_with(&format!("{words} sslmode=verify-ca"), |_| None);
    assert_eq!(asked(libpq.unwrap(), who).await, "/CN=app");
}

/// Scenario: C12
#[tokio::test]
async fn file_that_is_missing_is_named_at_the_start() {
    let home = |name: &str| (name == "HOME").then(|| OsString::from("/nonexistent"));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let words = format!("host=localhost sslcert='{file}' sslkey='{file}'");
    let libpq = libpq::parse_with(&words, home).unwrap();
    let builder = LiveCert::builder().start_timeout(Duration::from_millis(200));
    let error = builder.tls(libpq.tls).start(libpq.source);
    let line = with_causes(&error.await.unwrap_err()).to_string();
    assert!(
        line.contains("/nonexistent/.postgresql/root.crt: No such file"),
        "{line}"
    );
}
