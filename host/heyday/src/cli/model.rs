//! `heyday model`: the models that plugins can be granted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::progress::Step;
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
    /// Fetch a model from a hub or a container into the server's store
    #[command(after_help = "Examples:\n  \
        heyday model pull bge hub:main/BAAI/bge-small-en-v1.5\n  \
        heyday model pull judge blob:models/cross-encoder --digest 3f0c...\n\n\
        Hubs stand in the server's configuration, [inference.hubs.NAME]; bindings are the \
        namespace's. The server goes on when this command ends; the same command again \
        follows it, and goes on with what was interrupted.")]
    Pull(PullArgs),
    /// List the models, and how many workers of which queues have each
    #[command(after_help = "Example:\n  heyday model list")]
    List,
    /// List the workers, and the models that each can serve
    #[command(after_help = "Example:\n  heyday model workers")]
    Workers,
    /// Remove a model and its files
    #[command(after_help = "Example:\n  heyday model remove all-minilm-l6-v2")]
    Remove {
        /// The model's name
        name: String,
    },
    /// Load a model into the server's memory
    #[command(after_help = "Example:\n  heyday model load all-minilm-l6-v2")]
    Load {
        /// The model's name
        name: String,
    },
    /// Drop a model from the server's memory; the next call loads it again
    #[command(after_help = "Example:\n  heyday model unload all-minilm-l6-v2")]
    Unload {
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

/// Arguments of `model pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// What it will be called: 1 to 63 of a-z, 0-9 and -
    pub name: String,
    /// hub:NAME/ORG/MODEL[@REVISION] or blob:BINDING[/PREFIX]
    pub source: String,
    /// The digest that the model must have, as `heyday model list -o json` tells it
    #[arg(long, value_name = "SHA256")]
    pub digest: Option<String>,
}

/// Runs a command on models.
pub async fn run(command: ModelCommand, context: &Context) -> Result<(), CliError> {
    match command {
        ModelCommand::Import(args) => import(args, context).await,
        ModelCommand::Pull(args) => pull(args, context).await,
        ModelCommand::List => list(context).await,
        ModelCommand::Workers => workers(context).await,
        ModelCommand::Load { name } => {
            let request = Request::post(&["models", &name, "load"]);
            keep(context, &request, &name).await
        }
        ModelCommand::Unload { name } => {
            let request = Request::post(&["models", &name, "unload"]);
            keep(context, &request, &name).await
        }
        ModelCommand::Remove { name } => {
            let request = Request::delete(&["models", &name]);
            change(context, &request, format!("the model {name} is removed")).await
        }
        ModelCommand::Verify { name } => {
            let request = Request::post(&["models", &name, "verify"]);
            let told = format!("the model {name} is what was imported");
            change(context, &request, told).await
        }
    }
}

async fn change(context: &Context, request: &Request, told: String) -> Result<(), CliError> {
    let answer = context.client.send(request).await?;
    view::told(context, &answer.body, &told)
}

