//! `heyday plugin`: upload components and manage their versions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Request;
use super::error::CliError;
use super::options::GlobalOptions;
use super::progress::Step;
use super::versions::{self, Kind, NameAndVersion};
use super::{Context, input, view};

/// One long-poll on an upload's state waits so long.
const SLICE: Duration = Duration::from_secs(20);

/// Commands on plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Upload a component; active at once, if no grant is missing
    #[command(after_help = "Examples:\n  heyday plugin push greet.wasm\n  \
        heyday plugin push greet.wasm --dev          edit and push again without a new version number\n  \
        heyday plugin push greet.wasm --no-activate  store it, activate it later")]
    Push(PushArgs),
    /// List the plugins
    #[command(after_help = "Examples:\n  heyday plugin list\n  heyday plugin list -o json")]
    List,
    /// Show a plugin and its versions, or one version
    #[command(
        after_help = "Examples:\n  heyday plugin show greet\n  heyday plugin show greet 0.2.0"
    )]
    Show(ShowArgs),
    /// Make a version the active one: new runs use it
    #[command(after_help = "Examples:\n  heyday plugin activate greet 0.2.0\n  \
        heyday plugin activate greet 0.2.0 --allow-missing")]
    Activate(ActivateArgs),
    /// Make the version before the active one active again
    #[command(after_help = "Example:\n  heyday plugin rollback greet")]
    Rollback(NameArgs),
    /// Remove a version that no open run needs
    #[command(after_help = "Example:\n  heyday plugin remove greet 0.1.0")]
    Remove(NameAndVersion),
}

/// Arguments of `plugin push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The component's file; - is stdin
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    /// Store it as VERSION-dev.DIGEST, so that the same version number may be pushed again
    #[arg(long)]
    pub dev: bool,
    /// Store it without making it the active version
    #[arg(long)]
    pub no_activate: bool,
    /// Make it active even where a grant is missing; what lacks one is denied when called
    #[arg(long, conflicts_with = "no_activate")]
    pub allow_missing: bool,
}

/// Arguments of `plugin show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The plugin's name
    pub name: String,
    /// A version; without one, the plugin with all its versions
    pub version: Option<String>,
}

/// Arguments of `plugin activate`.
#[derive(Debug, Args)]
pub struct ActivateArgs {
    /// The plugin's version.
    #[command(flatten)]
    pub of: NameAndVersion,
    /// Even where a grant is missing; what lacks one is denied when called
    #[arg(long)]
    pub allow_missing: bool,
}

/// A plugin's name.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The plugin's name
    pub name: String,
}

/// Runs a command on plugins.
pub async fn run(command: PluginCommand, global: &GlobalOptions) -> Result<(), CliError> {
    let context = &global.context()?;
    match command {
        PluginCommand::Push(args) => push(args, context).await,
        PluginCommand::List => versions::list(context, Kind::Plugin).await,
        PluginCommand::Show(args) => {
            versions::show(context, Kind::Plugin, &args.name, args.version.as_deref()).await
        }
        PluginCommand::Activate(args) => {
            versions::activate(
                context,
                Kind::Plugin,
                &args.of.name,
                &args.of.version,
                args.allow_missing,
            )
            .await
        }
        PluginCommand::Rollback(of) => versions::rollback(context, Kind::Plugin, &of.name).await,
        PluginCommand::Remove(of) => {
            versions::remove(context, Kind::Plugin, &of.name, &of.version).await
        }
    }
}

/// Reads a component and sees at once what cannot be one; the server verifies it.
fn component(path: &Path) -> Result<Bytes, CliError> {
    let bytes = input::bytes(path)?;
    match bytes.get(..8) {
        // A component's preamble: \0asm, version 13 or later, layer 1.
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(Bytes::from(bytes)),
        Some([0, b'a', b's', b'm', ..]) => Err(CliError::usage_help(
            format!(
                "{} is a core WebAssembly module, not a component",
                path.display()
            ),
            "build it for the target wasm32-wasip2",
        )),
        _ => Err(CliError::usage_help(
            format!("{} is not a WebAssembly component", path.display()),
            "give a .wasm file built for the target wasm32-wasip2",
        )),
    }
}

