//! Between our values and Temporal's: payloads, failures, times, policies. All of it is
//! pure.
//!
//! A failure of ours is an application failure whose type is its kind and whose one
//! detail is its details; what Temporal adds around it (which activity, which child) is
//! taken off again. A receipt travels in the metadata of a result, or of the detail of a
//! failure.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::sdk;
use crate::activity::{Receipt, RetryPolicy};
use crate::failure::{Failure, kind};
use crate::payload::Payload;

/// The metadata key of a receipt: its counters as JSON.
pub const RECEIPT: &str = "heyday-receipt";

/// Where our failures say they come from.
const SOURCE: &str = "Heyday";

/// Bytes of JSON that Temporal takes as a summary.
pub const SUMMARY: usize = 400;

/// Bytes of JSON that Temporal takes as details.
pub const DETAILS: usize = 20_000;

/// Failures that cause each other deeper than this are cut: foreign code made them.
const CAUSES: usize = 16;

/// The shortest time that Temporal takes for one; it reads 0 as none.
const SHORTEST: Duration = Duration::from_millis(1);

/// Why a run is asked to cancel, without what core says before it of the run that asks.
pub fn own_words(reason: &str) -> &str {
    reason
        .strip_prefix("Cancel requested by workflow with run id ")
        .and_then(|said| said.split_once(" with reason: "))
        .map_or(reason, |(_, own)| own)
}

/// Our payload as Temporal's.
pub fn payload(payload: Payload) -> sdk::Payload {
    let metadata = payload.metadata.into_iter();
    sdk::Payload {
        metadata: metadata.map(|(key, value)| (key, value.to_vec())).collect(),
        data: payload.data.to_vec(),
        ..Default::default()
    }
}

/// Our payload, as the only one of a list.
pub fn payloads(one: Payload) -> sdk::Payloads {
    sdk::Payloads {
        payloads: vec![payload(one)],
    }
}

/// Temporal's payload as ours.
pub fn from_payload(payload: sdk::Payload) -> Payload {
    let metadata = payload.metadata.into_iter();
    Payload {
        metadata: metadata
            .map(|(key, value)| (key, Bytes::from(value)))
            .collect(),
        data: Bytes::from(payload.data),
    }
}

/// The first of some payloads; null where there is none.
pub fn first(payloads: Option<sdk::Payloads>) -> Payload {
    let first = payloads.and_then(|list| list.payloads.into_iter().next());
    first.map_or_else(Payload::null, from_payload)
}

/// The one argument of a workflow or an activity; null where there is none.
///
/// # Errors
/// When there are several: which of them is meant nobody could say.
pub fn argument(arguments: Vec<sdk::Payload>) -> Result<Payload, Failure> {
    let count = arguments.len();
    let mut arguments = arguments.into_iter();
    match (arguments.next(), count) {
        (None, _) => Ok(Payload::null()),
        (Some(one), 1) => Ok(from_payload(one)),
        _ => Err(Failure::permanent(
            kind::INVALID_INPUT,
            format!("{count} arguments were given; give one, as JSON"),
        )),
    }
}

/// A value of ours as a JSON payload.
pub fn json_payload(value: &impl Serialize) -> sdk::Payload {
    // Our own types always are JSON; null is what a reader then refuses.
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    payload(Payload::json(&value))
}

/// The beginning of a text as a JSON payload of at most `limit` bytes.
pub fn fitting(text: &str, limit: usize) -> sdk::Payload {
    let mut shown = text;
    loop {
        let payload = json_payload(&shown);
        if payload.data.len() <= limit {
            return payload;
        }
        // A character may take several bytes more as JSON.
        let end = shown
            .len()
            .saturating_sub((payload.data.len() - limit).div_ceil(6));
        shown = &shown[..shown.floor_char_boundary(end)];
    }
}

/// Reads a JSON payload.
///
/// # Errors
/// With what is wrong with it.
pub fn from_json_payload<T: DeserializeOwned>(payload: &sdk::Payload) -> Result<T, String> {
    serde_json::from_slice(&payload.data).map_err(|error| error.to_string())
}

