//! `/replays` and what belongs to it: a run's history as a file, a history against a
//! definition, and open runs against a version (see [`crate::replays`]).

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use heyday_durable::definition::{PinnedDefinition, WorkflowReference};
use heyday_durable::payload::Digest;
use heyday_durable::replay::{
    About, Difference, HistoryError, MAX_BYTES, RecordedHistory, ReplayError,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{BodyLimit, Caller, Json, Path, Query};
use super::pages::PageQuery;
use super::problem::{Problem, ProblemError};
use super::runs::RunPath;
use crate::registry::parse_version;
use crate::replays::{Against, GateLimits, ReplayGate, ReplayedRun, ReplaysError, RunsReplayed};

/// Of a history, with a flow beside it.
pub(super) const HISTORY_BODY: BodyLimit = BodyLimit {
    bytes: MAX_BYTES + (2 << 20),
    advice: "a history has at most 32 MiB",
};
/// Runs of a page that are replayed, where the request says nothing.
const PAGE: usize = 20;
/// Runs of a page that are replayed, at most.
const LONGEST_PAGE: usize = 100;

/// A history, and what to replay it against.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    /// The history: what `GET /workflows/{workflow_id}/export` answers, or Temporal's JSON
    /// (`temporal workflow show --output json`).
    #[schema(value_type = Value)]
    pub history: Box<RawValue>,
    /// A flow, YAML or JSON, that is stored nowhere. Neither this nor a name or version: the
    /// definition that the run is pinned to.
    #[serde(default)]
    pub flow: Option<String>,
    /// A flow that is stored; the history's where absent.
    #[serde(default)]
    pub workflow_type: Option<String>,
    /// Its version; the active one where absent.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether values are compared too, such as inputs and timeouts; where absent, they
    /// are where the definition is the run's own.
    #[serde(default)]
    pub exact: Option<bool>,
}

/// The definition that a history was replayed against.
#[derive(Debug, Serialize, ToSchema)]
pub struct DefinitionBody {
    /// The flow.
    pub workflow_type: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    #[schema(value_type = String)]
    pub digest: Digest,
}

/// How a replay ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayedBody {
    /// Whether the definition commands what the history says was commanded.
    pub agrees: bool,
    /// Whether values were compared too.
    pub exact: bool,
    /// Where they first differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub difference: Option<Difference>,
    /// What the history says of itself.
    #[schema(value_type = Object)]
    pub history: About,
    /// What it was replayed against.
    pub definition: DefinitionBody,
}

/// Replay a history against a definition
///
/// Nothing runs and nothing is stored.
#[utoipa::path(post, path = "/replays", tag = "workflows", request_body = ReplayBody,
    responses((status = 200, description = "It was replayed; `agrees` says how it ended", body = ReplayedBody),
        (status = 404, description = "There is no such definition", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The history is too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It is no history that can be replayed, or the flow cannot run", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many are replayed as the server lets", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<ReplayBody>,
) -> Result<JsonAnswer<ReplayedBody>, Problem> {
    let names_one = body.workflow_type.is_some() || body.version.is_some();
    if body.flow.is_some() && names_one {
        return Err(Problem::invalid(
            "a history is replayed against a flow that is given or against one that is named, not both",
        ));
    }
    let version = body.version.as_deref().map(parse_version).transpose()?;
    // Parsing one of the largest takes a while.
    let text = body.history;
    let history =
        tokio::task::spawn_blocking(move || RecordedHistory::parse(text.get().as_bytes()))
            .await
            .map_err(|error| Problem::internal(&error))??;
    let about = history.about();
    let against = match body.flow {
        Some(flow) => Against::Document(Bytes::from(flow)),
        None if names_one => Against::Version(WorkflowReference {
            workflow_type: body
                .workflow_type
                .unwrap_or_else(|| about.workflow_type.clone()),
            version,
        }),
        None => Against::Own,
    };
    let replayed = app
        .replays
        .history(&caller.namespace, &history, against, body.exact)
        .await?;
    Ok(JsonAnswer(ReplayedBody {
        agrees: replayed.report.difference.is_none(),
        exact: replayed.exact,
        difference: replayed.report.difference,
        history: about,
        definition: DefinitionBody {
            workflow_type: replayed.definition.workflow_type,
            version: replayed.definition.version.to_string(),
            digest: replayed.definition.digest,
        },
    }))
}

/// What of a history is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// Whether with the values over 256 KiB that it names, so that it can be replayed
    /// anywhere (the default); `false`: as Temporal's own tools read it.
    #[serde(default)]
    values: Option<bool>,
}

/// A run's history as a file
///
/// All that is recorded until now: on the embedded engine its own bytes in an envelope of
/// JSON, on a Temporal cluster Temporal's JSON. Where it names values over 256 KiB, these
/// stand beside the events, in the member `values`. `POST /replays` takes all of this.
#[utoipa::path(get, path = "/workflows/{workflow_id}/export", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), ExportQuery),
    responses((status = 200, description = "The history", body = Object),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 422, body = Problem, description = "It is a foreign workflow's, or too large", content_type = "application/problem+json")))]
