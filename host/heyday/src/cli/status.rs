//! `queue`, `binding` and `health`: what the server has and how it is.

use clap::{Args, Subcommand};
use heyday_capabilities::postgres::setup;
use std::time::Duration;

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::output::Output;
use super::table::{Table, fields};
use super::view;

/// Commands on queues.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List the queues: how much each runs at once, and what waits
    #[command(after_help = "Example:\n  heyday queue list")]
    List,
}

/// Commands on bindings.
#[derive(Debug, Subcommand)]
pub enum BindingCommand {
    /// List the bindings that can be granted
    #[command(after_help = "Example:\n  heyday binding list")]
    List,
    /// Print the SQL that makes a role and a schema for a binding on PostgreSQL
    #[command(
        after_help = "Examples:\n  heyday binding setup plugins_main --database plugins > setup.sql\n  \
            heyday binding setup plugins_main --database plugins | psql --dbname plugins"
    )]
    Setup(SetupArgs),
}

/// Arguments of `binding setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// The role, which belongs to one binding alone
    #[arg(value_parser = sql_name)]
    pub role: String,
    /// The database that the binding names
    #[arg(long, value_parser = sql_name)]
    pub database: String,
    /// The schema; the role's name where it is not said
    #[arg(long, value_parser = sql_name)]
    pub schema: Option<String>,
    /// How many connections the role may have: those of the binding in every server and
    /// worker
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
}

fn sql_name(text: &str) -> Result<String, String> {
    if setup::is_name(text) {
        return Ok(text.to_owned());
    }
    Err("names have 1 to 63 of a-z, 0-9, _ and -, and begin with a letter or _".to_owned())
}

/// Prints what makes a role for a binding; no server is asked.
pub fn setup(args: &SetupArgs, output: &Output) -> Result<(), CliError> {
    let schema = args.schema.as_deref().unwrap_or(&args.role);
    let sql = setup::sql(&args.role, schema, &args.database, args.connections);
    output.line(sql.trim_end())
}

/// Runs a command on queues.
pub async fn queues(command: QueueCommand, context: &Context) -> Result<(), CliError> {
    let QueueCommand::List = command;
    let answer = context.client.send(&Request::get(&["queues"])).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let value = answer.json()?;
    let mut table = Table::new(&["NAME", ">LIMIT", ">RUNNING", ">WAITING", ">OLDEST"]);
    for queue in view::rows(&value, "queues") {
        let oldest = match view::number(queue, "backlog") {
            None | Some(0) => String::new(),
            Some(_) => view::number(queue, "backlog_age_ms")
                .map(|age| view::duration(Duration::from_millis(age)))
                .unwrap_or_default(),
        };
        table.row([
            view::text(queue, "name"),
            view::text(queue, "limit"),
            view::text(queue, "in_flight"),
            view::text(queue, "backlog"),
            oldest,
        ]);
    }
    context.output.line(&table.render(context.output.style))
}

/// Lists the bindings.
pub async fn bindings(context: &Context) -> Result<(), CliError> {
    let Some(rows) = view::all_rows(context, Request::get(&["bindings"]), "bindings").await? else {
        return Ok(());
    };
    let mut table = Table::new(&["CAPABILITY", "NAME", "BACKEND", "MODES"]);
    for binding in &rows {
        table.row([
            view::text(binding, "capability"),
            view::text(binding, "name"),
            view::text(binding, "backend"),
            view::list(binding, "modes"),
        ]);
    }
    if table.is_empty() {
        context.output.note("There are no bindings.");
        return Ok(());
    }
    context.output.line(&table.render(context.output.style))
}

/// Asks how the server is.
pub async fn health(context: &Context) -> Result<(), CliError> {
    let answer = context.client.send(&Request::get(&["health"])).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let style = context.output.style;
    let value = answer.json()?;
    let mut pairs = vec![("server", context.client.server().to_owned())];
    let members = value.as_object();
    for (name, member) in members.into_iter().flatten() {
        let text = member
            .as_str()
            .map_or_else(|| member.to_string(), str::to_owned);
        let text = super::output::one_line(&text);
        pairs.push((
            name,
            if name == "status" {
                style.status(&text)
            } else {
                text
            },
        ));
    }
    context.output.line(&fields(style, &pairs))
}
