//! Retirement on demand, at a limit, and at shutdown.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use perennial_postgres::{CertConnectionManager, ConnectError, Notified, PoolEvent, RetireReason};
use perennial_testbed::Fault;
use perennial_tests::{
    HELD_HOOK, HOUR, ROWS, SOON, Stage, eventually, full_pool, hold_hooks, many_rows,
    release_hooks, renew,
};
use tokio_postgres::error::SqlState;

/// Scenario: C18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retire_exchanges_idle_connections_and_counts_those_in_use() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 5).await;
    let in_use = pool.get().await.unwrap();
    in_use.simple_query("begin").await.unwrap();

    let newest = renew(&live).await;
    assert_eq!(pool.retire().await, 1);
    let status = pool.status();
    assert_eq!(status.by_generation, [(1, 1), (2, 4)].into());
    assert_eq!(status.old_in_use, 1);
    assert_eq!(status.retired[&RetireReason::Rotated], 4);
    assert!(in_use.simple_query("commit").await.is_ok());
    drop(in_use);
    stage.all_on(&newest, 5).await;
}

/// Scenario: C18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn immediate_retire_leaves_no_old_backend() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 3).await;
    let dedicated = pool.dedicated_connection().await.unwrap();
    dedicated.simple_query("begin").await.unwrap();
    // The connection is returned to the pool while its stream is still read.
    let stream = {
        let client = pool.get().await.unwrap();
        many_rows(&client).await
    };
    pin_mut!(stream);
    assert!(stream.try_next().await.unwrap().is_some());
    let busy = pool.bb8().get_owned().await.unwrap();
    let query = tokio::spawn(async move { busy.query_one("select pg_sleep(60)", &[]).await });
    eventually("the query runs", async || sleeping(&stage).await == 1).await;

    let newest = renew(&live).await;
    assert_eq!(pool.status().old_in_use, 2);
    eventually(
        "the one with a stream was exchanged and is draining",
        async || pool.status().draining == 1,
    )
    .await;
    assert_eq!(pool.retire_immediately().await, 0);
    let status = pool.status();
    assert!(status.retired_total() >= 3, "{status:?}");
    assert!(
        status
            .by_generation
            .keys()
            .all(|generation| *generation == 2)
    );
    // The query was cancelled, not cut off: its caller gets the reason.
    let error = query.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    stage.all_on(&newest, 3).await;
    assert!(dedicated.simple_query("select 1").await.is_err());
    let ended = async { while let Ok(Some(_)) = stream.try_next().await {} };
    assert!(tokio::time::timeout(SOON, ended).await.is_ok());
    assert_eq!(pool.status().draining, 0);
}

/// The number of sleeping queries at the server.
async fn sleeping(stage: &Stage) -> i64 {
    let count = "select count(*) from pg_stat_activity
        where state = 'active' and query = 'select pg_sleep(60)'";
    stage.admin.query_one(count, &[]).await.unwrap().get(0)
}

/// Scenario: C5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_in_use_past_the_hard_limit_is_cancelled_and_closed() {
    // A connection in use outlives its certificate by the limit and no longer.
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(6)).await;
    let settings = stage.pool(&live).hard_limit(Duration::from_secs(1));
    let pool = full_pool(settings, 3).await;
    let stream = {
        let client = pool.get().await.unwrap();
        many_rows(&client).await
    };
    pin_mut!(stream);
    let busy = pool.get().await.unwrap();
    let not_after = busy.snapshot().not_after();
    let idle_in_transaction = pool.dedicated_connection().await.unwrap();
    idle_in_transaction.simple_query("begin").await.unwrap();

    let error = busy
        .query_one("select pg_sleep(60)", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    assert!(live.now() >= not_after + Duration::from_secs(1));
    drop(busy);
    eventually("the other is closed too", async || {
        idle_in_transaction.is_closed()
    })
    .await;
    let ended = async { while let Ok(Some(_)) = stream.try_next().await {} };
    assert!(tokio::time::timeout(SOON, ended).await.is_ok());
    eventually("no connection is in use after its expiry", async || {
        let status = pool.status();
        let limited = status.retired.get(&RetireReason::HardLimit);
        limited.is_some_and(|limited| *limited >= 2) && status.expired_in_use == 0
    })
    .await;
    drop(pool);
}

