//! Which failure is explained by which fault. Pure: takes what was recorded, returns figures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fault::Fault;
use super::report::Moment;

/// How long after Postgres is ready again a query may still fail.
pub const AFTERMATH: Duration = Duration::from_secs(5);

/// A fault, from when it was recorded to when everything was put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The fault.
    pub fault: Fault,
    /// Its beginning, before anything is hit.
    pub from: Moment,
    /// When it was put right; of a fault at Postgres, when Postgres was ready again.
    pub to: Moment,
}

impl Window {
    /// The time in which a failed query is explained by it.
    fn explains(&self) -> Option<(Moment, Moment)> {
        let is_at_postgres = self.fault.is_at_postgres();
        is_at_postgres.then(|| (self.from, self.to + AFTERMATH))
    }

    /// The time in which what happens is counted for this fault.
    fn counts(&self, moment: Moment) -> bool {
        let (from, to) = self.explains().unwrap_or((self.from, self.to));
        (from..=to).contains(&moment)
    }
}

/// A query, or a connect of its own, that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When the caller asked for a connection.
    pub began: Moment,
    /// The class of the error.
    pub cause: String,
}

/// A new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// When it was published.
    pub at: Moment,
    /// Its serial number, in decimal as in `pg_stat_ssl`.
    pub serial: String,
    /// Whether the client's clock was wrong by a second or more.
    pub off: bool,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The beginning of the run.
    pub from: Moment,
    /// Its end.
    pub to: Moment,
    /// The faults.
    pub windows: Vec<Window>,
    /// The failed queries.
    pub failures: Vec<Failure>,
    /// The certificates after each first one.
    pub rotations: Vec<Rotation>,
    /// The serial numbers that Postgres saw, in decimal.
    pub seen: BTreeSet<String>,
}

/// What a fault did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// How often it was hit.
    pub hits: usize,
    /// Rotations while it was under way, as Postgres saw them.
    pub rotations: usize,
    /// Failed queries by cause, explained.
    pub explained: BTreeMap<String, usize>,
    /// Failed queries by cause, not explained.
    pub unexplained: BTreeMap<String, usize>,
}

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// By fault.
    pub rows: BTreeMap<Fault, Row>,
    /// Rotations that Postgres saw.
    pub rotations: usize,
    /// Those of them inside a fault.
    pub inside: usize,
    /// Those of them by a client whose clock was wrong by a second or more.
    pub off: usize,
    /// New certificates that Postgres never saw: they were replaced before a session needed one.
    pub unseen: usize,
    /// The faults that were under way when these were published, and how many of them.
    pub unseen_in: BTreeMap<Fault, usize>,
    /// Failed queries that a fault at Postgres explains.
    pub explained: usize,
    /// Failed queries that none explains.
    pub unexplained: usize,
    /// Those of them outside any fault, by cause.
    pub outside: BTreeMap<String, usize>,
    /// The windows' part of the run in which a failure is explained.
    pub excused: f64,
}

impl Record {
    /// Whether a failed query that began then is explained.
    pub fn explains(&self, began: Moment) -> bool {
        let mut windows = self.windows.iter().filter_map(Window::explains);
        windows.any(|(from, to)| (from..=to).contains(&began))
    }

    /// Accounts for everything.
    pub fn account(&self) -> Account {
        let mut account = Account {
            excused: self.excused(),
            ..Account::default()
        };
        for window in &self.windows {
            account.rows.entry(window.fault).or_default().hits += 1;
        }
        for rotation in &self.rotations {
            let faults = self.under_way(|window| (window.from..=window.to).contains(&rotation.at));
            if !self.seen.contains(&rotation.serial) {
                account.unseen += 1;
                for fault in faults {
                    *account.unseen_in.entry(fault).or_default() += 1;
                }
                continue;
            }
            account.rotations += 1;
            account.off += usize::from(rotation.off);
            account.inside += usize::from(!faults.is_empty());
            for fault in faults {
                account.rows.entry(fault).or_default().rotations += 1;
            }
        }
        for Failure { began, cause } in &self.failures {
            let count = |causes: &mut BTreeMap<String, usize>| {
                *causes.entry(cause.clone()).or_default() += 1;
            };
            let is_explained = self.explains(*began);
            let faults = self.under_way(|window| window.counts(*began));
            if is_explained {
                account.explained += 1;
            } else {
                account.unexplained += 1;
                if faults.is_empty() {
                    count(&mut account.outside);
                }
            }
            for fault in faults {
                let row = account.rows.entry(fault).or_default();
                match (is_explained, fault.is_at_postgres()) {
                    (true, true) => count(&mut row.explained),
                    // Explained by the other fault.
                    (true, false) => {}
                    (false, _) => count(&mut row.unexplained),
                }
            }
        }
        account
    }

