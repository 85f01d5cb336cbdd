//! What answers in the host's place in a native test: the state of the
//! [`test::Context`](crate::test::Context) that the running thread entered.

use crate::context::Attempt;
use crate::error::CapabilityError;
use crate::log::Level;
use crate::test::state;

pub(crate) mod blob;
pub(crate) mod graph;
pub(crate) mod http;
pub(crate) mod inference;
pub(crate) mod kv;
mod settings;
pub(crate) mod sql;
#[cfg(any(feature = "kglite", feature = "sqlite"))]
pub(crate) mod times;
pub(crate) mod vector;

pub(crate) use settings::{config, secrets};

pub(crate) fn current() -> Attempt {
    state::with(|state| state.attempt.clone())
}

pub(crate) fn idempotency_key() -> String {
    state::with(|state| {
        let attempt = &state.attempt;
        format!(
            "{}/{}/{}",
            attempt.namespace, attempt.run_id, attempt.activity_id
        )
    })
}

pub(crate) fn remaining_ms() -> u64 {
    state::with(|state| u64::try_from(state.remaining.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn is_cancelled() -> bool {
    state::with(|state| state.cancelled.is_some())
}

pub(crate) fn cancellation_reason() -> Option<String> {
    state::with(|state| {
        let reason = state.cancelled.as_ref();
        reason.map(|reason| reason.as_str().to_owned())
    })
}

pub(crate) fn heartbeat(details: Option<&str>) -> Result<(), CapabilityError> {
    let details = details.unwrap_or("null");
    if details.len() > 64 * 1024 {
        return Err(CapabilityError::new(
            "too-large",
            "the details of a heartbeat are at most 64 KiB",
        ));
    }
    let details = serde_json::from_str(details)
        .map_err(|error| CapabilityError::new("invalid-json", error.to_string()))?;
    state::with(|state| state.heartbeats.push(details));
    Ok(())
}

pub(crate) fn last_heartbeat() -> Option<String> {
    state::with(|state| state.last_heartbeat.as_ref().map(ToString::to_string))
}

pub(crate) fn progress(completed: u64, total: u64, message: &str) {
    state::with(|state| state.progress.push((completed, total, message.to_owned())));
}

pub(crate) fn log(level: Level, message: &str, fields: Option<&str>) {
    let fields = fields
        .and_then(|fields| serde_json::from_str(fields).ok())
        .unwrap_or_default();
    state::with(|state| {
        state.logs.push(crate::test::LogLine {
            level,
            message: message.to_owned(),
            fields,
        });
    });
}
