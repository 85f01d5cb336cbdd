//! Runs as the API names and shows them.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use heyday_durable::engine::{ExecutionStatus, RunDescription, RunInfo, RunRef, RunResult};
use heyday_durable::failure::Failure;
use heyday_durable::payload::{BlobRef, INLINE_LIMIT, Payload};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{Caller, Path, check_json, json_problem};
use super::problem::Problem;

/// The run that a path names, in the caller's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPath(pub RunRef);

#[derive(Deserialize)]
struct RunSegments {
    workflow_id: String,
    run_id: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for RunPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let Path(segments) = Path::<RunSegments>::from_request_parts(parts, state).await?;
        let run_id = match segments.run_id {
            None => None,
            Some(text) => Some(Uuid::parse_str(&text).map_err(|_| {
                Problem::invalid("a run id is a UUID, as the start of the run answered it")
            })?),
        };
        Ok(Self(RunRef {
            namespace: caller.namespace,
            workflow_id: segments.workflow_id,
            run_id,
        }))
    }
}

/// A failure, with what led to it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FailureBody {
    /// What kind it is; for a flow's error, its `type`.
    pub kind: String,
    /// For a person.
    pub message: String,
    /// Whether another attempt might have succeeded.
    pub retryable: bool,
    /// For a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<Value>,
    /// Where in a plugin it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// What led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub cause: Option<Box<FailureBody>>,
}

impl From<Failure> for FailureBody {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message,
            retryable: failure.retryable,
            details: failure.details,
            stack: failure.stack,
            cause: failure.cause.map(|cause| Box::new((*cause).into())),
        }
    }
}

/// A run in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunRow {
    /// The caller's id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
    /// `<document.namespace>.<document.name>`.
    pub workflow_type: String,
    /// The definition's version. Absent of a run that foreign code started on a cluster and
    /// that has not begun yet, or never could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The definition's digest; there where the version is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `Running`, `Completed`, `Failed`, `Canceled`, `Terminated`, `TimedOut` or
    /// `ContinuedAsNew`.
    #[schema(value_type = String, example = "Running")]
    pub status: ExecutionStatus,
    /// When it was started.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub closed_at: Option<String>,
    /// Events in its history.
    pub history_length: u64,
    /// The run that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunName>,
    /// Why it is held: replay found that it would go on otherwise than recorded. On a
    /// Temporal cluster also why its workflow task fails again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

impl From<RunInfo> for RunRow {
    fn from(info: RunInfo) -> Self {
        Self {
            workflow_id: info.workflow_id,
            run_id: info.run_id,
            workflow_type: info.workflow_type,
            version: info.version.map(|version| version.to_string()),
            digest: info.digest.map(|digest| digest.to_string()),
            status: info.status,
            started_at: info.started_at.to_string(),
            closed_at: info.closed_at.map(|at| at.to_string()),
            history_length: info.history_length,
            parent: info.parent.map(|(workflow_id, run_id)| RunName {
                workflow_id,
                run_id,
            }),
            held: info.held,
        }
    }
}

/// Names a run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunName {
    /// The workflow id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
}

/// An activity that a run waits for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PendingActivityBody {
    /// Its id within the run.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// Its queue.
    pub queue: String,
    /// The task that called it, as JSON pointer.
    pub task: String,
    /// `Scheduled`, `Started`, `BackingOff`, `CancelRequested`; on a cluster also `Paused` or
    /// `PauseRequested`.
    #[schema(value_type = String, example = "Started")]
    pub state: heyday_durable::engine::PendingState,
    /// The attempt that runs or comes next.
    pub attempt: u32,
    /// When it was scheduled.
    #[schema(format = DateTime)]
    pub scheduled_at: String,
    /// When the running attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When the next attempt comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub next_attempt_at: Option<String>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureBody>,
    /// How far the running attempt is: `completed`, `total` (0: unknown), `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<heyday_durable::activity::Progress>,
}

/// A timer that a run waits for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PendingTimer {
    /// Its id within the run.
    pub timer_id: String,
    /// The task that waits, as JSON pointer.
    pub task: String,
    /// When it fires.
    #[schema(format = DateTime)]
    pub fires_at: String,
}

/// A task that listens for signals.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PendingListen {
    /// The task, as JSON pointer.
    pub task: String,
    /// The names of the signals that it takes; `*` is any.
    pub signals: Vec<String>,
    /// Whether it takes updates of these names as well.
    pub updates: bool,
}

/// A signal that no task has taken yet.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PendingSignalBody {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// When it came.
    #[schema(format = DateTime)]
    pub received_at: String,
}

/// A search attribute of a run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SearchAttributeBody {
    /// Its type: `Keyword`, `KeywordList`, `Text`, `Int`, `Double`, `Bool` or `Datetime`.
    #[serde(rename = "type")]
    pub search_type: &'static str,
    /// Its value.
    pub value: Value,
}

