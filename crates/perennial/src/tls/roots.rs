//! Which roots verify the servers of a snapshot. Pure: reads no clock.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

/// The roots of one fetch, and earlier ones that are still trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustedRoots {
    pub(crate) delivered: Vec<CertificateDer<'static>>,
    /// Oldest first.
    pub(crate) old: Vec<OldRoot>,
}

/// A root that newer material does not contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldRoot {
    pub(crate) root: CertificateDer<'static>,
    /// When the first material without it was fetched, wall clock.
    pub(crate) missing_since: SystemTime,
}

impl TrustedRoots {
    /// The roots just delivered, and the previous ones that are still in their overlap at `now`.
    ///
    /// The overlap counts from when a root was first missing, not from when it was last
    /// delivered: hours lie between two rotations, so it would be over before it began.
    pub(crate) fn after(
        previous: Option<&Self>,
        delivered: Vec<CertificateDer<'static>>,
        now: SystemTime,
        overlap: Duration,
    ) -> Self {
        let mut old = Vec::new();
        if let Some(previous) = previous {
            let newly_missing = previous.delivered.iter().map(|root| OldRoot {
                root: root.clone(),
                missing_since: now,
            });
            old.extend(previous.old.iter().cloned().chain(newly_missing));
            old.retain(|old| {
                !delivered.contains(&old.root) && in_overlap(old.missing_since, now, overlap)
            });
            // Out of order only after the clock was set back.
            old.sort_by_key(|old| old.missing_since);
        }
        Self { delivered, old }
    }
}

/// Whether a root that has been missing since then is still trusted at `now`.
pub(super) fn in_overlap(missing_since: SystemTime, now: SystemTime, overlap: Duration) -> bool {
    // A clock that was set back does not end the overlap.
    let missing_for = now.duration_since(missing_since).unwrap_or_default();
    missing_for < overlap
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(hours: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR * (1_000 + hours)
    }

    fn roots(names: &str) -> Vec<CertificateDer<'static>> {
        let root = |name: char| CertificateDer::from(vec![name as u8]);
        names.chars().map(root).collect()
    }

    /// What is trusted after these deliveries, as "delivered+old".
    fn trusted(overlap: Duration, deliveries: &[(u32, &str)]) -> String {
        let mut trusted = None;
        for (hour, names) in deliveries {
            let after = TrustedRoots::after(trusted.as_ref(), roots(names), at(*hour), overlap);
            trusted = Some(after);
        }
        let trusted = trusted.unwrap();
        let old = trusted.old.iter().map(|old| &old.root);
        let text = |root: &CertificateDer<'_>| char::from(root[0]);
        let delivered: String = trusted.delivered.iter().map(text).collect();
        delivered + "+" + &old.map(text).collect::<String>()
    }

    #[test]
    fn old_roots_are_trusted_until_the_overlap_is_over() {
        // C9: each row delivers roots at some hours, with an overlap of two hours.
        let table: [(&[(u32, &str)], &str); 10] = [
            (&[(0, "A")], "A+"),
            (&[(0, "A"), (9, "A")], "A+"),
            (&[(0, "A"), (9, "B")], "B+A"),
            (&[(0, "A"), (5, "AB"), (9, "B")], "B+A"),
            (&[(0, "A"), (9, "B"), (10, "B")], "B+A"),
            (&[(0, "A"), (9, "B"), (11, "B")], "B+"),
            (&[(0, "A"), (9, "B"), (10, "C")], "C+AB"),
            (&[(0, "A"), (9, "B"), (10, "C"), (11, "C")], "C+B"),
            (&[(0, "A"), (9, "B"), (10, "A")], "A+B"),
            (&[(0, "AB"), (9, "BA")], "BA+"),
        ];
        for (deliveries, expected) in table {
            assert_eq!(trusted(2 * HOUR, deliveries), expected, "{deliveries:?}");
        }
    }

    #[test]
    fn without_overlap_only_the_delivered_roots_are_trusted() {
        assert_eq!(trusted(Duration::ZERO, &[(0, "A"), (0, "B")]), "B+");
        assert_eq!(trusted(Duration::ZERO, &[(9, "A"), (0, "B")]), "B+");
    }

    #[test]
    fn clock_that_is_set_back_does_not_end_the_overlap() {
        assert_eq!(trusted(HOUR, &[(0, "A"), (9, "B"), (3, "B")]), "B+A");
        assert_eq!(trusted(HOUR, &[(0, "A"), (9, "B"), (3, "C")]), "C+BA");
    }

    #[test]
    fn longest_overlap_does_not_overflow() {
        assert_eq!(trusted(Duration::MAX, &[(0, "A"), (9, "B")]), "B+A");
    }
}