pub(super) async fn export(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let mut history = app.engine.recorded(&run).await?;
    if query.values.unwrap_or(true) {
        let whole = history.with_values(app.payloads.as_ref()).await;
        history = whole.map_err(ReplaysError::Replay)?;
    }
    let text = tokio::task::spawn_blocking(move || history.to_json().to_string())
        .await
        .map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// A page of open runs that were replayed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplaysBody {
    /// How each ended. A page may have fewer than were asked for, or none: runs that are
    /// pinned to this version are left out.
    pub replays: Vec<ReplayedRun>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Replay open runs against a version of their flow
///
/// The runs that are pinned to another version: which of them would have gone another way
/// under this one. They keep their version, and nothing changes.
#[utoipa::path(get, path = "/flows/{name}/versions/{version}/replays", tag = "flows",
    params(("name" = String, Path, description = "The flow"),
        ("version" = String, Path, description = "The version"), PageQuery),
    responses((status = 200, body = ReplaysBody),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many are replayed as the server lets", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn open_runs(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ReplaysBody>, Problem> {
    let page_size = match query.page_size {
        None => PAGE,
        Some(size) if (1..=LONGEST_PAGE).contains(&size) => size,
        Some(size) => {
            return Err(Problem::invalid(format!(
                "a page has 1 to {LONGEST_PAGE} runs, not {size}"
            )));
        }
    };
    let reference = WorkflowReference {
        workflow_type: name,
        version: Some(parse_version(&version)?),
    };
    let engine = app.engine.as_ref();
    let RunsReplayed {
        runs,
        next_page_token,
    } = app
        .replays
        .open_runs(
            engine,
            &caller.namespace,
            &reference,
            page_size,
            query.page_token,
        )
        .await?;
    Ok(JsonAnswer(ReplaysBody {
        replays: runs,
        next_page_token,
    }))
}

/// What happens where open runs diverge from a version that is to be active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnDivergence {
    /// They are listed in the answer.
    #[default]
    Inform,
    /// The version does not become active, also where it could not be told of a run.
    Refuse,
}

/// How to take an activation of a flow.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GateQuery {
    /// Where open runs of the version that is active now diverge: `inform` (the default)
    /// or `refuse`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub(super) on_divergence: OnDivergence,
}

impl App {
    /// Replays the open runs of a flow's active version against one that is to be active.
    ///
    /// # Errors
    /// Where that is asked for, when one diverges, or it cannot be told of all.
    pub(super) async fn gate(
        &self,
        caller: &Caller,
        definition: &PinnedDefinition,
        on_divergence: OnDivergence,
    ) -> Result<Option<ReplayGate>, Problem> {
        let refuses = on_divergence == OnDivergence::Refuse;
        let limits = if refuses {
            GateLimits::REFUSE
        } else {
            GateLimits::INFORM
        };
        let engine = self.engine.as_ref();
        let gate = self
            .replays
            .gate(engine, &caller.namespace, definition, limits)
            .await;
        match gate {
            Some(gate) if refuses && !gate.agrees() => Err(refused(definition, &gate)),
            gate => Ok(gate),
        }
    }
}

impl App {
    /// As [`gate`](Self::gate), of a version that is stored.
    ///
    /// # Errors
    /// As there, or when there is no such version.
    pub(super) async fn gate_version(
        &self,
        caller: &Caller,
        name: &str,
        version: semver::Version,
        on_divergence: OnDivergence,
    ) -> Result<Option<ReplayGate>, Problem> {
        let reference = WorkflowReference {
            workflow_type: name.to_owned(),
            version: Some(version),
        };
        let definition = self
            .registry
            .pin_flow(&caller.namespace, &reference)
            .await?;
        self.gate(caller, &definition, on_divergence).await
    }
}

/// The refusal of a version from which open runs diverge.
pub(super) fn refused(definition: &PinnedDefinition, gate: &ReplayGate) -> Problem {
    let mut why = Vec::new();
    if !gate.diverging.is_empty() {
        why.push(format!("{} diverge", gate.diverging.len()));
    }
    if !gate.unknown.is_empty() {
        why.push(format!("of {} it cannot be told", gate.unknown.len()));
    }
    if !gate.complete {
        why.push("not all could be replayed".to_owned());
    }
    let detail = format!(
        "{} {} was not made active: of the open runs of {}, {}; nothing was changed",
        definition.workflow_type,
        definition.version,
        gate.version,
        why.join(", "),
    );
    let runs = gate.diverging.iter().chain(&gate.unknown);
    let errors = runs.take(20).map(|run| ProblemError {
        message: match (&run.difference, &run.reason) {
            (Some(difference), _) => difference.message.clone(),
            (None, reason) => reason.clone().unwrap_or_default(),
        },
        name: Some(run.workflow_id.clone()),
        ..ProblemError::default()
    });
    Problem::conflict("replay-diverges", "Open runs diverge", detail)
        .with_errors(errors.collect())
        .with("replay", serde_json::to_value(gate).unwrap_or_default())
}

/// A history that cannot be replayed.
pub(super) fn unusable(detail: impl Into<String>) -> Problem {
    Problem::unprocessable("history-unusable", "The history cannot be replayed", detail)
}

impl From<HistoryError> for Problem {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::TooLarge { .. } => Self::too_large(error.to_string()),
            error => unusable(error.to_string()),
        }
    }
}

impl From<ReplaysError> for Problem {
    fn from(error: ReplaysError) -> Self {
        let detail = error.to_string();
        match error {
            ReplaysError::Definition(error) => error.into(),
            ReplaysError::Engine(error) => error.into(),
            ReplaysError::NotHere { .. } => Self::not_found(detail),
            ReplaysError::Busy => Self::unavailable("too-many-waiting", detail),
            ReplaysError::Replay(ReplayError::Unavailable(_)) => {
                Self::unavailable("replay-unavailable", detail)
            }
            ReplaysError::Replay(_)
            | ReplaysError::OtherNamespace { .. }
            | ReplaysError::TooLong => unusable(detail),
        }
    }
}
