//! The primary fails, and its streaming standby is promoted.

use perennial_postgres::CertPool;
use perennial_testbed::Postgres;
use perennial_testbed::tokio_postgres::Config;
use perennial_testbed::tokio_postgres::config::{SslMode, TargetSessionAttrs};
use perennial_tests::{HOUR, Stage, eventually, serials_seen_by};

/// Refused by a standby.
const WRITES: &str = "select pg_current_xact_id()::text";

/// Scenario: C16, C20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_write_pool_moves_to_the_promoted_standby() {
    let stage = Stage::set().await;
    let primary = &stage.testbed.postgres;
    let standby = primary.standby().await.unwrap();
    let live = stage.live(HOUR).await;
    let pool = CertPool::builder(live.clone(), read_write(&standby, primary))
        .max_size(4)
        .min_idle(4)
        .build()
        .await
        .unwrap();
    let write = async || pool.get().await.unwrap().query_one(WRITES, &[]).await;
    write().await.unwrap();
    eventually("every session is at the primary", async || {
        stage.serials().await.len() == 4
    })
    .await;

    primary.stop().await.unwrap();
    standby.promote().await.unwrap();
    let admin = standby.admin().await.unwrap();
    let serial = live.current().unwrap().serial().to_decimal();
    eventually("every session is at the promoted standby", async || {
        let serials = serials_seen_by(&admin).await;
        serials.len() == 4 && serials.values().all(|seen| *seen == serial)
    })
    .await;
    // The former primary returns as a standby, and gets none of the sessions.
    primary.follow(&standby).await.unwrap();
    for _ in 0..20 {
        write().await.unwrap();
    }
    let former = primary.admin().await.unwrap();
    assert!(serials_seen_by(&former).await.is_empty());
}

/// Connection settings that name both servers, and accept only the one that can be written to.
fn read_write(one: &Postgres, other: &Postgres) -> Config {
    let mut config = Config::new();
    for postgres in [one, other] {
        config.host(postgres.host()).port(postgres.port());
    }
    config.user(one.user()).dbname(one.database());
    config.ssl_mode(SslMode::Require);
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}
