//! Callers that want a valid certificate, a renewal, or another certificate.

use super::*;

/// Scenario: S12
#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_cause_one_fetch() {
    // S12: a cold start; one waiter is cancelled, which affects no other.
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
            tokio::spawn(async move { live.wait_valid().await.unwrap().serial().clone() })
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
async fn cancelled_renew_does_not_cancel_the_fetch() {
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
    let caller = tokio::time::timeout(Duration::from_secs(1), live.renew()).await;
    assert!(caller.is_err(), "the caller must have given up");
    source.release();
    until("the renewal is published", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert_eq!(source.fetches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn renew_is_limited_right_after_a_fetch() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    assert!(matches!(
        live.renew().await,
        Err(RenewError::Limited { .. })
    ));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(live.renew().await, Ok(Renewed::Newer(newer)) if newer.generation() == 2));
    source.then(down);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(live.renew().await, Err(RenewError::Source(_))));
    assert_eq!(source.fetches().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn renew_cuts_a_back_off_short_after_ten_seconds_at_most() {
    let wall = TestClock::starting_at(noon());
    let day = 24 * 60 * MINUTE;
    let source = ScriptedSource::new(&wall, [Step::Issue(day), down(), Step::Issue(day)]);
    let live = started(&wall, &source).await;
    tokio::time::sleep(MINUTE).await;
    assert!(matches!(live.renew().await, Err(RenewError::Source(_))));
    assert!(matches!(
        live.renew().await,
        Err(RenewError::Limited { .. })
    ));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(matches!(live.renew().await, Ok(Renewed::Newer(newer)) if newer.generation() == 2));
}

/// Scenario: C13
#[tokio::test(start_paused = true)]
async fn two_quick_rotations_are_seen_in_order() {
    // C13: an observer may skip a generation, never go back.
    let wall = TestClock::starting_at(noon());
    let live = started(&wall, &ScriptedSource::new(&wall, [])).await;
    let mut rotations = live.subscribe();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(live.renew().await, Ok(Renewed::Newer(_))));
    }
    assert_eq!(rotations.next().await.unwrap().generation(), 3);
    assert_eq!(rotations.latest().unwrap().generation(), 3);
}

/// Scenario: C8
#[tokio::test(start_paused = true)]
async fn refused_generation_is_renewed_once_however_many_report_it() {
    // C8: fifty connections are refused together.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut events = live.events();
    let reporter = live.reporter("pool");
    let reports: Vec<_> = (0..50)
        .map(|_| {
            let reporter = reporter.clone();
            tokio::spawn(async move { reporter.refused(1).await })
        })
        .collect();
    for report in reports {
        let renewal = report.await.unwrap();
        assert!(matches!(renewal, Ok(Renewed::Newer(newer)) if newer.generation() == 2));
    }
    assert_eq!(source.fetches().len(), 2);
    assert_eq!(source.fetches()[1].1, FetchReason::Refused);
    // A late report of the old generation costs nothing.
    assert!(matches!(reporter.refused(1).await, Ok(Renewed::Newer(_))));
    assert_eq!(source.fetches().len(), 2);
    // One event for the refusal, and one for the rotation that follows.
    assert!(matches!(
        events.next().await,
        Some(Event::Refused { generation: 1, reporter }) if &*reporter == "pool"
    ));
    assert!(matches!(
        events.next().await,
        Some(Event::Rotated {
            reason: FetchReason::Refused,
            ..
        })
    ));
    let more = tokio::time::timeout(Duration::ZERO, events.next()).await;
    assert!(more.is_err(), "{more:?}");
}

/// Scenario: C8
#[tokio::test(start_paused = true)]
async fn refusal_that_renewal_does_not_cure_makes_no_storm() {
    // A server with an expired CRL refuses every certificate.
    let wall = TestClock::starting_at(noon());
    let source = unchanging(&wall, 60 * MINUTE);
    let live = started(&wall, &source).await;
    let reporter = live.reporter("pool");
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(
            reporter.refused(1).await,
            Ok(Renewed::Unchanged) | Err(RenewError::Limited { .. })
        ));
    }
    // Ten minutes; the longest retry wait for an hour is three. Each back-off doubles.
    assert!(
        (2..=4).contains(&source.fetches().len()),
        "{}",
        source.fetches().len()
    );
}

/// Scenario: C8, F3
#[tokio::test(start_paused = true)]
async fn refusal_of_each_new_certificate_makes_no_storm() {
    // The same server, and a CA that issues whenever it is asked.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(60 * MINUTE)]);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = started(&wall, &source).await;
    let reporter = live.reporter("pool");
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let refused = live.current().unwrap().generation();
        let _ = reporter.refused(refused).await;
    }
    // Forced after 1 s, then 3 min later, then 6 min later.
    assert_eq!(source.fetches().len(), 4);
}

