//! `/v1/models`.

use axum::Json as JsonAnswer;
use axum::extract::State;
use heyday_inference::ServedModel;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ErrorBody;
use super::{inference, unknown_model};
use crate::api::App;
use crate::api::extract::{Caller, Path};
use crate::api::models::current;
use crate::api::problem::Problem;

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiModel {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When it was imported: seconds since the Unix epoch. 0 where it runs elsewhere.
    pub created: u64,
    /// `heyday`.
    pub owned_by: &'static str,
    /// What it can do: `embed`, `rerank` or `generate`.
    #[schema(value_type = String)]
    pub task: heyday_inference::Task,
}

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiModels {
    /// `list`.
    pub object: &'static str,
    /// By name.
    pub data: Vec<OpenAiModel>,
}

fn model(model: &ServedModel) -> OpenAiModel {
    OpenAiModel {
        id: model.name().to_owned(),
        object: "model",
        created: model.stored().map_or(0, |it| it.imported_ms / 1_000),
        owned_by: "heyday",
        task: model.properties().task,
    }
}

/// List models, as OpenAI does
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = OpenAiModels)))]
pub(in crate::api) async fn list(
    State(app): State<App>,
    _: Caller,
) -> Result<JsonAnswer<OpenAiModels>, Problem> {
    let models = current(&app).await?.models();
    Ok(JsonAnswer(OpenAiModels {
        object: "list",
        data: models.iter().map(model).collect(),
    }))
}

/// Show a model, as OpenAI does
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, body = OpenAiModel),
        (status = 404, description = "No such model", body = ErrorBody)))]
pub(in crate::api) async fn show(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<JsonAnswer<OpenAiModel>, Problem> {
    let found = inference(&app)?.model(&name);
    let found = found.ok_or_else(|| unknown_model(&name))?;
    Ok(JsonAnswer(model(&found)))
}