/// Loads a model or drops it from memory, and says where it is then.
async fn keep(context: &Context, request: &Request, name: &str) -> Result<(), CliError> {
    let answer = context.client.send(request).await?;
    let model = answer.json()?;
    let told = match (model["remote"] == true, model["loaded"] == true) {
        (true, _) => format!("the model {name} runs elsewhere, and takes no memory here"),
        (_, true) => format!("the model {name} is in memory"),
        _ => format!("the model {name} is not in memory any more"),
    };
    view::told(context, &answer.body, &told)
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

/// How often somebody who watches is told.
const GLANCE: Duration = Duration::from_secs(1);

async fn pull(args: PullArgs, context: &Context) -> Result<(), CliError> {
    let body = json!({ "name": args.name, "source": args.source, "digest": args.digest });
    let begin = Request::post(&["model-pulls"]).json(&body);
    let mut answer = context.client.send(&begin).await?;
    let step = Step::bytes(&context.output, &format!("pulling {}", args.name), 0);
    let pull = loop {
        let pull = answer.json()?;
        if matches!(pull["state"].as_str(), Some("done" | "failed")) {
            break pull;
        }
        let bar = step.bar();
        bar.set_length(pull["total"].as_u64().unwrap_or_default());
        bar.set_position(pull["bytes"].as_u64().unwrap_or_default());
        step.message(&match pull["state"].as_str() {
            Some("importing") => format!("checking {}", args.name),
            _ => format!("{}: {}", args.name, view::text(&pull, "file")),
        });
        let follow = Request::get(&["model-pulls", &args.name]).wait(GLANCE);
        answer = context.client.send(&follow).await?;
    };
    step.clear();
    if pull["state"] == "failed" {
        return Err(CliError::Refused {
            message: format!(
                "{} was not pulled: {}",
                args.name,
                view::text(&pull, "error")
            ),
            help: Some("the same command goes on with what has come".to_owned()),
        });
    }
    view::told(
        context,
        &answer.body,
        &format!("the model {} is there: {}", args.name, said(&pull["model"])),
    )
}

/// What a model is, in a few words.
fn said(model: &Value) -> String {
    let properties = &model["properties"];
    let mut words = vec![view::text(properties, "task")];
    // Of a model that only workers have, no more is known.
    if properties["architecture"].is_string() {
        words.push(view::text(properties, "architecture"));
    }
    if let Some(dimensions) = properties["dimensions"].as_u64() {
        words.push(format!("{dimensions} dimensions"));
    }
    if let Some(window) = properties["window"].as_u64() {
        words.push(format!("{window} tokens"));
    }
    words.join(", ")
}

/// How many workers have a model, and whose tasks they take.
fn having(model: &Value) -> String {
    let workers = view::rows_of(model, "workers");
    let queues = workers.iter().flat_map(|it| view::rows_of(it, "queues"));
    let queues: BTreeSet<&str> = queues.filter_map(Value::as_str).collect();
    if workers.is_empty() {
        return String::new();
    }
    let queues: Vec<&str> = queues.into_iter().collect();
    format!("{}: {}", workers.len(), queues.join(", "))
}

async fn list(context: &Context) -> Result<(), CliError> {
    let list = Request::get(&["models"]);
    let Some(models) = view::all_rows(context, list, "models").await? else {
        return Ok(());
    };
    let mut table = Table::new(&["NAME", "WHAT", "LOADED", "WORKERS", "DIGEST", "IMPORTED"]);
    for model in &models {
        table.row([
            view::text(model, "name"),
            said(model),
            match (model["remote"] == true, model["loaded"] == true) {
                _ if model["here"] == false => "not here",
                (true, _) => "elsewhere",
                (_, true) => "yes",
                _ => "no",
            }
            .to_owned(),
            having(model),
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

async fn workers(context: &Context) -> Result<(), CliError> {
    let list = Request::get(&["workers"]);
    let Some(workers) = view::all_rows(context, list, "workers").await? else {
        return Ok(());
    };
    let mut table = Table::new(&["WORKER", "QUEUES", "DEVICE", "MODELS", "HEARD"]);
    for worker in &workers {
        let queues = worker["queues"].as_object().into_iter().flatten();
        let queues: Vec<String> = queues
            .map(|(name, limit)| format!("{name}={limit}"))
            .collect();
        let models = view::rows_of(worker, "models").iter().map(|model| {
            let name = view::text(model, "name");
            if model["loaded"] == true {
                format!("{name} (loaded)")
            } else {
                name
            }
        });
        table.row([
            view::text(worker, "id"),
            queues.join(", "),
            view::text(worker, "device"),
            models.collect::<Vec<_>>().join(", "),
            view::text(worker, "heard_at"),
        ]);
    }
    if table.is_empty() {
        context
            .output
            .note("No worker was heard in the last 30 s; `heyday up` runs everything itself.");
        return Ok(());
    }
    context.output.line(&table.render(context.output.style))
}
