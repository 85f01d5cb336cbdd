//! `/model-pulls`: models that are being fetched from elsewhere ([`crate::pulls`]). A pull is
//! its server's own: others do not know it. Where they share the folder that it writes to, they
//! do not pull the same meanwhile.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use heyday_inference::{ModelError, ServedModel, StoreError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{Caller, Json, Path, Query, wait};
use super::models::{ModelInfo, free_name, inference, info, problem};
use super::pages::{PageQuery, page};
use super::problem::Problem;
use crate::pulls::source::Source;
use crate::pulls::{Pull, PullError, PullState, Wanted};
use crate::server::chain;

/// Bytes of a source's name.
const SOURCE_BYTES: usize = 1_024;

/// A model that is to be pulled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// What it will be called: 1 to 63 of a-z, 0-9 and -.
    pub name: String,
    /// `hub:NAME/ORG/MODEL[@REVISION]` of a hub of the configuration, or
    /// `blob:BINDING[/PREFIX]` of the namespace.
    pub source: String,
    /// The digest that the model must have, in hexadecimal, as `GET /models` tells it.
    pub digest: Option<String>,
}

/// A pull.
#[derive(Debug, Serialize, ToSchema)]
pub struct PullInfo {
    /// What the model will be called.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// `running`, `importing` (its files are there and are being checked), `done` or
    /// `failed`.
    pub state: &'static str,
    /// The file that comes now.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub file: String,
    /// Bytes that have come, those of an earlier try too.
    pub bytes: u64,
    /// Bytes of the files that are known so far.
    pub total: u64,
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub began_at: Timestamp,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The model, when it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelInfo>,
}

/// A page of pulls.
#[derive(Debug, Serialize, ToSchema)]
pub struct PullsBody {
    /// By name.
    pub pulls: Vec<PullInfo>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PullQuery {
    /// Answer when the pull has ended, or after that time, such as `30s`.
    wait: Option<String>,
}

fn told(pull: &Pull) -> PullInfo {
    let (state, error, model) = match &pull.state {
        PullState::Running => ("running", None, None),
        PullState::Importing => ("importing", None, None),
        PullState::Done(model) => {
            let model = ServedModel::Stored(std::sync::Arc::clone(model));
            ("done", None, Some(info(&model, &[])))
        }
        PullState::Failed(error) => ("failed", Some(said(error)), None),
    };
    PullInfo {
        name: pull.wanted.name.clone(),
        source: pull.wanted.source.clone(),
        state,
        file: pull.file.clone(),
        bytes: pull.bytes,
        total: pull.total,
        began_at: pull.began_at,
        error,
        model,
    }
}

/// Why a pull failed, for a client: without paths of the server.
fn said(error: &PullError) -> String {
    match error {
        PullError::Io { .. }
        | PullError::Store(StoreError::Io { .. } | StoreError::Refused(ModelError::Io { .. })) => {
            "its files cannot be written or read; the server's log has the cause".to_owned()
        }
        error => chain(error),
    }
}

fn refused(error: &PullError) -> Problem {
    let detail = chain(error);
    match error {
        PullError::Running(_) => Problem::conflict("pull-running", "It is being pulled", detail),
        PullError::TooMany => Problem::unavailable("too-many-waiting", detail),
        _ => Problem::invalid(detail),
    }
}

/// Pull a model
///
/// Its files are fetched from a hub or a container, checked, and imported as by
/// `POST /models`. The answer does not wait for that. What was interrupted goes on where it
/// was when the same is asked for again.
#[utoipa::path(post, path = "/model-pulls", tag = "models", request_body = PullRequest,
    responses((status = 202, body = PullInfo),
        (status = 400, description = "A wrong name, or no such source", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The name is taken, or it is being pulled", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many are being pulled as the server lets", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn begin(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<PullRequest>,
) -> Result<(StatusCode, JsonAnswer<PullInfo>), Problem> {
    let inference = inference(&app)?;
    let name = body.name;
    if !heyday_inference::store::is_model_name(&name) {
        return Err(problem(&StoreError::InvalidName(name)));
    }
    free_name(&inference, &name)?;
    let hexadecimal =
        |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if body.digest.as_ref().is_some_and(|text| !hexadecimal(text)) {
        return Err(Problem::invalid("`digest` has 64 hexadecimal digits"));
    }
    if body.source.len() > SOURCE_BYTES {
        return Err(Problem::invalid(format!(
            "`source` has at most {SOURCE_BYTES} bytes"
        )));
    }
    let source = Source::find(
        &body.source,
        &app.hubs,
        app.registry.bound(),
        &caller.namespace,
    );
    let source = source.map_err(|error| refused(&error.into()))?;
    let wanted = Wanted {
        name,
        source: body.source,
        digest: body.digest.map(|text| text.to_ascii_lowercase()),
    };
    let details = json!({ "source": wanted.source });
    let begun = app.pulls.begin(&inference, wanted, source);
    let pull = begun.map_err(|error| refused(&error))?;
    app.registry
        .note(caller.actor(), "model.pull", &pull.wanted.name, details)
        .await;
    Ok((StatusCode::ACCEPTED, JsonAnswer(told(&pull))))
}

/// List the pulls
///
/// Those that are under way, and the last ones that ended since the server was started. Each
/// server knows its own.
#[utoipa::path(get, path = "/model-pulls", tag = "models", params(PageQuery),
    responses((status = 200, body = PullsBody)))]
pub(super) async fn list(
    State(app): State<App>,
    _: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<PullsBody>, Problem> {
    let (size, token) = (query.page_size, query.page_token.as_deref());
    let name = |pull: &Pull| pull.wanted.name.clone();
    let (pulls, next_page_token) = page(app.pulls.list(), size, token, name)?;
    Ok(JsonAnswer(PullsBody {
        pulls: pulls.iter().map(told).collect(),
        next_page_token,
    }))
}

/// Show a pull
#[utoipa::path(get, path = "/model-pulls/{name}", tag = "models",
    params(PullQuery, ("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = PullInfo),
        (status = 404, description = "No such pull", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
    Query(query): Query<PullQuery>,
) -> Result<JsonAnswer<PullInfo>, Problem> {
    let mut follow = app.pulls.follow(&name).ok_or_else(|| none(&name))?;
    let wait = app.wait(wait(query.wait.as_deref())?)?;
    // Out of time, or the server stops: as it is now.
    let _ = tokio::time::timeout(wait.time, follow.wait_for(Pull::has_ended)).await;
    let pull = follow.borrow().clone();
    Ok(JsonAnswer(told(&pull)))
}

/// Give a pull up
///
/// What came of it is kept for the next time. One whose files have come, and are being checked,
/// goes on to its end.
#[utoipa::path(delete, path = "/model-pulls/{name}", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 204, description = "It ends"),
        (status = 404, description = "No such pull", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    if app.pulls.cancel(&name) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none(&name))
    }
}

fn none(name: &str) -> Problem {
    Problem::not_found(format!(
        "this server knows no pull of a model {name}; of several servers behind one address, ask \
         the one that began it"
    ))
}
