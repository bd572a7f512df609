//! Single connects, and the faults that may occur on the way.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use perennial_postgres::{CertConnectionManager, ConnectError, PgTls};
use perennial_testbed::Fault;
use perennial_tests::{HOUR, Stage, eventually, full_pool, renew};
use tokio_postgres::config::SslMode;

/// Scenario: C1, C2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_in_flight_during_a_rotation_keeps_its_generation_and_is_retired() {
    // The rotation happens during the handshake, which must complete.
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    let manager = CertConnectionManager::new(live.clone(), config).unwrap();

    proxy.set(Fault::Stall).await.unwrap();
    let connecting = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.dedicated_connection().await })
    };
    eventually("the connect is under way", async || proxy.accepted() == 1).await;
    let old = live.current().unwrap();
    assert_eq!(renew(&live).await.generation(), 2);
    proxy.set(Fault::None).await.unwrap();

    let connection = connecting.await.unwrap().unwrap();
    assert!(
        format!("{connection:?}").contains("generation: 1"),
        "{connection:?}"
    );
    // The connection is idle and old, so it is exchanged: the server sees only the new certificate.
    stage.all_on(&live.current().unwrap(), 1).await;
    assert_eq!(connection.generation(), 2);
    assert!(connection.query_one("select 1", &[]).await.is_ok());
    assert_ne!(old.serial(), connection.snapshot().serial());
}

/// Scenario: C11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_tls_is_refused() {
    // Postgres itself with ssl = off, and with a rule that accepts plain TCP.
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let postgres = &stage.testbed.postgres;
    let hba = postgres.folder().join("private/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all app 127.0.0.1/32 trust\n{rules}")).unwrap();
    stage
        .admin
        .batch_execute("alter system set ssl = off")
        .await
        .unwrap();
    postgres.reload().await.unwrap();

    let mut config = postgres.config();
    config.ssl_mode(SslMode::Prefer);
    eventually("postgres accepts plain TCP", async || {
        let plain = config
            .clone()
            .ssl_mode(SslMode::Disable)
            .connect(tokio_postgres::NoTls)
            .await;
        plain.is_ok()
    })
    .await;

    let manager = CertConnectionManager::new(live.clone(), config.clone()).unwrap();
    let error = manager.dedicated_connection().await.unwrap_err();
    assert!(
        format!("{error:?}").contains("server does not support TLS"),
        "{error:?}"
    );
    config.ssl_mode(SslMode::Require);
    let error = config.connect(PgTls::new(live)).await.err().unwrap();
    assert!(
        format!("{error:?}").contains("server does not support TLS"),
        "{error:?}"
    );
}

/// Scenario: C11, C15
#[tokio::test]
async fn sslmode_disable_is_refused_at_build() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let mut config = stage.testbed.postgres.config();
    config.ssl_mode(SslMode::Disable);
    let error = CertConnectionManager::new(live, config).unwrap_err();
    assert!(
        error.to_string().starts_with("invalid sslmode \"disable\""),
        "{error}"
    );
}

