//! `/flows`: upload workflow definitions, look at their versions, make one active.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{Body, Caller, Json, Path, Query};
use super::pages::{PageQuery, page_size};
use super::problem::Problem;
use super::replays::{GateQuery, OnDivergence};
use super::versions::{ActivateBody, created, version_handlers, yes};
use crate::registry::types::{FlowUpload, FlowVersion, NameSummary, UploadOptions, Versions};
use crate::registry::{Kind, VersionView, parse_version};
use crate::replays::ReplayGate;

/// How to take an upload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// Make it the active version; `true` where absent.
    #[serde(default = "yes")]
    activate: bool,
    /// Store it as `VERSION-dev.DIGEST8`, so that a number may be pushed again.
    #[serde(default)]
    dev: bool,
    /// Check it without storing it.
    #[serde(default)]
    dry_run: bool,
    /// Where open runs of the version that is active now diverge from it: `inform` (the
    /// default) or `refuse`. Nothing is stored where it is refused.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    on_divergence: OnDivergence,
}

/// A version, with what its replay gate found.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowAnswer {
    /// The version.
    #[serde(flatten)]
    pub version: FlowVersion,
    /// How the open runs of the version that was active before replayed against this one;
    /// absent where it was not made active, or nothing was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayGate>,
}

/// Upload a flow
///
/// The body is a document of the Serverless Workflow DSL 1.0, YAML or JSON. The same
/// bytes again answer the same version. Where it becomes active, the open runs of the
/// version that was active are replayed against it first.
#[utoipa::path(post, path = "/flows", tag = "flows", params(UploadQuery),
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 201, description = "It is a version now", body = FlowAnswer),
        (status = 200, description = "The same bytes were a version before, or `dry_run`", body = FlowAnswer),
        (status = 409, description = "The version has other bytes, or open runs diverge and that is refused", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It cannot run; `errors` name line, pointer and reason", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn upload(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<UploadQuery>,
    Body(bytes): Body,
) -> Result<Response, Problem> {
    let activates = query.activate && !query.dry_run;
    let replay = if activates {
        let definition = app
            .registry
            .flow_of(&caller.namespace, &bytes, query.dev)
            .await?;
        app.gate(&caller, &definition, query.on_divergence).await?
    } else {
        None
    };
    let options = UploadOptions {
        activate: query.activate,
        dev: query.dev,
        ..UploadOptions::default()
    };
    let upload = app
        .registry
        .upload_flow(caller.actor(), bytes, options, query.dry_run)
        .await?;
    let (FlowUpload::Created(version) | FlowUpload::Existing(version)) = &upload;
    if activates {
        app.follow(Kind::Flow, &caller.namespace, &version.name)
            .await;
    }
    Ok(match upload {
        FlowUpload::Created(version) => {
            let (name, number) = (version.name.clone(), version.version.clone());
            let body = FlowAnswer { version, replay };
            created(Kind::Flow, &name, &number, &body)
        }
        FlowUpload::Existing(version) => JsonAnswer(FlowAnswer { version, replay }).into_response(),
    })
}

/// A version's document
#[utoipa::path(get, path = "/flows/{name}/versions/{version}/document", tag = "flows",
    params(("name" = String, Path, description = "The flow"), ("version" = String, Path, description = "The version")),
    responses((status = 200, description = "The text as uploaded", content_type = "application/yaml", body = String),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn document(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let bytes = app
        .registry
        .bytes(Kind::Flow, &caller.namespace, &name, &version)
        .await?;
    // JSON is YAML.
    Ok(([(header::CONTENT_TYPE, "application/yaml")], bytes).into_response())
}

version_handlers!(flows, "flow", FlowVersion, FlowsBody);

/// Make a version the active one
///
/// The open runs of the version that was active are replayed against it first.
#[utoipa::path(post, path = "/flows/{name}/activate", tag = "flows",
    params(("name" = String, Path, description = "The flow"), GateQuery),
    request_body = ActivateBody,
    responses((status = 200, body = FlowAnswer),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Open runs diverge, and that is refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn activate(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<GateQuery>,
    Json(body): Json<ActivateBody>,
) -> Result<JsonAnswer<FlowAnswer>, Problem> {
    let version = parse_version(&body.version)?;
    let replay = app
        .gate_version(&caller, &name, version, query.on_divergence)
        .await?;
    let version = app
        .registry
        .activate(caller.actor(), &name, &body.version, body.allow_missing)
        .await?;
    app.follow(Kind::Flow, &caller.namespace, &name).await;
    Ok(JsonAnswer(FlowAnswer { version, replay }))
}

/// How to go back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RollbackQuery {
    /// The version that is left; whichever is active where absent. With it, a rollback that is
    /// asked for again goes back once.
    from: Option<String>,
    /// Where open runs of the version that is active now diverge: `inform` (the default)
    /// or `refuse`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    on_divergence: OnDivergence,
}

/// Make the version before the active one active again
///
/// The open runs of the version that was active are replayed against it first.
#[utoipa::path(post, path = "/flows/{name}/rollback", tag = "flows",
    params(("name" = String, Path, description = "The flow"), RollbackQuery),
    responses((status = 200, body = FlowAnswer),
        (status = 400, description = "`from` is no version", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such flow", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is none before, `from` is not the active one, or open runs diverge and that is refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn rollback(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<RollbackQuery>,
) -> Result<JsonAnswer<FlowAnswer>, Problem> {
    let before = app
        .registry
        .version_before(Kind::Flow, &caller.namespace, &name)?;
    let replay = app
        .gate_version(&caller, &name, before, query.on_divergence)
        .await?;
    let from = query.from.as_deref();
    let version = app.registry.rollback(caller.actor(), &name, from).await?;
    app.follow(Kind::Flow, &caller.namespace, &name).await;
    Ok(JsonAnswer(FlowAnswer { version, replay }))
}
