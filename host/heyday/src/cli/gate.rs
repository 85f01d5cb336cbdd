//! What replays of open runs found, for a person.

use serde_json::Value;

use super::client::Request;
use super::error::CliError;
use super::output::{Output, one_line};
use super::table::Table;
use super::versions::{Kind, NameAndVersion};
use super::{Context, view};

/// Runs that are listed one by one.
const LISTED: usize = 10;

/// Shows what the replay gate of a change of version found, if it found something.
pub fn show(answer: &Value, output: &Output) {
    let Some(gate) = answer.get("replay").filter(|gate| gate.is_object()) else {
        return;
    };
    let name = view::text(answer, "name");
    let version = view::text(answer, "version");
    let before = view::text(gate, "version");
    let diverging = view::rows_of(gate, "diverging");
    for run in diverging.iter().take(LISTED) {
        output.warn(&format!(
            "the open run {} of {before} diverges from {version}: {}",
            one_line(&view::text(run, "workflow_id")),
            one_line(&message(run))
        ));
    }
    if diverging.len() > LISTED {
        output.warn(&format!(
            "{} more open runs of {before} diverge from {version}",
            diverging.len() - LISTED
        ));
    }
    let unknown = view::rows_of(gate, "unknown");
    if let Some(first) = unknown.first() {
        output.warn(&format!(
            "{} open runs of {before} could not be replayed, such as {}: {}",
            unknown.len(),
            one_line(&view::text(first, "workflow_id")),
            one_line(&message(first))
        ));
    }
    let complete = gate.get("complete") == Some(&Value::Bool(true));
    if !complete {
        let replayed = view::number(gate, "replayed").unwrap_or_default();
        output.warn(&format!(
            "only {replayed} of the open runs of {before} were replayed; replay all with `heyday flow replay {} {version}`",
            view::shell_word(&name)
        ));
    }
    if !diverging.is_empty() {
        output.note(&format!("Open runs keep {before}."));
    }
}

/// Why a run is not among those that agree.
fn message(run: &Value) -> String {
    match run.get("difference") {
        Some(difference) => view::text(difference, "message"),
        None => view::text(run, "reason"),
    }
}

/// Replays the open runs of a flow against a version.
pub async fn replay(of: &NameAndVersion, context: &Context) -> Result<(), CliError> {
    let output = &context.output;
    let segments = [
        Kind::Flow.segment(),
        of.name.as_str(),
        "versions",
        of.version.as_str(),
        "replays",
    ];
    let mut table = Table::new(&["WORKFLOW ID", "VERSION", "OUTCOME", "WHERE"]);
    let (mut runs, mut diverging) = (0_u64, 0_u64);
    let mut token = None;
    loop {
        let request = Request::get(&segments).query_if("page_token", token.take());
        let answer = context.client.send(&request).await?;
        let page = answer.json()?;
        if output.is_json() {
            output.raw_json(&answer.body)?;
        }
        for run in view::rows_of(&page, "replays") {
            let outcome = view::text(run, "outcome");
            runs += 1;
            diverging += u64::from(outcome == "diverges");
            table.row([
                view::text(run, "workflow_id"),
                view::text(run, "version"),
                outcome,
                message(run),
            ]);
        }
        token = view::next_page(&page);
        if token.is_none() {
            break;
        }
    }
    if !output.is_json() {
        if table.is_empty() {
            output.note(&format!(
                "There are no open runs of {} that have another version.",
                of.name
            ));
        } else {
            output.line(&table.render(output.style))?;
        }
    }
    if diverging == 0 {
        return Ok(());
    }
    Err(CliError::Diverges {
        message: format!(
            "{diverging} of {runs} open runs diverge from {} {}; they keep their version",
            of.name, of.version
        ),
    })
}
