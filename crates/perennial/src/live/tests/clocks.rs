//! Wall clocks that are wrong, or are set while the certificate is in use.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

/// Each second, whether a certificate is offered that the CA's clock `right` calls expired, or none.
async fn offers_only_valid_ones(live: &LiveCert, right: &TestClock, seconds: u32) {
    for second in 0..seconds {
        let offered = live.current();
        let offered = offered.unwrap_or_else(|error| panic!("after {second} s: {error:?}"));
        let not_after = offered.not_after();
        assert!(right.now() < not_after, "after {second} s: {offered:?}");
        tokio::time::sleep(SECOND).await;
    }
}

/// Scenario: F23
#[tokio::test(start_paused = true)]
async fn wall_clock_that_is_set_back_prolongs_no_certificate_and_stops_no_renewal() {
    for back in [2 * MINUTE, HOUR, 1_000 * HOUR] {
        let (right, wall) = (
            TestClock::starting_at(noon()),
            TestClock::starting_at(noon()),
        );
        let source = ScriptedSource::new(&right, []);
        source.then(|| Step::Issue(MINUTE));
        let live = started(&wall, &source).await;
        wall.step_back(back);
        offers_only_valid_ones(&live, &right, 300).await;
        // One in 30 to 45 s, and not more because of the clock.
        let fetches = source.fetches().len();
        assert!((7..=12).contains(&fetches), "{back:?}: {fetches} fetches");
        let warnings = live.status().warnings;
        assert!(warnings.iter().any(|text| text.contains("clock")));
    }
}

/// Scenario: F23
#[tokio::test(start_paused = true)]
async fn certificate_that_is_not_renewed_expires_though_the_wall_clock_was_set_back() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;
    let first = live.current().unwrap();
    let mut events = live.events();
    wall.step_back(HOUR);
    tokio::time::sleep(MINUTE - SECOND).await;
    assert!(live.is_ready());
    tokio::time::sleep(SECOND).await;
    assert!(matches!(live.current(), Err(Unavailable::Expired { .. })));
    assert!(live.has_ended(&first));
    tokio::time::sleep(MINUTE).await;
    let status = live.status();
    assert_eq!(status.state, CertState::Expired);
    assert_eq!(status.expired_for, Some(MINUTE));
    // Retried at the pace of an outage, by the monotonic clock.
    assert!(status.next_fetch.unwrap() <= wall.now() + 3 * SECOND);
    assert!(source.fetches().len() > 20);
    let mut story = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        match event.unwrap() {
            Event::ExpiringSoon { remaining, .. } => story.push(remaining),
            Event::Expired { .. } => story.push(Duration::ZERO),
            _ => {}
        }
    }
    assert_eq!(story, [MINUTE / 5, Duration::ZERO]);
}

/// Scenario: F24
#[tokio::test(start_paused = true)]
async fn clock_behind_the_cas_costs_no_more_certificates_than_a_right_one() {
    // Behind by less and by more than the lifetime, and by years.
    let behind = [MINUTE / 2, 3 * MINUTE, 10 * MINUTE, 20_000 * HOUR];
    for (behind, lifetime) in behind.into_iter().flat_map(|b| [(b, MINUTE), (b, HOUR)]) {
        let right = TestClock::starting_at(noon());
        let wall = TestClock::starting_at(noon() - behind);
        let source = ScriptedSource::new(&right, []);
        source.then(match lifetime {
            MINUTE => || Step::Issue(MINUTE),
            _ => || Step::Issue(HOUR),
        });
        let live = started(&wall, &source).await;
        offers_only_valid_ones(&live, &right, 130).await;
        let fetches = source.fetches().len();
        let most = if lifetime == MINUTE { 5 } else { 1 };
        assert!(
            fetches <= most,
            "{behind:?} behind, {lifetime:?}: {fetches} fetches"
        );
    }
}

/// Scenario: F24
#[tokio::test(start_paused = true)]
async fn certificate_is_held_while_the_one_in_use_works_and_nothing_else_is_fetched() {
    let (right, wall) = (
        TestClock::starting_at(noon()),
        TestClock::starting_at(noon()),
    );
    let source = ScriptedSource::new(&right, []);
    source.then(|| Step::Issue(HOUR));
    let live = started(&wall, &source).await;
    wall.step_back(2 * HOUR);
    tokio::time::sleep(MINUTE).await;
    for _ in 0..3 {
        let held = live.renew().await.unwrap_err();
        assert!(held.is_transient());
        let text = crate::with_causes(&held).to_string();
        assert!(text.contains("this machine's clock"), "{text}");
        tokio::time::sleep(20 * SECOND).await;
    }
    assert_eq!(source.fetches().len(), 2, "the second one is held");
    assert_eq!(live.current().unwrap().generation(), 1);
    // Until the end of the renewal band of the one in use.
    let until = "the held one is published";
    until_generation(until, &live, 2).await;
    assert_eq!(source.fetches().len(), 2);
    let age = right.now().duration_since(noon()).unwrap();
    assert!((44 * MINUTE..=46 * MINUTE).contains(&age), "{age:?}");

    // A server that refuses the one in use makes the held one the better one.
    tokio::time::sleep(SECOND).await;
    let _ = live.renew().await;
    tokio::time::sleep(MINUTE).await;
    let before = source.fetches().len();
    let renewed = live.reporter("pool").refused(2).await;
    assert!(matches!(renewed, Ok(Renewed::Newer(ref newer)) if newer.generation() == 3));
    assert_eq!(source.fetches().len(), before);
}