/// A payload that carries a receipt.
pub fn with_receipt(mut payload: sdk::Payload, receipt: &Receipt) -> sdk::Payload {
    if !receipt.counters.is_empty() {
        let text = json!(receipt).to_string();
        payload
            .metadata
            .insert(RECEIPT.to_owned(), text.into_bytes());
    }
    payload
}

/// The receipt of a payload, taken out of it.
pub fn take_receipt(payload: &mut Payload) -> BTreeMap<String, u64> {
    let text = payload.metadata.remove(RECEIPT).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Our failure as Temporal's. A receipt needs a detail to travel in.
pub fn failure(failure: Failure, receipt: Option<&Receipt>) -> sdk::Failure {
    let mut detail = failure
        .details
        .as_ref()
        .map(|details| payload(Payload::json(details)));
    if let Some(receipt) = receipt.filter(|receipt| !receipt.counters.is_empty()) {
        let carrier = detail.unwrap_or_else(|| payload(Payload::null()));
        detail = Some(with_receipt(carrier, receipt));
    }
    let details = detail.map(|detail| sdk::Payloads {
        payloads: vec![detail],
    });
    let info = if failure.kind == kind::CANCELLED {
        sdk::FailureInfo::CanceledFailureInfo(sdk::CanceledFailureInfo {
            details,
            ..Default::default()
        })
    } else {
        sdk::FailureInfo::ApplicationFailureInfo(sdk::ApplicationFailureInfo {
            r#type: failure.kind,
            non_retryable: !failure.retryable,
            details,
            ..Default::default()
        })
    };
    sdk::Failure {
        message: failure.message,
        source: SOURCE.to_owned(),
        stack_trace: failure.stack.unwrap_or_default(),
        cause: failure
            .cause
            .map(|cause| Box::new(self::failure(*cause, None))),
        failure_info: Some(info),
        ..Default::default()
    }
}

/// Temporal's failure as ours.
pub fn from_failure(failure: sdk::Failure) -> Failure {
    from_failure_within(failure, CAUSES)
}

fn from_failure_within(failure: sdk::Failure, depth: usize) -> Failure {
    let sdk::Failure {
        message,
        stack_trace,
        cause,
        failure_info,
        ..
    } = failure;
    let mut cause = cause
        .filter(|_| depth > 0)
        .map(|cause| from_failure_within(*cause, depth.saturating_sub(1)));
    let (kind, retryable, details) = match failure_info {
        Some(sdk::FailureInfo::ApplicationFailureInfo(info)) => {
            (info.r#type, !info.non_retryable, details_of(info.details))
        }
        Some(sdk::FailureInfo::TimeoutFailureInfo(info)) => {
            return timed_out(info.timeout_type(), cause.take());
        }
        Some(sdk::FailureInfo::CanceledFailureInfo(info)) => {
            (kind::CANCELLED.to_owned(), false, details_of(info.details))
        }
        Some(sdk::FailureInfo::TerminatedFailureInfo(_)) => {
            (kind::TERMINATED.to_owned(), false, None)
        }
        Some(
            sdk::FailureInfo::ActivityFailureInfo(_)
            | sdk::FailureInfo::ChildWorkflowExecutionFailureInfo(_),
        ) if cause.is_some() => {
            // They say what failed, which the one who waits for it knows.
            return cause.unwrap_or_else(|| Failure::permanent(kind::INTERNAL, message));
        }
        Some(sdk::FailureInfo::ServerFailureInfo(info)) => {
            (kind::INTERNAL.to_owned(), !info.non_retryable, None)
        }
        _ => (kind::INTERNAL.to_owned(), false, None),
    };
    Failure {
        kind: if kind.is_empty() {
            kind::INTERNAL.to_owned()
        } else {
            kind
        },
        message,
        retryable,
        details,
        stack: Some(stack_trace).filter(|stack| !stack.is_empty()),
        cause: cause.map(Box::new),
    }
}

fn details_of(details: Option<sdk::Payloads>) -> Option<Value> {
    let mut values: Vec<Value> = details?
        .payloads
        .into_iter()
        .map(|one| from_payload(one).to_json().unwrap_or(Value::Null))
        .collect();
    match values.len() {
        0 => None,
        1 => values.pop().filter(|value| !value.is_null()),
        _ => Some(Value::Array(values)),
    }
}

/// The failure of something whose time was over, in the words of both engines.
pub fn timed_out(which: sdk::TimeoutType, cause: Option<Failure>) -> Failure {
    let (whose, which, retryable) = match which {
        sdk::TimeoutType::ScheduleToClose => ("activity", "schedule_to_close", false),
        sdk::TimeoutType::ScheduleToStart => ("activity", "schedule_to_start", false),
        sdk::TimeoutType::Heartbeat => ("attempt", "heartbeat", true),
        sdk::TimeoutType::StartToClose | sdk::TimeoutType::Unspecified => {
            ("attempt", "start_to_close", true)
        }
    };
    Failure {
        retryable,
        cause: cause.map(Box::new),
        ..Failure::permanent(
            kind::TIMEOUT,
            format!("the {whose}'s {which} timeout is over"),
        )
        .with_details(json!({ "timeout": which }))
    }
}

/// A duration, never 0: that would mean none.
pub fn duration(duration: Duration) -> Option<sdk::Duration> {
    // Over 10,000 years it is no limit.
    sdk::Duration::try_from(duration.max(SHORTEST)).ok()
}

/// A duration that may be absent.
pub fn maybe(given: Option<Duration>) -> Option<sdk::Duration> {
    given.and_then(duration)
}

/// Temporal's duration; absent where it is 0, as Temporal means it.
pub fn from_duration(duration: Option<sdk::Duration>) -> Option<Duration> {
    Duration::try_from(duration?)
        .ok()
        .filter(|duration| !duration.is_zero())
}

/// Temporal's time, in microseconds as everywhere; the epoch where there is none.
pub fn timestamp(time: Option<sdk::Timestamp>) -> Timestamp {
    maybe_timestamp(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Temporal's time, if there is one.
pub fn maybe_timestamp(time: Option<sdk::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    let micros = time
        .seconds
        .checked_mul(1_000_000)?
        .checked_add(i64::from(time.nanos) / 1_000)?;
    Timestamp::from_microsecond(micros).ok()
}

/// Our time as Temporal's.
pub fn to_timestamp(time: Timestamp) -> sdk::Timestamp {
    sdk::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

/// Our policy as Temporal's, which it then follows by itself.
pub fn retry(policy: RetryPolicy) -> sdk::RetryPolicy {
    let initial = policy.initial_interval.max(SHORTEST);
    sdk::RetryPolicy {
        initial_interval: duration(initial),
        backoff_coefficient: policy.backoff_coefficient.max(1.0),
        // Temporal refuses one that is shorter.
        maximum_interval: duration(policy.maximum_interval.max(initial)),
        maximum_attempts: i32::try_from(policy.maximum_attempts).unwrap_or(i32::MAX),
        non_retryable_error_types: policy.non_retryable_kinds,
    }
}

/// Temporal's policy as ours.
pub fn from_retry(policy: sdk::RetryPolicy) -> RetryPolicy {
    let defaults = RetryPolicy::default();
    RetryPolicy {
        initial_interval: from_duration(policy.initial_interval)
            .unwrap_or(defaults.initial_interval),
        backoff_coefficient: policy.backoff_coefficient,
        maximum_interval: from_duration(policy.maximum_interval)
            .unwrap_or(defaults.maximum_interval),
        maximum_attempts: u32::try_from(policy.maximum_attempts).unwrap_or(0),
        non_retryable_kinds: policy.non_retryable_error_types,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_comes_back_as_it_went() {
        let cause = Failure::transient("io", "the disk");
        let mut given = Failure::permanent("plugin-error", "it broke")
            .with_details(json!({"page": 4}))
            .with_cause(cause);
        given.stack = Some("at main".to_owned());
        let mut receipt = Receipt::default();
        receipt.add("cpu_us", 7);
        let sent = failure(given.clone(), Some(&receipt));
        assert_eq!(from_failure(sent), given);
        let cancelled = Failure::permanent(kind::CANCELLED, "enough");
        assert_eq!(from_failure(failure(cancelled.clone(), None)), cancelled);
    }

    #[test]
    fn a_cancel_s_reason_is_what_was_given() {
        let core_s = "Cancel requested by workflow with run id 0-1 with reason: no, with reason: x";
        assert_eq!(own_words(core_s), "no, with reason: x");
        for given in ["", "enough", "Cancel requested by workflow with run id 7"] {
            assert_eq!(own_words(given), given);
        }
    }

    #[test]
    fn a_receipt_travels_without_details_too() {
        let mut receipt = Receipt::default();
        receipt.add("cpu_us", 7);
        let sent = failure(Failure::transient("x", "y"), Some(&receipt));
        assert_eq!(from_failure(sent.clone()), Failure::transient("x", "y"));
        let Some(sdk::FailureInfo::ApplicationFailureInfo(info)) = sent.failure_info else {
            panic!("{sent:?}");
        };
        let mut detail = first(info.details);
        assert_eq!(take_receipt(&mut detail), receipt.counters);
        let mut result = from_payload(with_receipt(payload(Payload::json(&json!(1))), &receipt));
        assert_eq!(take_receipt(&mut result), receipt.counters);
        assert_eq!(result, Payload::json(&json!(1)));
    }

    #[test]
    fn failures_that_cause_each_other_for_ever_are_cut() {
        let mut chain = sdk::Failure::default();
        for _ in 0..1_000 {
            chain = sdk::Failure {
                cause: Some(Box::new(chain)),
                ..Default::default()
            };
        }
        let mut depth = 0;
        let mut next = Some(Box::new(from_failure(chain)));
        while let Some(failure) = next {
            depth += 1;
            next = failure.cause;
        }
        assert_eq!(depth, CAUSES + 1);
    }

    #[test]
    fn a_policy_is_one_that_temporal_takes() {
        let policy = retry(RetryPolicy {
            initial_interval: Duration::ZERO,
            backoff_coefficient: 0.5,
            maximum_interval: Duration::ZERO,
            maximum_attempts: u32::MAX,
            non_retryable_kinds: vec!["fatal".to_owned()],
        });
        assert_eq!(policy.initial_interval, policy.maximum_interval);
        assert_eq!(from_duration(policy.initial_interval), Some(SHORTEST));
        assert!(policy.backoff_coefficient >= 1.0);
        assert_eq!(policy.maximum_attempts, i32::MAX);
        let given = RetryPolicy::default();
        assert_eq!(from_retry(retry(given.clone())), given);
    }

    #[test]
    fn what_is_shown_fits() {
        assert_eq!(fitting("short", 400).data, br#""short""#);
        for text in ["x", "é", "\n", "\u{1}", "\u{1F600}"] {
            let shown = fitting(&text.repeat(1_000), 400);
            assert!(
                (380..=400).contains(&shown.data.len()),
                "{}",
                shown.data.len()
            );
            assert!(
                from_json_payload::<String>(&shown)
                    .unwrap()
                    .starts_with(text)
            );
        }
    }

    #[test]
    fn several_arguments_are_refused() {
        let one = || payload(Payload::json(&json!(1)));
        assert_eq!(argument(vec![]), Ok(Payload::null()));
        assert_eq!(argument(vec![one()]), Ok(Payload::json(&json!(1))));
        let refused = argument(vec![one(), one()]).unwrap_err();
        assert_eq!(refused.kind, kind::INVALID_INPUT);
        assert!(!refused.retryable);
    }
}
