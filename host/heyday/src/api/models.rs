//! `/models`: the models that plugins can be granted. They belong to the server, not to a
//! namespace: weights are nobody's data.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use heyday_inference::{Inference, ModelError, ServedModel, StoreError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::extract::{Caller, Json, Path, Query};
use super::pages::{PageQuery, page};
use super::problem::Problem;
use super::{App, openai};
use crate::server::{blocking, chain};

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// Its name, for grants: `inference=NAME`.
    pub name: String,
    /// Whether it runs elsewhere: then the next three are absent.
    pub remote: bool,
    /// SHA-256 over the names and digests of its files, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub imported_at: Option<Timestamp>,
    /// What it is: `task` (`embed`, `rerank` or `generate`), `architecture`, `dimensions`,
    /// `pooling`, `normalized`, `window`, `parameters`, `memory_bytes`, `prompts`.
    #[schema(value_type = Object)]
    pub properties: Value,
    /// Whether it is in this server's memory now.
    pub loaded: bool,
}

/// A page of models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelsBody {
    /// By name.
    pub models: Vec<ModelInfo>,
    /// Where they run: `cpu`, or a GPU's name.
    pub device: String,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A model that is to be imported.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// What it will be called: 1 to 63 of a-z, 0-9 and -.
    pub name: String,
    /// An absolute path on the server's machine: a folder with `config.json`,
    /// `tokenizer.json` and `model.safetensors`, or a model's folder in the model hub's cache.
    #[schema(value_type = String)]
    pub path: PathBuf,
}

pub(super) fn info(model: &ServedModel, loaded: &[String]) -> ModelInfo {
    let stored = model.stored();
    let imported_at = stored.map(|it| {
        let milliseconds = i64::try_from(it.imported_ms).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(milliseconds).unwrap_or_default()
    });
    ModelInfo {
        name: model.name().to_owned(),
        remote: stored.is_none(),
        digest: stored.map(|it| it.digest.clone()),
        size: stored.map(|it| it.files.iter().map(|file| file.size).sum()),
        imported_at,
        properties: serde_json::to_value(model.properties()).unwrap_or_default(),
        loaded: stored.is_some_and(|it| loaded.contains(&it.name)),
    }
}

/// Refuses a name that a model elsewhere has: the imported one would be hidden by it.
pub(super) fn free_name(inference: &Inference, name: &str) -> Result<(), Problem> {
    match inference.model(name) {
        Some(ServedModel::Remote { .. }) => Err(Problem::conflict(
            "model-exists",
            "There is such a model",
            format!("the configuration has a model {name}, which runs elsewhere; use another name"),
        )),
        _ => Ok(()),
    }
}

/// What is told of a model after something was done with it.
fn told(inference: &Inference, model: ServedModel) -> JsonAnswer<ModelInfo> {
    let (loaded, _) = inference.in_memory();
    JsonAnswer(info(&model, &loaded))
}

/// The model of that name.
fn find(inference: &Inference, name: &str) -> Result<ServedModel, Problem> {
    let model = inference.model(name);
    model.ok_or_else(|| problem(&StoreError::NotFound(name.to_owned())))
}

pub(super) fn inference(app: &App) -> Result<Inference, Problem> {
    app.registry
        .inference()
        .cloned()
        .ok_or_else(|| Problem::not_found("this server runs no models"))
}

pub(super) fn problem(error: &StoreError) -> Problem {
    match error {
        StoreError::InvalidName(_) => Problem::invalid(error.to_string()),
        StoreError::NotFound(name) => Problem::not_found(format!(
            "there is no model {name}; `heyday model list` shows those that there are"
        )),
        StoreError::Exists(_) => {
            Problem::conflict("model-exists", "There is such a model", error.to_string())
        }
        // The path is the caller's own.
        StoreError::Refused(ModelError::Io { .. } | ModelError::Missing { .. }) => {
            Problem::invalid(chain(error))
        }
        StoreError::Refused(_) | StoreError::Digest { .. } => Problem::unprocessable(
            "model-refused",
            "The model cannot be used here",
            chain(error),
        ),
        StoreError::Damaged { .. } => {
            Problem::conflict("model-damaged", "The model is damaged", error.to_string())
        }
        StoreError::Io { .. } => Problem::internal(&chain(error)),
    }
}