/// Scenario: C3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_is_closed_at_expiry_if_no_newer_certificate_arrives() {
    // Invariant 7: the CA is stopped, so no newer certificate arrives.
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(12)).await;
    stage.testbed.bao.stop().await.unwrap();
    let pool = stage.full_pool(&live, 4).await;
    let in_use = pool.get().await.unwrap();
    // Another was returned, and its rows are still being read.
    let rows = {
        let client = pool.get().await.unwrap();
        many_rows(&client).await
    };
    pin_mut!(rows);
    assert_eq!(stage.serials().await.len(), 4);

    eventually("the certificate has expired", async || !live.is_ready()).await;
    eventually("the idle ones are closed at the server", async || {
        stage.serials().await.len() == 2
    })
    .await;
    // Connections in use continue, and are counted, until they are returned or read to the end.
    eventually("both are counted", async || {
        pool.status().expired_in_use == 2
    })
    .await;
    assert!(in_use.simple_query("select 1").await.is_ok());
    drop(in_use);
    let mut seen = 0;
    while rows.try_next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, ROWS);
    eventually("these are closed too", async || {
        stage.serials().await.is_empty()
    })
    .await;
    assert!(pool.status().retired[&RetireReason::Expired] >= 3);
    assert_eq!(pool.status().expired_in_use, 0);

    // The CA is back, and so is the pool.
    stage.testbed.bao.start_again().await.unwrap();
    eventually("the pool works again", async || pool.get().await.is_ok()).await;
}

/// Scenario: H2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_waits_for_connections_in_use_and_hands_out_no_more() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let settings = stage.pool(&live).connection_timeout(Duration::from_secs(1));
    let pool = full_pool(settings, 2).await;
    let in_use = pool.get().await.unwrap();
    in_use.simple_query("begin").await.unwrap();
    let left = pool.drain(Duration::from_millis(50)).await;
    assert_eq!(left, 1, "the deadline is kept");

    let draining = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.drain(SOON).await })
    };
    let error = pool.get().await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Draining), "{error:?}");
    // The bb8 pool inside waits for its timeout first, and knows the cause too.
    let error = pool.bb8().get().await.map(drop).unwrap_err();
    let ConnectError::NoneFree {
        last: Some(cause), ..
    } = pool.manager().explain(error)
    else {
        panic!("the error carries its cause");
    };
    assert!(matches!(*cause, ConnectError::Draining), "{cause:?}");
    let refused = pool.dedicated_connection().await.unwrap_err();
    assert!(matches!(refused, ConnectError::Draining), "{refused:?}");
    assert!(!draining.is_finished());
    in_use.simple_query("commit").await.unwrap();
    drop(in_use);
    assert_eq!(draining.await.unwrap(), 0);
    eventually(
        "no backend is left, with the pool still there",
        async || stage.serials().await.is_empty(),
    )
    .await;
    drop(pool);
}

/// Scenario: C5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dedicated_listener_misses_no_notification_until_it_refreshes() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let mut listener = manager.dedicated_connection().await.unwrap();
    listener.batch_execute("listen news").await.unwrap();
    let mut news = listener.notifications();
    stage
        .admin
        .batch_execute("notify news, 'before'")
        .await
        .unwrap();
    let Some(Notified::Notification(heard)) = news.next().await else {
        panic!("a notification");
    };
    assert_eq!((heard.channel(), heard.payload()), ("news", "before"));

    let old = stage.serials().await;
    let newest = renew(&live).await;
    assert_eq!(
        stage.serials().await,
        old,
        "no exchange happened in the background"
    );
    listener.refresh().await.unwrap();
    stage.all_on(&newest, 1).await;
    assert!(news.next().await.is_none(), "the old session has ended");
    listener.batch_execute("listen news").await.unwrap();
    let mut news = listener.notifications();
    stage
        .admin
        .batch_execute("notify news, 'after'")
        .await
        .unwrap();
    let Some(Notified::Notification(heard)) = news.next().await else {
        panic!("a notification");
    };
    assert_eq!(heard.payload(), "after");
    // A refresh of a connection that is up to date does nothing.
    let before = stage.serials().await;
    listener.refresh().await.unwrap();
    assert_eq!(stage.serials().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_listener_learns_how_many_notifications_it_missed() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let listener = stage.manager(&live).dedicated_connection().await.unwrap();
    listener.batch_execute("listen news").await.unwrap();
    let mut news = listener.notifications();
    // Postgres sends the session's own notifications before the answer, so all of them have been read.
    let many = "select pg_notify('news', n::text) from generate_series(1, 300) n";
    listener.simple_query(many).await.unwrap();
    let first = news.next().await;
    assert!(matches!(first, Some(Notified::Missed(44))), "{first:?}");
}

