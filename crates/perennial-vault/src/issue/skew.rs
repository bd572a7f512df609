//! This machine's clock compared with Vault's; pure, except for the one place that reads it.

use std::time::{Duration, SystemTime};

/// A `Date` has no fractions of a second, and an answer takes time to arrive.
const TOLERANCE: Duration = Duration::from_secs(2);

/// This machine's wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "compared with the server's clock when an answer arrives; decides nothing"
)]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Whether the clocks show different times: the server's then counts for a lifetime.
pub(super) fn differs(ours: SystemTime, theirs: SystemTime) -> bool {
    let apart = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
    apart(ours, theirs).max(apart(theirs, ours)) > TOLERANCE
}

/// A warning if the clocks differ by more than the certificate tolerates.
///
/// The limit is its backdating (to a clock behind, it is not yet valid) or a tenth of its lifetime,
/// whichever is shorter. The text has no figure, so that it is the same each time.
pub(super) fn warning(
    ours: SystemTime,
    theirs: SystemTime,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Option<&'static str> {
    let since = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
    let backdated = since(theirs, not_before);
    let limit = backdated.min(since(not_after, theirs) / 10).max(TOLERANCE);
    if since(ours, theirs) > limit {
        return Some("this machine's clock is ahead of vault's: fix its time synchronisation");
    }
    if since(theirs, ours) > limit {
        return Some("this machine's clock is behind vault's: fix its time synchronisation");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_the_backdating_or_a_tenth_of_the_lifetime() {
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        // Backdating, lifetime, our clock ahead by (seconds); the word in the warning.
        let table = [
            (30, 3_600, 29, None),
            (30, 3_600, 31, Some("ahead")),
            (30, 3_600, -30, None),
            (30, 3_600, -31, Some("behind")),
            (30, 100, 10, None),
            (30, 100, 11, Some("ahead")),
            (30, 5, 2, None),
            (0, 3_600, -2, None),
            (0, 3_600, -3, Some("behind")),
        ];
        for (backdated, lifetime, ahead, word) in table {
            let by = Duration::from_secs(i64::unsigned_abs(ahead));
            let ours = if ahead < 0 { theirs - by } else { theirs + by };
            let not_before = theirs - Duration::from_secs(backdated);
            let not_after = theirs + Duration::from_secs(lifetime);
            let found = warning(ours, theirs, not_before, not_after);
            let fits = match (found, word) {
                (Some(text), Some(word)) => text.contains(word),
                (found, word) => found.is_none() && word.is_none(),
            };
            assert!(fits, "{backdated} {lifetime} {ahead}: {found:?}");
        }
    }
}
