//! `heyday grant`: what a plugin or a flow may reach. Nothing, unless it is said here.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::table::Table;
use super::view;

/// `heyday grant SUBJECT CAPABILITY=BINDING...`, or one of the commands.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "heyday grant <SUBJECT> <CAPABILITY=BINDING[:MODE]>...\n       \
                      heyday grant list [SUBJECT]\n       \
                      heyday grant revoke <SUBJECT> <CAPABILITY=BINDING>...",
    after_help = "Examples:\n  \
        heyday grant index sql=main                    the plugin `index` may use the database `main`\n  \
        heyday grant report sql=main:ro graph=people:ro   read only\n  \
        heyday grant index config=tuning secrets=mail  settings, and the secrets that `mail` gives out\n  \
        heyday grant index http=GET:api.example.com/v1  the plugin may GET below that address\n  \
        heyday grant index vector=chunks               the plugin `index` may use the vector store `chunks`\n  \
        heyday grant docs.process http=GET:example.com/feed   the flow may GET below that address\n  \
        heyday grant list index\n  \
        heyday grant revoke index sql=main"
)]
pub struct GrantArgs {
    /// List or revoke.
    #[command(subcommand)]
    pub command: Option<GrantCommand>,
    /// A plugin's or a flow's name
    #[arg(required = true)]
    pub subject: Option<String>,
    /// What it may reach: `sql=main`, `blob=documents:ro`, `graph=people`, `http=GET:example.com/path`
    #[arg(value_name = "CAPABILITY=BINDING[:MODE]", required = true, value_parser = grant)]
    pub grants: Vec<GrantText>,
}

/// Further commands on grants.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// List what was granted, to all or to one
    #[command(after_help = "Examples:\n  heyday grant list\n  heyday grant list index")]
    List {
        /// Only of this plugin or flow
        subject: Option<String>,
    },
    /// Take back what was granted; calls in flight end as denied
    #[command(
        after_help = "Examples:\n  heyday grant revoke index sql=main\n  heyday grant revoke index blob=documents sql=main"
    )]
    Revoke {
        /// A plugin's or a flow's name
        subject: String,
        /// What it may no longer reach, as `grant list` shows it
        #[arg(value_name = "CAPABILITY=BINDING", required = true, value_parser = grant)]
        grants: Vec<GrantText>,
    },
}

/// One grant as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantText {
    /// The capability: `sql`, `blob`, `graph`, `http`.
    pub capability: String,
    /// The binding's name; for `http` the whole `METHOD:HOST[/PATH]`.
    pub binding: String,
    /// What may be done with it; all where absent.
    pub mode: Option<String>,
}

fn grant(text: &str) -> Result<GrantText, String> {
    let wrong = || {
        format!("{text:?} is not CAPABILITY=BINDING[:MODE], such as sql=main or blob=documents:ro")
    };
    let (capability, rest) = text.split_once('=').ok_or_else(wrong)?;
    if !view::is_name(capability) || rest.is_empty() {
        return Err(wrong());
    }
    if capability == "http" {
        // METHOD:HOST[/PATH]; a host may have a port, so there is no mode to split off.
        let (method, host) = rest.split_once(':').ok_or_else(|| {
            format!("{text:?} is not http=METHOD:HOST[/PATH], such as http=GET:example.com/feed")
        })?;
        if host.is_empty() || host.contains("//") || method.is_empty() {
            return Err(format!(
                "{text:?} is not http=METHOD:HOST[/PATH]: give the host without https://"
            ));
        }
        return Ok(GrantText {
            capability: capability.to_owned(),
            binding: rest.to_owned(),
            mode: None,
        });
    }
    let (binding, mode) = match rest.split_once(':') {
        Some((binding, mode)) => (binding, Some(mode)),
        None => (rest, None),
    };
    if !view::is_name(binding) || mode.is_some_and(str::is_empty) {
        return Err(wrong());
    }
    Ok(GrantText {
        capability: capability.to_owned(),
        binding: binding.to_owned(),
        mode: mode.map(str::to_owned),
    })
}

impl std::fmt::Display for GrantText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.capability, self.binding)?;
        match &self.mode {
            Some(mode) => write!(f, ":{mode}"),
            None => Ok(()),
        }
    }
}

