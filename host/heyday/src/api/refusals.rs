//! What the engine, the registry and the definitions refuse, as problem documents.
//!
//! Domain errors know nothing of HTTP; this is the one place that gives them a status.

use axum::http::StatusCode;
use heyday_durable::engine::EngineError;
use heyday_durable::failure::{Failure, kind};
use heyday_durable::payload::{PayloadError, PayloadStoreError};

use super::problem::{Problem, ProblemError};
use crate::registry::{RegistryError, types::RequestProblem};
use crate::state::StateError;

/// Of a request that reached nobody.
const NOTHING_DONE: &str = "nothing was changed, the same request may be made again";
/// Of a request that was sent on. Without a key or an id, a start made again is another run.
const MAYBE_DONE: &str = "whether what was asked for was done is not known; make the same request again, with the same Idempotency-Key or workflow_id";

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let detail = error.to_string();
        match error {
            EngineError::NotFound {
                namespace,
                workflow_id,
                run_id,
            } => Self::not_found(match run_id {
                Some(run_id) => format!(
                    "no run {run_id} of workflow {workflow_id:?} exists in namespace {namespace:?}"
                ),
                None => format!("no workflow {workflow_id:?} exists in namespace {namespace:?}"),
            }),
            EngineError::AlreadyExists { run_id, .. } => Self::conflict(
                "workflow-exists",
                "The workflow id is taken",
                format!("{detail}; use another workflow_id, or other policies"),
            )
            .with("run_id", run_id.to_string()),
            EngineError::Closed { run_id, .. } => {
                Self::conflict("workflow-closed", "The run has ended", detail)
                    .with("run_id", run_id.to_string())
            }
            EngineError::Invalid(_) => Self::invalid(detail),
            EngineError::TooLarge { .. } => Self::too_large(detail),
            EngineError::Held(_) => Self::conflict("workflow-held", "The run is held", detail),
            EngineError::UpdateRejected(_) => {
                Self::conflict("update-rejected", "The update is rejected", detail)
            }
            EngineError::NoSuchUpdate { .. } | EngineError::ScheduleNotFound { .. } => {
                Self::not_found(detail)
            }
            EngineError::ScheduleExists { .. } => Self::conflict(
                "schedule-exists",
                "The schedule's id is taken",
                format!("{detail}; use another schedule_id, or update that one"),
            ),
            EngineError::QueryFailed(_) => {
                Self::unprocessable("query-failed", "The query has no answer", detail)
            }
            EngineError::LimitReached(_) => {
                Self::conflict("limit-reached", "A limit is reached", detail)
            }
            EngineError::History(error) => error.into(),
            EngineError::ShuttingDown => Self::unavailable("shutting-down", detail),
            EngineError::Unavailable {
                message,
                sent,
                source,
            } => {
                tracing::error!(error = %message, source, "the history cannot be written");
                let advice = if sent { MAYBE_DONE } else { NOTHING_DONE };
                Self::unavailable("storage-unavailable", format!("{detail}; {advice}"))
            }
            EngineError::Internal(cause) => Self::internal(&cause),
        }
    }
}

impl From<RequestProblem> for ProblemError {
    fn from(problem: RequestProblem) -> Self {
        Self {
            message: problem.message,
            pointer: Some(problem.pointer),
            line: problem.line.map(u64::from),
            ..Self::default()
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::NotFound { .. } | RegistryError::UnknownActivity(_) => {
                Self::not_found(detail)
            }
            RegistryError::Invalid(_) => Self::invalid(detail),
            RegistryError::UnknownQueue(_) => {
                unusable_name(detail).with("kind", kind::UNKNOWN_QUEUE)
            }
            RegistryError::Unusable { problems, .. } => {
                Self::unprocessable("unusable", "What was uploaded cannot be used", detail)
                    .with_errors(problems.into_iter().map(Into::into).collect())
            }
            RegistryError::TooLarge { .. } => Self::too_large(detail),
            RegistryError::Conflict(_) => {
                Self::conflict("conflict", "What is stored stands in the way", detail)
            }
            RegistryError::MissingGrants { missing, .. } => {
                Self::conflict("missing-grants", "Grants are missing", detail)
                    .with("missing_grants", missing)
            }
            RegistryError::UnfitGrants { unfit, .. } => {
                Self::conflict("unfit-grants", "A grant is of another dialect", detail)
                    .with("unfit_grants", serde_json::json!(unfit))
            }
            RegistryError::Unavailable(_) => Self::unavailable("storage-unavailable", detail),
            RegistryError::Internal(cause) => Self::internal(&cause),
        }
    }
}

