//! When a certificate is renewed, and what is published.

use super::*;
use crate::FetchContext;

#[tokio::test(start_paused = true)]
async fn certificate_is_renewed_in_the_band_and_generations_grow_by_one() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    let mut rotations = live.subscribe();
    let mut last = rotations.next().await.unwrap();
    assert_eq!(last.generation(), 1);
    for generation in 2..=6 {
        let next = rotations.next().await.unwrap();
        assert_eq!(next.generation(), generation);
        let age = next
            .obtained_at()
            .duration_since(last.obtained_at())
            .unwrap();
        // X.509 counts whole seconds, so a life may be a second shorter than asked.
        let second = Duration::from_secs(1);
        let band = 5 * MINUTE - second..=15 * MINUTE / 2 + second;
        assert!(band.contains(&age), "{age:?}");
        last = next;
    }
}

#[tokio::test(start_paused = true)]
async fn bad_material_is_never_published() {
    // Invariant 2, in steady state: a pair that does not match, then one that does.
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, _) = ca.leaf(noon(), 60 * MINUTE);
    let (_, key) = ca.leaf(noon(), 60 * MINUTE);
    let torn = CertMaterial::from_der(vec![leaf], key, vec![ca.root_der()]).unwrap();
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE), Step::Deliver(torn.into())]);
    let live = started(&wall, &source).await;

    until("the torn pair is refused", || {
        live.status().consecutive_failures == 1
    })
    .await;
    assert_eq!(live.current().unwrap().generation(), 1);
    until("the next pair is taken", || {
        live.current().unwrap().generation() == 2
    })
    .await;
}

/// Scenario: S3
#[tokio::test(start_paused = true)]
async fn unchanged_material_publishes_nothing_and_makes_no_hot_loop() {
    let wall = TestClock::starting_at(noon());
    let source = unchanging(&wall, 60 * MINUTE);
    let live = started(&wall, &source).await;
    let mut rotations = live.subscribe();
    rotations.next().await.unwrap();

    tokio::time::sleep(59 * MINUTE).await;
    assert_eq!(live.current().unwrap().generation(), 1);
    assert_eq!(live.status().state, CertState::Due);
    let unseen = tokio::time::timeout(Duration::ZERO, rotations.next()).await;
    assert!(unseen.is_err(), "nothing was published");
    // At most half an hour past the renewal point, one fetch per 90-180 s.
    assert!(
        (6..=22).contains(&source.fetches().len()),
        "{}",
        source.fetches().len()
    );
}

#[tokio::test(start_paused = true)]
async fn warnings_reach_the_status_and_publish_nothing_alone() {
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), 60 * MINUTE);
    let with = |warning: &str| {
        let (chain, roots) = (vec![leaf.clone()], vec![ca.root_der()]);
        let material = CertMaterial::from_der(chain, key.clone_key(), roots).unwrap();
        Step::Deliver(material.with_warnings(vec![warning.to_owned()]).into())
    };
    let source = ScriptedSource::new(&wall, [with("clamped"), with("ignored")]);
    let live = started(&wall, &source).await;
    assert_eq!(live.status().warnings, ["clamped"]);
    until("the second is fetched", || source.fetches().len() > 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(live.current().unwrap().generation(), 1);
    assert_eq!(live.status().warnings, ["clamped"]);
}

#[tokio::test(start_paused = true)]
async fn source_that_reports_a_change_is_fetched_without_a_hot_loop() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    source.set_changed(1);
    until("the change is taken", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert_eq!(source.fetches()[1].1, FetchReason::Changed);

    source.set_changed(usize::MAX);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(source.fetches().len() <= 13, "{}", source.fetches().len());
}

/// Scenario: T8
#[tokio::test(start_paused = true)]
async fn wait_valid_waits_for_a_fresh_certificate_after_a_suspend() {
    // T8: the monotonic clock stood still for two lifetimes.
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    tokio::time::sleep(MINUTE).await;
    wall.step_forward(20 * MINUTE);
    assert!(matches!(live.current(), Err(Unavailable::Expired { .. })));
    let snapshot = live.wait_valid().await.unwrap();
    assert_eq!(snapshot.generation(), 2);
    assert!(snapshot.not_after() > wall.now());
}

/// Scenario: T5
#[tokio::test(start_paused = true)]
async fn certificate_that_is_not_yet_valid_is_held_and_published_in_time() {
    // T5: the CA's clock is ahead by 20 s.
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let early = ca.issue(noon() + Duration::from_secs(20), MINUTE);
    let source = ScriptedSource::new(&wall, [Step::Deliver(early.into())]);
    let live = builder(&wall).start(source.clone()).await.unwrap();
    assert_eq!(wall.now(), noon() + Duration::from_secs(20));
    assert_eq!(live.current().unwrap().usable_lifetime().length(), MINUTE);
    assert_eq!(source.fetches().len(), 1, "held, not fetched again");
}

/// Scenario: T2
#[tokio::test(start_paused = true)]
async fn renewal_point_does_not_creep_with_early_looks() {
    // T2: a look that finds nothing new, ten times before the point.
    let wall = TestClock::starting_at(noon());
    let source = unchanging(&wall, 60 * MINUTE);
    let live = started(&wall, &source).await;
    let point = live.status().next_fetch.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(2 * MINUTE).await;
        assert!(matches!(live.renew().await, Ok(Renewed::Unchanged)));
        assert_eq!(live.status().next_fetch.unwrap(), point);
    }
    until("it is due", || {
        source.fetches().last().unwrap().1 == FetchReason::Due
    })
    .await;
    assert!(wall.now() >= point);
}

