//! Telling the cluster how an attempt ended.
//!
//! Core would try for 10 seconds, not at all where the credentials are refused, and take
//! a server that does not know its namespaces yet at its word; then the end is lost, and
//! what is done is done again when the attempt's time is over. So here it is told again
//! and again until the cluster takes it, or says that it is not waited for; core hears
//! afterwards that this was done, and gives the slot back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{answer, describe_status, names_no_namespace, request};
use super::convert::failure;
use super::core::Core;
use super::sdk::{self, WorkflowService as _};
use crate::failure::{Failure, kind};

/// How long it is tried.
const PERSISTENCE: Duration = Duration::from_secs(10 * 60);

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How much longer each try may take than the one before, and than the engine's patience at
/// most: a cluster that is slow must get through with one of them.
const LONGER: Duration = Duration::from_secs(5);
const LONGEST_TRY: Duration = Duration::from_secs(30);

/// Tells how an attempt ended, with the details of its last heartbeat.
pub async fn report(
    core: &Core,
    worker: &Arc<sdk::Worker>,
    task_token: Vec<u8>,
    ended: sdk::ActivityExecutionResult,
    heartbeat: Vec<sdk::Payload>,
) {
    if let Some(status) = ended.status {
        let namespace = &worker.get_config().namespace;
        let mut end = End {
            namespace,
            task_token: &task_token,
            status,
            heartbeat,
        };
        let deadline = Instant::now() + PERSISTENCE;
        let mut wait = Duration::from_millis(100);
        let mut longer = Duration::ZERO;
        let mut warned = false;
        loop {
            let begun = Instant::now();
            let Err(status) = end.tell(core, longer).await else {
                break;
            };
            // The cluster did not record that anybody asked: the run's answer that did is
            // still on its way to it, or was lost. The attempt must not stay open for that.
            if status.code() == sdk::Code::InvalidArgument
                && let Some(failed) = failed_instead(&end.status)
            {
                end.status = failed;
                continue;
            }
            let why = describe_status(&status);
            if !passes(&status) || Instant::now() > deadline {
                tracing::warn!(namespace, why, "the cluster does not take an attempt's end");
                break;
            }
            // Once: a cluster that hangs costs seconds before anything else says so.
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(
                    namespace,
                    status = ?status.code(),
                    why,
                    seconds = begun.elapsed().as_secs_f64(),
                    "the cluster did not take an attempt's end; telling it again"
                );
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            longer = (longer + LONGER).min(LONGEST_TRY);
        }
    }
    let told = sdk::ActivityExecutionResult::will_complete_async();
    complete(worker, task_token, told).await;
}

/// Gives core the end of one of its tasks.
pub async fn complete(
    worker: &sdk::Worker,
    task_token: Vec<u8>,
    result: sdk::ActivityExecutionResult,
) {
    let completion = sdk::ActivityTaskCompletion {
        task_token,
        result: Some(result),
    };
    if let Err(error) = worker.complete_activity_task(completion).await {
        tracing::error!(%error, "an attempt's end was refused");
    }
}

struct End<'a> {
    namespace: &'a str,
    task_token: &'a [u8],
    status: sdk::ActivityEnd,
    heartbeat: Vec<sdk::Payload>,
}

impl End<'_> {
    /// Tells it once, for `longer` than the engine's patience.
    async fn tell(&self, core: &Core, longer: Duration) -> Result<(), sdk::Status> {
        // Also while it drains.
        let connection = core.connection.borrow().clone();
        let Some(mut connection) = connection else {
            return Err(sdk::Status::unavailable("there is no connection"));
        };
        let identity = connection.identity().to_owned();
        let (namespace, task_token) = (self.namespace.to_owned(), self.task_token.to_vec());
        match &self.status {
            sdk::ActivityEnd::Completed(success) => {
                let message = sdk::RespondActivityTaskCompletedRequest {
                    namespace,
                    task_token,
                    identity,
                    result: success.result.clone().map(payloads),
                    ..Default::default()
                };
                let message = request(core, message, longer);
                let call = connection.respond_activity_task_completed(message);
                answer(core, longer, call).await.map(drop)
            }
            sdk::ActivityEnd::Failed(failed) => {
                let heartbeat = self.heartbeat.clone();
                let message = sdk::RespondActivityTaskFailedRequest {
                    namespace,
                    task_token,
                    identity,
                    failure: failed.failure.clone(),
                    // What core held back of them.
                    last_heartbeat_details: (!heartbeat.is_empty()).then_some(sdk::Payloads {
                        payloads: heartbeat,
                    }),
                    ..Default::default()
                };
                let message = request(core, message, longer);
                let call = connection.respond_activity_task_failed(message);
                answer(core, longer, call).await.map(drop)
            }
            sdk::ActivityEnd::Cancelled(cancelled) => {
                let details = cancelled.failure.as_ref().and_then(details_of_cancel);
                let message = sdk::RespondActivityTaskCanceledRequest {
                    namespace,
                    task_token,
                    identity,
                    details,
                    ..Default::default()
                };
                let message = request(core, message, longer);
                let call = connection.respond_activity_task_canceled(message);
                answer(core, longer, call).await.map(drop)
            }
            // No attempt of ours ends so.
            sdk::ActivityEnd::WillCompleteAsync(_) => Ok(()),
        }
    }
}

