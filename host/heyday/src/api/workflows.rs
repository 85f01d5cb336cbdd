//! `/workflows`: start runs, look at them, wait for them, end them.

use std::collections::BTreeMap;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use heyday_durable::definition::{PinnedDefinition, WorkflowReference};
use heyday_durable::engine::{
    EngineError, HistoryEvent, IdConflictPolicy, IdReusePolicy, ListRuns, RunRef, StartWorkflow,
    Started,
};
use heyday_durable::payload::{Digest, Payload};
use heyday_durable::search::{GivenAttribute, ParseSearchTypeError};
use heyday_durable::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::App;
use super::extract::{self, Caller, IdempotencyKey, Json, Query, TraceParent};
use super::problem::Problem;
use super::refusals::unpinnable;
use super::runs::{ResultBody, RunBody, RunPath, RunRow};
use super::signals::SignalBody;

/// Rows of a page, where the request says nothing.
const PAGE: usize = 50;
/// Rows of a page at most.
const LONGEST_PAGE: usize = 1_000;
/// Bytes of a memo's values together.
const LARGEST_MEMO: usize = 64 * 1024;
/// Bytes of a reason.
const LONGEST_REASON: usize = 2_000;

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
    /// The definition's version.
    pub version: String,
    /// `false` where the run was there before: the same Idempotency-Key, or
    /// `use_existing`.
    pub created: bool,
}

