//! The same guarantees with deadpool, whose pool calls no hook when a connection is returned.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{TryStreamExt, pin_mut};
use perennial_postgres::deadpool::managed::{self, PoolError};
use perennial_postgres::{
    CertConnectionManager, DeadpoolConnection, FailureClass, PgConnection, PoolStatus, RetireReason,
};
use perennial_tests::{
    HELD_HOOK, HOUR, Load, ROWS, SOON, Stage, eventually, hold_hooks, many_rows, release_hooks,
    renew,
};

type Pool = managed::Pool<CertConnectionManager, DeadpoolConnection>;

/// A pool of this size with every connection made, used and returned.
async fn full_pool(manager: &CertConnectionManager, size: usize) -> Pool {
    let pool = manager.deadpool_builder().max_size(size).build().unwrap();
    let mut all = Vec::new();
    for _ in 0..size {
        let client = pool.get().await.unwrap();
        client.simple_query("select 1").await.unwrap();
        all.push(client);
    }
    pool
}

/// Scenario: C19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_deadpool_rotates_without_a_check_out() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 4).await;
    for _ in 0..2 {
        stage.all_on(&*renew(&live).await, 4).await;
    }
    assert_eq!(manager.status().retired[&RetireReason::Rotated], 8);
    assert_eq!(pool.status().size, 4, "the pool never shrank");
}

/// Scenario: C19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_fails_in_deadpool_rotations_under_load() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 4).await;
    let long = pool.get().await.unwrap();
    long.batch_execute("begin").await.unwrap();

    let load = Load::on_deadpool(&pool, 6);
    for _ in 0..3 {
        let newest = renew(&live).await.serial().to_decimal();
        eventually("all but the transaction have moved", async || {
            let serials = stage.serials().await;
            serials.values().filter(|serial| **serial != newest).count() == 1
        })
        .await;
    }
    long.batch_execute("commit").await.unwrap();
    drop(long);
    assert!(load.finish().await > 100);
    stage.all_on(&live.current().unwrap(), 4).await;
}

/// Scenario: C19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_taken_out_of_deadpool_rotates_only_on_refresh() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 2).await;
    let mut taken: PgConnection = pool.get().await.unwrap().take();
    let old = live.current().unwrap().serial().to_decimal();
    let newest = renew(&live).await;
    eventually("the other one has moved", async || {
        let newest = newest.serial().to_decimal();
        let serials = stage.serials().await.into_values().collect::<Vec<_>>();
        serials.len() == 2 && serials.contains(&old) && serials.contains(&newest)
    })
    .await;
    eventually("no spare waits for it", async || {
        manager.status().spares == 0
    })
    .await;
    taken.refresh().await.unwrap();
    stage.all_on(&newest, 2).await;
    assert_eq!(pool.status().size, 1);
}

/// Scenario: C19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadpool_get_returns_the_cause_and_never_a_dead_connection() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    let manager = CertConnectionManager::builder(live, config)
        .connect_timeout(Duration::from_secs(2))
        .build_manager()
        .unwrap();
    let pool = full_pool(&manager, 2).await;
    proxy.set(perennial_testbed::Fault::Refuse).await.unwrap();
    eventually("the closes have been read", async || {
        manager.status().by_generation.is_empty()
    })
    .await;
    let Err(PoolError::Backend(error)) = pool.get().await else {
        panic!("no connect can succeed");
    };
    assert_eq!(error.class(), FailureClass::Unreachable, "{error:?}");
    proxy.set(perennial_testbed::Fault::None).await.unwrap();
    let client = pool.get().await.unwrap();
    assert!(client.query_one("select 1", &[]).await.is_ok());
}

/// Scenario: H3, C19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_deadpool_leaves_no_connection() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 3).await;
    let last = pool.get().await.unwrap();
    drop((pool, manager));
    eventually("only the one in use is left", async || {
        stage.serials().await.len() == 1
    })
    .await;
    drop(last);
    eventually("no backend is left", async || {
        stage.serials().await.is_empty()
    })
    .await;
}

/// Scenario: C19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadpool_retires_on_demand_keeps_open_streams_and_drains() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 3).await;
    let rows = {
        let client = pool.get().await.unwrap();
        many_rows(&client).await
    };
    pin_mut!(rows);
    renew(&live).await;
    assert_eq!(manager.retire().await, 1, "the stream");
    // `retain` claims no connection, so the background task can still exchange them.
    assert_eq!(
        pool.retain(|connection, _| !connection.is_closed())
            .retained,
        3
    );
    let newest = renew(&live).await;
    eventually("all three are on the newest", async || {
        manager.status().by_generation == [(newest.generation(), 3)].into()
    })
    .await;
    let mut seen = 0;
    while rows.try_next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, ROWS);

    let in_use = pool.get().await.unwrap();
    assert_eq!(manager.drain(Duration::from_millis(50)).await, 1);
    let Err(PoolError::Backend(error)) = pool.get().await else {
        panic!("the pool hands out no more");
    };
    assert_eq!(error.class(), FailureClass::Draining);
    drop(in_use);
    assert_eq!(manager.drain(SOON).await, 0);
    eventually("no backend is left", async || {
        stage.serials().await.is_empty()
    })
    .await;
}

/// Scenario: F4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_up_gets_leave_no_backend_that_hangs_in_a_hook() {
    const SIZE: usize = 2;
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let builder = stage.pool(&live);
    let builder = builder.on_connect(|client| Box::pin(client.batch_execute(HELD_HOOK)));
    let manager = builder.build_manager().unwrap();
    let pool: Pool = manager.deadpool_builder().max_size(SIZE).build().unwrap();
    hold_hooks(&stage.admin).await;
    for _ in 0..10 {
        let given_up = |_| tokio::time::timeout(Duration::from_millis(300), pool.get());
        for got in join_all((0..SIZE).map(given_up)).await {
            assert!(got.is_err(), "given up");
        }
    }
    eventually("the server has no more than the pool's size", async || {
        stage.serials().await.len() <= SIZE
    })
    .await;
    let given_up = |status: &PoolStatus| status.retired.get(&RetireReason::GivenUp).copied();
    assert!(given_up(&manager.status()) > Some(SIZE as u64));
    release_hooks(&stage.admin).await;
    let client = pool.get().await.unwrap();
    assert!(client.simple_query("select 1").await.is_ok());
    eventually("no other is left", async || {
        let status = manager.status();
        (
            status.connecting,
            status.draining,
            stage.serials().await.len(),
        ) == (0, 0, 1)
    })
    .await;
}
