//! What the events hold, from and to the types of the engine.

use std::time::Duration;

use super::{
    StoredFailure, StoredListening, StoredPin, StoredRetry, StoredTimeouts, digest, microseconds,
};
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::PinnedActivity;
use crate::driver::Listening;
use crate::failure::Failure;

impl From<Failure> for StoredFailure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message,
            retryable: failure.retryable,
            details: failure.details.map(|details| details.to_string()),
            stack: failure.stack,
            cause: failure.cause.map(|cause| Box::new(Self::from(*cause))),
        }
    }
}

impl From<StoredFailure> for Failure {
    fn from(stored: StoredFailure) -> Self {
        Self {
            kind: stored.kind,
            message: stored.message,
            retryable: stored.retryable,
            details: stored
                .details
                .and_then(|text| serde_json::from_str(&text).ok()),
            stack: stored.stack,
            cause: stored.cause.map(|cause| Box::new(Self::from(*cause))),
        }
    }
}

impl From<ActivityTimeouts> for StoredTimeouts {
    fn from(timeouts: ActivityTimeouts) -> Self {
        let stored = |timeout: Option<Duration>| timeout.map_or(0, microseconds);
        Self {
            schedule_to_close: stored(timeouts.schedule_to_close),
            schedule_to_start: stored(timeouts.schedule_to_start),
            start_to_close: stored(timeouts.start_to_close),
            heartbeat: stored(timeouts.heartbeat),
        }
    }
}

impl From<StoredTimeouts> for ActivityTimeouts {
    fn from(stored: StoredTimeouts) -> Self {
        let read = |timeout: u64| (timeout > 0).then(|| Duration::from_micros(timeout));
        Self {
            schedule_to_close: read(stored.schedule_to_close),
            schedule_to_start: read(stored.schedule_to_start),
            start_to_close: read(stored.start_to_close),
            heartbeat: read(stored.heartbeat),
        }
    }
}

impl From<RetryPolicy> for StoredRetry {
    fn from(retry: RetryPolicy) -> Self {
        Self {
            initial_interval: microseconds(retry.initial_interval),
            backoff_coefficient: retry.backoff_coefficient,
            maximum_interval: microseconds(retry.maximum_interval),
            maximum_attempts: retry.maximum_attempts,
            non_retryable_kinds: retry.non_retryable_kinds,
        }
    }
}

impl From<Listening> for StoredListening {
    fn from(listening: Listening) -> Self {
        Self {
            task: listening.task,
            signals: listening.signals,
            updates: listening.updates,
        }
    }
}

impl From<StoredListening> for Listening {
    fn from(stored: StoredListening) -> Self {
        Self {
            task: stored.task,
            signals: stored.signals,
            updates: stored.updates,
        }
    }
}

impl From<PinnedActivity> for StoredPin {
    fn from(pin: PinnedActivity) -> Self {
        Self {
            activity_type: pin.activity_type,
            version: pin
                .version
                .map(|version| version.to_string())
                .unwrap_or_default(),
            digest: pin
                .digest
                .map(|digest| digest.as_bytes().to_vec())
                .unwrap_or_default(),
            queue: pin.queue,
            timeouts: Some(pin.timeouts.into()),
            retry: Some(pin.retry.into()),
        }
    }
}

impl From<StoredPin> for PinnedActivity {
    fn from(stored: StoredPin) -> Self {
        Self {
            activity_type: stored.activity_type,
            version: semver::Version::parse(&stored.version).ok(),
            digest: digest(&stored.digest),
            queue: stored.queue,
            timeouts: stored.timeouts.unwrap_or_default().into(),
            retry: stored.retry.map(RetryPolicy::from).unwrap_or_default(),
        }
    }
}

impl From<StoredRetry> for RetryPolicy {
    fn from(stored: StoredRetry) -> Self {
        Self {
            initial_interval: Duration::from_micros(stored.initial_interval),
            backoff_coefficient: stored.backoff_coefficient,
            maximum_interval: Duration::from_micros(stored.maximum_interval),
            maximum_attempts: stored.maximum_attempts,
            non_retryable_kinds: stored.non_retryable_kinds,
        }
    }
}
