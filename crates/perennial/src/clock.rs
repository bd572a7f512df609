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

    /// What both clocks show now.
    pub(crate) fn moment(&self) -> Moment {
        // In this order: an expiry that both clocks know passes by the wall clock first.
        let wall = self.now();
        Moment {
            wall,
            monotonic: Instant::now(),
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
            let left = deadline.left(self.moment());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(look)).await;
        }
    }
}

/// What both clocks show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Instant,
}

impl Moment {
    /// `at`, a time of the wall clock, by both clocks from here on; at once if it has passed.
    pub(crate) fn deadline(self, at: SystemTime) -> Deadline {
        Deadline {
            at,
            by: instant_after(self.monotonic, remaining(self.wall, at)),
        }
    }

    pub(crate) fn after(self, wait: Duration) -> Deadline {
        Deadline {
            at: wall_after(self.wall, wait),
            by: instant_after(self.monotonic, wait),
        }
    }
}

impl From<SystemTime> for Moment {
    /// `wall`, which was read just now.
    fn from(wall: SystemTime) -> Self {
        Self {
            wall,
            monotonic: Instant::now(),
        }
    }
}

/// A moment to come, by the wall clock and by the monotonic clock.
///
/// It has passed when either clock says so: the wall clock alone notices a suspended host, the
/// monotonic clock alone a wall clock that was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: SystemTime,
    by: Instant,
}

impl Deadline {
    /// The monotonic clock's side is `wait` after `from`, whatever the wall clock's side is.
    pub(crate) fn by_both(at: SystemTime, from: Moment, wait: Duration) -> Self {
        Self {
            at,
            by: instant_after(from.monotonic, wait),
        }
    }

    pub(crate) fn has_passed(self, now: Moment) -> bool {
        now.wall >= self.at || now.monotonic >= self.by
    }

    /// The time until either clock says that it has passed.
    pub(crate) fn left(self, now: Moment) -> Duration {
        let by_monotonic = self.by.saturating_duration_since(now.monotonic);
        remaining(now.wall, self.at).min(by_monotonic)
    }

    /// How long it has passed by the clock that says so for longer; `None` if neither does.
    pub(crate) fn passed_for(self, now: Moment) -> Option<Duration> {
        let (wall, monotonic) = self.passed_by_each(now);
        wall.max(monotonic)
    }

    /// As [`passed_for`](Self::passed_for), but by the clock that is behind: both must say so.
    pub(crate) fn passed_for_by_both(self, now: Moment) -> Option<Duration> {
        let (wall, monotonic) = self.passed_by_each(now);
        wall.min(monotonic)
    }

    fn passed_by_each(self, now: Moment) -> (Option<Duration>, Option<Duration>) {
        (
            now.wall.duration_since(self.at).ok(),
            now.monotonic.checked_duration_since(self.by),
        )
    }

    /// The one that passes first; by each clock, if they disagree about that.
    pub(crate) fn min(self, other: Self) -> Self {
        Self {
            at: self.at.min(other.at),
            by: self.by.min(other.by),
        }
    }

    /// The one that passes last; by each clock, if they disagree about that.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            at: self.at.max(other.at),
            by: self.by.max(other.by),
        }
    }

    /// Whether it passes before the other by the wall clock, which orders what was planned.
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.at < other.at
    }

    /// The wall clock's time at which it passes, for people to read.
    pub(crate) fn wall(self, now: Moment) -> SystemTime {
        let left = self.left(now);
        if remaining(now.wall, self.at) > left + STEP {
            return wall_after(now.wall, left);
        }
        self.at
    }
}

/// Clocks that move apart by less have not been set: their readings are not of one moment.
const STEP: Duration = Duration::from_secs(2);

/// So many looks in a row make the wall clock credible again after it was set or the host slept.
const LOOKS: u32 = 10;

/// Looks that follow each other sooner count once.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Whether the two clocks have kept their distance for several looks.
///
/// One wrong time server moves the clocks of a whole fleet for seconds. What a clock says is acted
/// on without the other's consent only once it has been set for [`LOOKS`] looks.
#[derive(Debug)]
pub(crate) struct Steadiness {
    /// When the clocks were last seen to move apart.
    since: Moment,
    looks: u32,
    last_look: Instant,
}

impl Steadiness {
    /// Steady so far.
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            since: now,
            looks: LOOKS,
            last_look: now.monotonic,
        }
    }

    /// Takes one look; `true` if the clocks have kept their distance for several.
    pub(crate) fn look(&mut self, now: Moment) -> bool {
        let went = now
            .monotonic
            .saturating_duration_since(self.since.monotonic);
        let expected = wall_after(self.since.wall, went);
        if remaining(expected, now.wall).max(remaining(now.wall, expected)) > STEP {
            *self = Self {
                since: now,
                looks: 0,
                last_look: now.monotonic,
            };
        }
        let rest = now.monotonic.saturating_duration_since(self.last_look);
        if self.looks < LOOKS && rest >= BETWEEN_LOOKS {
            self.looks += 1;
            self.last_look = now.monotonic;
        }
        self.looks >= LOOKS
    }
}

/// Time from `now` to `at`, zero once `at` has passed.
pub(crate) fn remaining(now: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or(Duration::ZERO)
}

/// Longer than any program runs, and short enough for every clock.
const FOREVER: Duration = Duration::from_secs(1_000 * 365 * 24 * 60 * 60);

fn instant_after(from: Instant, wait: Duration) -> Instant {
    let capped = || from.checked_add(FOREVER);
    from.checked_add(wait).or_else(capped).unwrap_or(from)
}

pub(crate) fn wall_after(from: SystemTime, wait: Duration) -> SystemTime {
    let capped = || from.checked_add(FOREVER);
    from.checked_add(wait).or_else(capped).unwrap_or(from)
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
        let deadline = clock.moment().after(HOUR);
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