/// Runs what reads and writes files of the store.
async fn with_store<T: Send + 'static>(
    inference: &Inference,
    work: impl FnOnce(&heyday_inference::ModelStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let store = Arc::clone(inference.store());
    blocking(move || work(&store))
        .await
        .map_err(|error| problem(&error))
}

/// List models
#[utoipa::path(get, path = "/models", tag = "models", params(PageQuery),
    responses((status = 200, body = ModelsBody)))]
pub(super) async fn list(
    State(app): State<App>,
    _: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ModelsBody>, Problem> {
    let inference = inference(&app)?;
    let (loaded, _) = inference.in_memory();
    let (size, token) = (query.page_size, query.page_token.as_deref());
    let name = |model: &ServedModel| model.name().to_owned();
    let (models, next_page_token) = page(inference.models(), size, token, name)?;
    Ok(JsonAnswer(ModelsBody {
        models: models.iter().map(|model| info(model, &loaded)).collect(),
        device: inference.device().name().to_owned(),
        next_page_token,
    }))
}

/// Import a model
///
/// Its files are checked and copied into the server's store. The same model again under the
/// same name changes nothing.
#[utoipa::path(post, path = "/models", tag = "models", request_body = ImportRequest,
    responses((status = 201, body = ModelInfo),
        (status = 400, description = "A wrong name, or no model there", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another model has the name", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Damaged, contradictory, too large or of an unknown architecture", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn import(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<ImportRequest>,
) -> Result<(StatusCode, JsonAnswer<ModelInfo>), Problem> {
    let inference = inference(&app)?;
    free_name(&inference, &body.name)?;
    if !body.path.is_absolute() {
        return Err(Problem::invalid(
            "`path` is an absolute path on the server's machine",
        ));
    }
    let (name, path) = (body.name, body.path);
    let model = with_store(&inference, move |store| store.import(&name, &path)).await?;
    let details = json!({ "digest": model.digest });
    app.registry
        .note(caller.actor(), "model.import", &model.name, details)
        .await;
    let answer = told(&inference, ServedModel::Stored(model));
    Ok((StatusCode::CREATED, answer))
}

/// Show a model
#[utoipa::path(get, path = "/models/{name}", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelInfo),
        (status = 404, description = "No such model", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<ModelInfo>, Problem> {
    let inference = inference(&app)?;
    let model = find(&inference, &name)?;
    Ok(told(&inference, model))
}

/// Read all of a model's files again
///
/// Each is compared with the digest that it had when it was imported.
#[utoipa::path(post, path = "/models/{name}/verify", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelInfo),
        (status = 404, description = "No such model", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A file is not what was imported", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn verify(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<ModelInfo>, Problem> {
    let inference = inference(&app)?;
    let model = with_store(&inference, move |store| store.verify(&name)).await?;
    Ok(told(&inference, ServedModel::Stored(model)))
}

/// Load a model into memory
///
/// It computes one text too, so that the next call waits for nothing. One that is in memory,
/// or runs elsewhere, is as it was.
#[utoipa::path(post, path = "/models/{name}/load", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelInfo),
        (status = 404, description = "No such model", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "It has too much to do to be loaded now", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No memory for it now, its files are damaged, or too many requests wait", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn load(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<ModelInfo>, Problem> {
    let inference = inference(&app)?;
    let model = find(&inference, &name)?;
    let _place = app.waiting_place()?;
    let loaded = inference.warm_up(&name).await;
    loaded.map_err(|error| openai::refusal(error, "name"))?;
    Ok(told(&inference, model))
}

/// Drop a model from memory
///
/// Calls that are using it are answered; the next one loads it again.
#[utoipa::path(post, path = "/models/{name}/unload", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelInfo),
        (status = 404, description = "No such model", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn unload(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<ModelInfo>, Problem> {
    let inference = inference(&app)?;
    let model = find(&inference, &name)?;
    inference.unload(&name);
    Ok(told(&inference, model))
}

/// Remove a model
///
/// Calls that are using it are answered; grants of it stay.
#[utoipa::path(delete, path = "/models/{name}", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 204, description = "Removed"),
        (status = 404, description = "No such model", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let inference = inference(&app)?;
    let removed = with_store(&inference, move |store| store.remove(&name)).await?;
    inference.unload(&removed.name);
    let details = json!({ "digest": removed.digest });
    app.registry
        .note(caller.actor(), "model.remove", &removed.name, details)
        .await;
    Ok(StatusCode::NO_CONTENT)
}
