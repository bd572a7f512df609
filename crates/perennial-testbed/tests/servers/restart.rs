//! Servers that are stopped, sealed and paused, and return.

use std::time::Duration;

use perennial_testbed::serde_json::Value;
use perennial_testbed::{Testbed, TestbedError};

use crate::client::{log_in_trusting, serial_seen, sign, try_sign};

#[tokio::test]
async fn openbao_keeps_everything_through_seal_pause_and_restart() {
    let testbed = Testbed::start().await.unwrap();
    let bao = &testbed.bao;
    let (address, first) = (bao.address(), sign(&testbed, "app").await);

    bao.seal().await.unwrap();
    let sealed = try_sign(&testbed, "app").await.err().unwrap();
    assert!(
        matches!(sealed, TestbedError::Refused { status: 503, .. }),
        "{sealed}"
    );
    bao.unseal().await.unwrap();
    sign(&testbed, "app").await;

    bao.pause().unwrap();
    let hung = tokio::time::timeout(Duration::from_millis(300), try_sign(&testbed, "app")).await;
    assert!(hung.is_err(), "a paused server answered");
    bao.resume().unwrap();
    sign(&testbed, "app").await;

    let issued = bao.issued().await.unwrap();
    bao.stop().await.unwrap();
    let stopped = try_sign(&testbed, "app").await.err().unwrap();
    assert!(matches!(stopped, TestbedError::NoReply { .. }), "{stopped}");
    assert!(matches!(bao.pause(), Err(TestbedError::Stopped { .. })));
    assert_eq!(bao.pid(), None);
    bao.start_again().await.unwrap();
    assert_eq!(bao.address(), address);
    let role = bao
        .api("GET", "pki_int/roles/app", Value::Null)
        .await
        .unwrap();
    assert_eq!(role["data"]["no_store"], true);

    let second = sign(&testbed, "app").await;
    assert_eq!(
        bao.issued().await.unwrap(),
        issued + 1,
        "the count continues after a restart"
    );
    for signed in [first, second] {
        assert_eq!(serial_seen(&testbed, &signed).await, signed.serial);
    }
}

#[tokio::test]
async fn postgres_returns_on_its_port() {
    let testbed = Testbed::start().await.unwrap();
    let postgres = &testbed.postgres;
    let signed = sign(&testbed, "app").await;
    let session = log_in_trusting(&testbed, Some(&signed)).await.unwrap();

    postgres.stop().await.unwrap();
    assert!(session.simple_query("select 1").await.is_err());
    assert!(log_in_trusting(&testbed, Some(&signed)).await.is_err());
    postgres.start_again().await.unwrap();
    assert_eq!(serial_seen(&testbed, &signed).await, signed.serial);

    postgres.reload().await.unwrap();
    assert!(postgres.log().contains("received SIGHUP"));
}