/// Start a run of a flow
#[utoipa::path(post, path = "/workflows", tag = "workflows",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again answers the same run, for 24 hours")),
    request_body = StartBody,
    responses(
        (status = 201, description = "Started; it survives any crash", body = StartedBody),
        (status = 200, description = "The run was there before", body = StartedBody),
        (status = 404, description = "No such flow or version", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The workflow id is taken", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn start(
    State(app): State<App>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    TraceParent(traceparent): TraceParent,
    Json(body): Json<StartBody>,
) -> Result<Response, Problem> {
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
    let memo = memo(body.memo)?;
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
    let input = body.input.map_or_else(Bytes::new, |raw| {
        Bytes::from(String::from(Box::<str>::from(raw)))
    });
    let request = Start {
        workflow_id: body.workflow_id,
        definition,
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
    let status = if started.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let location = format!(
        "/api/v1/workflows/{}/runs/{}",
        segment(&started.workflow_id),
        started.run_id
    );
    Ok((status, [(header::LOCATION, location)], JsonAnswer(started)).into_response())
}

/// A start, with everything found.
pub(super) struct Start {
    pub(super) workflow_id: Option<String>,
    pub(super) definition: PinnedDefinition,
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
        let workflow_type = start.definition.workflow_type.clone();
        let version = start.definition.version.to_string();
        let keyed = start.key.is_some();
        let Started { run_id, created } = self
            .engine
            .start(StartWorkflow {
                namespace: namespace.clone(),
                workflow_id: workflow_id.clone(),
                definition: start.definition,
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
            version,
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
            body.version = info.version.to_string();
        }
        Ok(body)
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

fn memo(values: BTreeMap<String, Value>) -> Result<BTreeMap<String, Payload>, Problem> {
    let memo: BTreeMap<String, Payload> = values
        .into_iter()
        .map(|(name, value)| (name, Payload::json(&value)))
        .collect();
    let size: usize = memo
        .iter()
        .map(|(name, value)| name.len() + value.data.len())
        .sum();
    if size > LARGEST_MEMO {
        return Err(Problem::too_large(format!(
            "the memo has {size} bytes, more than the {LARGEST_MEMO} allowed"
        )));
    }
    Ok(memo)
}

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// A filter, `WorkflowType = 'x' AND ExecutionStatus = 'Running'`.
    query: Option<String>,
    /// Rows, 1 to 1,000; 50 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunsBody {
    /// The runs.
    pub workflows: Vec<RunRow>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// The rows of a page.
///
/// # Errors
/// A problem that names the range.
pub(super) fn page_size(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(PAGE),
        Some(size) if (1..=LONGEST_PAGE).contains(&size) => Ok(size),
        Some(size) => Err(Problem::invalid(format!(
            "a page has 1 to {LONGEST_PAGE} rows, not {size}"
        ))),
    }
}

/// List runs, newest first
#[utoipa::path(get, path = "/workflows", tag = "workflows", params(ListQuery),
    responses((status = 200, body = RunsBody),
        (status = 400, description = "A malformed filter or page token", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<JsonAnswer<RunsBody>, Problem> {
    let page = app
        .engine
        .list(&ListRuns {
            namespace: caller.namespace,
            query: query.query,
            page_size: page_size(query.page_size)?,
            page_token: query.page_token,
        })
        .await?;
    Ok(JsonAnswer(RunsBody {
        workflows: page.runs.into_iter().map(Into::into).collect(),
        next_page_token: page.next_page_token,
    }))
}

/// Which runs to count.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CountQuery {
    /// A filter, `WorkflowType = 'x' AND ExecutionStatus = 'Running'`; all runs where
    /// absent.
    query: Option<String>,
}

/// How many runs match.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountBody {
    /// How many.
    pub count: u64,
}

/// Count runs
#[utoipa::path(get, path = "/workflow-count", tag = "workflows", params(CountQuery),
    responses((status = 200, body = CountBody),
        (status = 400, description = "A malformed filter", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn count(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<CountQuery>,
) -> Result<JsonAnswer<CountBody>, Problem> {
    let count = app
        .engine
        .count(&caller.namespace, query.query.as_deref())
        .await?;
    Ok(JsonAnswer(CountBody { count }))
}

/// Show a run
#[utoipa::path(get, path = "/workflows/{workflow_id}", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    responses((status = 200, body = RunBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<App>,
    RunPath(run): RunPath,
) -> Result<JsonAnswer<RunBody>, Problem> {
    let description = app.engine.describe(&run).await?;
    let closed = description.info.closed_at.is_some();
    let run = RunRef {
        run_id: Some(description.info.run_id),
        ..run
    };
    let mut body = RunBody::from(description);
    if closed && let Some(end) = app.engine.result(&run, std::time::Duration::ZERO).await? {
        body.failure = end.outcome.err().map(Into::into);
    }
    Ok(JsonAnswer(body))
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Wait so long for the end: `30s`, `500ms`, `1m`; at most a minute.
    pub(super) wait: Option<String>,
}

/// How a run ended
///
/// Answers with `status: "Running"` where it has not ended within `wait`.
#[utoipa::path(get, path = "/workflows/{workflow_id}/result", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), WaitQuery),
    responses((status = 200, body = ResultBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json")))]
pub(super) async fn result(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<WaitQuery>,
) -> Result<JsonAnswer<ResultBody>, Problem> {
    let wait = extract::wait(query.wait.as_deref())?;
    app.result_within(&run, wait).await.map(JsonAnswer)
}

impl App {
    /// A run's result, or that it is running after so long (or when the server stops).
    pub(super) async fn result_within(
        &self,
        run: &RunRef,
        wait: Option<std::time::Duration>,
    ) -> Result<ResultBody, Problem> {
        let wait = self.wait(wait)?;
        let end = tokio::select! {
            end = self.engine.result(run, wait.time) => end?,
            () = self.stopping.cancelled(), if !wait.time.is_zero() => None,
        };
        match end {
            Some(end) => self.ended(run.workflow_id.clone(), end).await,
            None => Ok(ResultBody::running(run.workflow_id.clone(), run.run_id)),
        }
    }
}

/// Which events to answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Events after this id; 0 where absent.
    #[serde(default)]
    after: u64,
    /// At most so many, 1 to 1,000; 50 where absent.
    limit: Option<usize>,
    /// Wait so long for the first one: `30s`.
    wait: Option<String>,
}

/// A page of a history.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    /// The run.
    pub run_id: Uuid,
    /// The events, ascending: `event_id`, `event_time`, `event_type`, `attributes`.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<HistoryEvent>,
    /// Whether the run has ended and this page has its last event.
    pub complete: bool,
}

/// A run's history
#[utoipa::path(get, path = "/workflows/{workflow_id}/history", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), HistoryQuery),
    responses((status = 200, body = HistoryBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json")))]
pub(super) async fn history(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<HistoryQuery>,
) -> Result<JsonAnswer<HistoryBody>, Problem> {
    let limit = page_size(query.limit)?;
    let wait = app.wait(extract::wait(query.wait.as_deref())?)?;
    let page = app
        .engine
        .history(&run, query.after, limit, wait.time)
        .await?;
    Ok(JsonAnswer(HistoryBody {
        run_id: page.run_id,
        events: page.events,
        complete: page.complete,
    }))
}

/// Why a run should end.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// For those who look at it later.
    #[serde(default)]
    pub reason: Option<String>,
}

impl ReasonBody {
    fn text(self) -> Result<String, Problem> {
        let reason = self.reason.unwrap_or_default();
        if reason.len() > LONGEST_REASON {
            return Err(Problem::invalid(format!(
                "a reason has at most {LONGEST_REASON} bytes"
            )));
        }
        Ok(reason)
    }
}

/// Ask a run to cancel
///
/// It may clean up first. Asking again changes nothing.
#[utoipa::path(post, path = "/workflows/{workflow_id}/cancel", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    request_body = ReasonBody,
    responses((status = 204, description = "It was asked"),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It has ended", content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(app): State<App>,
    RunPath(run): RunPath,
    Json(body): Json<ReasonBody>,
) -> Result<StatusCode, Problem> {
    app.engine.cancel(&run, &body.text()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End a run at once
#[utoipa::path(post, path = "/workflows/{workflow_id}/terminate", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    request_body = ReasonBody,
    responses((status = 204, description = "It has ended"),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It had ended before", content_type = "application/problem+json")))]
pub(super) async fn terminate(
    State(app): State<App>,
    RunPath(run): RunPath,
    Json(body): Json<ReasonBody>,
) -> Result<StatusCode, Problem> {
    app.engine.terminate(&run, &body.text()?).await?;
    Ok(StatusCode::NO_CONTENT)
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

    #[test]
    fn pages_have_a_size() {
        assert_eq!(page_size(None).ok(), Some(PAGE));
        assert_eq!(page_size(Some(1000)).ok(), Some(1000));
        assert!(page_size(Some(0)).is_err());
        assert!(page_size(Some(1001)).is_err());
    }
}
