//! Which address gets a request; [`Turn`] and [`reach`] are pure.

use std::sync::atomic::{AtomicUsize, Ordering};

use perennial::with_causes;
use reqwest::Url;

use super::{Reply, Request, Transport};
use crate::error::{Failure, Problem};
use crate::verdict::{Operation, Verdict};

/// The addresses of one Vault, and the one that each round starts with.
pub(crate) struct Addresses {
    list: Vec<Url>,
    /// The address that answered last, or the last that failed. Rounds that end at the same time
    /// may disagree, which does no harm.
    first: AtomicUsize,
}

impl Addresses {
    /// At least one address.
    pub(crate) fn new(list: Vec<Url>) -> Self {
        let first = AtomicUsize::new(0);
        Self { list, first }
    }

    pub(super) fn all(&self) -> &[Url] {
        &self.list
    }

    pub(super) fn are_https(&self) -> bool {
        self.list.iter().all(|url| url.scheme() == "https")
    }

    fn turn(&self) -> Turn {
        Turn::of(self.list.len(), self.first.load(Ordering::Relaxed))
    }

    /// The next address after a failure, unless the failure is final or all have been asked.
    ///
    /// Later rounds start with it, unless another round has found a better one in the meantime.
    fn next(&self, turn: &mut Turn, reach: Reach) -> Option<&Url> {
        let from = turn.at;
        let next = turn.after(reach)?;
        let order = Ordering::Relaxed;
        // An error: another round has moved it.
        let _ = self.first.compare_exchange(from, next, order, order);
        Some(&self.list[next])
    }
}

/// Requests that belong together, such as a login and the request it was made for.
///
/// Where an address cannot serve one, the next address is asked, and from then on asked first. In
/// the whole round each address is given up at most once. Concurrent fetches have rounds of their
/// own.
pub(crate) struct Round<'a> {
    pub(crate) transport: &'a Transport,
    /// Set by the first request: until then this round may have waited for another one.
    turn: Option<Turn>,
}

impl Transport {
    /// Starts a round, for a fetch or for a request next to one.
    pub(crate) fn round(&self) -> Round<'_> {
        let transport = self;
        let turn = None;
        Round { transport, turn }
    }
}

impl Round<'_> {
    /// Sends one request and reads its answer; `Ok` is a success by status.
    ///
    /// # Cancel safety
    /// A cancelled request may have been carried out.
    pub(crate) async fn send(
        &mut self,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Reply, Failure> {
        self.send_over(self.transport, request, token).await
    }

    /// As [`send`](Self::send), over other connections to the same addresses.
    pub(crate) async fn send_over(
        &mut self,
        transport: &Transport,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Reply, Failure> {
        let headers = transport.headers(request.operation, token)?;
        let sent = request.sent(token);
        let addresses = &transport.settings.addresses;
        let turn = self.turn.get_or_insert_with(|| addresses.turn());
        let mut base = &addresses.list[turn.at];
        loop {
            let failure = match transport.attempt(base, request, &headers, &sent).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let Some(next) = addresses.next(turn, reach(request.operation, &failure)) else {
                return Err(failure);
            };
            tracing::debug!(
                error = %with_causes(&*failure.problem),
                next = next.origin().ascii_serialization(),
                "vault address failed; trying the next one"
            );
            base = next;
        }
    }
}

/// The addresses of one round, starting where the last round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
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

    fn after(&mut self, reach: Reach) -> Option<usize> {
        if reach == Reach::Cluster || self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.at = (self.at + 1) % self.count;
        Some(self.at)
    }
}

/// Whom a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Another address may succeed.
    Address,
    /// Vault refuses, or a second request could do harm.
    Cluster,
}

fn reach(operation: Operation, failure: &Failure) -> Reach {
    let is_local = match &*failure.problem {
        // The request has reached no Vault.
        Problem::Tls { .. }
        | Problem::RedirectedElsewhere(..)
        | Problem::RedirectedTooOften(..) => true,
        // If the lost answer was a success, a second unwrapping would look like an interception.
        _ if operation == Operation::Unwrap => false,
        Problem::TimedOut { .. } | Problem::Unreachable { .. } => true,
        // Sealed, not initialised, without a leader, a proxy without a server, or a
        // disaster-recovery secondary (472). Not a quota, which counts at every node.
        Problem::Refused { status, .. } => {
            // Every node refuses with 500 to renew a token past its longest lease.
            let is_token = operation == Operation::RenewToken && *status == 500;
            *status == 472 || *status >= 500 && failure.verdict == Verdict::Transient && !is_token
        }
        _ => false,
    };
    if is_local {
        Reach::Address
    } else {
        Reach::Cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses asked in consecutive rounds: `x` fails at the address, `!` at the cluster, and
    /// `.` succeeds.
    fn asked(count: usize, rounds: &[&str]) -> Vec<String> {
        let mut first = 0;
        let round = |outcomes: &&str| {
            let mut turn = Turn::of(count, first);
            let mut asked = turn.at.to_string();
            for outcome in outcomes.chars() {
                let next = match outcome {
                    'x' => turn.after(Reach::Address),
                    '!' => turn.after(Reach::Cluster),
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

    /// Scenario: S9
    #[test]
    fn each_round_asks_each_address_once_starting_with_the_last() {
        let table: [(usize, &[&str], &[&str]); 8] = [
            (1, &["x", "x"], &["0", "0"]),
            (3, &[".", "."], &["00", "00"]),
            // Later requests stay with the address that answered.
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

    /// Scenario: S9
    #[test]
    fn only_failures_of_an_address_are_tried_at_the_next_one() {
        let refused = |status, verdict| {
            Failure::new(
                verdict,
                Problem::Refused {
                    operation: Operation::Sign,
                    path: String::new(),
                    status,
                    messages: Vec::new(),
                    remedy: "",
                },
            )
        };
        let transient = |status| refused(status, Verdict::Transient);
        let timed_out = || {
            Failure::transient(Problem::TimedOut {
                operation: Operation::Sign,
                origin: String::new(),
                after: std::time::Duration::ZERO,
            })
        };
        let elsewhere =
            || Failure::transient(Problem::RedirectedElsewhere(Operation::Sign, String::new()));
        let table = [
            (Operation::Sign, transient(503), Reach::Address),
            (Operation::Sign, transient(501), Reach::Address),
            (Operation::Sign, transient(500), Reach::Address),
            (Operation::RenewToken, transient(500), Reach::Cluster),
            (Operation::RenewToken, transient(503), Reach::Address),
            (
                Operation::Sign,
                refused(500, Verdict::Refused),
                Reach::Cluster,
            ),
            (Operation::Sign, transient(429), Reach::Cluster),
            (Operation::Sign, transient(412), Reach::Cluster),
            (
                Operation::Sign,
                refused(472, Verdict::Refused),
                Reach::Address,
            ),
            (
                Operation::Sign,
                refused(403, Verdict::TokenRefused),
                Reach::Cluster,
            ),
            (
                Operation::Login,
                refused(400, Verdict::Refused),
                Reach::Cluster,
            ),
            (Operation::Login, timed_out(), Reach::Address),
            (Operation::Unwrap, timed_out(), Reach::Cluster),
            (Operation::Unwrap, transient(503), Reach::Cluster),
            (Operation::Unwrap, elsewhere(), Reach::Address),
            (Operation::Sign, elsewhere(), Reach::Address),
        ];
        for (operation, failure, expected) in table {
            assert_eq!(
                reach(operation, &failure),
                expected,
                "{operation:?} {failure:?}"
            );
        }
    }
}
