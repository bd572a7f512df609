//! C9: the CAs of clients and servers change while everything runs.

use std::sync::atomic::{AtomicBool, Ordering};

use perennial_postgres::PgTls;
use perennial_testbed::Postgres;
use perennial_tests::{HOUR, Load, Stage, eventually, full_pool, renew};

/// What Postgres logs of a handshake that failed, on either side.
const FAILED: &str = "could not accept SSL connection";
/// What it logs of a client certificate that it does not take.
const REFUSED: &str = "could not accept SSL connection: certificate verify failed";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_while_both_cas_change_with_overlap() {
    // The PKI gets a new root; the server learns it first and presents it last.
    let stage = Stage::set().await;
    let (bao, postgres) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live_with_overlap().await;
    let manager = stage.manager(&live);
    let pool = full_pool(&manager, 4).await;
    stage.all_on(&live.current().unwrap(), 4).await;
    let load = Load::on(&pool, 4);

    let root_a = bao.roots_pem();
    let root_b = bao.change_root("B").await.unwrap();
    postgres.trust(&format!("{root_a}{root_b}")).await.unwrap();
    // Of B, with the roots of B, while the server still presents A.
    stage.all_on(&*renew(&live).await, 4).await;
    assert_eq!(
        issuers(&stage).await,
        ["/CN=Perennial testbed intermediate B"]
    );

    let certificate = bao.server_certificate().await.unwrap();
    assert_eq!(certificate.root, root_b);
    postgres.present(&certificate).await.unwrap();
    stage.all_on(&*renew(&live).await, 4).await;
    postgres.trust(&root_b).await.unwrap();
    stage.all_on(&*renew(&live).await, 4).await;

    assert!(load.finish().await > 0);
    assert!(!postgres.log().contains(FAILED), "{}", postgres.log());
    drop(pool);
}

/// Whose certificates the backends of the app were let in with.
async fn issuers(stage: &Stage) -> Vec<String> {
    let seen = "select distinct s.issuer_dn from pg_stat_activity a join pg_stat_ssl s using (pid)
        where a.usename = 'app' and s.ssl";
    let rows = stage.admin.query(seen, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_and_certificate_swap_as_one_before_real_servers() {
    // One server is all A, the other all B. Whoever mixes the two gets past the server's
    // certificate and is refused with its own.
    let stage = Stage::set().await;
    let (bao, of_a) = (&stage.testbed.bao, &stage.testbed.postgres);
    let live = stage.live(HOUR).await;
    bao.change_root("B").await.unwrap();
    let of_b = &stage.testbed.another_postgres().await.unwrap();

    let stop = AtomicBool::new(false);
    let connect_to = async |postgres: &Postgres| {
        while !stop.load(Ordering::Relaxed) {
            if let Ok((client, connection)) =
                postgres.config().connect(PgTls::new(live.clone())).await
            {
                tokio::spawn(connection);
                // TLS 1.3 tells a refusal only now.
                let _ = client.simple_query("select 1").await;
            }
        }
    };
    let rotate = async {
        for (postgres, turned_away) in [(of_a, of_b), (of_b, of_a)] {
            let (let_in, away) = (count(postgres, AUTHORIZED), count(turned_away, FAILED));
            eventually("one lets in, the other is turned away", async || {
                count(postgres, AUTHORIZED) > let_in + 10 && count(turned_away, FAILED) > away + 10
            })
            .await;
            if postgres.port() == of_a.port() {
                renew(&live).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        connect_to(of_a),
        connect_to(of_a),
        connect_to(of_b),
        connect_to(of_b),
        rotate
    );
    for postgres in [of_a, of_b] {
        assert_eq!(count(postgres, REFUSED), 0, "{}", postgres.log());
    }
}

/// What Postgres logs of a login.
const AUTHORIZED: &str = "connection authorized: user=app";

fn count(postgres: &Postgres, what: &str) -> usize {
    postgres.log().matches(what).count()
}
