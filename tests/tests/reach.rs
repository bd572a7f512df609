//! Other ways to reach Postgres: several hosts, direct TLS, no pool, a pooler in between.

use std::time::Duration;

use perennial_postgres::{CertConnectionManager, CertPool, PgTls, RetireReason};
use perennial_tests::{HOUR, Load, Stage, eventually, full_pool, renew, serials_seen_by};
use tokio_postgres::Config;
use tokio_postgres::config::{SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;

const READ_ONLY: &str = "default_transaction_read_only";

/// Scenario: C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_list_connects_to_the_writable_server() {
    // Each host gets the current certificate, also the one that is read-only.
    let stage = Stage::set().await;
    let (bao, one) = (&stage.testbed.bao, &stage.testbed.postgres);
    let other = stage.testbed.another_postgres().await.unwrap();
    let admin_of_other = other.admin().await.unwrap();
    one.set(READ_ONLY, "on").await.unwrap();
    let mut config = Config::new();
    config.host(one.host()).port(one.port());
    config.host(other.host()).port(other.port());
    config.user(one.user()).dbname(one.database());
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let live = stage.live_with_overlap().await;
    let pool = full_pool(CertPool::builder(live.clone(), config), 2).await;
    let serial = live.current().unwrap().serial().to_decimal();
    let seen = serials_seen_by(&admin_of_other).await;
    assert_eq!(seen.len(), 2);
    assert!(seen.values().all(|seen| *seen == serial), "{seen:?}");

    // A failover, and a new root that both require: the rotation moves the pool to the other host.
    other.set(READ_ONLY, "on").await.unwrap();
    one.set(READ_ONLY, "off").await.unwrap();
    let root = bao.change_root("B").await.unwrap();
    for postgres in [one, &other] {
        postgres.trust(&root).await.unwrap();
    }
    stage.all_on(&*renew(&live).await, 2).await;

    // And back, skipping the host that is no longer writable.
    one.set(READ_ONLY, "on").await.unwrap();
    other.set(READ_ONLY, "off").await.unwrap();
    let serial = renew(&live).await.serial().to_decimal();
    eventually("all are on the writable one", async || {
        let seen = serials_seen_by(&admin_of_other).await;
        seen.len() == 2 && seen.values().all(|seen| *seen == serial)
    })
    .await;
    for postgres in [one, &other] {
        let log = postgres.log();
        assert!(!log.contains("could not accept SSL connection"), "{log}");
    }
    drop(pool);
}

/// Scenario: N21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_demoted_server_are_replaced_without_a_rotation() {
    // One pool learns of it by a write that fails, the other, which is idle, by its pings.
    let stage = Stage::set().await;
    let first = &stage.testbed.postgres;
    let second = stage.testbed.another_postgres().await.unwrap();
    let admin_of_second = second.admin().await.unwrap();
    let table = "create table t (i int); alter table t owner to app";
    for admin in [&stage.admin, &admin_of_second] {
        admin.batch_execute(table).await.unwrap();
    }
    let mut config = Config::new();
    config.host(first.host()).port(first.port());
    config.host(second.host()).port(second.port());
    config.user(first.user()).dbname(first.database());
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let live = stage.live(HOUR).await;
    let builder = || CertPool::builder(live.clone(), config.clone());
    let written = full_pool(builder(), 4).await;
    let idle = full_pool(builder().idle_ping(Duration::from_millis(300)), 2).await;
    let mut dedicated = written.dedicated_connection().await.unwrap();
    dedicated.simple_query("select 1").await.unwrap();
    let write = async || {
        let client = written.get().await.unwrap();
        client.batch_execute("insert into t values (1)").await
    };
    write().await.unwrap();

    first.set(READ_ONLY, "on").await.unwrap();
    let error = write().await.unwrap_err();
    let read_only = SqlState::READ_ONLY_SQL_TRANSACTION;
    assert_eq!(error.code(), Some(&read_only), "{error:?}");
    eventually("both pools are at the second server", async || {
        serials_seen_by(&admin_of_second).await.len() == 6 && stage.serials().await.len() == 1
    })
    .await;
    for _ in 0..10 {
        write().await.unwrap();
    }
    for (pool, size) in [(&written, 4), (&idle, 2)] {
        let retired = pool.status().retired;
        assert_eq!(retired, [(RetireReason::RoleChanged, size)].into());
        assert_eq!(pool.status().by_generation.len(), 1);
    }
    // A dedicated connection moves when its owner wants it.
    dedicated.simple_query("select 1").await.unwrap();
    eventually("it is at the second server too", async || {
        dedicated.refresh().await.unwrap();
        serials_seen_by(&admin_of_second).await.len() == 7
    })
    .await;
}

