//! Vault is down, hangs, or comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use perennial::{CertState, LiveCert, RenewError, Unavailable};
use perennial_testbed::Fault;
use perennial_tests::{Stage, eventually, renew};

/// Scenario: T6, T7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_beyond_expiry_recovers_within_the_retry_bound() {
    // A certificate of 10 s, an outage until well after its expiry, then OpenBao is back.
    let stage = Stage::set().await;
    let (proxy, url) = stage.proxied_bao().await;
    let source = stage
        .pki_at(&url, "app")
        .ttl(Duration::from_secs(10))
        .build()
        .unwrap();
    let live = LiveCert::start(source).await.unwrap();
    let pool = stage.pool(&live).max_size(2).build().await.unwrap();
    pool.get()
        .await
        .unwrap()
        .query_one("select 1", &[])
        .await
        .unwrap();

    proxy.set(Fault::Reset).await.unwrap();
    let before = proxy.accepted();
    let began = tokio::time::Instant::now();
    eventually("a renewal fails", async || {
        live.status().state == CertState::Failing
    })
    .await;
    assert!(live.current().is_ok(), "the last good certificate is kept");
    eventually("the certificate expires", async || {
        live.status().state == CertState::Expired
    })
    .await;
    assert!(matches!(
        live.current(),
        Err(Unavailable::Expired { last: Some(_), .. })
    ));
    let failures = live.status().consecutive_failures;
    eventually("the renewer still retries", async || {
        live.status().consecutive_failures > failures + 1
    })
    .await;

    // Each wait is at least half a second; a fetch makes at most two connections.
    let tries = u64::from(live.status().consecutive_failures);
    let bound = 1 + began.elapsed().as_millis() as u64 / 500;
    assert!(tries <= bound, "{tries} tries in {:?}", began.elapsed());
    assert!(proxy.accepted() - before <= 2 * bound);

    proxy.set(Fault::None).await.unwrap();
    eventually("the certificate recovers automatically", async || {
        live.current().is_ok()
    })
    .await;
    assert_eq!(live.status().consecutive_failures, 0);
    let generation = live.current().unwrap().generation();
    assert_eq!(stage.testbed.bao.issued().await.unwrap(), generation);
    eventually("the pool works again", async || match pool.get().await {
        Ok(client) => client.query_one("select 1", &[]).await.is_ok(),
        Err(_) => false,
    })
    .await;
}

/// Scenario: S12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiters_on_a_cold_start_cost_one_certificate() {
    // One of the waiters is cancelled.
    let stage = Stage::set().await;
    let (proxy, url) = stage.proxied_bao().await;
    proxy.set(Fault::Stall).await.unwrap();
    let source = stage.pki_at(&url, "app").build().unwrap();
    let live = LiveCert::builder().start_lazy(source).unwrap();
    let mut waiters: Vec<_> = (0..10_000)
        .map(|_| {
            let live = live.clone();
            tokio::spawn(async move {
                live.wait_valid()
                    .await
                    .map(|snapshot| snapshot.generation())
            })
        })
        .collect();
    eventually("the fetch is under way", async || proxy.accepted() > 0).await;
    waiters.swap_remove(0).abort();
    proxy.set(Fault::None).await.unwrap();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), 1);
    }
    assert_eq!(stage.testbed.bao.issued().await.unwrap(), 1);
}

/// Scenario: H2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_a_hung_vault() {
    // Shutdown during a hung fetch, whose own timeout is five seconds.
    let stage = Stage::set().await;
    let (proxy, url) = stage.proxied_bao().await;
    let source = stage.pki_at(&url, "app").build().unwrap();
    proxy.set(Fault::Stall).await.unwrap();
    let live = LiveCert::builder().start_lazy(source).unwrap();
    let waiting = {
        let live = live.clone();
        tokio::spawn(async move { live.wait_valid().await })
    };
    eventually("the fetch hangs", async || proxy.accepted() > 0).await;
    live.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(matches!(
        waiting.await.unwrap(),
        Err(Unavailable::NothingYet { .. })
    ));
    // A stalled proxy does not see the close; it does once it forwards again.
    proxy.set(Fault::None).await.unwrap();
    eventually("its connection is closed", async || {
        proxy.connections() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_vault_is_transient_and_recovers_after_unsealing() {
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(3_600)).await;
    stage.testbed.bao.seal().await.unwrap();
    let mut failure = None;
    eventually("a renewal fails", async || {
        failure = live.renew().await.err();
        matches!(failure, Some(RenewError::Source(_)))
    })
    .await;
    assert!(failure.unwrap().is_transient());
    stage.testbed.bao.unseal().await.unwrap();
    // The back-off's first step is longer than this: a request is limited for ten seconds only.
    renew(&live).await;
    assert_eq!(stage.testbed.bao.issued().await.unwrap(), 2);
}
