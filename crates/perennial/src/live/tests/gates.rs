//! What a gate's verdict leads to.

use super::*;

/// Returns the verdict that the test sets, and records the generations that it checked.
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
        crate::with_causes(&error)
            .to_string()
            .ends_with("not mapped")
    );

    door.set(|| Verdict::Accept);
    until("it is published", || {
        live.current().unwrap().generation() == 2
    })
    .await;
    assert_eq!(source.fetches().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn inconclusive_gate_lets_the_candidate_through_and_reports_it() {
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, []);
    let door = Door::new(|| Verdict::inconclusive("connection refused"));
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
    let Some(Event::GateInconclusive {
        generation: 2,
        cause,
    }) = events.next().await
    else {
        panic!("the gate's failure is reported first");
    };
    assert_eq!(cause, "the gate panicked");
    assert!(matches!(
        events.next().await,
        Some(Event::Rotated {
            reason: FetchReason::Due,
            ..
        })
    ));
}
