use std::collections::HashSet;
use std::sync::Mutex;

use super::*;
use crate::testing::{MINUTE, ScriptedSource, Step, TestCa, TestClock, builder, noon, until};
use crate::{CertState, Gate, SourceError, Verdict};
use crate::{RenewError, Why};

fn down() -> Step {
    Step::Fail(SourceError::unavailable("connection refused"))
}

async fn started(wall: &TestClock, source: &ScriptedSource) -> LiveCert {
    builder(wall).start(source.clone()).await.unwrap()
}

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
    assert_eq!(after, START_TIMEOUT);
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
            .starts_with("fetch_timeout is 0ns")
    );
    let start = builder(&wall).start_timeout(Duration::ZERO).start(source);
    assert!(
        start
            .await
            .unwrap_err()
            .to_string()
            .starts_with("start_timeout is 0ns")
    );
}

#[tokio::test(start_paused = true)]
async fn certificate_is_renewed_in_the_band_and_generations_grow_by_one() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    let mut rotations = live.rotations();
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
    assert!(live.valid().await.is_err());

    source.then(|| Step::Issue(MINUTE));
    until("it recovers by itself", || live.current().is_ok()).await;
    assert_eq!(live.current().unwrap().generation(), 2);
    assert_eq!(live.status().state, CertState::Fresh);
    assert!(live.status().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn bad_material_is_never_published() {
    // Invariant 2, in steady state: a pair that does not match, then one that does.
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, _) = ca.leaf(noon(), 60 * MINUTE);
    let (_, key) = ca.leaf(noon(), 60 * MINUTE);
    let torn = CertMaterial::from_der(vec![leaf], key, vec![ca.root_der()]).unwrap();
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE), Step::Deliver(torn)]);
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

#[tokio::test(start_paused = true)]
async fn fetches_in_an_outage_stay_within_the_bound() {
    // T7: 60 s of outage for a 60 s certificate: first step 1 s, cap 3 s.
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
            let _may_fail = busy.valid().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tokio::time::sleep(MINUTE).await;
    pool.abort();

    let fetches = source.fetches();
    let outage = &fetches[1..];
    assert!(
        (20..=43).contains(&outage.len()),
        "{} fetches",
        outage.len()
    );
    for pair in outage.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(500));
    }
}

