//! Starts of runs: of a flow, and what a run of one activity shares with it.

use std::collections::BTreeMap;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use heyday_durable::definition::{PinnedDefinition, WorkflowReference};
use heyday_durable::engine::{
    EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, RunRef, StartWorkflow, Started,
};
use heyday_durable::payload::{Digest, Payload};
use heyday_durable::search::{GivenAttribute, ParseSearchTypeError};
use heyday_durable::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{self, Caller, IdempotencyKey, Json, Query, TraceParent};
use super::problem::Problem;
use super::refusals::unpinnable;
use super::runs::ResultBody;
use super::signals::SignalBody;
use super::workflows::WaitQuery;
use crate::listeners::LISTENER_PREFIX;

/// A start of a run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    /// The flow, `<document.namespace>.<document.name>`.
    #[schema(example = "docs.process")]
    pub workflow_type: String,
    /// A version of it; the active one where absent.
    #[serde(default)]
    pub version: Option<String>,
    /// The caller's id: 1 to 1,000 bytes; one is made where absent.
    #[serde(default)]
    pub workflow_id: Option<String>,
    /// The queue of the run's own tasks and of its children's, `general-queue` where absent.
    /// Activities go to their own queues. The embedded engine only remembers it.
    #[serde(default)]
    pub task_queue: Option<String>,
    /// The input: any JSON.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Box<RawValue>>,
    /// When a closed run of the id exists: `allow_duplicate` (the default),
    /// `allow_duplicate_failed_only` or `reject_duplicate`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub id_reuse_policy: IdReusePolicy,
    /// When an open run of the id exists: `fail` (the default without a signal),
    /// `use_existing` (the default with one) or `terminate_existing`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub id_conflict_policy: Option<IdConflictPolicy>,
    /// Values shown with the run.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub memo: BTreeMap<String, Value>,
    /// Values by which lists find the run, by name: each a JSON value, or `{type, value}`
    /// with Temporal's type (`Keyword`, `KeywordList`, `Text`, `Int`, `Double`, `Bool`,
    /// `Datetime`). A name keeps the type with which it was used first.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub search_attributes: BTreeMap<String, AttributeBody>,
    /// A signal that the run has from its first moment on. With `use_existing` it goes to
    /// the open run, where there is one.
    #[serde(default)]
    pub signal: Option<SignalBody>,
}

/// A search attribute, as a start gives it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum AttributeBody {
    /// With its type.
    Typed(TypedAttribute),
    /// Its value alone.
    Value(Value),
}

/// A search attribute with its type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedAttribute {
    /// The type.
    #[serde(rename = "type")]
    pub search_type: String,
    /// The value.
    pub value: Value,
}

impl AttributeBody {
    fn given(self, name: &str) -> Result<GivenAttribute, Problem> {
        match self {
            Self::Value(value) => Ok(GivenAttribute {
                search_type: None,
                value,
            }),
            Self::Typed(typed) => {
                let search_type =
                    typed
                        .search_type
                        .parse()
                        .map_err(|error: ParseSearchTypeError| {
                            Problem::invalid(format!("the search attribute {name:?}: {error}"))
                        })?;
                Ok(GivenAttribute {
                    search_type: Some(search_type),
                    value: typed.value,
                })
            }
        }
    }
}

/// A run that was started, or found.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StartedBody {
    /// The workflow id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
    /// Its definition.
    pub workflow_type: String,
    /// The definition's version; absent where an open run is answered that foreign code
    /// started on a cluster and that has not begun yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `false` where the run was there before: the same Idempotency-Key, or
    /// `use_existing`.
    pub created: bool,
}

/// What a start answers; never made, it only says what the two are.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it documents the answer")]
pub(super) enum StartedOrEnded {
    /// Without `wait`.
    Started(StartedBody),
    /// With `wait`.
    Ended(ResultBody),
}

