//! How activities and children ended, as core's jobs say it.

use uuid::Uuid;

use super::convert::{from_failure, from_payload, take_receipt};
use super::run::Unexpected;
use super::sdk;
use crate::failure::{Failure, kind};
use crate::payload::Payload;

/// The outcome of an activity.
///
/// # Errors
/// When core asks for what only local activities have.
pub fn activity_outcome(status: sdk::Resolved) -> Result<Result<Payload, Failure>, Unexpected> {
    match status {
        sdk::Resolved::Completed(done) => {
            let mut result = done.result.map_or_else(Payload::null, from_payload);
            take_receipt(&mut result);
            Ok(Ok(result))
        }
        sdk::Resolved::Failed(failed) => Ok(Err(from_failure(failed.failure.unwrap_or_default()))),
        sdk::Resolved::Cancelled(cancelled) => {
            Ok(Err(cancelled_failure(cancelled.failure, "the activity")))
        }
        sdk::Resolved::Backoff(backoff) => Err(Unexpected(format!(
            "a local activity asks for a timer before attempt {}",
            backoff.attempt
        ))),
    }
}

/// Why a signal to another workflow was not sent: it has no open run, or one that has had
/// all signals that it may have (`limit`).
pub fn unsent(workflow_id: &str, limit: bool) -> Failure {
    if limit {
        let message = format!(
            "workflow {workflow_id:?}: the run has had as many signals as the cluster lets it have, and takes no more"
        );
        return Failure::permanent(kind::LIMIT_EXCEEDED, message);
    }
    let message = format!("no run of workflow {workflow_id:?} is open");
    Failure::permanent(kind::UNKNOWN_WORKFLOW, message)
}

/// The failure of something that was cancelled: what it said itself, if it did.
pub fn cancelled_failure(failure: Option<sdk::Failure>, what: &str) -> Failure {
    let failure = from_failure(failure.unwrap_or_default());
    let said = failure
        .details
        .and_then(|details| serde_json::from_value::<Failure>(details).ok())
        .filter(|said| said.kind == kind::CANCELLED);
    said.unwrap_or_else(|| Failure::permanent(kind::CANCELLED, format!("{what} was cancelled")))
}

/// Whether a child was started.
///
/// # Errors
/// When the job does not say it.
pub fn child_started(
    status: Option<sdk::ChildStarted>,
) -> Result<Result<Uuid, Failure>, Unexpected> {
    match status {
        Some(sdk::ChildStarted::Succeeded(started)) => started
            .run_id
            .parse()
            .map(Ok)
            .map_err(|_| Unexpected(format!("the run id {:?} is no UUID", started.run_id))),
        Some(sdk::ChildStarted::Failed(failed)) => Ok(Err(Failure::permanent(
            kind::UNKNOWN_WORKFLOW,
            format!(
                "workflow {:?} could not be started: {}",
                failed.workflow_id,
                failed.cause().as_str_name().to_ascii_lowercase()
            ),
        ))),
        Some(sdk::ChildStarted::Cancelled(cancelled)) => {
            Ok(Err(cancelled_failure(cancelled.failure, "the child")))
        }
        None => Err(Unexpected("a child was started with no status".to_owned())),
    }
}

/// The outcome of a child.
///
/// # Errors
/// When the job does not say it.
pub fn child_outcome(
    status: Option<sdk::ChildEnded>,
) -> Result<Result<Payload, Failure>, Unexpected> {
    match status {
        Some(sdk::ChildEnded::Completed(done)) => {
            Ok(Ok(done.result.map_or_else(Payload::null, from_payload)))
        }
        Some(sdk::ChildEnded::Failed(failed)) => {
            Ok(Err(from_failure(failed.failure.unwrap_or_default())))
        }
        Some(sdk::ChildEnded::Cancelled(cancelled)) => {
            Ok(Err(cancelled_failure(cancelled.failure, "the child")))
        }
        None => Err(Unexpected("a child ended with no status".to_owned())),
    }
}
