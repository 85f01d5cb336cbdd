//! `heyday event send`: an event for the flows that events start.

use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::Request;
use super::error::CliError;
use super::{Context, input, output, view};

/// Commands on events.
#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Send an event; it starts the flows whose schedule.on fits it
    #[command(
        after_help = "Examples:\n  heyday event send com.example.uploaded --input '{\"key\":\"a.pdf\"}'\n  \
        heyday event send com.example.uploaded --id 7 --attribute source=/inbox -i @event.json\n\n\
        To send something to one run that is open, use `heyday workflow signal`."
    )]
    Send(SendArgs),
}

/// Arguments of `event send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Its type
    #[arg(value_name = "TYPE")]
    pub event_type: String,
    /// Its data: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub input: Option<String>,
    /// Its id: the same one of the same source counts once [default: a new one]
    #[arg(long, value_name = "EVENT-ID")]
    pub id: Option<String>,
    /// An attribute (source, subject, time, ...); may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = input::named_value)]
    pub attribute: Vec<(String, Value)>,
}

/// Runs a command on events.
pub async fn run(command: EventCommand, context: &Context) -> Result<(), CliError> {
    let EventCommand::Send(args) = command;
    let mut event: Map<String, Value> = args.attribute.into_iter().collect();
    event.insert("specversion".to_owned(), "1.0".into());
    event.insert("type".to_owned(), args.event_type.clone().into());
    if let Some(id) = args.id {
        event.insert("id".to_owned(), id.into());
    }
    if let Some(data) = args.input.as_deref() {
        let data: Box<RawValue> = input::json(data)?;
        let data = serde_json::from_str(data.get()).map_err(anyhow::Error::new)?;
        event.insert("data".to_owned(), data);
    }
    // Without an id of its own, the key is the event's id: sent twice, it counts once.
    let request = Request::post(&["events"]).json(&event).idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let told = answer.json()?;
    let flows: Vec<String> = told["flows"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(output::one_line)
        .collect();
    let id = output::one_line(&view::text(&told, "id"));
    if flows.is_empty() {
        context.output.line(&format!(
            "no flow waits for an event of the type {}",
            output::one_line(&args.event_type)
        ))?;
        context
            .output
            .hint("a flow says in `schedule.on` which events start it");
        return Ok(());
    }
    context.output.line(&format!(
        "{} the event {id} came to {}",
        context.output.style.good("✓"),
        flows.join(", ")
    ))
}
