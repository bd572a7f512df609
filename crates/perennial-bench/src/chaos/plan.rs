//! Which faults come when: the same for the same seed.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::fault::Fault;

/// The share of steps with two faults, where two go together.
const TOGETHER: f64 = 0.5;

/// The calm before each step, in milliseconds.
const CALM: std::ops::Range<u64> = 300..1_200;

/// How long after the first fault of a step the second one begins at most, in milliseconds.
const APART: u64 = 1_500;

/// The largest step of a clock in seconds.
const CLOCK: i64 = 6;

/// An endless plan of steps.
///
/// Each round hits every fault that leaves Postgres alone twice, a change of the root once, and every fault at
/// Postgres once, evenly spread, so that their windows stay below a fifth of the time.
#[derive(Debug)]
pub struct Plan {
    rng: StdRng,
    round: VecDeque<Fault>,
    faults: Vec<Fault>,
}

/// Faults that are under way together, after a calm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Before the first fault.
    pub calm: Duration,
    /// One or two.
    pub hits: Vec<Hit>,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The fault.
    pub fault: Fault,
    /// When it begins, after the calm.
    pub after: Duration,
    /// How long it lasts, without what putting it right takes.
    pub lasts: Duration,
    /// How far a clock is stepped, in seconds; never 0.
    pub step: i64,
    /// Chooses what to hit, where there are several.
    pub choice: usize,
}

impl Plan {
    /// The plan of this seed, with these faults only.
    pub fn new(seed: u64, faults: &[Fault]) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            round: VecDeque::new(),
            faults: faults.to_vec(),
        }
    }

    fn refill(&mut self) {
        let (mut at_postgres, others): (Vec<_>, Vec<_>) =
            self.faults.iter().partition(|fault| fault.is_at_postgres());
        let again = others
            .iter()
            .filter(|fault| **fault != Fault::AuthorityRotated);
        let mut others: Vec<Fault> = others.iter().chain(again).copied().collect();
        others.shuffle(&mut self.rng);
        at_postgres.shuffle(&mut self.rng);
        let part = (others.len() / at_postgres.len().max(1)).max(1);
        for chunk in others.chunks(part) {
            let (before, after) = chunk.split_at(chunk.len() / 2);
            self.round.extend(before);
            self.round.extend(at_postgres.pop());
            self.round.extend(after);
        }
        self.round.extend(at_postgres);
    }

    fn hit(&mut self, fault: Fault) -> Hit {
        let (shortest, longest) = fault.lasts();
        let step = self.rng.random_range(1..=CLOCK);
        Hit {
            fault,
            after: Duration::ZERO,
            lasts: self.rng.random_range(shortest..=longest),
            step: if self.rng.random() { step } else { -step },
            choice: self.rng.random_range(0..1_000),
        }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.round.is_empty() {
            self.refill();
        }
        let first = self.round.pop_front()?;
        let mut hits = vec![self.hit(first)];
        let partner = (self.round.iter()).position(|fault| first.goes_with(*fault));
        if self.rng.random_bool(TOGETHER)
            && let Some(second) = partner.and_then(|partner| self.round.remove(partner))
        {
            let after = Duration::from_millis(self.rng.random_range(0..APART));
            let second = self.hit(second);
            hits.push(Hit { after, ..second });
        }
        Some(Step {
            calm: Duration::from_millis(self.rng.random_range(CALM)),
            hits,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::chaos::account::AFTERMATH;

    fn steps(seed: u64, count: usize) -> Vec<Step> {
        Plan::new(seed, Fault::all()).take(count).collect()
    }

    #[test]
    fn seed_reproduces_the_plan_and_another_one_makes_another() {
        assert_eq!(steps(7, 100), steps(7, 100));
        assert_ne!(steps(7, 100), steps(8, 100));
    }

    #[test]
    fn every_fault_is_hit_about_equally_often() {
        let mut hits = BTreeMap::<_, usize>::new();
        for hit in steps(1, 1_000).iter().flat_map(|step| &step.hits) {
            *hits.entry(hit.fault).or_default() += 1;
        }
        assert_eq!(hits.len(), Fault::all().len());
        let least = hits.values().min().unwrap();
        assert!(
            hits.values().all(|times| *times <= 2 * least + 2),
            "{hits:?}"
        );
    }

    #[test]
    fn only_faults_at_different_places_come_together_and_many_do() {
        let steps = steps(3, 500);
        let pairs: Vec<_> = steps.iter().filter(|step| step.hits.len() == 2).collect();
        assert!(pairs.len() > 100, "{}", pairs.len());
        for pair in pairs {
            let [first, second] = pair.hits[..] else {
                panic!("{pair:?}")
            };
            assert!(first.fault.goes_with(second.fault), "{pair:?}");
        }
    }

    #[test]
    fn no_clock_is_stepped_by_nothing_and_each_fault_lasts_as_long_as_it_may() {
        for hit in steps(5, 500).iter().flat_map(|step| &step.hits) {
            assert!(hit.step != 0 && hit.step.abs() <= CLOCK);
            let (shortest, longest) = hit.fault.lasts();
            assert!((shortest..=longest).contains(&hit.lasts), "{hit:?}");
        }
    }

    #[test]
    fn faults_at_postgres_leave_four_fifths_of_the_time() {
        // What it takes to recognise that a fault at Postgres is over, and what is explained after it.
        let over = Duration::from_millis(700) + AFTERMATH;
        for seed in 1..=10 {
            let (mut all, mut excused) = (Duration::ZERO, Duration::ZERO);
            for step in steps(seed, 220) {
                let lasts = step.hits.iter().map(|hit| hit.after + hit.lasts).max();
                // Putting it right takes longer in fact.
                all += step.calm + lasts.unwrap_or_default() + Duration::from_millis(1_000);
                for hit in step.hits.iter().filter(|hit| hit.fault.is_at_postgres()) {
                    excused += hit.lasts + over;
                }
            }
            let part = excused.as_secs_f64() / all.as_secs_f64();
            assert!(part < 0.19, "seed {seed}: {part:.3} of {all:?}");
        }
    }
}