/// Scenario: C12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_server_holds_no_slot_and_the_error_names_it() {
    // The server accepts the connection and never answers; then it recovers.
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let (proxy, config) = stage.proxied_postgres().await;
    let manager = CertConnectionManager::builder(live, config)
        .connect_timeout(Duration::from_millis(300))
        .build_manager()
        .unwrap();
    // A bb8 pool of the caller's own: `explain` gives its error the cause.
    let pool = manager
        .bb8_builder()
        .max_size(1)
        .connection_timeout(Duration::from_millis(900))
        .build_unchecked(manager.clone());

    proxy.set(Fault::Stall).await.unwrap();
    let error = pool.get().await.map(drop).unwrap_err();
    let ConnectError::NoneFree {
        last: Some(cause), ..
    } = manager.explain(error)
    else {
        panic!("the cause is known");
    };
    assert!(matches!(*cause, ConnectError::TimedOut { .. }), "{cause:?}");

    proxy.set(Fault::None).await.unwrap();
    eventually("the pool works again", async || pool.get().await.is_ok()).await;
    assert!(manager.status().last_error.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_connect_runs_on_replacements_too() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let settings = stage
        .pool(&live)
        .on_connect(|client| Box::pin(client.batch_execute("set application_name = 'hooked'")));
    let pool = full_pool(settings, 2).await;
    stage.all_on(&*renew(&live).await, 2).await;
    let client = pool.get().await.unwrap();
    let name: String = client
        .query_one("show application_name", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(name, "hooked");
}

/// Scenario: C15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hook_that_panics_or_hangs_fails_its_connect_and_nothing_else() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    static WRONG: AtomicU8 = AtomicU8::new(0);
    let settings = stage
        .pool(&live)
        .connect_timeout(Duration::from_secs(2))
        .on_connect(|client| {
            let wrong = WRONG.load(Ordering::SeqCst);
            assert!(wrong != 1, "in the call");
            Box::pin(async move {
                assert!(wrong != 2, "in the future");
                let hangs = if wrong == 3 { 60 } else { 0 };
                client
                    .batch_execute(&format!("select pg_sleep({hangs})"))
                    .await
            })
        });
    let pool = full_pool(settings, 2).await;
    let all = pool.bb8().state().connections as usize;
    for wrong in [1, 2, 3] {
        WRONG.store(wrong, Ordering::SeqCst);
        let error = pool.dedicated_connection().await.unwrap_err();
        let expected = match wrong {
            3 => matches!(error, ConnectError::TimedOut { .. }),
            _ => matches!(error, ConnectError::OnConnectPanicked),
        };
        assert!(expected, "{error:?}");
        // The background task fails in the same way.
        let failed = || pool.status().connect_errors.values().sum::<u64>();
        let before = failed();
        renew(&live).await;
        eventually("a replacement has failed", async || failed() > before).await;
        WRONG.store(0, Ordering::SeqCst);
        // The hung connect is closed, and the pool rotates as usual.
        stage.all_on(&live.current().unwrap(), all).await;
    }
    drop(pool);
}

/// Scenario: C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_bb8_postgres_uses_the_current_certificate_for_each_connect() {
    let stage = Stage::set().await;
    let live = stage.live(HOUR).await;
    let config = stage.testbed.postgres.config();
    let stock = bb8_postgres::PostgresConnectionManager::new(config, PgTls::new(live.clone()));
    let pool = bb8::Pool::builder().max_size(2).build(stock).await.unwrap();

    let first = pool.get().await.unwrap();
    let old = live.current().unwrap();
    let new = renew(&live).await;
    let second = pool.get().await.unwrap();
    let both = [old, new].map(|snapshot| snapshot.serial().to_decimal());
    assert_eq!(stage.distinct_serials().await, both.into());
    drop((first, second));
}

/// Scenario: H3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_pool_leaves_no_connection_and_no_task() {
    // The replacer ends with the pool, the renewer with the last handle.
    let stage = Stage::set().await;
    let live = stage.live(Duration::from_secs(10)).await;
    let pool = stage.full_pool(&live, 3).await;
    stage.all_on(&live.current().unwrap(), 3).await;
    let mut rotations = live.subscribe();
    drop((pool, live));
    eventually("no backend is left", async || {
        stage.serials().await.is_empty()
    })
    .await;
    // The renewer is the only writer: the subscription ends with it.
    let ended = async { while rotations.next().await.is_some() {} };
    assert!(
        tokio::time::timeout(perennial_tests::SOON, ended)
            .await
            .is_ok()
    );
    let tasks = tokio::runtime::Handle::current().metrics();
    eventually("no task is left", async || {
        tasks.num_alive_tasks() <= TESTBED_TASKS
    })
    .await;
}

/// The task of the superuser's connection.
const TESTBED_TASKS: usize = 1;
