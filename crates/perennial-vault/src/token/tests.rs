use super::*;

#[test]
fn lease_past_the_end_of_the_clock_is_never_due() {
    let due = |seconds| {
        let granted = Granted {
            token: Zeroizing::default(),
            lease: Lease::of_seconds(seconds),
            renewal: Renewal::Possible,
        };
        Token::of(granted, Fingerprint::of([b"one".as_slice()])).renewal_due()
    };
    assert!(due(3_600).is_some());
    assert_eq!(due(u64::MAX), None);
}

#[test]
fn tokens_of_one_moment_are_renewed_apart() {
    let granted = || Granted {
        token: Zeroizing::default(),
        lease: Lease::of_seconds(3_600),
        renewal: Renewal::Possible,
    };
    let made_of = Fingerprint::of([b"one credential".as_slice()]);
    let due: Vec<Duration> = (0..100)
        .filter_map(|_| Token::of(granted(), made_of).facts().renewed_at())
        .collect();
    let spread = due.iter().max().zip(due.iter().min()).map(|(l, f)| *l - *f);
    // All of 100 draws within half of the four minutes: once in 2^92 runs.
    assert!(spread > Some(Duration::from_secs(120)), "{spread:?}");
}

fn granted(token: &str) -> Granted {
    Granted {
        token: Zeroizing::new(token.to_owned()),
        lease: Lease::of_seconds(3_600),
        renewal: Renewal::Possible,
    }
}

fn refusal(verdict: Verdict) -> Failure {
    Failure::new(verdict, VaultError::Expired)
}

#[tokio::test(start_paused = true)]
async fn refusal_of_a_token_that_was_replaced_changes_nothing() {
    let id = Fingerprint::of([b"one credential".as_slice()]);
    for auth in [
        auth::Auth::token("s.any"),
        auth::Auth::approle("role", "id"),
    ] {
        let tokens = Tokens::new(auth.checked().unwrap());
        let old = Token::of(granted("s.old"), id);
        tokio::time::advance(POLICY_TOKEN_AGE).await;
        let new = Arc::new(Token::of(granted("s.new"), id));
        tokens.state.lock().await.kept = Some(Arc::clone(&new));
        for verdict in [Verdict::TokenRefused, Verdict::PolicyRefused] {
            let told = tokens.refused(&old, refusal(verdict)).await;
            assert_eq!(told.verdict, verdict);
            let state = tokens.state.lock().await;
            assert!(!state.stuck && !state.outdated, "{verdict:?}");
            assert!(
                state
                    .kept
                    .as_ref()
                    .is_some_and(|kept| kept.value == new.value)
            );
        }
        // That of the kept one is heard.
        tokens.refused(&new, refusal(Verdict::TokenRefused)).await;
        assert!(tokens.state.lock().await.kept.is_none());
    }
}
