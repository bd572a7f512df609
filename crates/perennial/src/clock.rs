use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often a sleeper looks at the wall clock, so that a step or a suspend is noticed.
///
/// The monotonic clock stands still while a host sleeps; the certificate's life does not.
const WALL_CLOCK_CHECK: Duration = Duration::from_secs(5);

/// The one place where the core reads time.
///
/// A sleep ends when the wall clock *or* the monotonic clock says so: the first notices a
/// suspended host, the second a wall clock that was set back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    scripted: Option<scripted::Scripted>,
}

impl Clock {
    pub(crate) fn now(&self) -> SystemTime {
        #[cfg(test)]
        if let Some(scripted) = &self.scripted {
            return scripted.now();
        }
        #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
        SystemTime::now()
    }

    /// Sleeps until `at`, by whichever clock gets there first. Cancel-safe.
    pub(crate) async fn sleep_until(&self, at: SystemTime) {
        let wait = remaining(self.now(), at);
        let started = Instant::now();
        loop {
            let by_wall = remaining(self.now(), at);
            let by_monotonic = wait.saturating_sub(started.elapsed());
            let left = by_wall.min(by_monotonic);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(WALL_CLOCK_CHECK)).await;
        }
    }
}

/// Time from `now` to `at`, zero once `at` has passed.
pub(crate) fn remaining(now: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
pub(crate) mod scripted {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::{Duration, SystemTime};

    use tokio::time::Instant;

    use super::Clock;

    /// A wall clock that follows tokio's (pausable) clock and can be stepped apart from it.
    #[derive(Clone, Debug)]
    pub(crate) struct Scripted {
        wall: SystemTime,
        origin: Instant,
        step_millis: Arc<AtomicI64>,
    }

    impl Scripted {
        pub(crate) fn starting_at(wall: SystemTime) -> Self {
            Self {
                wall,
                origin: Instant::now(),
                step_millis: Arc::default(),
            }
        }

        pub(crate) fn clock(&self) -> Clock {
            Clock {
                scripted: Some(self.clone()),
            }
        }

        pub(crate) fn now(&self) -> SystemTime {
            let step = self.step_millis.load(Ordering::SeqCst);
            let elapsed = self.wall + self.origin.elapsed();
            let by = Duration::from_millis(step.unsigned_abs());
            if step < 0 { elapsed - by } else { elapsed + by }
        }

        /// Moves the wall clock alone, as a suspended host or an operator does.
        pub(crate) fn step_forward(&self, by: Duration) {
            let millis = i64::try_from(by.as_millis()).expect("a step of some years at most");
            self.step_millis.fetch_add(millis, Ordering::SeqCst);
        }

        pub(crate) fn step_back(&self, by: Duration) {
            let millis = i64::try_from(by.as_millis()).expect("a step of some years at most");
            self.step_millis.fetch_sub(millis, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scripted::Scripted;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_jumps_forward_ends_the_sleep() {
        let wall = Scripted::starting_at(SystemTime::UNIX_EPOCH);
        let clock = wall.clock();
        let at = clock.now() + Duration::from_secs(3_600);
        let sleeper = tokio::spawn(async move { clock.sleep_until(at).await });
        tokio::task::yield_now().await;

        let before = Instant::now();
        wall.step_forward(Duration::from_secs(7_200));
        sleeper.await.unwrap();
        assert!(before.elapsed() <= WALL_CLOCK_CHECK);
    }

    #[tokio::test(start_paused = true)]
    async fn wall_clock_that_is_set_back_does_not_prolong_the_sleep() {
        let wall = Scripted::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
        let clock = wall.clock();
        let at = clock.now() + Duration::from_secs(3_600);
        let before = Instant::now();
        let sleeper = tokio::spawn(async move { clock.sleep_until(at).await });
        tokio::task::yield_now().await;

        wall.step_back(Duration::from_secs(80_000));
        sleeper.await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(3_600));
    }
}
