//! Connections that die while idle, and servers that come back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use perennial::testing::TestClock;
use perennial::{CertSource, FetchContext, FetchReason, Fetched, LiveCert, SourceError};
use perennial_postgres::{CertPool, RetireReason};
use perennial_testbed::Fault;
use perennial_tests::{HOUR, ROWS, Stage, eventually, full_pool, many_rows, renew};
use perennial_vault::VaultPki;

async fn pids(stage: &Stage) -> BTreeSet<i32> {
    stage.serials().await.into_keys().collect()
}

/// Scenario: C16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_backends_are_replaced_without_a_check_out() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 4).await;
    let before = pids(&stage).await;
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'";
    stage.admin.simple_query(terminate).await.unwrap();
    eventually("four others have replaced them", async || {
        let now = pids(&stage).await;
        now.len() == 4 && now.is_disjoint(&before)
    })
    .await;
    assert_eq!(pool.status().retired[&RetireReason::Dead], 4);
    // No caller gets a dead one, once its close has been read.
    stage.admin.simple_query(terminate).await.unwrap();
    eventually("the closes have been read", async || {
        let status = pool.status();
        status.by_generation.is_empty() || status.retired[&RetireReason::Dead] == 8
    })
    .await;
    for _ in 0..8 {
        let client = pool.get().await.unwrap();
        assert!(client.query_one("select 1", &[]).await.is_ok());
    }
}

/// Scenario: C16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_callers_survive_a_server_restart() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 3).await;
    stage.testbed.postgres.stop().await.unwrap();
    eventually("all closes have been read", async || {
        pool.status().by_generation.is_empty()
    })
    .await;
    let waiting = {
        let pool = pool.clone();
        tokio::spawn(async move {
            let client = pool.get().await.map_err(|error| format!("{error:?}"))?;
            let answer = client.query_one("select 1", &[]).await;
            answer.map_err(|error| format!("{error:?}"))
        })
    };
    // One connect outside the pool, which bb8 tries only once.
    let connecting = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.dedicated_connection().await })
    };
    eventually("connecting has failed more than once", async || {
        pool.status().connect_errors.values().sum::<u64>() > 2
    })
    .await;
    stage.testbed.postgres.start_again().await.unwrap();
    waiting.await.unwrap().unwrap();
    drop(connecting.await.unwrap().unwrap());
    let admin = stage.testbed.postgres.admin().await.unwrap();
    let stage = Stage { admin, ..stage };
    stage.all_on(&live.current().unwrap(), 3).await;
}

/// Scenario: C16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_connections_are_never_handed_out() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    let pool = full_pool(CertPool::builder(live, config), 3).await;
    for _ in 0..3 {
        proxy.set(Fault::Reset).await.unwrap();
        eventually("the resets have been read", async || {
            pool.status().by_generation.is_empty()
        })
        .await;
        proxy.set(Fault::None).await.unwrap();
        let client = pool.get().await.unwrap();
        assert!(client.query_one("select 1", &[]).await.is_ok());
    }
}

/// Scenario: C16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connection_is_detected_by_a_ping_and_replaced() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    let settings = CertPool::builder(live, config)
        .idle_ping(Duration::from_millis(500))
        .connect_timeout(Duration::from_secs(1));
    let pool = full_pool(settings, 2).await;
    let before = pids(&stage).await;
    proxy.set(Fault::Stall).await.unwrap();
    // The pool wants a replacement, and its connect times out.
    eventually("the pool notices the silence", async || {
        pool.status().last_error.is_some()
    })
    .await;
    proxy.set(Fault::None).await.unwrap();
    eventually("both are replaced", async || {
        let status = pool.status();
        status
            .retired
            .get(&RetireReason::Dead)
            .is_some_and(|dead| *dead >= 2)
    })
    .await;
    eventually("the server sees two others", async || {
        let now = pids(&stage).await;
        now.len() == 2 && now.is_disjoint(&before)
    })
    .await;
    assert!(pool.get().await.is_ok());
}

