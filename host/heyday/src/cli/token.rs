//! `heyday token`: tokens for workers.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::options::namespace;
use super::table::Table;
use super::view;

/// Commands on tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and show it, this once
    #[command(after_help = "Examples:\n  \
        heyday token create --worker > worker-token\n  \
        heyday token create --worker --name gpu-pool --namespace team-a")]
    Create(CreateArgs),
    /// List the tokens, without their texts
    #[command(after_help = "Example:\n  heyday token list")]
    List,
    /// Take a token back; workers that use it are cut off
    #[command(after_help = "Example:\n  heyday token revoke 01994f2e-8f2b-7c3a-9d57-0b6f2f1c9a11")]
    Revoke {
        /// The token's id, as `token list` shows it
        id: uuid::Uuid,
    },
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// For workers: it opens what they need, and nothing else
    #[arg(long, required = true)]
    pub worker: bool,
    /// What it is called in lists [default: worker]
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// A namespace that it opens; may be given again [default: all]
    // The global option of the same name, which elsewhere is given once.
    #[arg(long, value_name = "NAME", env = "HEYDAY_NAMESPACE", value_parser = namespace)]
    pub namespace: Vec<String>,
}

/// Runs a command on tokens.
pub async fn run(command: TokenCommand, context: &Context) -> Result<(), CliError> {
    match command {
        TokenCommand::Create(args) => create(args, context).await,
        TokenCommand::List => list(context).await,
        TokenCommand::Revoke { id } => {
            let id = id.to_string();
            let answer = context
                .client
                .send(&Request::delete(&["tokens", &id]))
                .await?;
            view::told(
                context,
                &answer.body,
                &format!("the token {id} opens nothing any more"),
            )
        }
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), CliError> {
    let mut body = json!({ "kind": "worker", "namespaces": args.namespace });
    if let Some(name) = args.name {
        body["name"] = json!(name);
    }
    let answer = context
        .client
        .send(&Request::post(&["tokens"]).json(&body))
        .await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    // Alone on stdout, so that it can go to a file.
    context.output.line(&view::text(&answer.json()?, "token"))?;
    context
        .output
        .note("It is not shown again. Give it to workers in --token-file FILE or HEYDAY_TOKEN.");
    Ok(())
}

async fn list(context: &Context) -> Result<(), CliError> {
    let list = Request::get(&["tokens"]);
    let Some(tokens) = view::all_rows(context, list, "tokens").await? else {
        return Ok(());
    };
    let mut table = Table::new(&["ID", "KIND", "NAME", "NAMESPACES", "CREATED"]);
    for token in &tokens {
        let namespaces = view::list(token, "namespaces");
        table.row([
            view::text(token, "id"),
            view::text(token, "kind"),
            view::text(token, "name"),
            if namespaces.is_empty() {
                "all".to_owned()
            } else {
                namespaces
            },
            view::text(token, "created_at"),
        ]);
    }
    if table.is_empty() {
        context
            .output
            .note("There are no tokens; make one with `heyday token create --worker`.");
        return Ok(());
    }
    context.output.line(&table.render(context.output.style))
}
