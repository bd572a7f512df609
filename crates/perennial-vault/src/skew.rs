//! This machine's clock against Vault's: pure, but for the one place that reads it.

use std::time::{Duration, SystemTime};

/// A `Date` has no fractions of a second, and an answer takes its time.
const UNSHARP: Duration = Duration::from_secs(2);

/// This machine's wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "compared with the server's clock as an answer comes; decides nothing"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A warning if the clocks differ by more than the certificate can bear.
///
/// That is its backdating (a clock behind finds it not yet valid) or a tenth of its life, whichever
/// is less. Without a figure, so that it reads the same each time.
pub(crate) fn warning(
    ours: SystemTime,
    theirs: SystemTime,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Option<&'static str> {
    let since = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
    let backdated = since(theirs, not_before);
    let borne = backdated.min(since(not_after, theirs) / 10).max(UNSHARP);
    if since(ours, theirs) > borne {
        return Some("this machine's clock is ahead of vault's: see to its time synchronisation");
    }
    if since(theirs, ours) > borne {
        return Some("this machine's clock is behind vault's: see to its time synchronisation");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_backdating_or_a_tenth_of_life() {
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        // Backdated by, lives for, our clock ahead by (seconds); whether that is told.
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
        for (backdated, life, ahead, told) in table {
            let by = Duration::from_secs(i64::unsigned_abs(ahead));
            let ours = if ahead < 0 { theirs - by } else { theirs + by };
            let not_before = theirs - Duration::from_secs(backdated);
            let not_after = theirs + Duration::from_secs(life);
            let found = warning(ours, theirs, not_before, not_after);
            let fits = match (found, told) {
                (Some(text), Some(word)) => text.contains(word),
                (found, told) => found.is_none() && told.is_none(),
            };
            assert!(fits, "{backdated} {life} {ahead}: {found:?}");
        }
    }
}