/// What stands in for the end of an attempt that stopped as it was asked to, where the
/// cluster does not know that it was: a failure that another attempt follows, unless the
/// request has come by then. What the attempt said, and its receipt, are its details.
fn failed_instead(status: &sdk::ActivityEnd) -> Option<sdk::ActivityEnd> {
    let sdk::ActivityEnd::Cancelled(cancelled) = status else {
        return None;
    };
    let why = "the attempt stopped as it was asked to, which the cluster does not know of";
    let mut failed = failure(Failure::transient(kind::WORKER_LOST, why), None);
    if let Some(sdk::FailureInfo::ApplicationFailureInfo(info)) = &mut failed.failure_info {
        info.details = cancelled.failure.as_ref().and_then(details_of_cancel);
    }
    sdk::ActivityExecutionResult::fail(failed).status
}

fn details_of_cancel(failure: &sdk::Failure) -> Option<sdk::Payloads> {
    match failure.failure_info.as_ref()? {
        sdk::FailureInfo::CanceledFailureInfo(info) => info.details.clone(),
        _ => None,
    }
}

fn payloads(payload: sdk::Payload) -> sdk::Payloads {
    sdk::Payloads {
        payloads: vec![payload],
    }
}

/// Whether a refusal may be none the next time.
fn passes(status: &sdk::Status) -> bool {
    match status.code() {
        sdk::Code::InvalidArgument
        | sdk::Code::FailedPrecondition
        | sdk::Code::Unimplemented
        | sdk::Code::AlreadyExists
        | sdk::Code::OutOfRange => false,
        // The attempt, which nobody waits for any more; or the namespace, which a server
        // that has just started does not know yet.
        sdk::Code::NotFound => names_no_namespace(status),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::convert::{from_failure, json_payload, with_receipt};
    use super::*;
    use crate::activity::Receipt;

    #[test]
    fn a_cancel_that_the_cluster_does_not_know_of_is_a_failure_that_is_retried() {
        let mut receipt = Receipt::default();
        receipt.add("rows", 3);
        let said = Failure::permanent(kind::CANCELLED, "stopped at page 7");
        let details = with_receipt(json_payload(&said), &receipt);
        let ended = sdk::ActivityExecutionResult::cancel_from_details(Some(details.clone()));
        let instead = failed_instead(&ended.status.unwrap()).unwrap();
        let sdk::ActivityEnd::Failed(failed) = &instead else {
            panic!("{instead:?}");
        };
        let told = failed.failure.clone().unwrap();
        let Some(sdk::FailureInfo::ApplicationFailureInfo(info)) = &told.failure_info else {
            panic!("{told:?}");
        };
        assert_eq!(info.details.as_ref().unwrap().payloads, [details]);
        let read = from_failure(told);
        assert_eq!(
            (read.kind.as_str(), read.retryable),
            (kind::WORKER_LOST, true)
        );
        assert_eq!(read.details.unwrap()["message"], "stopped at page 7");
        // What is told instead is told as any other failure is.
        assert!(failed_instead(&instead).is_none());
    }

    #[test]
    fn what_passes_is_told_again() {
        for passing in [
            sdk::Status::unavailable("away"),
            sdk::Status::unauthenticated("Request unauthorized."),
            sdk::Status::permission_denied("no"),
            sdk::Status::deadline_exceeded("slow"),
            sdk::Status::not_found("Namespace default is not found."),
        ] {
            assert!(passes(&passing), "{passing}");
        }
        for final_ in [
            sdk::Status::not_found("workflow execution already completed"),
            sdk::Status::invalid_argument("invalid TaskToken"),
        ] {
            assert!(!passes(&final_), "{final_}");
        }
    }
}
