//! psql and Perennial with the same string on one real Postgres, over certificates as the world writes them.
//!
//! `.ci/run interop` runs it. `.ci/run interop-update` also writes the tables of docs/src/accepted.md.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use perennial::{LiveCert, find_cause, server_certificate_advice, with_causes};
use perennial_postgres::{CertPool, libpq};
use perennial_testbed::{Postgres, ServerCertificate};
use perennial_tests::Stage;

use shapes::{Judged, Shape};

mod openssl;
mod shapes;

const WHO: &str = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/accepted.md");
/// The line before each table, and the one after it.
const BEGIN: &str = "<!-- written by .ci/run interop-update: ";
const END: &str = "<!-- end -->";
/// Set to write the page instead of comparing it.
const WRITE: &str = "PERENNIAL_WRITE_ACCEPTED";
/// The cell of what has no fault.
const LOGS_IN: &str = "logs in";
/// Long enough for a busy machine: only what waits for a file that never comes uses it up.
const PATIENCE: Duration = Duration::from_secs(5);

/// `Ok` are the warnings; `Err` is the one line of why it failed.
type Outcome = Result<String, Failure>;

#[derive(Debug)]
struct Failure {
    line: String,
    /// The part for the page, which says what is wrong with which certificate.
    part: String,
}

/// Scenario: N02, N04, N06, N07, N08, N09, N10, N11, N12, N13, N15, N17, N18, N24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs psql and openssl"]
async fn where_psql_logs_in_perennial_does_or_names_the_certificate_and_its_fault() {
    let mut shapes = shapes::all();
    shapes.sort_by_key(|shape| shape.id);
    let stage = Stage::set().await;
    let postgres = &stage.testbed.postgres;
    let mut certificate = stage.testbed.bao.server_certificate().await.unwrap();
    // Every client certificate is of this root.
    postgres.trust(&root_of(&shapes)).await.unwrap();

    let (mut wrong, mut clients, mut servers) = (Vec::new(), String::new(), String::new());
    for shape in &shapes {
        present(postgres, &mut certificate, shape).await;
        let folder = tempfile::tempdir().unwrap();
        let words = words(shape, folder.path(), postgres.port());
        let mut cells = Vec::new();
        for mode in modes(shape) {
            let words = format!("{words} sslmode={mode}");
            let by_psql = psql(&words, folder.path());
            let by_us = perennial(&words, folder.path()).await;
            eprintln!(
                "{} {} {mode}\n  psql: {by_psql:?}\n  ours: {by_us:?}",
                shape.id, shape.what
            );
            wrong.extend(fault(shape, mode, &by_psql, &by_us));
            cells.push(cell(&by_psql));
            cells.push(cell(&by_us));
        }
        let table = match shape.judged {
            Judged::Client => &mut clients,
            Judged::Server => &mut servers,
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} |",
            shape.id,
            shape.what,
            cells.join(" | ")
        );
    }
    let faults = wrong.join("\n");
    assert!(wrong.is_empty(), "{faults}");
    page(&[("clients", clients), ("servers", servers)]);
}

fn root_of(shapes: &[Shape]) -> String {
    let usual = shapes.first().unwrap();
    String::from_utf8(usual.roots.clone()).unwrap()
}

fn modes(shape: &Shape) -> &'static [&'static str] {
    match shape.judged {
        Judged::Client => &["verify-full"],
        Judged::Server => &["verify-full", "verify-ca"],
    }
}

/// Reloads Postgres if it presents another certificate now.
async fn present(postgres: &Postgres, certificate: &mut ServerCertificate, shape: &Shape) {
    let (chain, key) = &shape.server;
    if certificate.chain != *chain {
        (certificate.chain, certificate.key) = (chain.clone(), key.clone());
        postgres.present(certificate).await.unwrap();
    }
}

/// Writes the client's files, and returns the string that names them.
fn words(shape: &Shape, folder: &Path, port: u16) -> String {
    let mut words = format!(
        "host={} hostaddr=127.0.0.1 port={port} user=app dbname=app",
        shape.host
    );
    for (key, name, content) in [
        ("sslcert", "client.crt", &shape.chain),
        ("sslkey", "client.key", &shape.key),
        ("sslrootcert", "ca.crt", &shape.roots),
    ] {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let _ = write!(words, " {key}={}", path.display());
    }
    // Without one, psql would ask the terminal.
    let _ = write!(words, " sslpassword={}", shape.password.unwrap_or("none"));
    words
}

