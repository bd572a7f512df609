use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::client::Vault;
use crate::error::Problem;
use crate::login::Secret;

fn granted(token: &str, seconds: u64) -> Granted {
    Granted {
        token: Some(Zeroizing::new(token.to_owned())),
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

/// A file system that does not answer.
fn hangs(_: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    loop {
        std::thread::park();
    }
}

/// How often [`hangs_counted`] was called.
static HANGING: AtomicUsize = AtomicUsize::new(0);

fn hangs_counted(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    HANGING.fetch_add(1, Ordering::SeqCst);
    hangs(path)
}

/// Scenario: F20
#[tokio::test(start_paused = true)]
async fn credential_file_that_hangs_delays_neither_a_good_token_nor_other_sources() {
    let hanging = || Secret::read_by("/mnt/hung/token".into(), hangs_counted);
    let auths = [
        Auth::token(hanging()),
        Auth::tls_certificate("app", hanging(), hanging()),
    ];
    for (count, auth) in (1..).zip(auths) {
        let vault = Vault::builder("http://127.0.0.1:1")
            .auth(auth)
            .build()
            .unwrap();
        let tokens = &vault.tokens;
        let good = Arc::new(Token::of(granted("s.good", 3_600), id()));
        tokens.state.lock().await.token = Some(Arc::clone(&good));
        let begun = Instant::now();
        let fetch = async {
            let round = &mut vault.transport.round();
            let (token, _) = tokens.ready(round, None).await.unwrap();
            assert!(Arc::ptr_eq(&token, &good));
        };
        let others = async {
            // The reading has begun, and the lock is free.
            tokio::task::yield_now().await;
            assert!(tokens.state.try_lock().is_ok());
        };
        tokio::join!(fetch, others);
        let waited = begun.elapsed();
        assert!(waited <= Duration::from_secs(3), "{waited:?}");
        // While it hangs, nothing waits for it again, and no second thread reads it.
        let begun = Instant::now();
        for _ in 0..100 {
            let round = &mut vault.transport.round();
            tokens.ready(round, None).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        // Paused time does not wait for the thread.
        while HANGING.load(Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
        assert_eq!(HANGING.load(Ordering::SeqCst), count);
    }
}

/// Scenario: F20
#[tokio::test(start_paused = true)]
async fn credential_file_that_hangs_fails_a_login_in_time_and_is_named() {
    let auth = Auth::approle("role", Secret::read_by("/mnt/hung/id".into(), hangs));
    let vault = Vault::builder("http://127.0.0.1:1")
        .auth(auth)
        .build()
        .unwrap();
    let round = &mut vault.transport.round();
    let begun = Instant::now();
    let failure = vault.tokens.ready(round, None).await.err().unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(3));
    let text = with_causes(&*failure.problem).to_string();
    for words in [
        "auth secret_id",
        "/mnt/hung/id",
        "does its file system hang?",
    ] {
        assert!(text.contains(words), "{text}");
    }
}