    fn under_way(&self, mut is: impl FnMut(&Window) -> bool) -> BTreeSet<Fault> {
        let windows = self.windows.iter().filter(|window| is(window));
        windows.map(|window| window.fault).collect()
    }

    /// The part of the run that lies in windows at Postgres.
    fn excused(&self) -> f64 {
        let mut windows: Vec<_> = self.windows.iter().filter_map(Window::explains).collect();
        windows.sort();
        let (mut covered, mut end) = (Duration::ZERO, self.from);
        for (from, to) in windows {
            let (from, to) = (from.max(end), to.min(self.to));
            covered += to.since(from);
            end = end.max(to);
        }
        covered.as_secs_f64()
            / self
                .to
                .since(self.from)
                .as_secs_f64()
                .max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    fn window(fault: Fault, from: u64, to: u64) -> Window {
        let (from, to) = (at(from), at(to));
        Window { fault, from, to }
    }

    fn record(windows: &[Window], failures: &[u64]) -> Record {
        let failure = |began: &u64| Failure {
            began: at(*began),
            cause: "lost".to_owned(),
        };
        Record {
            to: at(100),
            windows: windows.to_vec(),
            failures: failures.iter().map(failure).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn only_a_query_that_began_in_a_window_at_postgres_is_explained() {
        let windows = [
            window(Fault::Restarted, 10, 12),
            window(Fault::LeaderKilled, 30, 40),
        ];
        for (began, explained) in [
            (9, false),
            (10, true),
            (12, true),
            (17, true),
            (18, false),
            (35, false),
        ] {
            let account = record(&windows, &[began]).account();
            let expected = (usize::from(explained), usize::from(!explained));
            assert_eq!(
                (account.explained, account.unexplained),
                expected,
                "{began}"
            );
        }
    }

    #[test]
    fn unexplained_failure_is_counted_for_the_fault_that_was_under_way_or_for_none() {
        let account = record(&[window(Fault::LeaderKilled, 30, 40)], &[35, 50]).account();
        let row = &account.rows[&Fault::LeaderKilled];
        assert_eq!(row.unexplained["lost"], 1);
        assert_eq!(account.outside["lost"], 1);
    }

    #[test]
    fn windows_that_overlap_count_once_and_end_with_the_run() {
        let overlapping = [
            window(Fault::Restarted, 10, 15),
            window(Fault::FailedOver, 12, 25),
            window(Fault::LeaderKilled, 40, 60),
            window(Fault::ListExpired, 95, 99),
        ];
        // 10 to 30, and 95 to 100.
        assert_eq!(record(&overlapping, &[]).account().excused, 0.25);
    }

    #[test]
    fn rotation_counts_if_postgres_saw_it_and_lies_inside_each_fault_under_way() {
        let windows = [
            window(Fault::LeaderKilled, 10, 20),
            window(Fault::Restarted, 15, 16),
        ];
        let rotation = |seconds: u64| Rotation {
            at: at(seconds),
            serial: seconds.to_string(),
            off: false,
        };
        let record = Record {
            rotations: [5, 12, 16, 18].map(rotation).to_vec(),
            seen: ["5", "12", "16"].map(str::to_owned).into(),
            ..record(&windows, &[])
        };
        let account = record.account();
        let counts = (account.rotations, account.inside, account.unseen);
        assert_eq!(counts, (3, 2, 1));
        assert_eq!(account.rows[&Fault::LeaderKilled].rotations, 2);
        assert_eq!(account.rows[&Fault::Restarted].rotations, 1);
    }
}
