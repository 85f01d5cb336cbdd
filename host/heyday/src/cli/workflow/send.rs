//! `heyday workflow signal`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::SignalArgs;
use crate::cli::client::Request;
use crate::cli::error::CliError;
use crate::cli::{Context, input, output};

/// A signal as the API takes it.
#[derive(Debug, Serialize)]
pub struct SignalBody {
    /// Its name.
    pub name: String,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Further attributes of its event.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Value>,
}

/// Sends a signal.
pub async fn signal(args: SignalArgs, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    let body = SignalBody {
        id: args.signal_id,
        data: args.data.as_deref().map(input::json).transpose()?,
        attributes: args.attribute.into_iter().collect(),
        name: args.name,
    };
    // Without an id of its own, the key is the signal's id: sent twice, it comes once.
    let request = Request::post(&run.segments(&["signals"]))
        .json(&body)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    context.output.line(&format!(
        "{} the run {} has the signal {}",
        context.output.style.good("✓"),
        output::one_line(&run.workflow_id),
        output::one_line(&body.name)
    ))
}