/// Scenario: T3
#[tokio::test(start_paused = true)]
async fn every_lifetime_from_seconds_to_years_is_renewed_once() {
    // T3: no absolute threshold, no hot loop, no certificate that expires.
    const DAY: Duration = Duration::from_secs(86_400);
    let seconds = Duration::from_secs(5);
    for life in [seconds, MINUTE, 60 * MINUTE, 90 * DAY, 3_650 * DAY] {
        let wall = TestClock::starting_at(noon());
        let steps = (0..5).map(|_| Step::Issue(life));
        let source = ScriptedSource::new(&wall, steps);
        let live = started(&wall, &source).await;
        let mut rotations = live.subscribe();
        let mut last = rotations.next().await.unwrap();
        for _ in 0..4 {
            // Years of paused time are millions of looks at the clock: the wall clock jumps.
            if life > DAY {
                let due = live.status().next_fetch.unwrap();
                wall.step_forward(due.duration_since(wall.now()).unwrap());
            }
            let next = rotations.next().await.unwrap();
            let left = last.not_after().duration_since(wall.now()).unwrap();
            assert!(
                left >= life / 5 && left <= life / 2,
                "{life:?}: {left:?} were left"
            );
            last = next;
        }
        assert_eq!(source.fetches().len(), 5, "{life:?}");
    }
}

/// Scenario: T4
#[tokio::test(start_paused = true)]
async fn schedule_follows_the_lifetime_that_the_ca_granted() {
    // T4: ten minutes at first, then one, as from an issuer that is about to expire.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE), Step::Issue(MINUTE)]);
    let live = started(&wall, &source).await;
    until("the short one is there", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    until("it is renewed in time", || {
        live.current().unwrap().generation() == 3
    })
    .await;
    let fetches = source.fetches();
    let age = fetches[2].0 - fetches[1].0;
    assert!(
        age >= MINUTE / 2 - Duration::from_secs(1) && age <= MINUTE * 3 / 4,
        "{age:?}"
    );
}

/// Scenario: T4
#[tokio::test(start_paused = true)]
async fn status_names_the_issuer_that_limits_the_lifetime() {
    // T4. The intermediate lives until the year 4096.
    let wall = TestClock::starting_at(noon());
    let status = |life| {
        let live = builder(&wall).fixed(TestCa::new().issue(noon(), life));
        live.unwrap().status()
    };
    let longer_than_its_issuer = status(MINUTE * 60 * 24 * 365 * 3_000);
    let named = longer_than_its_issuer.limited_by;
    assert_eq!(named.as_deref(), Some("CN=test intermediate"));
    assert_eq!(status(MINUTE).limited_by, None);
}

/// Scenario: T9
#[tokio::test(start_paused = true)]
async fn everything_that_expired_in_a_suspend_is_recovered_by_the_first_caller() {
    // T9, the core's part: the certificate has expired and the first tries fail, as during a new
    // login.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE), down(), down()]);
    let live = started(&wall, &source).await;
    tokio::time::sleep(MINUTE).await;
    wall.step_forward(24 * 60 * MINUTE);
    assert!(live.wait_valid().await.is_err(), "the first try must fail");
    until("it recovers", || live.current().is_ok()).await;
    assert_eq!(live.current().unwrap().generation(), 2);
    assert_eq!(source.fetches().len(), 4);
}

/// Scenario: C14
#[tokio::test(start_paused = true)]
async fn two_certificates_in_one_process_do_not_touch_each_other() {
    // C14, the core's part: one fails all the time, the other keeps its pace.
    let wall = TestClock::starting_at(noon());
    let (good, bad) = (
        ScriptedSource::new(&wall, []),
        ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE)]),
    );
    bad.then(|| Step::Hang);
    let one = started(&wall, &good).await;
    let other = started(&wall, &bad).await;
    tokio::time::sleep(60 * MINUTE).await;
    assert!(other.current().is_err());
    let generation = one.current().unwrap().generation();
    assert!((8..=13).contains(&generation), "{generation}");
    assert_eq!(one.status().consecutive_failures, 0);
}

/// Resolves `changed` 3 s after each call.
struct Slow {
    source: ScriptedSource,
    begun: Arc<Mutex<usize>>,
}

impl CertSource for Slow {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.source.fetch(context).await
    }

    async fn changed(&self) {
        *self.begun.lock().unwrap() += 1;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

/// Scenario: C17
#[tokio::test(start_paused = true)]
async fn callers_do_not_restart_the_wait_for_a_change() {
    let wall = TestClock::starting_at(noon());
    let (source, begun) = (ScriptedSource::new(&wall, []), Arc::default());
    let slow = Slow {
        source: source.clone(),
        begun: Arc::clone(&begun),
    };
    let live = builder(&wall).start(slow).await.unwrap();
    let reporter = live.reporter("pool");
    for _second in 0..5 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(matches!(reporter.refused(0).await, Ok(Renewed::Newer(_))));
    }
    assert_eq!(*begun.lock().unwrap(), 1);
    until("the change is fetched", || source.fetches().len() == 2).await;
    assert_eq!(source.fetches()[1].1, FetchReason::Changed);
}
