use std::time::{Duration, SystemTime};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::Instant;

mod watcher;

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

    /// Whether `at` lies ahead: what `now() < at` says, and cheap enough for every read.
    ///
    /// The kernel's coarse clock costs a fraction of the precise one. It stands still between two
    /// ticks (10 ms at most), and is set as soon as a suspended host wakes or somebody sets the
    /// time. It decides alone only while `at` is further away than [`NEAR`].
    pub(crate) fn is_before(&self, at: SystemTime) -> bool {
        #[cfg(any(test, feature = "test-util"))]
        if self.scripted.is_some() {
            return self.now() < at;
        }
        coarse_wall_clock() + NEAR < at || wall_clock() < at
    }

    /// `at` by both clocks, from here on.
    pub(crate) fn deadline(&self, at: SystemTime) -> Deadline {
        Deadline {
            at,
            by: Instant::now() + remaining(self.now(), at),
        }
    }

    /// Follows this clock; holding it is what keeps the process' one watcher running.
    pub(crate) fn follow(&self) -> Ticker {
        #[cfg(any(test, feature = "test-util"))]
        if let Some(scripted) = &self.scripted {
            return Ticker {
                clock: self.clone(),
                steps: scripted.steps(),
            };
        }
        Ticker {
            clock: self.clone(),
            steps: watcher::steps(),
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

/// Sleeps by both clocks.
#[derive(Debug)]
pub(crate) struct Ticker {
    clock: Clock,
    /// Changes whenever the wall clock has moved apart from the monotonic one.
    steps: watch::Receiver<u64>,
}

impl Ticker {
    /// Sleeps until the deadline, by whichever clock gets there first. Cancel-safe.
    pub(crate) async fn sleep_until(&mut self, deadline: Deadline) {
        loop {
            let by_wall = Instant::now() + remaining(self.clock.now(), deadline.at);
            let sleep = tokio::time::sleep_until(deadline.by.min(by_wall));
            tokio::select! {
                () = sleep => return,
                stepped = self.steps.changed() => if stepped.is_err() {
                    // Nobody watches any more: the monotonic clock alone decides.
                    return tokio::time::sleep_until(deadline.by).await;
                },
            }
        }
    }
}

/// Time from `now` to `at`, zero once `at` has passed.
pub(crate) fn remaining(now: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or(Duration::ZERO)
}

/// How near to a moment the precise clock decides: many ticks, should some be late.
const NEAR: Duration = Duration::from_secs(1);

/// Late by a tick, and never ahead.
#[cfg(target_os = "linux")]
fn coarse_wall_clock() -> SystemTime {
    let since_epoch = clock_gettime(ClockId::RealtimeCoarse);
    SystemTime::UNIX_EPOCH + Duration::try_from(since_epoch).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
use wall_clock as coarse_wall_clock;

fn wall_clock() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    SystemTime::now()
}

#[cfg(any(test, feature = "test-util"))]
pub(crate) mod scripted {
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, SystemTime};

    use tokio::sync::watch;
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
        steps: Arc<watch::Sender<u64>>,
    }

    impl TestClock {
        /// A clock that shows `wall` now.
        pub fn starting_at(wall: SystemTime) -> Self {
            Self {
                origin: Instant::now(),
                wall: Arc::new(Mutex::new(wall)),
                steps: Arc::new(watch::channel(0).0),
            }
        }

        /// What the wall clock shows.
        pub fn now(&self) -> SystemTime {
            *self.wall.lock().unwrap_or_else(PoisonError::into_inner) + self.origin.elapsed()
        }

        /// Moves the wall clock alone, ahead.
        pub fn step_forward(&self, by: Duration) {
            *self.wall.lock().unwrap_or_else(PoisonError::into_inner) += by;
            self.steps.send_modify(|steps| *steps += 1);
        }

        /// Moves the wall clock alone, back.
        pub fn step_back(&self, by: Duration) {
            *self.wall.lock().unwrap_or_else(PoisonError::into_inner) -= by;
            self.steps.send_modify(|steps| *steps += 1);
        }

        pub(crate) fn clock(&self) -> Clock {
            Clock {
                scripted: Some(self.clone()),
            }
        }

        pub(super) fn steps(&self) -> watch::Receiver<u64> {
            self.steps.subscribe()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scripted::TestClock;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn midday() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
    }

    /// How long a sleep of an hour takes if the wall clock is moved a minute into it.
    async fn slept(step: impl FnOnce(&TestClock)) -> Duration {
        let wall = TestClock::starting_at(midday());
        let clock = wall.clock();
        let at = clock.now() + HOUR;
        let began = Instant::now();
        let deadline = clock.deadline(at);
        let sleeper = tokio::spawn(async move { clock.follow().sleep_until(deadline).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        step(&wall);
        sleeper.await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_jumps_forward_ends_the_sleep() {
        assert_eq!(
            slept(|wall| wall.step_forward(2 * HOUR)).await,
            Duration::from_secs(60)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_jumps_part_of_the_way_shortens_the_sleep() {
        assert_eq!(slept(|wall| wall.step_forward(HOUR / 2)).await, HOUR / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_is_set_back_does_not_prolong_the_sleep() {
        assert_eq!(slept(|wall| wall.step_back(24 * HOUR)).await, HOUR);
    }
}
