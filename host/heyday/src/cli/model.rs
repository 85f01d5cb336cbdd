//! `heyday model`: the models that plugins can be granted.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::table::Table;
use super::view;

/// Commands on models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Copy a model into the server's store, after checking all of it
    #[command(after_help = "Examples:\n  \
        heyday model import all-minilm-l6-v2 ./all-MiniLM-L6-v2\n  \
        heyday model import bge ~/.cache/huggingface/hub/models--BAAI--bge-small-en-v1.5\n\n\
        The folder lies on the server's machine. Grant the model to a plugin with\n  \
        heyday grant embedder inference=all-minilm-l6-v2")]
    Import(ImportArgs),
    /// List the models
    #[command(after_help = "Example:\n  heyday model list")]
    List,
    /// Remove a model and its files
    #[command(after_help = "Example:\n  heyday model remove all-minilm-l6-v2")]
    Remove {
        /// The model's name
        name: String,
    },
    /// Read all of a model's files again and compare them with their digests
    #[command(after_help = "Example:\n  heyday model verify all-minilm-l6-v2")]
    Verify {
        /// The model's name
        name: String,
    },
}

/// Arguments of `model import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What it will be called: 1 to 63 of a-z, 0-9 and -
    pub name: String,
    /// A folder with config.json, tokenizer.json and model.safetensors, or of the hub's cache
    pub path: PathBuf,
}

/// Runs a command on models.
pub async fn run(command: ModelCommand, context: &Context) -> Result<(), CliError> {
    match command {
        ModelCommand::Import(args) => import(args, context).await,
        ModelCommand::List => list(context).await,
        ModelCommand::Remove { name } => {
            let answer = context
                .client
                .send(&Request::delete(&["models", &name]))
                .await?;
            view::told(
                context,
                &answer.body,
                &format!("the model {name} is removed"),
            )
        }
        ModelCommand::Verify { name } => {
            let request = Request::post(&["models", &name, "verify"]);
            let answer = context.client.send(&request).await?;
            view::told(
                context,
                &answer.body,
                &format!("the model {name} is what was imported"),
            )
        }
    }
}

async fn import(args: ImportArgs, context: &Context) -> Result<(), CliError> {
    let path = std::path::absolute(&args.path)
        .map_err(|error| CliError::usage(format!("{}: {error}", args.path.display())))?;
    let body = json!({ "name": args.name, "path": path });
    let answer = context
        .client
        .send(&Request::post(&["models"]).json(&body))
        .await?;
    let model = answer.json()?;
    view::told(
        context,
        &answer.body,
        &format!("the model {} is imported: {}", args.name, said(&model)),
    )
}

/// What a model is, in a few words.
fn said(model: &Value) -> String {
    let properties = &model["properties"];
    let mut words = vec![
        view::text(properties, "task"),
        view::text(properties, "architecture"),
    ];
    if let Some(dimensions) = properties["dimensions"].as_u64() {
        words.push(format!("{dimensions} dimensions"));
    }
    if let Some(window) = properties["window"].as_u64() {
        words.push(format!("{window} tokens"));
    }
    words.join(", ")
}

async fn list(context: &Context) -> Result<(), CliError> {
    let answer = context.client.send(&Request::get(&["models"])).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let value = answer.json()?;
    let mut table = Table::new(&["NAME", "WHAT", "LOADED", "DIGEST", "IMPORTED"]);
    for model in view::rows(&value, "models") {
        table.row([
            view::text(model, "name"),
            said(model),
            if model["loaded"] == true { "yes" } else { "no" }.to_owned(),
            view::text(model, "digest").chars().take(12).collect(),
            view::text(model, "imported_at"),
        ]);
    }
    if table.is_empty() {
        context
            .output
            .note("There are no models; `heyday model import NAME FOLDER` makes one.");
        return Ok(());
    }
    context.output.line(&table.render(context.output.style))
}
