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

/// Scenario: F11
#[test]
fn renewer_whose_runtime_has_ended_shows_as_stopped_and_is_not_ready() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let material = || TestCa::new().issue(Clock::default().now(), 60 * MINUTE);
    let source = crate::source_fn(move || async move { Ok(material()) });
    let of_the_renewer = runtime();
    let live = of_the_renewer.block_on(LiveCert::start(source)).unwrap();
    assert_eq!(live.status().state, CertState::Fresh);
    assert!(live.is_ready());
    drop(of_the_renewer);
    assert_eq!(live.status().state, CertState::Stopped);
    assert!(!live.is_ready());
    assert!(live.current().is_ok(), "it stays readable until it expires");
    let renewed = runtime().block_on(live.renew());
    assert!(matches!(renewed, Err(RenewError::Stopped)));
}

/// Scenario: F11
#[tokio::test(start_paused = true)]
async fn start_that_waits_for_a_renewer_that_is_gone_returns_at_once() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Hang]);
    let live = builder(&wall).start_lazy(source).unwrap();
    let Writer::Renewer { task, .. } = &live.shared.writer else {
        panic!("it has a renewer");
    };
    let abort = task.clone();
    let began = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(builder::first_certificate(&live), async {
        tokio::time::sleep(MINUTE / 6).await;
        abort.abort();
    });
    assert!(matches!(outcome, Err(RenewError::Stopped)));
    assert_eq!(began.elapsed(), MINUTE / 6);
    assert_eq!(live.status().state, CertState::Stopped);
    assert!(!live.is_ready());
}

/// Scenario: F11
#[tokio::test(start_paused = true)]
async fn shutdown_shows_as_stopped() {
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    live.shutdown(MINUTE).await.unwrap();
    assert_eq!(live.status().state, CertState::Stopped);
    let fixed = builder(&wall).fixed(TestCa::new().issue(noon(), MINUTE));
    let fixed = fixed.unwrap();
    fixed.shutdown(MINUTE).await.unwrap();
    assert_eq!(fixed.status().state, CertState::Fresh, "it has no renewer");
}

/// Panics where its methods are called, before they return a future.
struct PanicsAtOnce(ScriptedSource, &'static str);

impl CertSource for PanicsAtOnce {
    fn fetch(
        &self,
        context: crate::FetchContext<'_>,
    ) -> impl Future<Output = Result<Fetched, SourceError>> + Send {
        let is_first = self.0.fetches().is_empty();
        assert!(is_first || self.1 != "fetch", "scripted");
        self.0.fetch(context)
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        assert!(self.1 != "changed", "scripted");
        CertSource::changed(&self.0)
    }

    fn published(&self, _: &Arc<Snapshot>) {
        assert!(self.1 != "published", "scripted");
    }
}

/// Scenario: F11
#[tokio::test(start_paused = true)]
async fn panic_of_any_callback_is_reported_and_does_not_end_the_renewer() {
    let wall = TestClock::starting_at(noon());
    for method in ["fetch", "changed", "published"] {
        let source = ScriptedSource::new(&wall, []);
        let live = builder(&wall);
        let live = live.start(PanicsAtOnce(source, method)).await.unwrap();
        tokio::time::sleep(9 * MINUTE).await;
        let state = live.status().state;
        let expected = match method {
            "fetch" => CertState::Failing,
            _ => CertState::Fresh,
        };
        assert_eq!(state, expected, "{method}");
    }

    let verifier = crate::TlsSettings::new().server_verifier(|_, _| panic!("scripted"));
    let source = ScriptedSource::new(&wall, []);
    let error = builder(&wall).tls(verifier).start(source).await;
    let error = error.unwrap_err();
    assert!(matches!(&error, StartError::Failed(RenewError::Panicked)));
}
