//! The first certificate, and starts that fail.

use super::*;

#[tokio::test(start_paused = true)]
async fn start_returns_a_usable_first_generation() {
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    assert_eq!(live.current().unwrap().generation(), 1);
    assert_eq!(live.status().state, CertState::Fresh);
}

#[tokio::test(start_paused = true)]
async fn start_outlasts_transient_errors() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [down(), down(), Step::Issue(MINUTE)]);
    let live = started(&wall, &source).await;
    assert_eq!(live.current().unwrap().generation(), 1);
    assert_eq!(source.fetches().len(), 3);
    assert_eq!(live.status().consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn start_fails_at_once_on_a_permanent_error() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Fail(SourceError::denied("no such role"))]);
    let error = builder(&wall).start(source.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::Failed(_)));
    assert_eq!(source.fetches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn start_that_times_out_names_the_last_cause() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    source.then(down);
    let error = builder(&wall).start(source).await.unwrap_err();
    let StartError::TimedOut {
        last: Some(last),
        after,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(after, Duration::from_secs(30), "the documented default");
    assert!(last.is_transient());
}

#[tokio::test(start_paused = true)]
async fn zero_timeout_is_refused_by_name() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let fetch = builder(&wall)
        .fetch_timeout(Duration::ZERO)
        .start(source.clone());
    assert!(
        fetch
            .await
            .unwrap_err()
            .to_string()
            .starts_with("invalid fetch_timeout 0ns")
    );
    let start = builder(&wall).start_timeout(Duration::ZERO).start(source);
    assert!(
        start
            .await
            .unwrap_err()
            .to_string()
            .starts_with("invalid start_timeout 0ns")
    );
}

#[tokio::test(start_paused = true)]
async fn fixed_certificate_is_in_use_and_never_changes() {
    let wall = TestClock::starting_at(noon());
    let material = TestCa::new().issue(noon(), MINUTE);
    let live = builder(&wall).fixed(material).unwrap();
    assert_eq!(live.wait_valid().await.unwrap().generation(), 1);
    assert!(matches!(live.renew().await, Ok(Renewed::Unchanged)));
    let mut rotations = live.subscribe();
    assert!(rotations.next().await.is_some());
    assert!(
        tokio::time::timeout(MINUTE, rotations.next())
            .await
            .is_err()
    );
    assert!(live.current().is_err(), "it has expired by now");
}

#[tokio::test(start_paused = true)]
async fn expired_certificate_is_refused_from_the_very_moment() {
    let wall = TestClock::starting_at(noon());
    let material = TestCa::new().issue(noon(), MINUTE);
    let live = builder(&wall).fixed(material).unwrap();
    let last_moment = Duration::from_nanos(1);
    wall.step_forward(live.current().unwrap().remaining(wall.now()) - last_moment);
    assert!(live.current().is_ok());
    wall.step_forward(last_moment);
    assert!(live.current().is_err());
}

#[test]
fn expired_certificate_is_refused_from_the_very_moment_by_the_real_clock() {
    let clock = Clock::default();
    let material = TestCa::new().issue(clock.now() - MINUTE, MINUTE + Duration::from_secs(2));
    let live = LiveCert::fixed(material).unwrap();
    let not_after = live.current().unwrap().not_after();
    loop {
        let before = clock.now();
        let current = live.current();
        if before >= not_after {
            assert!(current.is_err(), "returned at {before:?}");
            return;
        }
        let valid = current.is_ok() || clock.now() >= not_after;
        assert!(valid, "refused before {not_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_source_fails_start_and_does_not_end_the_renewer() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Panic]);
    let error = builder(&wall).start(source).await.unwrap_err();
    assert!(matches!(&error, StartError::Failed(cause) if matches!(cause, RenewError::Panicked)));

    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE), Step::Panic]);
    let live = started(&wall, &source).await;
    until("it renews after the panic", || {
        live.current()
            .is_ok_and(|snapshot| snapshot.generation() == 2)
    })
    .await;
    assert_eq!(source.fetches().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn first_certificate_that_cannot_survive_the_outage_is_refused() {
    let wall = TestClock::starting_at(noon());
    let patient = || crate::RenewalSchedule::new().survive_outage(10 * MINUTE);
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE)]);
    let error = builder(&wall)
        .renewal(patient())
        .start(source)
        .await
        .unwrap_err();
    let StartError::Failed(cause) = error else {
        panic!("{error:?}");
    };
    assert!(matches!(cause, RenewError::LifetimeTooShort { .. }));

    // A later one is better than none: it is used, and renewed early.
    let steps = [Step::Issue(60 * MINUTE), Step::Issue(10 * MINUTE)];
    let source = ScriptedSource::new(&wall, steps);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = builder(&wall)
        .renewal(patient())
        .start(source.clone())
        .await
        .unwrap();
    until("the short one is there", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    until("it is replaced", || {
        live.current().unwrap().generation() == 3
    })
    .await;
    let fetches = source.fetches();
    // A tenth of its life, but for the whole seconds of X.509.
    let early = fetches[2].0 - fetches[1].0;
    assert!(MINUTE.abs_diff(early) < Duration::from_secs(1), "{early:?}");
}

/// Scenario: F17
#[tokio::test(start_paused = true)]
async fn outage_of_any_length_is_an_error_of_start_and_no_panic() {
    let wall = TestClock::starting_at(noon());
    for outage in [Duration::MAX, Duration::MAX / 2, 1_000_000 * MINUTE] {
        let source = ScriptedSource::new(&wall, []);
        let schedule = crate::RenewalSchedule::new().survive_outage(outage);
        let began = tokio::time::Instant::now();
        let error = builder(&wall).renewal(schedule).start(source).await;
        let error = error.unwrap_err();
        assert_eq!(began.elapsed(), Duration::ZERO);
        let StartError::Failed(RenewError::LifetimeTooShort { needed, .. }) = error else {
            panic!("{error:?}");
        };
        assert!(needed >= outage);
    }
}

/// Scenario: F28
#[tokio::test(start_paused = true)]
async fn first_certificate_of_a_second_is_refused_and_a_later_one_is_used() {
    let wall = TestClock::starting_at(noon());
    let second = || Step::Issue(Duration::from_secs(1));
    let source = ScriptedSource::new(&wall, [second()]);
    let error = builder(&wall).start(source).await.unwrap_err();
    let text = crate::with_causes(&error).to_string();
    assert!(text.contains("it needs 4s"), "{text}");

    let steps = [Step::Issue(MINUTE), second(), Step::Issue(MINUTE)];
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    let mut rotations = live.subscribe();
    for generation in 1..=3 {
        assert_eq!(rotations.next().await.unwrap().generation(), generation);
    }
    let fetches = source.fetches();
    assert_eq!(fetches[2].0 - fetches[1].0, Duration::from_secs(1));
}

/// Fetches correctly, and panics in `changed`.
struct PanicsOnChanged(ScriptedSource);

impl CertSource for PanicsOnChanged {
    async fn fetch(&self, context: crate::FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.0.fetch(context).await
    }

    async fn changed(&self) {
        panic!("as a careless source does");
    }
}

#[tokio::test(start_paused = true)]
async fn source_that_panics_in_changed_is_still_renewed() {
    let wall = TestClock::starting_at(noon());
    let source = PanicsOnChanged(ScriptedSource::new(&wall, []));
    let live = builder(&wall).start(source).await.unwrap();
    until("it is renewed", || {
        live.current()
            .is_ok_and(|snapshot| snapshot.generation() == 2)
    })
    .await;
}
