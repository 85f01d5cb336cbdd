//! `/flows`: upload workflow definitions, look at their versions, make one active.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{Body, Caller, Json, Path, Query};
use super::problem::Problem;
use super::versions::{ActivateBody, PageQuery, created, version_handlers, yes};
use super::workflows::page_size;
use crate::registry::types::{FlowUpload, FlowVersion, Versions};
use crate::registry::{Kind, VersionView};

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
    let (FlowUpload::Created(version) | FlowUpload::Existing(version)) = &upload;
    if query.activate && !query.dry_run {
        app.follow(Kind::Flow, &caller.namespace, &version.name)
            .await;
    }
    Ok(match upload {
        FlowUpload::Created(version) => created(&version.name, &version.version, &version),
        FlowUpload::Existing(version) => JsonAnswer(version).into_response(),
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