/// Runs `grant`.
pub async fn run(args: GrantArgs, context: &Context) -> Result<(), CliError> {
    match args.command {
        Some(GrantCommand::List { subject }) => list(context, subject.as_deref()).await,
        Some(GrantCommand::Revoke { subject, grants }) => {
            for grant in &grants {
                let request = Request::delete(&["grants"])
                    .query("subject", &subject)
                    .query("capability", &grant.capability)
                    .query("binding", &grant.binding);
                let answer = context.client.send(&request).await?;
                view::told(
                    context,
                    &answer.body,
                    &format!("{subject} may no longer reach {grant}"),
                )?;
            }
            Ok(())
        }
        None => {
            // clap has seen to it that both are there.
            let subject = args.subject.unwrap_or_default();
            for grant in &args.grants {
                let request = Request::put(&["grants"]).json(&json!({
                    "subject": subject,
                    "capability": grant.capability,
                    "binding": grant.binding,
                    "mode": grant.mode,
                }));
                let answer = context.client.send(&request).await?;
                view::told(
                    context,
                    &answer.body,
                    &format!("{subject} may reach {grant}"),
                )?;
                if !context.output.is_json() {
                    for warning in view::rows_of(&answer.json()?, "warnings") {
                        context.output.warn(&view::pretty(warning));
                    }
                }
            }
            Ok(())
        }
    }
}

async fn list(context: &Context, subject: Option<&str>) -> Result<(), CliError> {
    let output = &context.output;
    let list = Request::get(&["grants"]).query_if("subject", subject);
    let Some(rows) = view::all_rows(context, list, "grants").await? else {
        return Ok(());
    };
    let mut table = Table::new(&["SUBJECT", "GRANT", "SINCE"]);
    let now = jiff::Timestamp::now();
    for row in &rows {
        let grant = GrantText {
            capability: view::text(row, "capability"),
            binding: view::text(row, "binding"),
            mode: row.get("mode").and_then(Value::as_str).map(str::to_owned),
        };
        table.row([
            view::text(row, "subject"),
            grant.to_string(),
            view::ago(row, "granted_at", now),
        ]);
    }
    if table.is_empty() {
        output.note("Nothing is granted.");
        output.hint(
            "heyday grant SUBJECT CAPABILITY=BINDING; `heyday binding list` shows what there is",
        );
        return Ok(());
    }
    output.line(&table.render(output.style))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    #[test]
    fn grants_are_read() {
        for (text, capability, binding, mode) in [
            ("sql=main", "sql", "main", None),
            ("blob=documents:ro", "blob", "documents", Some("ro")),
            (
                "http=GET:example.com/feed",
                "http",
                "GET:example.com/feed",
                None,
            ),
            (
                "http=*:127.0.0.1:8080/x",
                "http",
                "*:127.0.0.1:8080/x",
                None,
            ),
        ] {
            let read = grant(text).expect(text);
            assert_eq!(read.capability, capability);
            assert_eq!(read.binding, binding);
            assert_eq!(read.mode.as_deref(), mode);
            assert_eq!(read.to_string(), text);
        }
        for wrong in [
            "sql",
            "=main",
            "sql=",
            "sql=Main",
            "sql=main:",
            "http=example.com",
            "http=GET:https://x",
            "",
        ] {
            assert!(grant(wrong).is_err(), "{wrong:?}");
        }
    }

    fn parse(line: &str) -> Result<GrantArgs, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| match cli.command {
            Command::Grant(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_short_form_and_the_commands_live_together() {
        let args = parse("heyday grant index sql=main blob=documents:ro").expect("parsed");
        assert_eq!(args.subject.as_deref(), Some("index"));
        assert_eq!(args.grants.len(), 2);
        assert!(matches!(
            parse("heyday grant list").expect("parsed").command,
            Some(GrantCommand::List { subject: None })
        ));
        assert!(matches!(
            parse("heyday grant revoke index sql=main").expect("parsed").command,
            Some(GrantCommand::Revoke { grants, .. }) if grants.len() == 1
        ));
        for wrong in [
            "heyday grant",
            "heyday grant index",
            "heyday grant revoke index",
            "heyday grant index sql",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
