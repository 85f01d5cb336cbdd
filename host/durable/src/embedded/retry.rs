//! What follows a failed attempt.

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng as _;

use super::events::later;
use super::state::Activity;
use crate::activity::RetryPolicy;
use crate::failure::{Failure, kind};

/// A failure with more bytes of details is stored without them.
const DETAILS_LIMIT: usize = 256 * 1024;
/// Longer messages and backtraces are cut.
const TEXT_LIMIT: usize = 64 * 1024;

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the activity has failed.
    Over,
    /// Nothing: the activity was asked to stop, and has.
    Canceled,
    /// Another attempt, at that time.
    Again(Timestamp),
}

/// What follows this failure of an activity's running attempt.
pub fn after_failure(activity: &Activity, failure: &Failure, now: Timestamp) -> Verdict {
    if activity.cancel_requested {
        return match failure.kind.as_str() {
            // Nobody wants another attempt of it.
            kind::CANCELLED | kind::WORKER_LOST => Verdict::Canceled,
            _ => Verdict::Over,
        };
    }
    let policy = activity.retry();
    let exhausted = policy.maximum_attempts != 0 && activity.attempt >= policy.maximum_attempts;
    if !failure.retryable || exhausted || policy.non_retryable_kinds.contains(&failure.kind) {
        return Verdict::Over;
    }
    let share = rand::rng().random_range(0.8..=1.0);
    let due = later(now, interval(&policy, activity.attempt).mul_f64(share));
    let end = activity
        .timeouts()
        .schedule_to_close
        .map(|timeout| later(activity.scheduled.time(), timeout));
    match end {
        Some(end) if due >= end => Verdict::Over,
        _ => Verdict::Again(due),
    }
}

/// The wait after that attempt, without jitter.
fn interval(policy: &RetryPolicy, attempt: u32) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let coefficient = policy.backoff_coefficient.max(1.0);
    let seconds = policy.initial_interval.as_secs_f64() * coefficient.powi(exponent);
    let longest = policy.maximum_interval;
    if seconds.is_finite() && seconds < longest.as_secs_f64() {
        Duration::from_secs_f64(seconds)
    } else {
        longest
    }
}

/// A failure that fits into a history, whatever a guest put into it.
pub fn bounded(mut failure: Failure) -> Failure {
    cut(&mut failure.kind);
    cut(&mut failure.message);
    if let Some(stack) = &mut failure.stack {
        cut(stack);
    }
    if let Some(details) = &failure.details {
        let size = details.to_string().len();
        if size > DETAILS_LIMIT {
            failure.details = Some(serde_json::json!({ "omitted_bytes": size }));
        }
    }
    failure.cause = failure.cause.map(|cause| Box::new(bounded(*cause)));
    failure
}

fn cut(text: &mut String) {
    if text.len() > TEXT_LIMIT {
        let end = text.floor_char_boundary(TEXT_LIMIT);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let waits: Vec<u64> = [1, 2, 3, 8, 4_000_000_000]
            .map(|attempt| interval(&policy, attempt).as_secs())
            .to_vec();
        assert_eq!(waits, [1, 2, 4, 100, 100]);
    }

    #[test]
    fn a_huge_failure_is_cut_at_a_character() {
        let failure = Failure::permanent("k", "é".repeat(TEXT_LIMIT))
            .with_details(serde_json::json!("x".repeat(DETAILS_LIMIT)));
        let failure = bounded(failure);
        assert!(failure.message.len() < TEXT_LIMIT + 8);
        assert_eq!(
            failure.details,
            Some(serde_json::json!({ "omitted_bytes": DETAILS_LIMIT + 2 }))
        );
    }
}