/// Scenario: C18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_uses_the_certificate_current_at_that_time() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let manager = stage.manager(&live);
    let connection = manager.dedicated_connection().await.unwrap();
    let canceller = connection.canceller();
    renew(&live).await;
    let query = tokio::spawn(async move { connection.query_one("select pg_sleep(60)", &[]).await });
    eventually("the query runs", async || sleeping(&stage).await == 1).await;
    eventually("the query ends", async || {
        canceller.cancel_query().await.unwrap();
        query.is_finished()
    })
    .await;
    let error = query.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
}

/// Scenario: C18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rotation_moves_several_pools() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let pools = [
        stage.full_pool(&live, 3).await,
        stage.full_pool(&live, 2).await,
    ];
    let mut events = pools[1].events();
    let newest = renew(&live).await;
    stage.all_on(&newest, 5).await;
    let retired = pools.each_ref().map(|pool| pool.status().retired_total());
    assert_eq!(retired, [3, 2]);
    let mut heard = Vec::new();
    while let Some(event) = events.next().await {
        heard.push(match event {
            PoolEvent::Retired { generation: 1, .. } => "retired",
            PoolEvent::Moved { generation: 2, .. } => break,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(heard, ["retired", "retired"]);
    drop(pools);
}

/// Scenario: C18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connect_uses_an_older_certificate_after_an_immediate_retire() {
    // The worst case of the drill: Postgres refuses the new certificate too.
    let stage = Stage::set().await;
    let live = stage.live_with_overlap().await;
    let pool = stage.full_pool(&live, 2).await;
    stage.testbed.bao.change_root("B").await.unwrap();
    renew(&live).await;
    eventually("the new one is refused", async || {
        pool.status().refused_generation.is_some()
    })
    .await;
    assert!(
        pool.dedicated_connection().await.is_ok(),
        "the certificate that logged in before stays in use"
    );
    assert_eq!(pool.retire_immediately().await, 0);
    let error = pool.dedicated_connection().await.unwrap_err();
    assert!(error.is_refusal(), "{error:?}");
    eventually("nothing is left at the server", async || {
        stage.serials().await.is_empty()
    })
    .await;
    drop(pool);
}

/// Scenario: F10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_in_flight_is_counted_and_begins_again_after_an_immediate_retire() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let builder = stage.pool(&live).connect_timeout(SOON);
    let builder = builder.on_connect(|client| Box::pin(client.batch_execute(HELD_HOOK)));
    let manager = builder.build_manager().unwrap();
    hold_hooks(&stage.admin).await;
    let connect = || {
        let manager = manager.clone();
        tokio::spawn(async move { manager.dedicated_connection().await })
    };
    let connecting = connect();
    eventually("the hook hangs", async || stage.serials().await.len() == 1).await;
    assert_eq!(manager.status().connecting, 1);

    let newest = renew(&live).await;
    assert_eq!(manager.retire_immediately().await, 0);
    stage.all_on(&newest, 1).await;
    release_hooks(&stage.admin).await;
    let connection = connecting.await.unwrap().unwrap();
    assert_eq!(connection.generation(), newest.generation());
    assert_eq!(manager.status().connecting, 0);
    drop(connection);

    eventually("it is closed", async || stage.serials().await.is_empty()).await;
    hold_hooks(&stage.admin).await;
    let connecting = connect();
    eventually("the hook hangs", async || stage.serials().await.len() == 1).await;
    assert_eq!(manager.drain(SOON).await, 0);
    eventually("it is closed", async || stage.serials().await.is_empty()).await;
    let error = connecting.await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::Draining), "{error:?}");
    assert_eq!(manager.status().connecting, 0);
}

/// Scenario: F10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_cuts_a_connect_that_has_no_answer() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    proxy.set(Fault::Stall).await.unwrap();
    let manager = CertConnectionManager::new(live, config).unwrap();
    let connecting = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.dedicated_connection().await })
    };
    eventually("the connect is under way", async || proxy.accepted() == 1).await;
    assert_eq!(manager.drain(SOON).await, 0);
    let error = connecting.await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::Draining), "{error:?}");
}