async fn until_generation(what: &str, live: &LiveCert, generation: u64) {
    until(what, || live.current().unwrap().generation() == generation).await;
}

/// Scenario: F24
#[tokio::test(start_paused = true)]
async fn held_certificate_is_published_once_the_wall_clock_is_set_right() {
    let (right, wall) = (
        TestClock::starting_at(noon()),
        TestClock::starting_at(noon()),
    );
    let source = ScriptedSource::new(&right, []);
    source.then(|| Step::Issue(10 * HOUR));
    let live = started(&wall, &source).await;
    wall.step_back(HOUR);
    tokio::time::sleep(MINUTE).await;
    assert!(live.renew().await.is_err());
    wall.step_forward(HOUR);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(live.current().unwrap().generation(), 2);
    assert!(live.status().warnings.is_empty());
    assert_eq!(source.fetches().len(), 2);
}

/// Scenario: F24
#[tokio::test(start_paused = true)]
async fn lifetime_is_counted_by_the_clock_of_the_ca_where_it_is_known() {
    // Within the backdating, so that only the CA's clock shows that ours is behind.
    let (behind, backdated) = (25 * SECOND, 30 * SECOND);
    let wall = TestClock::starting_at(noon() - behind);
    let material = TestCa::new().issue(noon() - backdated, backdated + MINUTE);
    let material = material.issuers_clock(noon());
    let live = builder(&wall).fixed(material).unwrap();
    let snapshot = live.current().unwrap();
    assert_eq!(snapshot.usable_lifetime().length(), MINUTE);
    tokio::time::sleep(MINUTE - SECOND).await;
    assert!(live.current().is_ok());
    tokio::time::sleep(SECOND).await;
    assert!(live.current().is_err());
    assert!(!live.is_ready());
}

/// Scenario: F16, F29
#[tokio::test(start_paused = true)]
async fn wall_clock_that_is_wrong_for_seconds_ends_nothing_for_sure() {
    let wall = TestClock::starting_at(noon());
    for lifetime in [MINUTE, HOUR] {
        let live = builder(&wall).fixed(TestCa::new().issue(wall.now(), lifetime));
        let live = live.unwrap();
        let snapshot = live.current().unwrap();
        // Again and again, ten seconds in all.
        for _ in 0..4 {
            wall.step_forward(3 * HOUR);
            for _ in 0..4 {
                assert!(live.has_ended(&snapshot), "it is not offered");
                assert!(!live.has_surely_ended(&snapshot));
                tokio::time::sleep(SECOND - Duration::from_millis(250)).await;
            }
            wall.step_back(3 * HOUR);
            assert!(!live.has_ended(&snapshot));
            assert!(!live.has_surely_ended(&snapshot));
        }
        // A suspend looks the same at first; the wall clock is believed after some looks.
        wall.step_forward(3 * HOUR);
        let mut looks = 0;
        while !live.has_surely_ended(&snapshot) {
            looks += 1;
            tokio::time::sleep(SECOND).await;
        }
        assert_eq!(looks, 10);
        assert!(live.surely_ended_for(&snapshot).unwrap() > HOUR);
    }
}

/// Scenario: F23, F29
#[tokio::test(start_paused = true)]
async fn both_clocks_end_a_certificate_at_once_and_each_alone_after_several_looks() {
    let wall = TestClock::starting_at(noon());
    let live = |lifetime| {
        let live = builder(&wall).fixed(TestCa::new().issue(wall.now(), lifetime));
        let live = live.unwrap();
        (live.current().unwrap(), live)
    };
    let (snapshot, both) = live(MINUTE);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(both.surely_ended_for(&snapshot), Some(Duration::ZERO));

    let (snapshot, set_back) = live(MINUTE);
    wall.step_back(HOUR);
    tokio::time::sleep(MINUTE).await;
    assert!(set_back.has_ended(&snapshot));
    for _ in 0..10 {
        assert!(!set_back.has_surely_ended(&snapshot));
        tokio::time::sleep(SECOND).await;
    }
    assert!(set_back.has_surely_ended(&snapshot));
}
