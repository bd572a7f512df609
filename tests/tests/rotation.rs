//! Rotation under load.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use perennial_tests::{Load, ROWS, Stage, eventually, many_rows, renew};

async fn pid(client: &tokio_postgres::Client) -> i32 {
    client
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0)
}

/// Scenario: C3, C4, C5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_fails_in_five_rotations_under_load() {
    // Invariant 8: queries, a row stream that is read after its connection was returned, a
    // transaction of six seconds, a dedicated connection, and one put in by `add`.
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(3_600)).await;
    let pool = stage.pool(&live).max_size(8).min_idle(6).build();
    let pool = pool.await.unwrap();
    let added = pool.dedicated_connection().await.unwrap();
    let added_pid = pid(&added).await;
    pool.bb8().add(added).unwrap();
    let dedicated = pool.dedicated_connection().await.unwrap();
    let dedicated_pid = pid(&dedicated).await;
    let first_serial = live.current().unwrap().serial().to_decimal();

    let load = Load::on(&pool, 12);

    let (rotated, all_rotated) = tokio::sync::oneshot::channel::<()>();
    let (pid_sender, transaction_pid) = tokio::sync::oneshot::channel();
    let transaction = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut client = pool.get().await.unwrap();
            let before = pid(&client).await;
            let transaction = client.transaction().await.unwrap();
            transaction
                .batch_execute("create temporary table mine (n int)")
                .await
                .unwrap();
            pid_sender.send(before).unwrap();
            transaction
                .query_one("select pg_sleep(6)::text", &[])
                .await
                .unwrap();
            all_rotated.await.unwrap();
            transaction
                .batch_execute("insert into mine values (1)")
                .await
                .unwrap();
            transaction.commit().await.unwrap();
            assert_eq!(
                pid(&client).await,
                before,
                "the transaction kept its backend"
            );
        })
    };
    let transaction_pid = transaction_pid.await.unwrap();
    // Last, because the next caller that checks this connection out waits until the rows are read.
    let (stream_pid, rows) = {
        let client = pool.get().await.unwrap();
        let pid = pid(&client).await;
        (pid, many_rows(&client).await)
    };

    let lasting = [dedicated_pid, stream_pid, transaction_pid];
    pin_mut!(rows);
    let mut newest = live.current().unwrap();
    let mut seen = 0;
    for rotation in 1..=5 {
        newest = renew(&live).await;
        assert_eq!(newest.generation(), rotation + 1);
        for _ in 0..5_000 {
            assert!(rows.try_next().await.unwrap().is_some());
            seen += 1;
        }
        let serial = newest.serial().to_decimal();
        eventually("all but the lasting connections have moved", async || {
            let serials = stage.serials().await;
            let old = serials.iter().filter(|(_, seen)| **seen != serial);
            old.map(|(pid, _)| *pid).collect::<BTreeSet<_>>() == BTreeSet::from(lasting)
        })
        .await;
    }
    // After five rotations these are still on the first certificate.
    let serials = stage.serials().await;
    assert_eq!(lasting.map(|pid| &serials[&pid]), [&first_serial; 3]);
    rotated.send(()).unwrap();
    transaction.await.unwrap();
    while rows.try_next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, ROWS, "the stream was read to its end");

    assert_eq!(
        pid(&dedicated).await,
        dedicated_pid,
        "the dedicated connection was left alone"
    );
    eventually("only the dedicated connection is old", async || {
        let serials = stage.serials().await;
        let newest = newest.serial().to_decimal();
        let old: Vec<_> = serials
            .iter()
            .filter(|(_, serial)| **serial != newest)
            .collect();
        old == [(&dedicated_pid, &first_serial)]
    })
    .await;
    assert!(
        !stage.serials().await.contains_key(&added_pid),
        "the added one was retired too"
    );
    assert!(load.finish().await > 500);

    // The CA's own count of issued certificates.
    assert_eq!(
        stage.testbed.bao.issued().await.unwrap(),
        newest.generation()
    );
    // The pool, its dedicated connection, and no left-over spare.
    let expected = 1 + pool.bb8().state().connections as usize;
    eventually("no spare is left", async || {
        stage.serials().await.len() == expected
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_stream_continues_while_its_connection_is_exchanged() {
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(3_600)).await;
    let pool = stage.full_pool(&live, 2).await;
    let (stream_pid, rows) = {
        let client = pool.get().await.unwrap();
        let pid = pid(&client).await;
        (pid, many_rows(&client).await)
    };
    pin_mut!(rows);
    assert!(rows.try_next().await.unwrap().is_some());
    renew(&live).await;
    eventually("both are exchanged", async || {
        pool.status().retired_total() == 2
    })
    .await;
    assert!(
        stage.serials().await.contains_key(&stream_pid),
        "the old backend still sends"
    );
    let mut seen = 1;
    while rows.try_next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, ROWS);
    stage.all_on(&live.current().unwrap(), 2).await;
    drop(pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_pool_rotates_without_a_check_out() {
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(3_600)).await;
    let pool = stage.full_pool(&live, 5).await;
    stage.all_on(&live.current().unwrap(), 5).await;

    stage.all_on(&*renew(&live).await, 5).await;
    assert_eq!(pool.status().retired_total(), 5);
    drop(pool);
}

/// Scenario: C4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_connections_move_a_few_at_a_time_before_expiry() {
    // The pool never shrinks, the server never sees many more, and the move ends before expiry.
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(120)).await;
    let pool = stage.full_pool(&live, 100).await;
    let old = live.current().unwrap();
    stage.all_on(&old, 100).await;
    let load = Load::on(&pool, 8);
    renew(&live).await;
    let newest = live.current().unwrap().serial().to_decimal();
    let (mut fewest, mut most) = (usize::MAX, 0);
    eventually("all have moved", async || {
        let serials = stage.serials().await;
        fewest = fewest.min(serials.len());
        most = most.max(serials.len());
        serials.values().all(|serial| *serial == newest)
    })
    .await;
    assert!(live.now() < old.not_after());
    assert!(fewest >= 100, "the pool shrank to {fewest}");
    // Two spares, and those whose Terminate message the server has yet to read.
    assert!(most <= 110, "the server saw {most}");
    assert!(load.finish().await > 0);
    assert_eq!(pool.bb8().state().connections, 100);
}
