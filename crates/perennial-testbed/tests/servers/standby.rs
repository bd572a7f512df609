//! A streaming standby, and a server with a clock of its own.

use std::time::Duration;

use perennial_testbed::{FakeClock, Postgres, Testbed};

use crate::client::{serial_seen, sign};

async fn answer(postgres: &Postgres, query: &str) -> String {
    let client = postgres.admin().await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn standby_streams_takes_over_and_is_followed_by_the_former_primary() {
    let mut testbed = Testbed::start().await.unwrap();
    let signed = sign(&testbed, "app").await;
    let standby = testbed.postgres.standby().await.unwrap();
    let (first, second) = (testbed.postgres.port(), standby.port());
    assert_ne!(first, second);
    assert_eq!(answer(&standby, "show transaction_read_only").await, "on");

    testbed.postgres.stop().await.unwrap();
    standby.promote().await.unwrap();
    assert_eq!(answer(&standby, "show transaction_read_only").await, "off");
    let admin = standby.admin().await.unwrap();
    admin.batch_execute("create table new ()").await.unwrap();

    let former = &testbed.postgres;
    former.follow(&standby).await.unwrap();
    assert_eq!(former.port(), first);
    let exists = "select to_regclass('new')::text";
    assert_eq!(answer(former, exists).await, "new");
    assert_eq!(answer(former, "show transaction_read_only").await, "on");
    // The settings and the trusted CAs came with the data.
    testbed.postgres = standby;
    assert_eq!(serial_seen(&testbed, &signed).await, signed.serial);
}

#[tokio::test]
async fn clock_of_a_server_is_stepped_without_a_restart() {
    let mut testbed = Testbed::start().await.unwrap();
    let postgres = &mut testbed.postgres;
    let clock = match FakeClock::find().await {
        Ok(clock) => clock,
        // Not installed, and no package index within reach.
        Err(error) => return assert!(error.to_string().contains("apt install libfaketime")),
    };
    postgres.use_clock(&clock).unwrap();
    postgres.stop().await.unwrap();
    postgres.start_again().await.unwrap();
    let client = postgres.admin().await.unwrap();
    let now = "select extract(epoch from clock_timestamp())::float8";
    let ahead = async || {
        let machine = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        client.query_one(now, &[]).await.unwrap().get::<_, f64>(0) - machine
    };
    for wanted in [0, 3_600, -60, 0] {
        postgres.set_clock(wanted).unwrap();
        let holds = async {
            while (ahead().await - wanted as f64).abs() > 5.0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), holds)
            .await
            .unwrap();
    }
}