async fn push(args: PushArgs, context: &Context) -> Result<(), CliError> {
    let output = &context.output;
    let bytes = component(&args.path)?;
    let size = bytes.len() as u64;
    let step = Step::bytes(output, &format!("Uploading {}", args.path.display()), size);
    let request = Request::post(&["plugins"])
        .query("activate", (!args.no_activate).to_string())
        .query("dev", args.dev.to_string())
        .query("allow_missing", args.allow_missing.to_string())
        .bytes("application/wasm", bytes, Some(step.bar()))
        // The same bytes again answer the same version.
        .idempotent(None);
    let mut answer = interruptible(context.client.send(&request), "the upload").await?;
    step.done(&format!("Uploaded {}", view::bytes(size)));
    let uploaded = answer.json()?;
    let name = view::text(&uploaded, "name");
    let version = view::text(&uploaded, "version");
    let mut plugin = uploaded.clone();
    if is_pending(&plugin) {
        let step = Step::spinner(output, &format!("Compiling {name} {version}"));
        while is_pending(&plugin) {
            step.message(&format!(
                "{name} {version}: {}",
                view::text(&plugin, "state")
            ));
            let request = Request::get(&["plugins", &name, "versions", &version]).wait(SLICE);
            answer = interruptible(context.client.send(&request), "the compilation").await?;
            plugin = answer.json()?;
        }
        if view::text(&plugin, "state") != "failed" {
            step.done(&format!("Compiled {name} {version}"));
        }
    }
    if output.is_json() {
        output.raw_json(&answer.body)?;
    }
    if view::text(&plugin, "state") == "failed" {
        return Err(CliError::Refused {
            message: format!(
                "{name} {version} cannot be compiled: {}",
                versions::reason(&plugin)
            ),
            help: None,
        });
    }
    if !output.is_json() {
        tell(context, &uploaded, &plugin, args.no_activate)?;
    }
    Ok(())
}

fn is_pending(plugin: &Value) -> bool {
    matches!(
        view::text(plugin, "state").as_str(),
        "uploaded" | "queued" | "verifying" | "compiling"
    )
}

/// Says what an upload led to, and what to do next.
fn tell(context: &Context, uploaded: &Value, plugin: &Value, staged: bool) -> Result<(), CliError> {
    let output = &context.output;
    let style = output.style;
    let name = view::text(plugin, "name");
    let version = view::text(plugin, "version");
    let active = [plugin, uploaded]
        .iter()
        .find_map(|value| value.get("active"))
        .is_some_and(|active| match active {
            Value::Bool(active) => *active,
            Value::String(active) => *active == version,
            _ => false,
        });
    let missing = match versions::missing_grants(plugin) {
        missing if missing.is_empty() => versions::missing_grants(uploaded),
        missing => missing,
    };
    let state = if active {
        "is active"
    } else {
        "is stored, not active"
    };
    output.line(&format!(
        "{} plugin {name} {version} {state}",
        style.good("✓")
    ))?;
    for activity in view::rows_of(plugin, "activities") {
        let documentation = view::text(activity, "documentation");
        let first = super::output::one_line(documentation.lines().next().unwrap_or_default());
        output.line(
            format!(
                "    {name}.{}  {}",
                view::text(activity, "name"),
                style.dim(&first)
            )
            .trim_end(),
        )?;
    }
    if !missing.is_empty() {
        output.warn(&format!("{name} lacks grants: {}", missing.join(", ")));
        for grant in &missing {
            let grant = if grant.contains('=') {
                grant.clone()
            } else {
                format!("{grant}=BINDING")
            };
            output.hint(&format!("heyday grant {name} {grant}"));
        }
    }
    if !active {
        if !missing.is_empty() || staged {
            output.hint(&format!("heyday plugin activate {name} {version}"));
        }
    } else if let Some(first) = view::rows_of(plugin, "activities").first() {
        output.hint(&format!(
            "heyday activity run {name}.{} --input '{{}}'",
            view::text(first, "name")
        ));
    }
    Ok(())
}

/// Ends the wait, not the work, at Ctrl-C.
async fn interruptible<T>(
    work: impl Future<Output = Result<T, CliError>>,
    what: &'static str,
) -> Result<T, CliError> {
    tokio::select! {
        done = work => done,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
            Err(CliError::Interrupted {
                message: format!("{what} may go on at the server"),
                help: "look at it with `heyday plugin list`".to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_component_is_not_uploaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |bytes: &[u8]| {
            let path = folder.path().join("x.wasm");
            std::fs::write(&path, bytes).expect("written");
            path
        };
        assert!(component(&file(b"\0asm\x0d\0\x01\0rest")).is_ok());
        for (bytes, expected) in [
            (&b"\0asm\x01\0\0\0"[..], "core WebAssembly module"),
            (b"#!/bin/sh\n", "not a WebAssembly component"),
            (b"", "not a WebAssembly component"),
        ] {
            let error = component(&file(bytes)).expect_err("refused");
            assert_eq!(error.code(), 2);
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(component(folder.path()).expect_err("a folder").code(), 2);
    }

    #[test]
    fn only_unfinished_states_are_waited_for() {
        assert!(is_pending(&json!({ "state": "compiling" })));
        for state in ["ready", "failed", "", "something-new"] {
            assert!(!is_pending(&json!({ "state": state })), "{state}");
        }
    }
}
