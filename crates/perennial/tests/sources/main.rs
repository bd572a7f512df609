//! Sources as a program uses them: a real environment, a real child process, the public API.

#![cfg(any(feature = "aws-lc-rs", feature = "ring"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use perennial::{CertSource, EnvSource, FileSource, LiveCert};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Set for the child: this same program, started again.
const CHILD: &str = "PERENNIAL_TEST_CHILD";

struct Set {
    chain: String,
    key: String,
    roots: String,
}

fn issue() -> Set {
    #[expect(clippy::disallowed_methods, reason = "the child reads the real clock")]
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(3_600)).into();
    let key = KeyPair::generate().unwrap();
    Set {
        chain: params.signed_by(&key, &ca).unwrap().pem(),
        key: key.serialize_pem(),
        roots: ca.pem(),
    }
}

/// Runs [`child`] in a process of its own with these variables.
fn run(variables: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[tokio::test]
#[ignore = "run by the other tests, with variables set"]
async fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let source = EnvSource::new("APP_CHAIN", "APP_KEY", "APP_ROOTS")
        .or(EnvSource::combined("APP_PAIR", "APP_ROOTS_OF_PAIR"));
    let builder = LiveCert::builder().start_timeout(Duration::from_secs(5));
    match builder.start(source).await {
        Ok(live) => println!("started: {:?}", live.current().unwrap().names().dns),
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                println!("refused: {error}");
                cause = error.source();
            }
        }
    }
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn real_environment_is_read_and_its_errors_name_variables_alone() {
    let set = issue();
    let pair = format!("{}{}", set.key, set.chain);
    let [chain, key, roots] = [&set.chain, &set.key, &set.roots].map(String::as_str);
    let whole = [("APP_CHAIN", chain), ("APP_KEY", key), ("APP_ROOTS", roots)];
    assert!(printed(&run(&whole)).contains("started: [\"app.test\"]"));
    let second = [("APP_PAIR", pair.as_str()), ("APP_ROOTS_OF_PAIR", roots)];
    assert!(printed(&run(&second)).contains("started"));

    let nothing = printed(&run(&[]));
    assert!(
        nothing.contains("APP_CHAIN, APP_KEY, APP_ROOTS"),
        "{nothing}"
    );
    assert!(nothing.contains("APP_PAIR, APP_ROOTS_OF_PAIR"), "{nothing}");
    let half = printed(&run(&whole[..2]));
    assert!(half.contains("not set: APP_ROOTS"), "{half}");
    let swapped = [("APP_CHAIN", key), ("APP_KEY", chain), ("APP_ROOTS", roots)];
    let swapped = printed(&run(&swapped));
    assert!(
        swapped.contains("reading the variable APP_CHAIN"),
        "{swapped}"
    );
    for line in key.lines().filter(|line| !line.starts_with('-')) {
        assert!(!swapped.contains(line), "{swapped}");
    }
}

#[tokio::test]
async fn saved_certificate_is_used_at_a_start_without_the_files() {
    let set = issue();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let source = || {
        FileSource::new(path("tls.crt"), path("tls.key"), path("ca.crt")).saved_at(path("saved"))
    };
    for (name, text) in [
        ("tls.crt", &set.chain),
        ("tls.key", &set.key),
        ("ca.crt", &set.roots),
    ] {
        std::fs::write(path(name), text).unwrap();
    }
    let live = LiveCert::start(source()).await.unwrap();
    let first = live.current().unwrap();
    // Waits until it is saved.
    live.shutdown(Duration::from_secs(60)).await.unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::fs::remove_file(path(name)).unwrap();
    }
    let second = LiveCert::start(source()).await.unwrap().current().unwrap();
    assert_eq!(first.serial(), second.serial());
    assert_eq!(first.obtained_at(), second.obtained_at());
    let obtained_at = first.obtained_at().duration_since(SystemTime::UNIX_EPOCH);
    let saved = std::fs::read_to_string(path("saved")).unwrap();
    let facts = format!("{} ", obtained_at.unwrap().as_nanos());
    assert!(saved.lines().nth(1).unwrap().starts_with(&facts), "{facts}");
}
