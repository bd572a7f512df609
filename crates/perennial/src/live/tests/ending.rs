//! Shutdown, and the last handle.

use super::*;

/// Scenario: H3
#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_task() {
    // H3: during a fetch, in between, and in a backoff.
    let wall = TestClock::starting_at(noon());
    for steps in [vec![Step::Hang], vec![Step::Issue(MINUTE)], vec![down()]] {
        let source = ScriptedSource::new(&wall, steps);
        let live = builder(&wall).start_lazy(source.clone()).unwrap();
        let clone = live.clone();
        let mut rotations = live.subscribe();
        until("the first fetch", || source.fetches().len() == 1).await;
        drop(live);
        assert!(
            tokio::time::timeout(
                Duration::ZERO,
                clone.shared.published.clone().wait_for(|_| false)
            )
            .await
            .is_err()
        );
        drop(clone);
        let ended = async { while rotations.next().await.is_some() {} };
        assert!(tokio::time::timeout(MINUTE, ended).await.is_ok());
    }
}

/// Scenario: H2
#[tokio::test(start_paused = true)]
async fn shutdown_returns_at_once_whatever_the_renewer_does() {
    // H2.
    let wall = TestClock::starting_at(noon());
    for steps in [vec![Step::Hang], vec![Step::Issue(MINUTE)], vec![down()]] {
        let source = ScriptedSource::new(&wall, steps);
        let live = builder(&wall).start_lazy(source.clone()).unwrap();
        until("the first fetch", || source.fetches().len() == 1).await;
        let before = tokio::time::Instant::now();
        live.shutdown(MINUTE).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(matches!(live.renew().await, Err(RenewError::Stopped)));
        assert_eq!(source.fetches().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_that_blocks_its_thread_is_reported_and_ends_once_it_unblocks() {
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let (began, has_begun) = oneshot::channel();
    let (blocked, began) = (Mutex::new(blocked), Mutex::new(Some(began)));
    let source = crate::source_fn(move || {
        if let Some(began) = began.lock().unwrap().take() {
            began.send(()).unwrap();
        }
        let _ = blocked.lock().unwrap().recv();
        std::future::pending::<Result<Fetched, SourceError>>()
    });
    let live = LiveCert::builder().start_lazy(source).unwrap();
    let mut rotations = live.subscribe();
    has_begun.await.unwrap();
    let deadline = Duration::from_millis(1);
    let error = live.shutdown(deadline).await.unwrap_err();
    assert!(matches!(error, RenewError::StillRunning { after } if after == deadline));
    drop(unblock);
    let ended = async { while rotations.next().await.is_some() {} };
    assert!(tokio::time::timeout(MINUTE, ended).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn certificate_stays_readable_after_shutdown_until_it_expires() {
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [Step::Issue(MINUTE)])).await;
    live.shutdown(MINUTE).await.unwrap();
    assert!(live.wait_valid().await.is_ok());
    tokio::time::sleep(MINUTE).await;
    assert!(matches!(
        live.wait_valid().await,
        Err(Unavailable::Expired { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn every_shutdown_waits_for_the_end() {
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    let (one, two) = (live.clone(), live.clone());
    let (one, two) = tokio::join!(one.shutdown(MINUTE), two.shutdown(MINUTE));
    assert!(one.is_ok() && two.is_ok());
    assert!(
        live.shutdown(Duration::ZERO).await.is_ok(),
        "it has ended already"
    );
}