/// Scenario: C16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowly_read_stream_survives_delayed_pings() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let settings = stage.pool(&live).idle_ping(Duration::from_millis(200));
    let pool = full_pool(settings, 1).await;
    let rows = {
        let client = pool.get().await.unwrap();
        many_rows(&client).await
    };
    pin_mut!(rows);
    assert!(rows.try_next().await.unwrap().is_some());
    eventually("its session was given up and replaced", async || {
        pool.status().retired_total() == 1
    })
    .await;
    let mut seen = 1;
    while rows.try_next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, ROWS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_keep_idle_connections_and_disturb_no_rotation() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let settings = stage.pool(&live).idle_ping(Duration::from_millis(1));
    let pool = full_pool(settings, 3).await;
    let before = pids(&stage).await;
    let pinged = "select count(*) from pg_stat_activity
        where usename = 'app' and state_change > backend_start + interval '1 second'";
    eventually("the server has answered pings", async || {
        stage
            .admin
            .query_one(pinged, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 3
    })
    .await;
    assert_eq!(pids(&stage).await, before, "no connection was replaced");
    stage.all_on(&*renew(&live).await, 3).await;
    drop(pool);
}

/// Scenario: T8, C3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_connect_after_a_suspend_waits_for_a_fresh_certificate() {
    // The host sleeps beyond the certificate's expiry. Postgres' own clock has not moved, so it would
    // still accept the old certificate: the test asserts that no connection presents it.
    let stage = Stage::set().await;
    let backdated = Duration::from_secs(20);
    let wall = TestClock::starting_at(stage.live(HOUR).await.now() - backdated);
    let source = ShortThenLong {
        short: stage.pki().ttl(Duration::from_secs(15)).build().unwrap(),
        long: stage.pki().ttl(HOUR).build().unwrap(),
        fetched: AtomicBool::new(false),
    };
    let live = LiveCert::builder()
        .clock(&wall)
        .start(source)
        .await
        .unwrap();
    let pool = stage.full_pool(&live, 3).await;
    let old = live.current().unwrap();
    stage.all_on(&old, 3).await;

    // No fetch follows another one sooner.
    tokio::time::sleep(Duration::from_secs(1)).await;
    wall.step_forward(backdated + Duration::from_secs(20));
    assert!(!live.is_ready(), "it has expired");
    let client = pool.dedicated_connection().await.unwrap();
    assert!(client.query_one("select 1", &[]).await.is_ok());
    assert_ne!(client.snapshot().serial(), old.serial());
    drop(client);
    stage.all_on(&live.current().unwrap(), 3).await;
    assert_eq!(stage.testbed.bao.issued().await.unwrap(), 3);
}

/// Scenario: F16, F29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clock_that_is_hours_ahead_for_seconds_closes_no_connection() {
    // As when one time server of a fleet is wrong. Postgres' own clock is right all the time.
    let stage = Stage::set().await;
    for ttl in [HOUR, Duration::from_secs(60)] {
        let wall = TestClock::starting_at(stage.live(ttl).await.now());
        let source = stage.pki().ttl(ttl).build().unwrap();
        let live = LiveCert::builder().clock(&wall).start(source).await;
        let live = live.unwrap();
        let pool = stage.full_pool(&live, 4).await;
        let before = pids(&stage).await;
        wall.step_forward(3 * HOUR);
        let began = tokio::time::Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            let mut clients = Vec::new();
            for _ in 0..4 {
                clients.push(pool.get().await.unwrap());
            }
            for client in &clients {
                assert!(client.query_one("select 1", &[]).await.is_ok());
            }
            drop(clients);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(live.current().is_err(), "it is not offered");
        assert_eq!(pids(&stage).await, before);
        wall.step_back(3 * HOUR);
        let client = pool.dedicated_connection().await.unwrap();
        assert!(client.query_one("select 1", &[]).await.is_ok());
        let retired = pool.status().retired;
        for reason in [RetireReason::Expired, RetireReason::Dead] {
            assert_eq!(retired.get(&reason).copied().unwrap_or_default(), 0);
        }
        drop((client, pool));
        eventually("its backends have ended", async || {
            pids(&stage).await.is_empty()
        })
        .await;
    }
}

