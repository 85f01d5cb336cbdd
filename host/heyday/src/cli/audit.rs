//! `heyday audit`: who changed what, and what was refused.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::table::Table;
use super::view;

/// Commands on the audit.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List its entries, newest first
    #[command(after_help = "Examples:\n  \
        heyday audit list\n  \
        heyday audit list --action capability.deny --resource index\n  \
        heyday audit list --action 'grant.*' --all -o json")]
    List(ListArgs),
}

/// Arguments of `audit list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this action, such as `grant.put` or `capability.deny`; `grant.*` is all that begin so
    #[arg(long)]
    pub action: Option<String>,
    /// Only on this: a plugin or flow, a workflow, a schedule; `index*` is all that begin so
    #[arg(long)]
    pub resource: Option<String>,
    /// At most so many entries a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Where the last page ended
    #[arg(long, value_name = "TOKEN", conflicts_with = "all")]
    pub page_token: Option<String>,
    /// Every page
    #[arg(long)]
    pub all: bool,
}

/// Runs `audit`.
pub async fn run(command: AuditCommand, context: &Context) -> Result<(), CliError> {
    let AuditCommand::List(args) = command;
    let list = Request::get(&["audit"])
        .query_if("action", args.action.as_deref())
        .query_if("resource", args.resource.as_deref())
        .query("page_size", args.limit.to_string());
    let table = Table::new(&["WHEN", "WHO", "ACTION", "ON", "DETAILS"]);
    let now = jiff::Timestamp::now();
    let nothing = "The audit has no such entry.".into();
    let rows = |page: &Value, table: &mut Table| {
        for entry in view::rows(page, "audit") {
            table.row([
                view::ago(entry, "at", now),
                view::text(entry, "principal"),
                view::text(entry, "action"),
                view::text(entry, "resource"),
                details(entry.get("details").unwrap_or(&Value::Null)),
            ]);
        }
    };
    view::pages(
        context,
        &list,
        args.page_token,
        args.all,
        table,
        nothing,
        rows,
    )
    .await
}

/// What there is to say, in one line: of a refusal what was refused, and why.
fn details(details: &Value) -> String {
    let text = |member: &str| view::text(details, member);
    let reason = text("reason");
    let capability = text("capability");
    if !capability.is_empty() {
        let binding = match details.get("bindings") {
            Some(_) => view::list(details, "bindings"),
            None => text("binding"),
        };
        let what = if binding.is_empty() {
            capability
        } else {
            format!("{capability}={binding}")
        };
        let mode = text("mode");
        let what = if mode.is_empty() {
            what
        } else {
            format!("{what}:{mode}")
        };
        return match (reason.is_empty(), view::number(details, "count")) {
            (true, _) => what,
            (false, Some(count)) if count > 1 => format!("{what} ({count} times): {reason}"),
            (false, _) => format!("{what}: {reason}"),
        };
    }
    if !reason.is_empty() {
        return reason;
    }
    match details.as_object() {
        Some(members) if !members.is_empty() => details.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use serde_json::json;

    #[test]
    fn entries_are_told_in_a_line() {
        for (value, line) in [
            (
                json!({ "capability": "sql", "binding": "main", "reason": "no grant", "count": 3 }),
                "sql=main (3 times): no grant",
            ),
            (
                json!({ "capability": "http", "binding": null, "reason": "no", "count": 1 }),
                "http: no",
            ),
            (
                json!({ "capability": "sql", "binding": "main", "mode": "ro" }),
                "sql=main:ro",
            ),
            (
                json!({ "capability": "sql", "bindings": ["a", "b"] }),
                "sql=a, b",
            ),
            (json!({ "reason": "late", "run_id": "1" }), "late"),
            (json!({ "active": true }), "{\"active\":true}"),
            (json!({}), ""),
        ] {
            assert_eq!(details(&value), line);
        }
    }

    #[test]
    fn the_filters_are_read() {
        let line = "heyday audit list --action grant.* --resource index --limit 7 -o json";
        let cli = Cli::try_parse_from(line.split(' ')).expect("parsed");
        let Command::Audit(AuditCommand::List(args)) = cli.command else {
            panic!("{:?}", cli.command);
        };
        assert_eq!(args.action.as_deref(), Some("grant.*"));
        assert_eq!(args.resource.as_deref(), Some("index"));
        assert_eq!((args.limit, args.all), (7, false));
        let both = "heyday audit list --all --page-token 3";
        assert!(Cli::try_parse_from(both.split(' ')).is_err());
    }
}
