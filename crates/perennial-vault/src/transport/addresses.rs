//! Which of several addresses is asked; [`Turn`] and [`goes_on`] are pure.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Url;

use crate::error::{Failure, Step, VaultError};
use crate::outcome::Verdict;

/// The addresses of one Vault, and which of them is asked first.
pub(crate) struct Addresses {
    list: Vec<Url>,
    /// About the one that served last, or the last of those that did not: rounds that end together may differ.
    first: AtomicUsize,
}

impl Addresses {
    /// At least one address.
    pub(crate) fn new(list: Vec<Url>) -> Self {
        let first = AtomicUsize::new(0);
        Self { list, first }
    }

    pub(crate) fn first(&self) -> &Url {
        &self.list[0]
    }

    pub(super) fn all(&self) -> &[Url] {
        &self.list
    }

    pub(super) fn are_https(&self) -> bool {
        self.list.iter().all(|url| url.scheme() == "https")
    }

    pub(super) fn turn(&self) -> Turn {
        Turn::of(self.list.len(), self.first.load(Ordering::Relaxed))
    }

    pub(super) fn at(&self, turn: &Turn) -> &Url {
        &self.list[turn.at]
    }

    /// The one to ask after a failure, unless the failure is final or all have been asked.
    ///
    /// Later rounds begin with it, unless another round has found them a better one meanwhile.
    pub(super) fn next(&self, turn: &mut Turn, failed: Failed) -> Option<&Url> {
        let from = turn.at;
        let next = turn.after(failed)?;
        let order = Ordering::Relaxed;
        let _moved_by_another = self.first.compare_exchange(from, next, order, order);
        Some(&self.list[next])
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.list.iter().map(Url::as_str);
        f.debug_list().entries(urls).finish()
    }
}

/// Once round, from wherever the last round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    count: usize,
    at: usize,
    /// How many have not been asked in this round.
    left: usize,
}

impl Turn {
    fn of(count: usize, at: usize) -> Self {
        Self {
            count,
            at,
            left: count - 1,
        }
    }

    fn after(&mut self, failed: Failed) -> Option<usize> {
        if failed == Failed::Everywhere || self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.at = (self.at + 1) % self.count;
        Some(self.at)
    }
}

/// How far a failure reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Another address may do better.
    Here,
    /// It is Vault that refuses, or sending it again could do harm.
    Everywhere,
}

/// Whether the next address is asked after this failure.
pub(super) fn goes_on(step: Step, failure: &Failure) -> Failed {
    let is_it = match &*failure.cause {
        // Nothing reached a Vault.
        VaultError::Tls { .. }
        | VaultError::RedirectedElsewhere { .. }
        | VaultError::RedirectedTooOften { .. } => true,
        // What was unwrapped without our knowing looks stolen when it is unwrapped once more.
        _ if step == Step::Unwrap => false,
        VaultError::TimedOut { .. } | VaultError::Unreachable { .. } => true,
        // Sealed, not initialised, without a leader, or a proxy that reaches no server; and a
        // secondary for disasters. Not a quota, which counts at every node.
        VaultError::Refused { status, .. } => {
            // Past its longest lease, a token is refused with 500, by every node.
            let is_tokens = step == Step::RenewToken && *status == 500;
            *status == 472 || *status >= 500 && failure.verdict == Verdict::Transient && !is_tokens
        }
        _ => false,
    };
    if is_it {
        Failed::Here
    } else {
        Failed::Everywhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which addresses are asked in rounds of which each begins anew, `x` failing here, `!`
    /// everywhere and `.` being served.
    fn asked(count: usize, rounds: &[&str]) -> Vec<String> {
        let mut first = 0;
        let round = |outcomes: &&str| {
            let mut turn = Turn::of(count, first);
            let mut asked = turn.at.to_string();
            for outcome in outcomes.chars() {
                let next = match outcome {
                    'x' => turn.after(Failed::Here),
                    '!' => turn.after(Failed::Everywhere),
                    _ => Some(turn.at),
                };
                let Some(next) = next else { break };
                asked += &next.to_string();
            }
            first = turn.at;
            asked
        };
        rounds.iter().map(round).collect()
    }

    #[test]
    fn each_address_is_asked_once_in_a_round_beginning_with_the_last() {
        let table: [(usize, &[&str], &[&str]); 8] = [
            (1, &["x", "x"], &["0", "0"]),
            (3, &[".", "."], &["00", "00"]),
            // It stays with the one that serves.
            (3, &["x.", "..", "."], &["011", "111", "11"]),
            (3, &["xxx", "xxx", "xxx"], &["012", "201", "120"]),
            // Three requests in one round, of which each fails once.
            (3, &["x.x.x"], &["01122"]),
            (3, &["!", "!"], &["0", "0"]),
            (3, &["x!", "."], &["01", "11"]),
            (2, &["xx", "x.", "x."], &["01", "100", "011"]),
        ];
        for (count, rounds, expected) in table {
            assert_eq!(asked(count, rounds), expected, "{rounds:?}");
        }
    }

    #[test]
    fn only_what_another_address_may_do_better_goes_on() {
        let refused = |status, verdict| {
            Failure::new(
                verdict,
                VaultError::Refused {
                    step: Step::Sign,
                    path: String::new(),
                    status,
                    messages: Vec::new(),
                    remedy: "",
                },
            )
        };
        let transient = |status| refused(status, Verdict::Transient);
        let timed_out = || {
            Failure::transient(VaultError::TimedOut {
                step: Step::Sign,
                origin: String::new(),
                after: std::time::Duration::ZERO,
            })
        };
        let elsewhere = || {
            Failure::transient(VaultError::RedirectedElsewhere {
                step: Step::Sign,
                origin: String::new(),
            })
        };
        let table = [
            (Step::Sign, transient(503), Failed::Here),
            (Step::Sign, transient(501), Failed::Here),
            (Step::Sign, transient(500), Failed::Here),
            (Step::RenewToken, transient(500), Failed::Everywhere),
            (Step::RenewToken, transient(503), Failed::Here),
            (
                Step::Sign,
                refused(500, Verdict::Refused),
                Failed::Everywhere,
            ),
            (Step::Sign, transient(429), Failed::Everywhere),
            (Step::Sign, transient(412), Failed::Everywhere),
            (Step::Sign, refused(472, Verdict::Refused), Failed::Here),
            (
                Step::Sign,
                refused(403, Verdict::TokenRefused),
                Failed::Everywhere,
            ),
            (
                Step::Login,
                refused(400, Verdict::Refused),
                Failed::Everywhere,
            ),
            (Step::Login, timed_out(), Failed::Here),
            (Step::Unwrap, timed_out(), Failed::Everywhere),
            (Step::Unwrap, transient(503), Failed::Everywhere),
            (Step::Unwrap, elsewhere(), Failed::Here),
            (Step::Sign, elsewhere(), Failed::Here),
        ];
        for (step, failure, expected) in table {
            assert_eq!(goes_on(step, &failure), expected, "{step:?} {failure:?}");
        }
    }
}