#[tokio::test(start_paused = true)]
async fn hung_source_is_given_up_at_the_fetch_timeout() {
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
async fn ten_thousand_waiters_cause_one_fetch() {
    // S12: a cold start; one waiter is cancelled and harms nobody.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::HeldUntilReleased(MINUTE)]);
    let live = builder(&wall).start_lazy(source.clone()).unwrap();
    assert!(matches!(
        live.current(),
        Err(Unavailable::NothingYet { last: None })
    ));
    let mut waiters: Vec<_> = (0..10_000)
        .map(|_| {
            let live = live.clone();
            tokio::spawn(async move { live.valid().await.unwrap().serial().clone() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let cancelled = waiters.swap_remove(0);
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());

    source.release();
    let mut serials = HashSet::new();
    for waiter in waiters {
        serials.insert(waiter.await.unwrap());
    }
    assert_eq!(serials.len(), 1);
    assert_eq!(source.fetches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn cancelled_renew_now_does_not_cancel_the_fetch() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(
        &wall,
        [
            Step::Issue(10 * MINUTE),
            Step::HeldUntilReleased(10 * MINUTE),
        ],
    );
    let live = started(&wall, &source).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let caller = tokio::time::timeout(Duration::from_secs(1), live.renew_now()).await;
    assert!(caller.is_err(), "the caller gave up");
    source.release();
    until("it is published all the same", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert_eq!(source.fetches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn renew_now_is_limited_right_after_a_fetch() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    assert!(matches!(live.renew_now().await, Renewal::Limited));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(live.renew_now().await, Renewal::Newer(newer) if newer.generation() == 2));
    source.then(down);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(live.renew_now().await, Renewal::Failed(_)));
    assert_eq!(source.fetches().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn unchanged_material_publishes_nothing_and_makes_no_hot_loop() {
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), 60 * MINUTE);
    let same = || {
        CertMaterial::from_der(vec![leaf.clone()], key.clone_key(), vec![ca.root_der()]).unwrap()
    };
    let steps: Vec<_> = (0..100).map(|_| Step::Deliver(same())).collect();
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    let mut rotations = live.rotations();
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
async fn source_that_says_changed_is_fetched_without_a_hot_loop() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    source.say_changed(1);
    until("the change is taken", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert_eq!(source.fetches()[1].1, Why::Changed);

    source.say_changed(usize::MAX);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(source.fetches().len() <= 13, "{}", source.fetches().len());
}

#[tokio::test(start_paused = true)]
async fn valid_waits_for_a_fresh_certificate_after_a_suspend() {
    // T8: the monotonic clock stood still for two lifetimes.
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    tokio::time::sleep(MINUTE).await;
    wall.step_forward(20 * MINUTE);
    assert!(matches!(live.current(), Err(Unavailable::Expired { .. })));
    let snapshot = live.valid().await.unwrap();
    assert_eq!(snapshot.generation(), 2);
    assert!(snapshot.not_after() > wall.now());
}

#[tokio::test(start_paused = true)]
async fn valid_hands_out_a_certificate_in_its_leeway_if_the_source_is_down() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE)]);
    source.then(down);
    let live = started(&wall, &source).await;
    let not_after = live.current().unwrap().not_after();
    // 2 % of 10 minutes are 12 s.
    until("it is in its leeway", || {
        wall.now() > not_after - Duration::from_secs(6)
    })
    .await;
    assert_eq!(live.valid().await.unwrap().generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_task() {
    // H3: during a fetch, in between, and in a backoff.
    let wall = TestClock::starting_at(noon());
    for steps in [vec![Step::Hang], vec![Step::Issue(MINUTE)], vec![down()]] {
        let source = ScriptedSource::new(&wall, steps);
        let live = builder(&wall).start_lazy(source.clone()).unwrap();
        let clone = live.clone();
        let mut rotations = live.rotations();
        until("the first fetch", || source.fetches().len() == 1).await;
        drop(live);
        assert!(
            tokio::time::timeout(
                Duration::ZERO,
                clone.shared.snapshots.clone().wait_for(|_| false)
            )
            .await
            .is_err()
        );
        drop(clone);
        let ended = async { while rotations.next().await.is_some() {} };
        assert!(tokio::time::timeout(MINUTE, ended).await.is_ok());
    }
}

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
        assert!(matches!(live.renew_now().await, Renewal::Stopped));
        assert_eq!(source.fetches().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn certificate_stays_readable_after_shutdown_until_it_expires() {
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [Step::Issue(MINUTE)])).await;
    live.shutdown(MINUTE).await.unwrap();
    assert!(live.valid().await.is_ok());
    tokio::time::sleep(MINUTE).await;
    assert!(matches!(
        live.valid().await,
        Err(Unavailable::Expired { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn fixed_certificate_is_there_and_never_changes() {
    let wall = TestClock::starting_at(noon());
    let material = TestCa::new().issue(noon(), MINUTE);
    let live = builder(&wall).fixed(material).unwrap();
    assert_eq!(live.valid().await.unwrap().generation(), 1);
    assert!(matches!(live.renew_now().await, Renewal::Unchanged));
    let mut rotations = live.rotations();
    assert!(rotations.next().await.is_some());
    assert!(
        tokio::time::timeout(MINUTE, rotations.next())
            .await
            .is_err()
    );
    assert!(live.current().is_err(), "it has expired by now");
}

#[tokio::test(start_paused = true)]
async fn two_quick_rotations_are_seen_in_order() {
    // C13: an observer may skip a generation, never go back.
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    let mut rotations = live.rotations();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(live.renew_now().await, Renewal::Newer(_)));
    }
    assert_eq!(rotations.next().await.unwrap().generation(), 3);
    assert_eq!(rotations.latest().unwrap().generation(), 3);
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_source_fails_start_and_does_not_end_the_renewer() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Panic]);
    let error = builder(&wall).start(source).await.unwrap_err();
    assert!(matches!(&error, StartError::Failed(cause) if matches!(**cause, RenewError::Panicked)));

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
async fn unchanged_certificate_that_has_expired_is_a_failure_and_no_storm() {
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), MINUTE);
    let same = || {
        CertMaterial::from_der(vec![leaf.clone()], key.clone_key(), vec![ca.root_der()]).unwrap()
    };
    let steps: Vec<_> = (0..500).map(|_| Step::Deliver(same())).collect();
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    until("it expires", || live.status().state == CertState::Expired).await;
    until("it is known", || live.status().last_error.is_some()).await;
    let before = source.fetches().len();
    for _ in 0..600 {
        assert!(live.valid().await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A minute at the cap's pace of 1.5-3 s.
    assert!(
        source.fetches().len() - before <= 41,
        "{}",
        source.fetches().len() - before
    );
    assert!(matches!(
        *live.status().last_error.unwrap(),
        RenewError::StillExpired
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

#[tokio::test(start_paused = true)]
async fn rejected_generation_is_renewed_once_whoever_reports_it() {
    // C8: fifty connections are refused together.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reports: Vec<_> = (0..50)
        .map(|_| {
            let live = live.clone();
            tokio::spawn(async move { live.report_rejected(1).await })
        })
        .collect();
    for report in reports {
        let renewal = report.await.unwrap();
        assert!(matches!(renewal, Renewal::Newer(newer) if newer.generation() == 2));
    }
    assert_eq!(source.fetches().len(), 2);
    assert_eq!(source.fetches()[1].1, Why::Rejected);
    // A late report of the old generation costs nothing.
    assert!(matches!(live.report_rejected(1).await, Renewal::Newer(_)));
    assert_eq!(source.fetches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn rejection_that_renewal_does_not_cure_makes_no_storm() {
    // A server with an expired CRL refuses whatever it is shown.
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), 60 * MINUTE);
    let same = || {
        CertMaterial::from_der(vec![leaf.clone()], key.clone_key(), vec![ca.root_der()]).unwrap()
    };
    let steps: Vec<_> = (0..100).map(|_| Step::Deliver(same())).collect();
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(
            live.report_rejected(1).await,
            Renewal::Unchanged | Renewal::Limited
        ));
    }
    // Ten minutes; the cap for an hour's life is three.
    assert!(
        (2..=5).contains(&source.fetches().len()),
        "{}",
        source.fetches().len()
    );
}

/// Says what it is told to say, and notes whom it was asked about.
#[derive(Clone)]
struct Door(Arc<Mutex<Doorkeeper>>);

struct Doorkeeper {
    verdict: fn() -> Verdict,
    checked: Vec<u64>,
}

impl Door {
    fn new(verdict: fn() -> Verdict) -> Self {
        let checked = Vec::new();
        Self(Arc::new(Mutex::new(Doorkeeper { verdict, checked })))
    }

    fn set(&self, verdict: fn() -> Verdict) {
        self.0.lock().unwrap().verdict = verdict;
    }

    fn checked(&self) -> Vec<u64> {
        self.0.lock().unwrap().checked.clone()
    }
}

impl Gate for Door {
    async fn check(&self, candidate: &Snapshot) -> Verdict {
        let verdict = {
            let mut keeper = self.0.lock().unwrap();
            keeper.checked.push(candidate.generation());
            keeper.verdict
        };
        verdict()
    }
}

#[tokio::test(start_paused = true)]
async fn refused_candidate_is_tried_again_and_not_fetched_again() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let door = Door::new(|| Verdict::Accept);
    let live = builder(&wall)
        .gate(door.clone())
        .start(source.clone())
        .await
        .unwrap();
    door.set(|| Verdict::refuse("not mapped"));
    until("it is refused three times", || {
        live.status().consecutive_failures == 3
    })
    .await;
    assert_eq!(live.current().unwrap().generation(), 1);
    assert_eq!(source.fetches().len(), 2, "one candidate was fetched");
    assert_eq!(door.checked(), [1, 2, 2, 2]);
    let error = live.status().last_error.unwrap();
    assert!(
        crate::with_causes(&*error)
            .to_string()
            .ends_with("not mapped")
    );

    door.set(|| Verdict::Accept);
    until("it is let through", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert_eq!(source.fetches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn gate_that_cannot_tell_lets_the_candidate_through_and_says_so() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let door = Door::new(|| Verdict::cannot_tell("connection refused"));
    let live = builder(&wall)
        .gate(door.clone())
        .start(source)
        .await
        .unwrap();
    let mut events = live.events();
    door.set(|| panic!("as a careless gate does"));
    until("the next one is there", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    let Some(Event::GateCannotTell {
        generation: 2,
        cause,
    }) = events.next().await
    else {
        panic!("the gate's failure is told first");
    };
    assert_eq!(cause, "the gate panicked");
    assert!(matches!(
        events.next().await,
        Some(Event::Rotated { why: Why::Due, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn certificate_that_is_not_yet_valid_is_held_and_published_in_time() {
    // T5: the CA's clock is ahead by 20 s.
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let early = ca.issue(noon() + Duration::from_secs(20), MINUTE);
    let source = ScriptedSource::new(&wall, [Step::Deliver(early)]);
    let live = builder(&wall).start(source.clone()).await.unwrap();
    assert_eq!(wall.now(), noon() + Duration::from_secs(20));
    assert_eq!(live.current().unwrap().usable_life().length(), MINUTE);
    assert_eq!(source.fetches().len(), 1, "held, not fetched again");
}

#[tokio::test(start_paused = true)]
async fn first_certificate_that_cannot_survive_the_outage_is_refused() {
    let wall = TestClock::starting_at(noon());
    let patient = || crate::Schedule::new().survive_outage(10 * MINUTE);
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE)]);
    let error = builder(&wall)
        .schedule(patient())
        .start(source)
        .await
        .unwrap_err();
    let StartError::Failed(cause) = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*cause, RenewError::LifeTooShort(_)));

    // A later one is better than none: it is used, and renewed early.
    let steps = [Step::Issue(60 * MINUTE), Step::Issue(10 * MINUTE)];
    let source = ScriptedSource::new(&wall, steps);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = builder(&wall)
        .schedule(patient())
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

#[tokio::test(start_paused = true)]
async fn events_tell_the_story_of_an_outage_in_order() {
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
async fn status_changes_are_awaited_one_by_one() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::HeldUntilReleased(MINUTE)]);
    source.then(down);
    let live = builder(&wall).start_lazy(source.clone()).unwrap();
    let mut changes = live.status_changes();
    assert_eq!(changes.next().await.unwrap().state, CertState::Starting);
    source.release();
    assert_eq!(changes.next().await.unwrap().state, CertState::Fresh);
    assert!(live.is_ready() && live.is_live());
    let mut state = changes.next().await.unwrap().state;
    if state == CertState::Due {
        state = changes.next().await.unwrap().state;
    }
    assert_eq!(state, CertState::Failing);
    while changes.next().await.unwrap().state != CertState::Expired {}
    assert!(
        !live.is_ready() && live.is_live(),
        "a restart would not help"
    );
    until("it has been expired for its life's length", || {
        !live.is_live()
    })
    .await;
    assert!(wall.now() > live.status().not_after.unwrap() + MINUTE);
    drop(live);
    while changes.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn renewal_point_does_not_creep_with_early_looks() {
    // T2: a look that finds nothing new, ten times before the point.
    let wall = TestClock::starting_at(noon());
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), 60 * MINUTE);
    let same = || {
        CertMaterial::from_der(vec![leaf.clone()], key.clone_key(), vec![ca.root_der()]).unwrap()
    };
    let steps: Vec<_> = (0..11).map(|_| Step::Deliver(same())).collect();
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    let point = live.status().next_fetch.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(2 * MINUTE).await;
        assert!(matches!(live.renew_now().await, Renewal::Unchanged));
        assert_eq!(live.status().next_fetch.unwrap(), point);
    }
    until("it is renewed", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert!(wall.now() >= point);
}

#[tokio::test(start_paused = true)]
async fn every_life_from_seconds_to_years_is_renewed_once_in_it() {
    // T3: no absolute threshold, no hot loop, no life that runs out.
    const DAY: Duration = Duration::from_secs(86_400);
    let mut lives = vec![Duration::from_secs(5), MINUTE, 60 * MINUTE];
    // With metrics, years are millions of looks at the clock: left to the run without.
    if crate::metrics::REFRESH.is_none() {
        lives.extend([90 * DAY, 3_650 * DAY]);
    }
    for life in lives {
        let wall = TestClock::starting_at(noon());
        let steps = (0..5).map(|_| Step::Issue(life));
        let source = ScriptedSource::new(&wall, steps);
        let live = started(&wall, &source).await;
        let mut rotations = live.rotations();
        let mut last = rotations.next().await.unwrap();
        for _ in 0..4 {
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

#[tokio::test(start_paused = true)]
async fn schedule_follows_the_life_that_the_ca_really_gave() {
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

#[tokio::test(start_paused = true)]
async fn everything_that_expired_in_a_sleep_is_recovered_by_the_first_who_asks() {
    // T9, the core's part: the certificate is gone and the first tries fail, as while a token is
    // had anew.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(10 * MINUTE), down(), down()]);
    let live = started(&wall, &source).await;
    tokio::time::sleep(MINUTE).await;
    wall.step_forward(24 * 60 * MINUTE);
    assert!(
        live.valid().await.is_err(),
        "the first try fails, and says so"
    );
    until("it recovers", || live.current().is_ok()).await;
    assert_eq!(live.current().unwrap().generation(), 2);
    assert_eq!(source.fetches().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn two_certificates_in_one_process_do_not_touch_each_other() {
    // C14, the core's part: one fails for ever, the other keeps its pace.
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
