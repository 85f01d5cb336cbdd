//! `/models`: the models that plugins can be granted. They belong to the server, not to a
//! namespace: weights are nobody's data.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use heyday_inference::{Inference, ModelError, StoreError, StoredModel};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::App;
use super::extract::{Caller, Json, Path};
use super::problem::Problem;
use crate::server::{blocking, chain};

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// Its name, for grants: `inference=NAME`.
    pub name: String,
    /// SHA-256 over the names and digests of its files, in hexadecimal.
    pub digest: String,
    /// What it is: `task` (`embed` or `rerank`), `architecture`, `dimensions`, `pooling`,
    /// `normalized`, `window`, `parameters`, `memory_bytes`, `prompts`.
    #[schema(value_type = Object)]
    pub properties: Value,
    /// Bytes of its files.
    pub size: u64,
    /// When it was imported.
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: Timestamp,
    /// Whether it is in this server's memory now.
    pub loaded: bool,
}

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelsBody {
    /// By name.
    pub models: Vec<ModelInfo>,
    /// Where they run: `cpu`, or a GPU's name.
    pub device: String,
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

fn info(model: &StoredModel, loaded: &[String]) -> ModelInfo {
    let milliseconds = i64::try_from(model.imported_ms).unwrap_or(i64::MAX);
    ModelInfo {
        name: model.name.clone(),
        digest: model.digest.clone(),
        properties: serde_json::to_value(&model.properties).unwrap_or_default(),
        size: model.files.iter().map(|file| file.size).sum(),
        imported_at: Timestamp::from_millisecond(milliseconds).unwrap_or_default(),
        loaded: loaded.contains(&model.name),
    }
}

fn inference(app: &App) -> Result<Inference, Problem> {
    app.registry
        .inference()
        .cloned()
        .ok_or_else(|| Problem::not_found("this server runs no models"))
}

fn problem(error: StoreError) -> Problem {
    match &error {
        StoreError::InvalidName(_) => Problem::invalid(error.to_string()),
        StoreError::NotFound(name) => Problem::not_found(format!(
            "there is no model {name}; `heyday model list` shows those that there are"
        )),
        StoreError::Exists(_) => {
            Problem::conflict("model-exists", "There is such a model", error.to_string())
        }
        // The path is the caller's own.
        StoreError::Refused(ModelError::Io { .. } | ModelError::Missing { .. }) => {
            Problem::invalid(chain(&error))
        }
        StoreError::Refused(_) => Problem::unprocessable(
            "model-refused",
            "The model cannot be used here",
            chain(&error),
        ),
        StoreError::Damaged { .. } => {
            Problem::conflict("model-damaged", "The model is damaged", error.to_string())
        }
        StoreError::Io { .. } => Problem::internal(&chain(&error)),
    }
}

/// Runs what reads and writes files of the store.
async fn with_store<T: Send + 'static>(
    inference: &Inference,
    work: impl FnOnce(&heyday_inference::ModelStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let store = Arc::clone(inference.store());
    blocking(move || work(&store)).await.map_err(problem)
}

/// List models
#[utoipa::path(get, path = "/models", tag = "models", responses((status = 200, body = ModelsBody)))]
pub(super) async fn list(
    State(app): State<App>,
    _: Caller,
) -> Result<JsonAnswer<ModelsBody>, Problem> {
    let inference = inference(&app)?;
    let (loaded, _) = inference.in_memory();
    let models = inference.store().list();
    Ok(JsonAnswer(ModelsBody {
        models: models.iter().map(|model| info(model, &loaded)).collect(),
        device: inference.device().name().to_owned(),
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
    let (loaded, _) = inference.in_memory();
    Ok((StatusCode::CREATED, JsonAnswer(info(&model, &loaded))))
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
    let model = inference.store().get(&name);
    let model = model.ok_or_else(|| problem(StoreError::NotFound(name)))?;
    let (loaded, _) = inference.in_memory();
    Ok(JsonAnswer(info(&model, &loaded)))
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
    let (loaded, _) = inference.in_memory();
    Ok(JsonAnswer(info(&model, &loaded)))
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