/// Scenario: F8
#[tokio::test(start_paused = true)]
async fn other_roots_for_the_same_leaf_cure_no_refusal() {
    // The CA has changed meanwhile; the certificate is the one that the server refused.
    let wall = TestClock::starting_at(noon());
    let (ca, other) = (TestCa::new(), TestCa::new());
    let (leaf, key) = ca.leaf(noon(), 10 * MINUTE);
    let same_leaf = |roots| {
        let chain = vec![leaf.clone(), ca.intermediate_der()];
        Step::Deliver(
            CertMaterial::from_der(chain, key.clone_key(), roots)
                .unwrap()
                .into(),
        )
    };
    let steps = [
        same_leaf(vec![ca.root_der()]),
        same_leaf(vec![ca.root_der(), other.root_der()]),
        Step::Issue(10 * MINUTE),
    ];
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    let reporter = live.reporter("pool");
    source.set_changed(1);
    until("the roots are published", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let newer = reporter.refused(1).await;
    assert!(matches!(newer, Ok(Renewed::Newer(ref third)) if third.generation() == 3));
    let reasons: Vec<_> = source.fetches().iter().map(|(_, reason)| *reason).collect();
    assert_eq!(
        reasons,
        [
            FetchReason::Start,
            FetchReason::Changed,
            FetchReason::Refused
        ]
    );
    // A forced certificate that is refused forces none: a server that refuses every certificate
    // makes no storm.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = reporter.refused(3).await;
    assert!(
        matches!(refused, Err(RenewError::Limited { .. })),
        "{refused:?}"
    );
}

/// Two pools on one certificate: the database of one refuses it, that of the other accepts it.
/// Scenario: F3
#[tokio::test(start_paused = true)]
async fn pool_that_is_refused_backs_off_while_another_pool_is_accepted() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(60 * MINUTE)]);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = started(&wall, &source).await;
    let (refusing, healthy) = (live.reporter("refusing"), live.reporter("healthy"));
    for _ in 0..20 * 60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let generation = live.current().unwrap().generation();
        healthy.accepted(generation);
        let _ = refusing.refused(generation).await;
    }
    // Twenty minutes of a cap of three: forced at 1 s, then after 3, 6 and 12 minutes at most.
    assert_eq!(source.fetches().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn refusal_after_a_success_is_renewed_at_once_again() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = started(&wall, &source).await;
    let reporter = live.reporter("pool");
    for generation in 1..5 {
        // Longer than the first step of the back-off, shorter than the second.
        tokio::time::sleep(4 * MINUTE).await;
        let renewed = reporter.refused(generation).await;
        assert!(matches!(renewed, Ok(Renewed::Newer(_))), "{renewed:?}");
        reporter.accepted(generation + 1);
    }
}

/// Scenario: F3
#[tokio::test(start_paused = true)]
async fn fifty_refused_pools_share_one_forced_renewal() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(60 * MINUTE)]);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = started(&wall, &source).await;
    let reporters: Vec<_> = (0..50).map(|_| live.reporter("pool")).collect();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let generation = live.current().unwrap().generation();
        for reporter in &reporters {
            let _ = reporter.refused(generation).await;
        }
    }
    assert_eq!(source.fetches().len(), 2);
}

/// Delivers a certificate, then other roots for it, slowly, then certificates.
struct RootsFirst {
    source: ScriptedSource,
    roots: Vec<rustls_pki_types::CertificateDer<'static>>,
}

impl CertSource for RootsFirst {
    async fn fetch(&self, context: crate::FetchContext<'_>) -> Result<Fetched, SourceError> {
        if context.reason == FetchReason::Changed {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.source.set_changed(0);
            return Ok(Fetched::Roots(self.roots.clone()));
        }
        self.source.fetch(context).await
    }

    async fn changed(&self) {
        CertSource::changed(&self.source).await;
    }
}

/// Scenario: F8
#[tokio::test(start_paused = true)]
async fn renewal_during_a_change_of_roots_still_brings_another_leaf() {
    // A leaked key must not stay in use because only the roots changed.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let roots = vec![TestCa::new().root_der()];
    let roots_first = RootsFirst {
        source: source.clone(),
        roots: roots.clone(),
    };
    let live = builder(&wall).start(roots_first).await.unwrap();
    let first = live.current().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    source.set_changed(1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let renewed = live.renew().await;
    let Ok(Renewed::Newer(newer)) = renewed else {
        panic!("{renewed:?}");
    };
    assert_ne!(newer.leaf_sha256(), first.leaf_sha256());
    assert_eq!(newer.generation(), 3, "the roots were published in between");
}

#[tokio::test(start_paused = true)]
async fn roots_alone_are_a_new_generation_with_the_same_leaf_and_key() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let roots = vec![TestCa::new().root_der()];
    let roots_first = RootsFirst {
        source: source.clone(),
        roots: roots.clone(),
    };
    let live = builder(&wall).start(roots_first).await.unwrap();
    let (first, due) = (live.current().unwrap(), live.status().next_fetch);
    source.set_changed(1);
    until("the roots are published", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    let second = live.current().unwrap();
    assert_eq!(second.leaf_sha256(), first.leaf_sha256());
    assert_eq!(second.material().roots(), roots);
    assert_eq!(live.status().next_fetch, due, "the renewal point stays");
    assert_eq!(source.fetches().len(), 1, "nothing was issued");
}

/// Scenario: F24
#[tokio::test(start_paused = true)]
async fn clock_behind_the_cas_holds_back_no_change_of_roots() {
    let right = TestClock::starting_at(noon());
    let wall = TestClock::starting_at(noon() - 60 * MINUTE);
    let source = ScriptedSource::new(&right, []);
    let roots = vec![TestCa::new().root_der()];
    let roots_first = RootsFirst {
        source: source.clone(),
        roots: roots.clone(),
    };
    let live = builder(&wall).start(roots_first).await.unwrap();
    source.set_changed(1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let second = live.current().unwrap();
    assert_eq!(second.generation(), 2);
    assert_eq!(second.material().roots(), roots);
    assert_eq!(live.status().state, CertState::Fresh);
    assert_eq!(source.fetches().len(), 1, "nothing was issued");
}
