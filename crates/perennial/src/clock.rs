use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The one place where the core reads time.
///
/// A sleep ends when the wall clock *or* the monotonic clock says so: the first notices a
/// suspended host, the second a wall clock that was set back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    #[cfg(any(test, feature = "test-util"))]
    scripted: Option<scripted::TestClock>,
}

impl Clock {
    pub(crate) fn now(&self) -> SystemTime {
        #[cfg(any(test, feature = "test-util"))]
        if let Some(scripted) = &self.scripted {
            return scripted.now();
        }
        wall_clock()
    }

    /// `at` by both clocks, from here on.
    pub(crate) fn deadline(&self, at: SystemTime) -> Deadline {
        Deadline {
            at,
            by: Instant::now() + remaining(self.now(), at),
        }
    }

    /// The longest sleep between two looks at the wall clock: a fiftieth of the certificate's
    /// usable lifetime, from 1 s to 30 s.
    pub(crate) fn longest_sleep(usable_lifetime: Option<Duration>) -> Duration {
        const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
        let lifetime = usable_lifetime.unwrap_or_default();
        (lifetime / 50).clamp(BOUNDS.0, BOUNDS.1)
    }

    /// Sleeps until the deadline, by whichever clock reaches it first. Cancel-safe.
    ///
    /// Looks at the wall clock at least every `look`: a timer alone does not notice that the host
    /// was suspended, since the monotonic clock stands still meanwhile.
    pub(crate) async fn sleep_until(&self, deadline: Deadline, look: Duration) {
        loop {
            let by_wall = remaining(self.now(), deadline.at);
            let by_monotonic = deadline.by.saturating_duration_since(Instant::now());
            let left = by_wall.min(by_monotonic);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(look)).await;
        }
    }
}

/// A moment by the wall clock, and by the monotonic clock as it stood when this was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: SystemTime,
    by: Instant,
}

impl Deadline {
    /// The wall clock's side.
    pub(crate) fn at(&self) -> SystemTime {
        self.at
    }
}

/// Time from `now` to `at`, zero once `at` has passed.
pub(crate) fn remaining(now: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or(Duration::ZERO)
}

fn wall_clock() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    SystemTime::now()
}

#[cfg(any(test, feature = "test-util"))]
pub(crate) mod scripted {
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, SystemTime};

    use tokio::time::Instant;

    use super::Clock;

    /// A wall clock that follows tokio's clock and can be stepped apart from it.
    ///
    /// With tokio's time paused, both move together as sleeps elapse; [`step_forward`] and
    /// [`step_back`] move the wall clock alone, as a suspended host or an operator does.
    ///
    /// [`step_forward`]: Self::step_forward
    /// [`step_back`]: Self::step_back
    #[derive(Clone, Debug)]
    pub struct TestClock {
        origin: Instant,
        /// The wall clock's time at `origin`; a step moves it.
        wall: Arc<Mutex<SystemTime>>,
    }

    impl TestClock {
        /// A clock that shows `wall` now.
        pub fn starting_at(wall: SystemTime) -> Self {
            Self {
                origin: Instant::now(),
                wall: Arc::new(Mutex::new(wall)),
            }
        }

        /// What the wall clock shows.
        pub fn now(&self) -> SystemTime {
            *self.wall.lock().unwrap_or_else(PoisonError::into_inner) + self.origin.elapsed()
        }

        /// Moves the wall clock alone, ahead.
        pub fn step_forward(&self, by: Duration) {
            *self.wall.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }

        /// Moves the wall clock alone, back.
        pub fn step_back(&self, by: Duration) {
            *self.wall.lock().unwrap_or_else(PoisonError::into_inner) -= by;
        }

        pub(crate) fn clock(&self) -> Clock {
            Clock {
                scripted: Some(self.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scripted::TestClock;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn midday() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
    }

    /// How long a sleep of an hour takes if the wall clock is moved a minute into it.
    async fn slept(step: impl FnOnce(&TestClock)) -> Duration {
        let wall = TestClock::starting_at(midday());
        let clock = wall.clock();
        let deadline = clock.deadline(clock.now() + HOUR);
        let began = Instant::now();
        let look = Clock::longest_sleep(Some(HOUR));
        let sleeper = tokio::spawn(async move { clock.sleep_until(deadline, look).await });
        tokio::time::sleep(MINUTE).await;
        step(&wall);
        sleeper.await.unwrap();
        began.elapsed()
    }

    /// Scenario: T8
    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_jumps_forward_ends_the_sleep_at_the_next_look() {
        let slept = slept(|wall| wall.step_forward(2 * HOUR)).await;
        assert!((MINUTE..=MINUTE + MINUTE / 2).contains(&slept), "{slept:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_jumps_part_of_the_way_shortens_the_sleep() {
        assert_eq!(slept(|wall| wall.step_forward(HOUR / 2)).await, HOUR / 2);
    }

    /// Scenario: T8
    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_is_set_back_does_not_prolong_the_sleep() {
        assert_eq!(slept(|wall| wall.step_back(24 * HOUR)).await, HOUR);
    }

    #[test]
    fn sleep_between_two_looks_is_a_fiftieth_of_the_lifetime_within_bounds() {
        let seconds = |s| Duration::from_secs(s);
        for (lifetime, expected) in [
            (0, 1),
            (10, 1),
            (100, 2),
            (600, 12),
            (1_500, 30),
            (86_400, 30),
        ] {
            assert_eq!(
                Clock::longest_sleep(Some(seconds(lifetime))),
                seconds(expected)
            );
        }
        assert_eq!(Clock::longest_sleep(None), seconds(1));
    }
}