/// Scenario: N21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_its_hook_makes_read_only_is_not_replaced() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let mut config = stage.testbed.postgres.config();
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let settings = CertPool::builder(live, config).on_connect(|client| {
        Box::pin(client.batch_execute("set default_transaction_read_only = on"))
    });
    let pool = full_pool(settings, 2).await;
    let before = stage.serials().await;
    assert!(pool.get().await.is_ok());
    // Whatever is to be exchanged is exchanged by this.
    assert_eq!(pool.retire().await, 0);
    assert_eq!(stage.serials().await, before);
    assert_eq!(pool.status().retired_total(), 0);
}

/// Scenario: C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_tls_works_on_postgres_17() {
    // Postgres 17 refuses direct TLS without ALPN.
    let stage = Stage::set().await;
    let postgres = stage.testbed.another_postgres_17().await.unwrap();
    let live = stage.live(HOUR).await;
    let mut config = postgres.config();
    config.ssl_negotiation(SslNegotiation::Direct);
    let manager = CertConnectionManager::new(live.clone(), config.clone()).unwrap();
    let pooled = manager.dedicated_connection().await.unwrap();
    let (bare, connection) = config.connect(PgTls::new(live.clone())).await.unwrap();
    tokio::spawn(connection);

    let serial = live.current().unwrap().serial().to_decimal();
    let seen = serials_seen_by(&postgres.admin().await.unwrap()).await;
    assert_eq!(seen.len(), 2);
    assert!(seen.values().all(|seen| *seen == serial), "{seen:?}");
    drop((pooled, bare));
}

/// Scenario: C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_connections_keep_the_certificate_of_their_connect() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let config = stage.testbed.postgres.config();
    let connect = async || {
        let connected = config.connect(PgTls::new(live.clone())).await;
        let (client, connection) = connected.unwrap();
        tokio::spawn(connection);
        let pid = client.query_one("select pg_backend_pid()", &[]).await;
        let pid: i32 = pid.unwrap().get(0);
        (client, pid)
    };
    let (first, first_pid) = connect().await;
    let old = live.current().unwrap().serial().to_decimal();
    let new = renew(&live).await.serial().to_decimal();
    let (second, second_pid) = connect().await;
    let expected = [(first_pid, old), (second_pid, new)];
    assert_eq!(stage.serials().await, expected.into());

    // A cancel request is a connection of its own, with the current certificate.
    let sleeping = first.simple_query("select pg_sleep(60)");
    let cancel = async {
        eventually("the query runs", async || {
            let active = "select 1 from pg_stat_activity where pid = $1 and state = 'active'";
            stage
                .admin
                .query_opt(active, &[&first_pid])
                .await
                .unwrap()
                .is_some()
        })
        .await;
        let token = first.cancel_token();
        token.cancel_query(PgTls::new(live.clone())).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleeping, cancel);
    let code = slept.unwrap_err().code().cloned();
    assert_eq!(code, Some(SqlState::QUERY_CANCELED));
    assert!(second.simple_query("select 1").await.is_ok());
}

/// Scenario: C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs pgbouncer"]
async fn pool_rotates_through_pgbouncer() {
    let stage = Stage::set().await;
    let pgbouncer = stage.testbed.pgbouncer().await.unwrap();
    let live = stage.live(HOUR).await;
    let pool = full_pool(CertPool::builder(live.clone(), pgbouncer.config()), 3).await;
    let before = pgbouncer.clients().await.unwrap();
    assert_eq!(before.len(), 3, "{before:?}");

    let load = Load::on(&pool, 3);
    renew(&live).await;
    eventually("each connection is a new one", async || {
        let now = pgbouncer.clients().await.unwrap();
        now.len() == 3
            && now.keys().all(|port| !before.contains_key(port))
            && now.values().all(|tls| tls.starts_with("TLSv1.3"))
    })
    .await;
    assert!(load.finish().await > 0);
    assert_eq!(pool.status().by_generation, [(2, 3)].into());
    drop(pool);
}