/// A run in detail.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RunBody {
    /// As in lists.
    #[serde(flatten)]
    pub row: RunRow,
    /// The queue of the run's own tasks.
    pub task_queue: String,
    /// The run that continued as this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continued_from: Option<Uuid>,
    /// The run that goes on where this one ended: where that is `ContinuedAsNew`, or where a
    /// foreign starter's retry policy or cron made the cluster start the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continued_as: Option<Uuid>,
    /// The first of the runs that continued so; this one where none did.
    pub first_run_id: Uuid,
    /// Values given at the start.
    #[schema(value_type = Object)]
    pub memo: BTreeMap<String, Value>,
    /// Values by which lists find it, each with its type.
    pub search_attributes: BTreeMap<String, SearchAttributeBody>,
    /// The plugin versions that it uses: name as called, and digest; null is built in.
    pub pinned: BTreeMap<String, Option<String>>,
    /// Activities that it waits for.
    pub pending_activities: Vec<PendingActivityBody>,
    /// Timers that it waits for.
    pub pending_timers: Vec<PendingTimer>,
    /// Children that it waits for.
    pub pending_children: Vec<RunName>,
    /// Tasks that listen for signals.
    pub pending_listens: Vec<PendingListen>,
    /// Signals that no task has taken yet, the oldest first: where very many wait, the first
    /// of them.
    pub pending_signals: Vec<PendingSignalBody>,
    /// How many signals no task has taken yet, those included that are not shown.
    pub pending_signal_count: u64,
    /// Why it did not complete, where it ended so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureBody>,
}

impl From<RunDescription> for RunBody {
    fn from(run: RunDescription) -> Self {
        let activity = |it: heyday_durable::engine::PendingActivity| PendingActivityBody {
            activity_id: it.activity_id,
            activity_type: it.activity_type,
            queue: it.queue,
            task: it.task,
            state: it.state,
            attempt: it.attempt,
            scheduled_at: it.scheduled_at.to_string(),
            started_at: it.started_at.map(|at| at.to_string()),
            next_attempt_at: it.next_attempt_at.map(|at| at.to_string()),
            last_failure: it.last_failure.map(Into::into),
            progress: it.progress,
        };
        Self {
            row: run.info.into(),
            task_queue: run.task_queue,
            continued_from: run.continued_from,
            continued_as: run.continued_as,
            first_run_id: run.first_run_id,
            memo: run
                .memo
                .into_iter()
                .map(|(name, payload)| (name, payload.to_json().unwrap_or_default()))
                .collect(),
            search_attributes: run
                .search_attributes
                .into_iter()
                .map(|(name, value)| {
                    let body = SearchAttributeBody {
                        search_type: value.search_type().as_str(),
                        value: value.to_json(),
                    };
                    (name, body)
                })
                .collect(),
            pinned: run
                .pinned
                .into_iter()
                .map(|(name, digest)| (name, digest.map(|digest| digest.to_string())))
                .collect(),
            pending_activities: run.pending_activities.into_iter().map(activity).collect(),
            pending_timers: run
                .pending_timers
                .into_iter()
                .map(|(timer_id, task, at)| PendingTimer {
                    timer_id,
                    task,
                    fires_at: at.to_string(),
                })
                .collect(),
            pending_children: run
                .pending_children
                .into_iter()
                .map(|(workflow_id, run_id)| RunName {
                    workflow_id,
                    run_id,
                })
                .collect(),
            pending_listens: run
                .pending_listens
                .into_iter()
                .map(|listening| PendingListen {
                    task: listening.task,
                    signals: listening.signals,
                    updates: listening.updates,
                })
                .collect(),
            pending_signals: run
                .pending_signals
                .into_iter()
                .map(|signal| PendingSignalBody {
                    name: signal.name,
                    id: signal.id,
                    received_at: signal.received_at.to_string(),
                })
                .collect(),
            pending_signal_count: run.pending_signal_count,
            failure: None,
        }
    }
}

/// How a run ended, or that it has not.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ResultBody {
    /// The workflow id.
    pub workflow_id: String,
    /// The execution that ended: the last one, where the run continued as new. Of the
    /// latest run while it is open, only where the path named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Uuid>,
    /// `Running` while it is open.
    #[schema(value_type = String, example = "Completed")]
    pub status: ExecutionStatus,
    /// The result of a completed run: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Why any other did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureBody>,
}

impl ResultBody {
    /// Of an open run.
    #[must_use]
    pub fn running(workflow_id: String, run_id: Option<Uuid>) -> Self {
        Self {
            workflow_id,
            run_id,
            status: ExecutionStatus::Running,
            result: None,
            failure: None,
        }
    }
}

impl App {
    /// An ended run's answer, with its result resolved.
    pub(super) async fn ended(
        &self,
        workflow_id: String,
        end: RunResult,
    ) -> Result<ResultBody, Problem> {
        let mut body = ResultBody {
            status: end.status,
            ..ResultBody::running(workflow_id, Some(end.run_id))
        };
        match end.outcome {
            Ok(payload) => {
                let text = match payload.as_blob_ref()? {
                    Some(reference) => self.payloads.get(&reference.digest).await?,
                    None => payload.json_text()?,
                };
                let text =
                    String::from_utf8(text.to_vec()).map_err(|error| Problem::internal(&error))?;
                let raw = RawValue::from_string(text).map_err(|error| Problem::internal(&error))?;
                body.result = Some(raw);
            }
            Err(failure) => body.failure = Some(failure.into()),
        }
        Ok(body)
    }

    /// JSON that a client sent, as a payload: inline, or stored and by reference.
    pub(super) async fn payload(&self, text: Bytes) -> Result<Payload, Problem> {
        if text.is_empty() || &*text == b"null" {
            return Ok(Payload::null());
        }
        check_json(&text)?;
        serde_json::from_slice::<&RawValue>(&text).map_err(json_problem)?;
        if text.len() <= INLINE_LIMIT {
            return Ok(Payload::json_bytes(text));
        }
        let size = text.len() as u64;
        let digest = self.payloads.put(text).await?;
        Ok(Payload::blob_ref(&BlobRef { digest, size }))
    }
}
