//! `/plugins`: upload components, look at their versions, make one active.

use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use heyday_durable::engine::EngineError;
use heyday_durable::payload::Digest;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{self, Body, Caller, Json, Path, Query};
use super::pages::{PageQuery, page_size};
use super::problem::Problem;
use super::versions::{ActivateBody, created, version_handlers, yes};
use super::workflows::WaitQuery;
use crate::registry::types::{
    NameSummary, PluginVersion, Upload, UploadOptions, UploadStatus, VersionState, Versions,
};
use crate::registry::{Kind, VersionView};

/// How long an upload waits to be compiled, where the request says nothing.
const UPLOAD_WAIT: Duration = Duration::from_secs(20);

/// How to take an upload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadQuery {
    /// Make it the active version, if no grant is missing; `true` where absent.
    #[serde(default = "yes")]
    activate: bool,
    /// Store it as `VERSION-dev.DIGEST8`, so that a number may be pushed again.
    #[serde(default)]
    dev: bool,
    /// Make it active although grants are missing; what lacks one is denied when called.
    #[serde(default)]
    allow_missing: bool,
    /// Wait so long until it is compiled: `30s`; 20 s where absent.
    wait: Option<String>,
}

/// Upload a plugin
///
/// The body is the component. The same bytes again answer the same version.
#[utoipa::path(post, path = "/plugins", tag = "plugins", params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 201, description = "It is a version now", body = PluginVersion),
        (status = 200, description = "The same bytes were a version before", body = PluginVersion),
        (status = 202, description = "It is not compiled yet; `Location` says where to ask", body = UploadStatus),
        (status = 409, description = "The version has other bytes", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "No component, or one that cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The server stops, or as many wait or stream as it lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn upload(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<UploadQuery>,
    Body(bytes): Body,
) -> Result<Response, Problem> {
    let options = UploadOptions {
        activate: query.activate,
        dev: query.dev,
        allow_missing: query.allow_missing,
    };
    let wait = extract::wait(query.wait.as_deref())?.unwrap_or(UPLOAD_WAIT);
    let wait = app.wait(Some(wait))?;
    let upload = app
        .registry
        .upload_plugin(caller.actor(), bytes.clone(), options, wait.time);
    let upload = match app.unless_stopping(&wait, upload).await {
        Some(upload) => upload?,
        // What was taken goes on at the next start.
        None => {
            let digest = Digest::of(&bytes);
            match app.registry.upload_status(&caller.namespace, &digest) {
                Ok(status) if status.state == VersionState::Compiling => Upload::Pending(status),
                _ => return Err(EngineError::ShuttingDown.into()),
            }
        }
    };
    Ok(match upload {
        Upload::Created(version) => {
            created(Kind::Plugin, &version.name, &version.version, &version)
        }
        Upload::Existing(version) => JsonAnswer(version).into_response(),
        Upload::Pending(status) => pending(status),
    })
}

fn pending(status: UploadStatus) -> Response {
    let location = format!("/api/v1/uploads/{}", status.digest);
    (
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        JsonAnswer(status),
    )
        .into_response()
}

/// What an upload has become.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum UploadBody {
    /// A version.
    Version(Box<PluginVersion>),
    /// None, or none yet.
    Status(UploadStatus),
}

/// Where an upload stands
///
/// By its digest, `sha256:` and 64 hexadecimal digits. With `wait`, answers when its state is final.
#[utoipa::path(get, path = "/uploads/{digest}", tag = "plugins",
    params(("digest" = String, Path, description = "The digest that the upload answered"), WaitQuery),
    responses((status = 200, description = "The version, or why there is none", body = UploadBody),
        (status = 202, description = "Not yet", body = UploadStatus),
        (status = 404, description = "No such upload", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn upload_status(
    State(app): State<App>,
    caller: Caller,
    Path(digest): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Response, Problem> {
    let digest: Digest =
        digest
            .parse()
            .map_err(|error: heyday_durable::payload::ParseDigestError| {
                Problem::invalid(error.to_string())
            })?;
    let wait = app.wait(extract::wait(query.wait.as_deref())?)?;
    let answered = app
        .registry
        .await_upload(&caller.namespace, &digest, wait.time);
    let answered = app.unless_stopping(&wait, answered).await;
    if let Some(Ok(Upload::Created(version) | Upload::Existing(version))) = answered {
        return Ok(JsonAnswer(UploadBody::Version(Box::new(version))).into_response());
    }
    let status = app.registry.upload_status(&caller.namespace, &digest)?;
    if let Some(Err(error)) = answered
        && status.state != VersionState::Failed
    {
        return Err(error.into());
    }
    Ok(match status.state {
        VersionState::Failed => JsonAnswer(UploadBody::Status(status)).into_response(),
        _ => pending(status),
    })
}

/// A version's component
#[utoipa::path(get, path = "/plugins/{name}/versions/{version}/component", tag = "plugins",
    params(("name" = String, Path, description = "The plugin"), ("version" = String, Path, description = "The version")),
    responses((status = 200, description = "The bytes as uploaded", content_type = "application/wasm", body = Vec<u8>),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn component(
    State(app): State<App>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let bytes = app
        .registry
        .bytes(Kind::Plugin, &caller.namespace, &name, &version)
        .await?;
    Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes).into_response())
}

version_handlers!(plugins, "plugin", PluginVersion, PluginsBody);

/// Make a version the active one
#[utoipa::path(post, path = "/plugins/{name}/activate", tag = "plugins",
    params(("name" = String, Path, description = "The plugin")),
    request_body = ActivateBody,
    responses((status = 200, body = PluginVersion),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A plugin's grants are missing", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn activate(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<ActivateBody>,
) -> Result<JsonAnswer<PluginVersion>, Problem> {
    let version = app
        .registry
        .activate(caller.actor(), &name, &body.version, body.allow_missing)
        .await?;
    Ok(JsonAnswer(version))
}

/// How to go back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RollbackQuery {
    /// The version that is left; whichever is active where absent. With it, a rollback that is
    /// asked for again goes back once.
    from: Option<String>,
}

/// Make the version before the active one active again
#[utoipa::path(post, path = "/plugins/{name}/rollback", tag = "plugins",
    params(("name" = String, Path, description = "The plugin"), RollbackQuery),
    responses((status = 200, body = PluginVersion),
        (status = 400, description = "`from` is no version", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such plugin", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is none before, or `from` is not the active one", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn rollback(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<RollbackQuery>,
) -> Result<JsonAnswer<PluginVersion>, Problem> {
    let from = query.from.as_deref();
    let version = app.registry.rollback(caller.actor(), &name, from).await?;
    Ok(JsonAnswer(version))
}
