//! `/models`: the models that plugins can be granted. They belong to the server, not to a
//! namespace: weights are nobody's data. Workers have models of their own, which are shown
//! beside them.

use std::collections::BTreeSet;
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
use uuid::Uuid;

use super::extract::{Caller, Json, Path, Query};
use super::pages::{PageQuery, page};
use super::problem::Problem;
use super::{App, openai};
use crate::names;
use crate::server::{blocking, chain};
use crate::workers::Heard;

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// Its name, for grants: `inference=NAME`.
    pub name: String,
    /// Whether this server has it: it may be at workers only, and then the next three, what
    /// it is but for its task, and all that can be done with it, are theirs.
    pub here: bool,
    /// Whether an endpoint runs it: then the next three are absent.
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
    /// The workers of the namespace that were heard in the last 30 seconds and have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<ModelWorker>,
}

/// A worker that has a model of a name.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelWorker {
    /// The worker, as `/workers` has it.
    pub id: Uuid,
    /// The queues whose tasks it takes.
    pub queues: Vec<String>,
    /// The digest of what is imported there under the name; absent where an endpoint runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether it is in the worker's memory.
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
        here: true,
        remote: stored.is_none(),
        digest: stored.map(|it| it.digest.clone()),
        size: stored.map(|it| it.files.iter().map(|file| file.size).sum()),
        imported_at,
        properties: serde_json::to_value(model.properties()).unwrap_or_default(),
        loaded: stored.is_some_and(|it| loaded.contains(&it.name)),
        workers: Vec::new(),
    }
}

/// A model of this server or of these workers, with who has it.
fn shown(
    inference: &Inference,
    loaded: &[String],
    heard: &[Heard],
    name: &str,
) -> Option<ModelInfo> {
    let workers = heard.iter().filter_map(|worker| {
        let model = worker.model(name)?;
        Some(ModelWorker {
            id: worker.body.worker,
            queues: worker.body.queues.keys().cloned().collect(),
            digest: model.digest.clone(),
            loaded: model.loaded,
        })
    });
    let workers = workers.collect();
    if let Some(model) = inference.model(name) {
        return Some(ModelInfo {
            workers,
            ..info(&model, loaded)
        });
    }
    let said = heard.iter().find_map(|worker| worker.model(name))?;
    Some(ModelInfo {
        name: name.to_owned(),
        here: false,
        remote: said.digest.is_none(),
        digest: None,
        size: None,
        imported_at: None,
        properties: json!({ "task": said.task }),
        loaded: false,
        workers,
    })
}

/// The names of the models that these workers have.
fn announced(heard: &[Heard]) -> impl Iterator<Item = &String> {
    let models = heard.iter().flat_map(|worker| &worker.body.models);
    // What else a token's holder makes up is no model.
    models
        .map(|model| &model.name)
        .filter(|name| names::is_name(name))
}

/// The models of a namespace's workers that this server lacks, by name.
pub(super) async fn of_workers(app: &App, namespace: &str) -> Result<BTreeSet<String>, Problem> {
    let heard = app.workers.of(namespace).await?;
    let here = |name: &String| {
        let inference = app.registry.inference();
        inference.is_some_and(|it| it.model(name).is_some())
    };
    let lacking = announced(&heard).filter(|name| !here(name));
    Ok(lacking.cloned().collect())
}