impl From<PayloadStoreError> for Problem {
    fn from(error: PayloadStoreError) -> Self {
        match error {
            PayloadStoreError::NotFound(_) => Self::internal(&error),
            PayloadStoreError::Unavailable(ref cause) => {
                tracing::error!(error = %cause, "the payload store failed");
                Self::unavailable(
                    "storage-unavailable",
                    "the payload store cannot answer now, the disk may be full; the same request may be made again",
                )
            }
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the state failed");
        match error {
            StateError::Database(_) => Self::unavailable(
                "storage-unavailable",
                "the server's state cannot be read or written now, the disk may be full; the same request may be made again",
            ),
            error => Self::internal(&error),
        }
    }
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        Self::internal(&error)
    }
}

/// Why a definition could not be found and pinned.
pub(super) fn unpinnable(failure: Failure) -> Problem {
    match failure.kind.as_str() {
        kind::UNKNOWN_WORKFLOW | kind::UNKNOWN_ACTIVITY => Problem::not_found(failure.message),
        _ if failure.retryable => Problem::unavailable("definition-unavailable", failure.message),
        kind::INTERNAL => Problem::internal(&failure),
        _ => unusable_name(failure.message).with("kind", failure.kind),
    }
}

fn unusable_name(detail: String) -> Problem {
    Problem::unprocessable("unusable", "What was named cannot be used", detail)
}

/// What no route stands for.
pub(super) async fn no_route(uri: axum::http::Uri) -> Problem {
    Problem::not_found(format!(
        "nothing is at {}; /docs lists what there is",
        uri.path()
    ))
}

/// A route that exists, with another method.
pub(super) async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "The method is not allowed here",
        format!("{} has no {method}; /docs lists what there is", uri.path()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_errors_have_stable_types() {
        let run_id = uuid::Uuid::now_v7();
        let not_found = EngineError::NotFound {
            namespace: "default".into(),
            workflow_id: "a".into(),
            run_id: None,
        };
        let exists = EngineError::AlreadyExists {
            workflow_id: "a".into(),
            run_id,
            reason: "is already running",
        };
        let closed = EngineError::Closed {
            workflow_id: "a".into(),
            run_id,
        };
        let no_schedule = EngineError::ScheduleNotFound {
            namespace: "default".into(),
            schedule_id: "s".into(),
        };
        let schedule_exists = EngineError::ScheduleExists {
            namespace: "default".into(),
            schedule_id: "s".into(),
        };
        let large = EngineError::TooLarge {
            what: "the input",
            size: 3,
            limit: 2,
        };
        let full = EngineError::unavailable("the disk is full", None);
        for (error, status, name) in [
            (not_found, 404, "not-found"),
            (exists, 409, "workflow-exists"),
            (no_schedule, 404, "not-found"),
            (schedule_exists, 409, "schedule-exists"),
            (closed, 409, "workflow-closed"),
            (EngineError::Invalid("no".into()), 400, "invalid-request"),
            (large, 413, "too-large"),
            (EngineError::LimitReached("no".into()), 409, "limit-reached"),
            (EngineError::Held("no".into()), 409, "workflow-held"),
            (EngineError::QueryFailed("no".into()), 422, "query-failed"),
            (
                EngineError::UpdateRejected(Failure::permanent("update-rejected", "no")),
                409,
                "update-rejected",
            ),
            (full, 503, "storage-unavailable"),
            (EngineError::ShuttingDown, 503, "shutting-down"),
            (EngineError::Internal("secret".into()), 500, "internal"),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.status.as_u16(), status, "{problem:?}");
            assert_eq!(problem.name, name);
            assert!(!problem.detail.contains("secret"));
        }
    }

    #[test]
    fn only_what_was_not_sent_changed_nothing() {
        let detail = |sent| {
            let error = EngineError::Unavailable {
                message: "the cluster does not answer".into(),
                sent,
                source: None,
            };
            Problem::from(error).detail
        };
        assert!(detail(false).contains("nothing was changed"));
        let detail = detail(true);
        assert!(!detail.contains("nothing was changed"), "{detail}");
        assert!(detail.contains("is not known"), "{detail}");
        assert!(detail.contains("the same Idempotency-Key"), "{detail}");
    }

    #[test]
    fn uploads_that_cannot_be_used_name_the_line() {
        let problem = Problem::from(RegistryError::Unusable {
            message: "the flow has 1 error".into(),
            problems: vec![RequestProblem {
                line: Some(7),
                pointer: "/do/0".into(),
                message: "no such task".into(),
            }],
        });
        let document = serde_json::to_value(&problem).expect("JSON");
        assert_eq!(document["status"], 422);
        assert_eq!(document["errors"][0]["line"], 7);
        assert_eq!(document["errors"][0]["pointer"], "/do/0");
    }
}
