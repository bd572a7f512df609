use super::*;
use crate::error::Problem;

fn granted(token: &str, seconds: u64) -> Granted {
    Granted {
        token: Zeroizing::new(token.to_owned()),
        lease: Lease::of_seconds(seconds),
        renewal: Renewal::Possible,
    }
}

fn id() -> CredentialId {
    CredentialId::of([b"one credential".as_slice()])
}

#[test]
fn lease_past_the_end_of_the_clock_is_never_due() {
    let due = |seconds| Token::of(granted("s.any", seconds), id()).renewal_due();
    assert!(due(3_600).is_some());
    assert_eq!(due(u64::MAX), None);
}

#[test]
fn tokens_granted_at_the_same_time_are_renewed_at_different_times() {
    let due: Vec<Duration> = (0..100)
        .filter_map(|_| {
            Token::of(granted("s.any", 3_600), id())
                .facts()
                .renewed_at()
        })
        .collect();
    let spread = due.iter().max().zip(due.iter().min()).map(|(l, f)| *l - *f);
    // All of 100 draws within half of the four minutes: once in 2^92 runs.
    assert!(spread > Some(Duration::from_secs(120)), "{spread:?}");
}

/// Scenario: S7
#[tokio::test(start_paused = true)]
async fn refusal_of_a_replaced_token_changes_nothing() {
    let refusal = |verdict| Failure::new(verdict, Problem::Expired);
    for auth in [Auth::token("s.any"), Auth::approle("role", "id")] {
        let tokens = Tokens::new(auth.checked().unwrap());
        let old = Token::of(granted("s.old", 3_600), id());
        tokio::time::advance(POLICY_TOKEN_AGE).await;
        let new = Arc::new(Token::of(granted("s.new", 3_600), id()));
        tokens.state.lock().await.token = Some(Arc::clone(&new));
        for verdict in [Verdict::TokenRefused, Verdict::PolicyRefused] {
            let failure = tokens.refused(&old, refusal(verdict)).await;
            assert_eq!(failure.verdict, verdict);
            let state = tokens.state.lock().await;
            assert!(
                !state.waits_for_credential && !state.outdated,
                "{verdict:?}"
            );
            let token = state.token.as_ref();
            assert!(token.is_some_and(|token| token.value == new.value));
        }
        // The refusal of the current one does.
        tokens.refused(&new, refusal(Verdict::TokenRefused)).await;
        assert!(tokens.state.lock().await.token.is_none());
    }
}