/// Whether any process that runs attempts of a namespace has a model; so it is taken to be
/// where that cannot be known now.
pub(super) async fn is_served(app: &App, namespace: &str, name: &str) -> bool {
    let inference = app.registry.inference().filter(|_| app.attempts_here);
    if inference.is_some_and(|it| it.model(name).is_some()) {
        return true;
    }
    match app.workers.of(namespace).await {
        Ok(all) => all.iter().any(|it| it.model(name).is_some()),
        Err(_) => true,
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

/// Refuses what is done with a model's files where it runs elsewhere and has none here.
fn has_files(inference: &Inference, name: &str) -> Result<(), Problem> {
    match inference.model(name) {
        // An imported one that it hides has some.
        Some(ServedModel::Remote { .. }) if inference.store().get(name).is_none() => {
            Err(Problem::not_found(format!(
                "the model {name} runs elsewhere, by the configuration: there are no files of it \
                 to verify or remove"
            )))
        }
        _ => Ok(()),
    }
}

pub(super) fn inference(app: &App) -> Result<Inference, Problem> {
    app.registry
        .inference()
        .cloned()
        .ok_or_else(|| Problem::not_found("this server runs no models"))
}

/// What runs models, when it has looked what others imported into its folder or removed there.
pub(super) async fn current(app: &App) -> Result<Inference, Problem> {
    let inference = inference(app)?;
    let looks = inference.clone();
    if let Err(error) = blocking(move || looks.refresh()).await {
        tracing::warn!(error = chain(&error), "the models cannot be listed anew");
    }
    Ok(inference)
}

pub(super) fn problem(error: &StoreError) -> Problem {
    match error {
        StoreError::InvalidName(_) => Problem::invalid(error.to_string()),
        StoreError::NotFound(name) => Problem::not_found(format!(
            "this server has no model {name}; `heyday model list` shows who has which"
        )),
        StoreError::Exists(_) => {
            Problem::conflict("model-exists", "There is such a model", error.to_string())
        }
        // The path is the caller's own.
        StoreError::Refused(ModelError::Io { .. } | ModelError::Missing { .. }) => {
            Problem::invalid(chain(error))
        }
        StoreError::Refused(ModelError::Unavailable(_)) => {
            Problem::unavailable("model-unavailable", chain(error))
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
///
/// Those of this server, and those that only workers have; each with the workers of the
/// namespace that have it.
#[utoipa::path(get, path = "/models", tag = "models", params(PageQuery),
    responses((status = 200, body = ModelsBody)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ModelsBody>, Problem> {
    let inference = current(&app).await?;
    let heard = app.workers.of(&caller.namespace).await?;
    let (loaded, _) = inference.in_memory();
    let own = inference.models().into_iter();
    let mut all: BTreeSet<String> = own.map(|model| model.name().to_owned()).collect();
    all.extend(announced(&heard).cloned());
    let (size, token) = (query.page_size, query.page_token.as_deref());
    let (names, next_page_token) = page(all.into_iter().collect(), size, token, String::clone)?;
    let models = names
        .iter()
        .filter_map(|name| shown(&inference, &loaded, &heard, name));
    Ok(JsonAnswer(ModelsBody {
        models: models.collect(),
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
        (status = 422, description = "Damaged, contradictory, too large or of an unknown architecture", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Its chat template cannot be run now", body = Problem, content_type = "application/problem+json")))]
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
    caller: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<ModelInfo>, Problem> {
    let inference = inference(&app)?;
    let heard = app.workers.of(&caller.namespace).await?;
    let (loaded, _) = inference.in_memory();
    let model = shown(&inference, &loaded, &heard, &name);
    let model = model.ok_or_else(|| problem(&StoreError::NotFound(name)))?;
    Ok(JsonAnswer(model))
}

/// Read all of a model's files again
///
/// Each is compared with the digest that it had when it was imported.
#[utoipa::path(post, path = "/models/{name}/verify", tag = "models",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelInfo),
        (status = 404, description = "No such model", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A file is not what was imported", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Its chat template cannot be run now", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn verify(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<ModelInfo>, Problem> {
    let inference = inference(&app)?;
    has_files(&inference, &name)?;
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
    has_files(&inference, &name)?;
    let removed = with_store(&inference, move |store| store.remove(&name)).await?;
    inference.unload(&removed.name);
    let details = json!({ "digest": removed.digest });
    app.registry
        .note(caller.actor(), "model.remove", &removed.name, details)
        .await;
    Ok(StatusCode::NO_CONTENT)
}
