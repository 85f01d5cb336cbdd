//! `/flows`: upload workflow definitions, look at their versions, make one active.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{Body, Caller, Json, Path, Query};
use super::plugins::PageQuery;
use super::problem::Problem;
use super::workflows::page_size;
use crate::registry::types::{FlowUpload, FlowVersion, Versions};

/// How to take an upload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// Make it the active version; `true` where absent.
    #[serde(default = "yes")]
    activate: bool,
    /// Check it without storing it.
    #[serde(default)]
    dry_run: bool,
}

fn yes() -> bool {
    true
}

/// Upload a flow
///
/// The body is a document of the Serverless Workflow DSL 1.0, YAML or JSON. The same
/// bytes again answer the same version.
#[utoipa::path(post, path = "/flows", tag = "flows", params(UploadQuery),
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 201, description = "It is a version now", body = FlowVersion),
        (status = 200, description = "The same bytes were a version before, or `dry_run`", body = FlowVersion),
        (status = 409, description = "The version has other bytes", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It cannot run; `errors` name line, pointer and reason", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn upload(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<UploadQuery>,
    Body(bytes): Body,
) -> Result<Response, Problem> {
    let upload = app
        .registry
        .upload_flow(caller.actor(), bytes, query.activate, query.dry_run)
        .await?;
    Ok(match upload {
        FlowUpload::Created(version) => {
            let location = format!(
                "/api/v1/flows/{}/versions/{}",
                version.name, version.version
            );
            (
                StatusCode::CREATED,
                [(header::LOCATION, location)],
                JsonAnswer(version),
            )
                .into_response()
        }
        FlowUpload::Existing(version) => JsonAnswer(version).into_response(),
    })
}

/// A page of flows, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowsBody {
    /// The flows.
    pub flows: Vec<Versions>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// List flows
#[utoipa::path(get, path = "/flows", tag = "flows", params(PageQuery),
    responses((status = 200, body = FlowsBody)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<FlowsBody>, Problem> {
    let limit = page_size(query.page_size)?;
    let page = app
        .registry
        .flows(&caller.namespace, query.page_token.as_deref(), limit);
    Ok(JsonAnswer(FlowsBody {
        flows: page.rows,
        next_page_token: page.next,
    }))
}

/// Show a flow with its versions
#[utoipa::path(get, path = "/flows/{name}", tag = "flows",
    params(("name" = String, Path, description = "The flow")),
    responses((status = 200, body = Versions),
        (status = 404, description = "No such flow", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<Versions>, Problem> {
    Ok(JsonAnswer(app.registry.flow(&caller.namespace, &name)?))
}

/// Show a version of a flow
#[utoipa::path(get, path = "/flows/{name}/versions/{version}", tag = "flows",
    params(("name" = String, Path, description = "The flow"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = FlowVersion),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn version(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<JsonAnswer<FlowVersion>, Problem> {
    let version = app
        .registry
        .flow_version(&caller.namespace, &name, &version)?;
    Ok(JsonAnswer(version))
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
        .flow_document(&caller.namespace, &name, &version)
        .await?;
    // JSON is YAML.
    Ok(([(header::CONTENT_TYPE, "application/yaml")], bytes).into_response())
}

/// Remove a version
///
/// Refused while it is active or an open run needs it.
#[utoipa::path(delete, path = "/flows/{name}/versions/{version}", tag = "flows",
    params(("name" = String, Path, description = "The flow"), ("version" = String, Path, description = "The version")),
    responses((status = 204, description = "Removed"),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is needed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    app.registry
        .remove_flow_version(caller.actor(), &name, &version, app.engine.as_ref())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which version new runs should use.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateFlowBody {
    /// The version.
    pub version: String,
}

/// Make a version the active one
#[utoipa::path(post, path = "/flows/{name}/activate", tag = "flows",
    params(("name" = String, Path, description = "The flow")), request_body = ActivateFlowBody,
    responses((status = 200, body = FlowVersion),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn activate(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<ActivateFlowBody>,
) -> Result<JsonAnswer<FlowVersion>, Problem> {
    let version = app
        .registry
        .activate_flow(caller.actor(), &name, &body.version)
        .await?;
    Ok(JsonAnswer(version))
}

/// Make the version before the active one active again
#[utoipa::path(post, path = "/flows/{name}/rollback", tag = "flows",
    params(("name" = String, Path, description = "The flow")),
    responses((status = 200, body = FlowVersion),
        (status = 404, description = "No such flow", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is none before", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn rollback(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<FlowVersion>, Problem> {
    Ok(JsonAnswer(
        app.registry.rollback_flow(caller.actor(), &name).await?,
    ))
}
