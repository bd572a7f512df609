//! Tests of the testbed itself, on real servers.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failure in a helper is a failed test"
)]

mod changes;
mod client;
mod cluster;
mod gone;
mod issuance;
mod locate;
mod login;
mod proxy;
mod restart;
mod standby;

use perennial_testbed::Testbed;
use tokio::sync::OnceCell;

/// A testbed for tests that do not change it. Statics are never dropped, so its end also tests what `gone` claims.
async fn shared() -> &'static Testbed {
    static SHARED: OnceCell<Testbed> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async { Testbed::start().await.expect("both servers start") })
        .await
}

#[tokio::test]
async fn two_testbeds_run_in_parallel() {
    let (one, two) = tokio::join!(Testbed::start(), Testbed::start());
    let (one, two) = (one.unwrap(), two.unwrap());

    assert_ne!(one.bao.port(), two.bao.port());
    assert_ne!(one.postgres.port(), two.postgres.port());
    let of_one = client::sign(&one, "app").await;
    assert_eq!(client::serial_seen(&one, &of_one).await, of_one.serial);
    // The other testbed's Postgres has a different PKI.
    let refused = client::log_in_trusting(&two, Some(&of_one)).await;
    assert!(
        refused.is_err(),
        "a certificate of another testbed was accepted"
    );
}

#[tokio::test]
async fn each_step_is_reported() {
    let steps = std::sync::Mutex::new(Vec::new());
    let testbed = Testbed::start_with(|step| steps.lock().unwrap().push(step.to_owned()))
        .await
        .unwrap();
    drop(testbed);
    let steps = steps.into_inner().unwrap();
    assert!(steps.ends_with(&["starting OpenBao".into(), "starting Postgres".into()]));
}

#[tokio::test]
async fn debug_never_prints_a_secret() {
    let testbed = shared().await;
    let approle = testbed.bao.approle();
    let printed = format!("{testbed:?} {approle:?}");
    assert!(!printed.contains(&approle.secret_id), "{printed}");
    assert!(printed.contains(&approle.role_id), "{printed}");
    assert!(!printed.contains("-----BEGIN"), "{printed}");
}