/// Start a run of a flow
///
/// With `wait` it answers how the run ended, as `.../result` does, or that it is running.
#[utoipa::path(post, path = "/workflows", tag = "workflows",
    params(WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again answers the same run, for 24 hours")),
    request_body = StartBody,
    responses(
        (status = 201, description = "Started; it survives any crash", body = StartedBody),
        (status = 200, description = "The run was there before; or, with `wait`, has ended", body = StartedOrEnded),
        (status = 202, description = "It has not ended within `wait`", body = ResultBody),
        (status = 404, description = "No such flow or version", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The workflow id is taken", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "No such queue; the text says which there are", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn start(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<WaitQuery>,
    IdempotencyKey(key): IdempotencyKey,
    TraceParent(traceparent): TraceParent,
    Json(body): Json<StartBody>,
) -> Result<Response, Problem> {
    let wait = extract::wait(query.wait.as_deref())?;
    let version = body
        .version
        .map(|text| {
            text.parse().map_err(|error| {
                Problem::invalid(format!(
                    "the version {text:?} is no semantic version: {error}"
                ))
            })
        })
        .transpose()?;
    let reference = WorkflowReference {
        workflow_type: body.workflow_type,
        version,
    };
    let memo = body.memo.into_iter();
    let memo = memo
        .map(|(name, value)| (name, Payload::json(&value)))
        .collect();
    let search_attributes = body
        .search_attributes
        .into_iter()
        .map(|(name, value)| {
            let given = value.given(&name)?;
            Ok((name, given))
        })
        .collect::<Result<_, Problem>>()?;
    let signal = body
        .signal
        .map(|signal| signal.signal(key.as_deref()))
        .transpose()?;
    let id_conflict_policy = match (body.id_conflict_policy, &signal) {
        (Some(IdConflictPolicy::Fail), Some(_)) => {
            return Err(Problem::invalid(
                "a start with a signal signals the open run, where there is one: id_conflict_policy is use_existing or terminate_existing",
            ));
        }
        (Some(policy), _) => policy,
        (None, Some(_)) => IdConflictPolicy::UseExisting,
        (None, None) => IdConflictPolicy::default(),
    };
    let definition = {
        use heyday_durable::definition::Definitions as _;
        app.definitions
            .pin(&caller.namespace, &reference)
            .await
            .map_err(unpinnable)?
    };
    if let Some(queue) = &body.task_queue {
        app.registry.check_queue(queue)?;
    }
    let input = body.input.map_or_else(Bytes::new, |raw| {
        Bytes::from(String::from(Box::<str>::from(raw)))
    });
    let request = Start {
        workflow_id: body.workflow_id,
        definition,
        task_queue: body.task_queue,
        input: app.payload(input).await?,
        id_reuse_policy: body.id_reuse_policy,
        id_conflict_policy,
        memo,
        search_attributes,
        key,
        traceparent,
        signal,
    };
    let started = app.start(&caller, request).await?;
    let location = format!(
        "/api/v1/workflows/{}/runs/{}",
        segment(&started.workflow_id),
        started.run_id
    );
    let answer = if wait.is_some() {
        app.ended_within(caller, started, wait).await?
    } else if started.created {
        (StatusCode::CREATED, JsonAnswer(started)).into_response()
    } else {
        JsonAnswer(started).into_response()
    };
    Ok(([(header::LOCATION, location)], answer).into_response())
}

/// A start, with everything found.
pub(super) struct Start {
    pub(super) workflow_id: Option<String>,
    pub(super) definition: PinnedDefinition,
    pub(super) task_queue: Option<String>,
    pub(super) input: Payload,
    pub(super) id_reuse_policy: IdReusePolicy,
    pub(super) id_conflict_policy: IdConflictPolicy,
    pub(super) memo: BTreeMap<String, Payload>,
    pub(super) search_attributes: BTreeMap<String, GivenAttribute>,
    pub(super) key: Option<String>,
    pub(super) traceparent: Option<String>,
    pub(super) signal: Option<Signal>,
}

impl App {
    /// Starts a run, or finds the one that the key or the policies name.
    pub(super) async fn start(
        &self,
        caller: &Caller,
        start: Start,
    ) -> Result<StartedBody, Problem> {
        let namespace = caller.namespace.clone();
        let workflow_id = match (start.workflow_id, &start.key) {
            (Some(id), _) => id,
            // The same key must find the same id: the engine answers only the run id.
            (None, Some(key)) => id_of_key(&namespace, key),
            (None, None) => Uuid::now_v7().to_string(),
        };
        if workflow_id.starts_with(LISTENER_PREFIX) {
            return Err(Problem::invalid(format!(
                "workflow ids that begin with {LISTENER_PREFIX:?} are of what waits for the events of a flow; use another one"
            )));
        }
        let workflow_type = start.definition.workflow_type.clone();
        let version = start.definition.version.to_string();
        let keyed = start.key.is_some();
        let Started { run_id, created } = self
            .engine
            .start(StartWorkflow {
                namespace: namespace.clone(),
                workflow_id: workflow_id.clone(),
                definition: start.definition,
                task_queue: start.task_queue,
                input: start.input,
                id_reuse_policy: start.id_reuse_policy,
                id_conflict_policy: start.id_conflict_policy,
                idempotency_key: start.key,
                memo: start.memo,
                search_attributes: start.search_attributes,
                traceparent: start.traceparent,
                signal: start.signal,
            })
            .await?;
        let mut body = StartedBody {
            workflow_id,
            run_id,
            workflow_type,
            version: Some(version),
            created,
        };
        if !created {
            let run = RunRef {
                namespace,
                workflow_id: body.workflow_id.clone(),
                run_id: Some(run_id),
            };
            let info = match self.engine.describe(&run).await {
                Ok(description) => description.info,
                Err(EngineError::NotFound { .. }) if keyed => {
                    return Err(super::idempotency::reused());
                }
                Err(error) => return Err(error.into()),
            };
            body.workflow_type = info.workflow_type;
            body.version = info.version.map(|version| version.to_string());
        }
        Ok(body)
    }

    /// Answers a start with how the run ended: 200, or 202 where it has not after so long.
    pub(super) async fn ended_within(
        &self,
        caller: Caller,
        started: StartedBody,
        wait: Option<std::time::Duration>,
    ) -> Result<Response, Problem> {
        let run = RunRef {
            namespace: caller.namespace,
            workflow_id: started.workflow_id,
            run_id: Some(started.run_id),
        };
        let body = self.result_within(&run, wait).await?;
        let status = if body.status == ExecutionStatus::Running {
            StatusCode::ACCEPTED
        } else {
            StatusCode::OK
        };
        Ok((status, JsonAnswer(body)).into_response())
    }
}

/// A workflow id made of an idempotency key.
fn id_of_key(namespace: &str, key: &str) -> String {
    let digest = Digest::of(format!("{namespace}\n{key}").as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Percent-encodes what becomes one segment of a path.
pub(super) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_make_ids_of_their_namespace() {
        assert_eq!(id_of_key("a", "k"), id_of_key("a", "k"));
        assert_ne!(id_of_key("a", "k"), id_of_key("b", "k"));
        assert_ne!(id_of_key("a", "k"), id_of_key("a", "l"));
        assert!(Uuid::parse_str(&id_of_key("a", "k")).is_ok());
    }

    #[test]
    fn ids_become_one_segment() {
        assert_eq!(segment("doc-1_a.b~c"), "doc-1_a.b~c");
        assert_eq!(segment("a/b ü%"), "a%2Fb%20%C3%BC%25");
    }
}