/// Scenario: F23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clock_that_is_set_back_offers_postgres_no_expired_certificate() {
    // Postgres' and OpenBao's clocks are right: Postgres refuses a certificate that has expired.
    let stage = Stage::set().await;
    let lifetime = Duration::from_secs(8);
    let wall = TestClock::starting_at(stage.live(HOUR).await.now());
    let source = stage.pki().ttl(lifetime).build().unwrap();
    let live = LiveCert::builder().clock(&wall).start(source).await;
    let live = live.unwrap();
    let issued = stage.testbed.bao.issued().await.unwrap();
    let manager = stage.manager(&live);
    wall.step_back(HOUR);
    let began = tokio::time::Instant::now();
    while began.elapsed() < 5 * lifetime / 2 {
        let client = manager.dedicated_connection().await.unwrap();
        assert!(client.query_one("select 1", &[]).await.is_ok());
        drop(client);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let generations = live.current().unwrap().generation();
    assert!(generations >= 3, "{generations}");
    // One in four to six seconds, and none is fetched while one is held.
    let issued = stage.testbed.bao.issued().await.unwrap() - issued;
    let seconds = began.elapsed().as_secs();
    assert!(issued as u64 <= 1 + seconds / 3, "{issued} in {seconds} s");
}

/// Scenario: F28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_expire_in_a_suspend_are_counted_as_expired_and_not_as_dead() {
    let stage = Stage::set().await;
    let source = stage.pki().ttl(Duration::from_secs(60)).build().unwrap();
    let context = FetchContext::new(FetchReason::Start, None);
    let Ok(Fetched::Certificate(material)) = source.fetch(context).await else {
        panic!("the source delivers a certificate");
    };
    let now = stage.live(HOUR).await.now();
    let wall = TestClock::starting_at(now);
    let live = LiveCert::builder().clock(&wall).fixed(material).unwrap();
    let settings = stage.pool(&live).connection_timeout(Duration::from_secs(1));
    let pool = full_pool(settings, 3).await;
    wall.step_forward(HOUR);
    // Two have died meanwhile; the third one is closed once the wall clock is believed.
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
        where usename = 'app' limit 2";
    stage.admin.simple_query(terminate).await.unwrap();
    eventually("all have ended", async || pids(&stage).await.is_empty()).await;
    assert!(pool.get().await.is_err(), "no certificate is left");
    eventually("all are counted", async || {
        pool.status().retired.get(&RetireReason::Expired) == Some(&3)
    })
    .await;
    let dead = pool.status().retired.get(&RetireReason::Dead).copied();
    assert_eq!(dead.unwrap_or_default(), 0);
}

/// A lifetime that ends during the suspend, then a long one.
struct ShortThenLong {
    short: VaultPki,
    long: VaultPki,
    fetched: AtomicBool,
}

impl CertSource for ShortThenLong {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        if self.fetched.swap(true, Ordering::SeqCst) {
            self.long.fetch(context).await
        } else {
            self.short.fetch(context).await
        }
    }
}

/// Scenario: C16
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_probes_silent_connections_within_half_a_minute() {
    // Read from the kernel: the timer on our end of the connection.
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let pool = stage.full_pool(&live, 1).await;
    let port = format!(":{:04X}", stage.testbed.postgres.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers: Vec<(u8, u64)> = sockets
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        // Ours: established, to Postgres' port.
        .filter(|fields| fields[2].ends_with(&port) && fields[3] == "01")
        .map(|fields| {
            let (kind, left) = fields[5].split_once(':').unwrap();
            (
                u8::from_str_radix(kind, 16).unwrap(),
                u64::from_str_radix(left, 16).unwrap(),
            )
        })
        .collect();
    const KEEPALIVE: u8 = 2;
    // In hundredths of a second.
    assert!(
        matches!(timers[..], [(KEEPALIVE, left)] if left <= 3_000),
        "{timers:?}"
    );
    drop(pool);
}
