//! Callers that want a certificate, a renewal, or another one.

use super::*;
use crate::LONGEST_HOLD_OFF;

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
async fn renew_now_cuts_a_backoff_short_however_long_the_life() {
    let wall = TestClock::starting_at(noon());
    let day = 24 * 60 * MINUTE;
    let source = ScriptedSource::new(&wall, [Step::Issue(day), down(), Step::Issue(day)]);
    let live = started(&wall, &source).await;
    tokio::time::sleep(MINUTE).await;
    assert!(matches!(live.renew_now().await, Renewal::Failed(_)));
    assert!(matches!(live.renew_now().await, Renewal::Limited));
    tokio::time::sleep(LONGEST_HOLD_OFF).await;
    assert!(matches!(live.renew_now().await, Renewal::Newer(newer) if newer.generation() == 2));
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
async fn rejected_generation_is_renewed_once_whoever_reports_it() {
    // C8: fifty connections are refused together.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let live = started(&wall, &source).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut events = live.events();
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
    assert_eq!(source.fetches()[1].1, FetchReason::Refused);
    // A late report of the old generation costs nothing.
    assert!(matches!(live.report_rejected(1).await, Renewal::Newer(_)));
    assert_eq!(source.fetches().len(), 2);
    // It is told once, and the rotation that follows.
    assert!(matches!(
        events.next().await,
        Some(Event::Rejected { generation: 1 })
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

#[tokio::test(start_paused = true)]
async fn rejection_that_renewal_does_not_cure_makes_no_storm() {
    // A server with an expired CRL refuses whatever it is shown.
    let wall = TestClock::starting_at(noon());
    let source = standing_still(&wall, 60 * MINUTE);
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

#[tokio::test(start_paused = true)]
async fn rejection_of_each_new_certificate_makes_no_storm() {
    // The same server, and a CA that issues whenever it is asked.
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(60 * MINUTE)]);
    source.then(|| Step::Issue(60 * MINUTE));
    let live = started(&wall, &source).await;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let refused = live.current().unwrap().generation();
        live.report_rejected(refused).await;
    }
    // Ten minutes; the cap for an hour's life is three.
    assert_eq!(source.fetches().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn other_roots_for_the_same_leaf_cure_no_refusal() {
    // The CA has changed meanwhile; the certificate is the one that the server refused.
    let wall = TestClock::starting_at(noon());
    let (ca, other) = (TestCa::new(), TestCa::new());
    let (leaf, key) = ca.leaf(noon(), 10 * MINUTE);
    let same_leaf = |roots| {
        let chain = vec![leaf.clone(), ca.intermediate_der()];
        Step::Deliver(CertMaterial::from_der(chain, key.clone_key(), roots).unwrap())
    };
    let steps = [
        same_leaf(vec![ca.root_der()]),
        same_leaf(vec![ca.root_der(), other.root_der()]),
        Step::Issue(10 * MINUTE),
    ];
    let source = ScriptedSource::new(&wall, steps);
    let live = started(&wall, &source).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(live.renew_now().await, Renewal::Newer(_)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let newer = live.report_rejected(1).await;
    assert!(matches!(newer, Renewal::Newer(ref third) if third.generation() == 3));
    let whys: Vec<_> = source.fetches().iter().map(|(_, why)| *why).collect();
    assert_eq!(
        whys,
        [
            FetchReason::Start,
            FetchReason::Requested,
            FetchReason::Refused
        ]
    );
    // What was forced, forces none: a server that refuses everything makes no storm.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = live.report_rejected(3).await;
    assert!(matches!(refused, Renewal::Limited), "{refused:?}");
}
