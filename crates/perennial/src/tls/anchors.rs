//! Which trust roots a snapshot verifies servers by; pure: it reads no clock.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

/// The roots of one fetch, and those of earlier ones that are trusted still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anchors {
    pub(crate) delivered: Vec<CertificateDer<'static>>,
    /// Oldest first.
    pub(crate) carried: Vec<Carried>,
}

/// A root that newer material came without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) root: CertificateDer<'static>,
    /// When the first material without it came, wall clock.
    pub(crate) missing_since: SystemTime,
}

impl Anchors {
    /// The roots just delivered, and what is left of the previous ones at `now`.
    ///
    /// The overlap counts from when a root was first missing, not from when it was last
    /// delivered: between two rotations lie hours, and it would be over before it began.
    pub(crate) fn after(
        previous: Option<&Self>,
        delivered: Vec<CertificateDer<'static>>,
        now: SystemTime,
        overlap: Duration,
    ) -> Self {
        let mut carried = Vec::new();
        if let Some(previous) = previous {
            let newly_missing = previous.delivered.iter().map(|root| Carried {
                root: root.clone(),
                missing_since: now,
            });
            carried.extend(previous.carried.iter().cloned().chain(newly_missing));
            carried.retain(|old| {
                !delivered.contains(&old.root) && in_overlap(old.missing_since, now, overlap)
            });
            // Only a clock that was set back puts them out of order.
            carried.sort_by_key(|old| old.missing_since);
        }
        Self { delivered, carried }
    }
}

/// Whether a root that is missing since then is trusted at `now`.
pub(crate) fn in_overlap(missing_since: SystemTime, now: SystemTime, overlap: Duration) -> bool {
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

    /// What is trusted after these deliveries, as "delivered+carried".
    fn trusted(overlap: Duration, deliveries: &[(u32, &str)]) -> String {
        let mut anchors = None;
        for (hour, names) in deliveries {
            let after = Anchors::after(anchors.as_ref(), roots(names), at(*hour), overlap);
            anchors = Some(after);
        }
        let anchors = anchors.unwrap();
        let carried = anchors.carried.iter().map(|carried| &carried.root);
        let text = |root: &CertificateDer<'_>| char::from(root[0]);
        let delivered: String = anchors.delivered.iter().map(text).collect();
        delivered + "+" + &carried.map(text).collect::<String>()
    }

    #[test]
    fn old_roots_are_carried_until_the_overlap_is_over() {
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
    fn longest_overlap_overflows_nowhere() {
        assert_eq!(trusted(Duration::MAX, &[(0, "A"), (9, "B")]), "B+A");
    }
}
