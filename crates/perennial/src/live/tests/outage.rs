//! An outage of the source, and how it is reported.

use super::*;

/// Scenario: T6
#[tokio::test(start_paused = true)]
async fn failed_renewal_keeps_last_good_snapshot_and_recovers_after_expiry() {
    // T6: failing until expiry and past it.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;

    until("a renewal fails", || {
        live.status().state == CertState::Failing
    })
    .await;
    assert_eq!(live.current().unwrap().generation(), 1);
    assert!(live.status().last_error.is_some());

    until("it expires", || live.status().state == CertState::Expired).await;
    assert!(matches!(
        live.current(),
        Err(Unavailable::Expired {
            generation: 1,
            last: Some(_),
            ..
        })
    ));
    assert!(live.wait_valid().await.is_err());

    source.then(|| Step::Issue(MINUTE));
    until("it recovers automatically", || live.current().is_ok()).await;
    assert_eq!(live.current().unwrap().generation(), 2);
    assert_eq!(live.status().state, CertState::Fresh);
    assert!(live.status().last_error.is_none());
}

/// Scenario: T7
#[tokio::test(start_paused = true)]
async fn fetches_in_an_outage_stay_within_the_bound() {
    // T7: 60 s of outage for a 60 s certificate: first step 1.5 s, cap 3 s.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;
    until("the outage begins", || {
        live.status().consecutive_failures == 1
    })
    .await;
    // A busy pool meanwhile asks for a valid certificate all the time.
    let busy = live.clone();
    let pool = tokio::spawn(async move {
        loop {
            let _ = busy.wait_valid().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tokio::time::sleep(MINUTE).await;
    pool.abort();

    let fetches = source.fetches();
    let outage = &fetches[1..];
    assert!(
        (20..=42).contains(&outage.len()),
        "{} fetches",
        outage.len()
    );
    for pair in outage.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(750));
    }
}

/// Scenario: T6
#[tokio::test(start_paused = true)]
async fn ten_minutes_without_the_source_are_survived_within_the_bound() {
    // T6, long past expiry: no renewal for ten lifetimes of 60 s; the longest wait stays 3 s.
    const CAP: Duration = Duration::from_secs(3);
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;
    let busy = live.clone();
    let pool = tokio::spawn(async move {
        loop {
            let _ = busy.wait_valid().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    until("the first renewal fails", || {
        live.status().consecutive_failures == 1
    })
    .await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(live.status().state, CertState::Expired);

    // The first try, one more for the one doubling up to the cap, then one in each half a cap at most.
    let fetches = source.fetches();
    let tries = fetches.len() - 1;
    assert!((200..=402).contains(&tries), "{tries} fetches");
    for pair in fetches[1..].windows(2) {
        let wait = pair[1].0 - pair[0].0;
        assert!(wait >= Duration::from_millis(750), "{wait:?}");
        assert!(wait <= CAP + Duration::from_millis(1), "{wait:?}");
    }

    let back = tokio::time::Instant::now();
    source.then(|| Step::Issue(MINUTE));
    until("it recovers automatically", || live.current().is_ok()).await;
    // Looked for every 50 ms.
    assert!(back.elapsed() <= CAP + Duration::from_millis(50));
    assert_eq!(live.current().unwrap().generation(), 2);
    assert_eq!(source.fetches().len(), fetches.len() + 1);
    pool.abort();
}

#[tokio::test(start_paused = true)]
async fn hung_source_is_dropped_at_the_fetch_timeout() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Hang, Step::Issue(MINUTE)]);
    let timeout = Duration::from_secs(5);
    let live = builder(&wall)
        .fetch_timeout(timeout)
        .start(source.clone())
        .await
        .unwrap();
    assert_eq!(live.current().unwrap().generation(), 1);
    let fetches = source.fetches();
    assert!(fetches[1].0 - fetches[0].0 >= timeout);
}

#[tokio::test(start_paused = true)]
async fn wait_valid_returns_a_certificate_that_expires_soon_if_the_source_is_down() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;
    let not_after = live.current().unwrap().not_after();
    // 2 % of 10 minutes are 12 s.
    until("it expires in a moment", || {
        wall.now() > not_after - Duration::from_secs(6)
    })
    .await;
    assert_eq!(live.wait_valid().await.unwrap().generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn unchanged_certificate_that_has_expired_is_a_failure_and_no_storm() {
    let wall = TestClock::starting_at(noon());
    let source = unchanging(&wall, MINUTE);
    let live = started(&wall, &source).await;
    until("it expires", || live.status().state == CertState::Expired).await;
    until("the failure is known", || {
        live.status().last_error.is_some()
    })
    .await;
    let before = source.fetches().len();
    for _ in 0..600 {
        assert!(live.wait_valid().await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A minute at the cap's pace of 1.5-3 s.
    assert!(
        source.fetches().len() - before <= 41,
        "{}",
        source.fetches().len() - before
    );
    assert!(matches!(
        live.status().last_error.unwrap(),
        RenewError::StillExpired
    ));
}

#[tokio::test(start_paused = true)]
async fn events_report_an_outage_in_order() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;
    let mut events = live.events();
    let mut story = Vec::new();
    while let Some(event) = events.next().await {
        let word = match event {
            Event::RenewalFailed { .. } => "failed",
            Event::ExpiringSoon { remaining, .. } => {
                assert_eq!(remaining, MINUTE / 5);
                "soon"
            }
            Event::Expired { generation: 1, .. } => {
                source.then(|| Step::Issue(MINUTE));
                "expired"
            }
            Event::Rotated { .. } => "rotated",
            other => panic!("{other:?}"),
        };
        if story.last() != Some(&word) {
            story.push(word);
        }
        if word == "rotated" {
            break;
        }
    }
    assert_eq!(story, ["failed", "soon", "failed", "expired", "rotated"]);
    drop(live);
    while let Some(event) = events.next().await {
        drop(event);
    }
}

#[tokio::test(start_paused = true)]
async fn status_passes_through_every_state_of_an_outage() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::HeldUntilReleased(MINUTE)]);
    source.then(down);
    let live = builder(&wall).start_lazy(source.clone()).unwrap();
    assert_eq!(live.status().state, CertState::Starting);
    assert!(!live.is_ready());
    source.release();
    let mut states = Vec::new();
    while states.last() != Some(&CertState::Expired) {
        let status = live.status();
        if states.last() != Some(&status.state) {
            states.push(status.state);
        }
        let expired = status.state == CertState::Expired;
        let valid = !expired && status.generation.is_some();
        assert_eq!(live.is_ready(), valid);
        assert_eq!(status.expired_for.is_some(), expired);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    states.retain(|state| *state != CertState::Due);
    let expected = [
        CertState::Starting,
        CertState::Fresh,
        CertState::Failing,
        CertState::Expired,
    ];
    assert_eq!(states, expected);
    // For a liveness probe: a restart may help once it has been expired for its lifetime.
    tokio::time::sleep(MINUTE).await;
    assert!(live.status().expired_for.unwrap() >= MINUTE);
}