fn psql(words: &str, home: &Path) -> Outcome {
    let output = Command::new("psql")
        .args(["-XAtc", WHO, words])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        assert_eq!(text(&output.stdout), "/CN=app");
        return Ok(String::new());
    }
    let line = without(&text(&output.stderr), home);
    // Its words depend on its version.
    let part = "fails".to_owned();
    Err(Failure { line, part })
}

async fn perennial(words: &str, folder: &Path) -> Outcome {
    let libpq = libpq::parse_with(words, |_| None).unwrap();
    let builder = LiveCert::builder().start_timeout(PATIENCE).tls(libpq.tls);
    let live = builder.start(libpq.source).await;
    let live = live.map_err(|error| failure(&error, folder))?;
    let pool = CertPool::builder(live.clone(), libpq.config)
        .connect_timeout(PATIENCE)
        .build();
    let client = pool.await.unwrap().dedicated_connection().await;
    let client = client.map_err(|error| failure(&error, folder))?;
    let name: String = client.query_one(WHO, &[]).await.unwrap().get(0);
    assert_eq!(name, "/CN=app");
    let snapshot = live.current().unwrap();
    let warnings = snapshot.warnings().iter().map(|line| without(line, folder));
    Ok(warnings.collect::<Vec<_>>().join("; "))
}

fn failure(error: &(dyn Error + 'static), folder: &Path) -> Failure {
    let line = without(&with_causes(error).to_string(), folder);
    let advice = find_cause(error).and_then(server_certificate_advice);
    let part = match advice {
        Some(advice) => advice,
        // What comes before it is the same for every fault of a file.
        None => line
            .rsplit_once("is not usable: ")
            .map_or(&*line, |(_, part)| part),
    };
    let part = part.to_owned();
    Failure { line, part }
}

/// The text with files' names alone.
fn without(text: &str, folder: &Path) -> String {
    text.replace(&format!("{}/", folder.display()), "")
}

/// What is wrong with this pair of outcomes, if anything.
fn fault(shape: &Shape, mode: &str, by_psql: &Outcome, by_us: &Outcome) -> Option<String> {
    let expected = !shape.says.is_empty();
    let fault = match by_us {
        Ok(_) if expected && mode == "verify-full" => "logs in, which is not expected",
        Ok(_) => return None,
        Err(Failure { line, .. }) if line.lines().count() != 1 => "more than one line",
        Err(_) if by_psql.is_ok() && !expected => "psql logs in",
        Err(Failure { line, .. }) if !shape.says.iter().all(|word| line.contains(word)) => {
            "does not name it"
        }
        Err(_) => return None,
    };
    let Shape { id, what, .. } = shape;
    Some(format!("{id} {what} {mode}: {fault}: {by_us:?}"))
}

/// An outcome as a cell of the table.
fn cell(outcome: &Outcome) -> String {
    match outcome {
        Ok(warnings) if warnings.is_empty() => LOGS_IN.to_owned(),
        Ok(warnings) => format!("{LOGS_IN}; warns: {}", escaped(warnings)),
        Err(Failure { part, .. }) => escaped(part),
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// Writes these rows into the page, or compares them.
fn page(tables: &[(&str, String)]) {
    let before = fs::read_to_string(PAGE).unwrap();
    let mut after = before.clone();
    for (name, rows) in tables {
        let begin = after.find(&format!("{BEGIN}{name} -->")).unwrap();
        // Behind the marker, an empty line and the table's head.
        let head = after[begin..].match_indices('\n').nth(3).unwrap().0 + 1;
        let end = after[begin..].find(END).unwrap();
        after.replace_range(begin + head..begin + end, &format!("{rows}\n"));
    }
    if std::env::var_os(WRITE).is_some() {
        fs::write(PAGE, after).unwrap();
    } else {
        assert!(
            before == after,
            "docs/src/accepted.md is out of date: run .ci/run interop-update"
        );
    }
}
