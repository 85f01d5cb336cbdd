//! The clock, behind a trait so that a simulation can drive an engine.
//!
//! Whatever the embedded engine waits for it waits for by its clock: timers, timeouts,
//! long-polls, heartbeats, the graces of a stop. What waits for the machine itself goes by
//! its real time, which no simulation moves: for another process that has the history's
//! file, and for a disk that fails. So do measurements of how long something took.
//!
//! A time that has come is seen whatever else its task did in the same poll: a guest that
//! computes spends its task's budget at each turn, and a timer of tokio's that is looked at
//! after it would never be over. So it is looked at without a budget.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::task::coop::unconstrained;

/// Wall-clock time and waiting.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
    /// Waits until that time; returns at once where it has passed.
    async fn sleep_until(&self, deadline: Timestamp);
    /// Waits so long from the first poll on, whatever time the wall clock is set to
    /// meanwhile.
    async fn sleep(&self, duration: Duration);
}

/// Waits for something, but no longer than that. `None` when the time is over.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    wanted: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        found = wanted => Some(found),
        () = clock.sleep(limit) => None,
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        loop {
            let left = deadline.duration_since(Timestamp::now());
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            // In slices: a wall clock that was set forward must not delay a timer.
            self.sleep(left.min(Duration::from_secs(60))).await;
        }
    }

    async fn sleep(&self, duration: Duration) {
        unconstrained(tokio::time::sleep(duration)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::coop;

    use super::*;

    /// Spends its task's budget at each poll, as a guest does that computes.
    async fn computes() {
        loop {
            while coop::has_budget_remaining() {
                coop::consume_budget().await;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_time_is_over_beside_what_spends_the_budget() {
        let clock = SystemClock;
        let limit = Duration::from_millis(1);
        assert_eq!(within(&clock, limit, computes()).await, None);
        tokio::select! {
            biased;
            () = computes() => {}
            () = clock.sleep_until(Timestamp::now() + limit) => {}
        }
    }
}
