//! `heyday plugin`: make, build and upload plugins, and manage their versions.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use heyday_durable::payload::Digest;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::build::{self, BuildArgs, BuildOptions};
use super::client::{Answer, Request};
use super::error::CliError;
use super::options::GlobalOptions;
use super::output::Output;
use super::progress::Step;
use super::versions::{self, Kind, NameAndVersion};
use super::{Context, input, sample, template, view};

/// One wait for an upload to be compiled.
const SLICE: Duration = Duration::from_secs(20);

/// How often an upload is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// Commands on plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a new plugin: a folder that builds anywhere
    #[command(
        after_help = "Examples:\n  heyday plugin new greet\n  heyday plugin new greet --path plugins/greet\n\n\
        The folder holds the SDK of this version and a lock file: a clone of it builds without anything else."
    )]
    New(NewArgs),
    /// Build a plugin for the sandbox: a WebAssembly component
    #[command(
        after_help = "Examples:\n  heyday plugin build\n  heyday plugin build greet --locked\n\n\
        A Rust toolchain for wasm32-wasip2 is found or made: rustup's, else Debian's packages.\n\
        HEYDAY_WASM_TOOLCHAIN=rustup or =debian takes the one or the other."
    )]
    Build(BuildArgs),
    /// Replace a plugin's SDK by the one of this version
    #[command(after_help = "Examples:\n  heyday plugin upgrade\n  heyday plugin upgrade greet")]
    Upgrade(UpgradeArgs),
    /// Upload a plugin; active at once, if no grant is missing
    #[command(
        after_help = "Examples:\n  heyday plugin push greet            build the folder, then upload\n  heyday plugin push greet.wasm\n  \
        heyday plugin push greet.wasm --dev          edit and push again without a new version number\n  \
        heyday plugin push greet.wasm --no-activate  store it, activate it later"
    )]
    Push(PushArgs),
    /// Show what has become of an upload: a version, why it is none, or that it is not compiled yet
    #[command(
        after_help = "Examples:\n  heyday plugin status sha256:9f86d0...\n  heyday plugin status sha256:9f86d0... --wait\n\n\
        `heyday plugin push` names the digest where it does not wait for the end. The exit code is 4 \
        where the upload failed."
    )]
    Status(StatusArgs),
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

/// Arguments of `plugin new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// The plugin's name
    pub name: String,
    /// The folder to make [default: NAME]
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
}

/// Arguments of `plugin upgrade`.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The plugin's folder
    #[arg(default_value = ".")]
    pub path: PathBuf,
}

/// Arguments of `plugin push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The plugin's folder, which is built first; or a component's file; - is stdin
    #[arg(value_name = "FOLDER|FILE", default_value = ".")]
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
    /// How a folder is built.
    #[command(flatten, next_help_heading = "Building a folder")]
    pub build: BuildOptions,
}

/// Arguments of `plugin status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The digest of the component: sha256: and 64 hexadecimal digits
    pub digest: Digest,
    /// Wait until it is compiled, or has failed
    #[arg(long)]
    pub wait: bool,
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
    let command = match command {
        PluginCommand::New(args) => return new(args, &global.output()),
        PluginCommand::Upgrade(args) => return upgrade(&args, &global.output()),
        PluginCommand::Build(args) => return build::run(args, &global.output()).await,
        command => command,
    };
    let context = &global.context()?;
    match command {
        // Done above, without a server.
        PluginCommand::New(_) | PluginCommand::Upgrade(_) | PluginCommand::Build(_) => Ok(()),
        PluginCommand::Push(args) => push(args, context).await,
        PluginCommand::Status(args) => status(&args, context).await,
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
                None,
            )
            .await
        }
        PluginCommand::Rollback(of) => {
            versions::rollback(context, Kind::Plugin, &of.name, None).await
        }
        PluginCommand::Remove(of) => {
            versions::remove(context, Kind::Plugin, &of.name, &of.version).await
        }
    }
}

fn new(args: NewArgs, output: &Output) -> Result<(), CliError> {
    let folder = args.path.unwrap_or_else(|| PathBuf::from(&args.name));
    template::create(&args.name, &folder)?;
    if output.is_json() {
        return output.line(&json!({ "name": args.name, "path": folder }).to_string());
    }
    output.line(&format!(
        "{} plugin {} is in {}",
        output.style.good("✓"),
        args.name,
        folder.display()
    ))?;
    let word = view::shell_word(&folder.display().to_string());
    output.note(&format!(
        "  {word}/src/lib.rs has a first activity; `cargo test` in the folder runs its tests"
    ));
    output.hint(&format!("heyday plugin push {word}"));
    Ok(())
}

fn upgrade(args: &UpgradeArgs, output: &Output) -> Result<(), CliError> {
    let lock = template::upgrade(&args.path)?;
    let version = env!("CARGO_PKG_VERSION");
    if output.is_json() {
        return output.line(
            &json!({ "path": args.path, "sdk": version, "lock_replaced": lock == template::Lock::Replaced }).to_string(),
        );
    }
    output.line(&format!(
        "{} {} has the SDK of Heyday {version}",
        output.style.good("✓"),
        args.path.display()
    ))?;
    if lock == template::Lock::Kept {
        output.note("  Cargo.lock is kept: it pins crates of your own. cargo adds to it what the SDK needs.");
    }
    Ok(())
}

/// Reads a component and sees at once what cannot be one; the server verifies it.
fn component(path: &Path) -> Result<Bytes, CliError> {
    let bytes = input::component(path)?;
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
    if !args.path.is_dir() {
        return upload(&args, &args.path, context).await;
    }
    for artifact in build::build(&args.path, &args.build, &context.output).await? {
        upload(&args, &artifact.path, context).await?;
    }
    Ok(())
}

async fn upload(args: &PushArgs, path: &Path, context: &Context) -> Result<(), CliError> {
    let output = &context.output;
    let bytes = component(path)?;
    let size = bytes.len() as u64;
    let digest = Digest::of(&bytes);
    let file = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned();
    let step = Step::bytes(output, &format!("Uploading {file}"), size);
    let bar = step.bar();
    let request = Request::post(&["plugins"])
        .query("activate", (!args.no_activate).to_string())
        .query("dev", args.dev.to_string())
        .query("allow_missing", args.allow_missing.to_string())
        .wait(SLICE)
        .bytes("application/wasm", bytes, Some(bar.clone()))
        // The same bytes again answer the same version, so it may be repeated.
        .idempotent(None);
    let sent = async {
        while bar.position() < size {
            tokio::time::sleep(GLANCE).await;
        }
        step.message(&format!("Verifying and compiling {file}"));
        std::future::pending::<Infallible>().await
    };
    let answer = tokio::select! {
        answer = interruptible(context.client.send(&request), "the upload", &digest) => answer?,
        never = sent => match never {},
    };
    let answer = compiled(context, answer, &digest, &file, &step).await?;
    if view::text(&answer.json()?, "state") != "failed" {
        step.done(&format!("Uploaded {file} ({})", view::bytes(size)));
    }
    ended(context, &answer, &file, args.no_activate)
}

async fn status(args: &StatusArgs, context: &Context) -> Result<(), CliError> {
    let output = &context.output;
    let digest = args.digest.to_string();
    let request = Request::get(&["uploads", &digest]);
    let mut answer = context.client.send(&request).await?;
    if args.wait {
        let step = Step::spinner(output, &format!("Waiting for {digest}"));
        answer = compiled(context, answer, &args.digest, &digest, &step).await?;
        step.clear();
    }
    if answer.status != StatusCode::ACCEPTED {
        return ended(context, &answer, &digest, true);
    }
    if output.is_json() {
        return output.raw_json(&answer.body);
    }
    let state = view::text(&answer.json()?, "state");
    output.line(&format!("{digest} is {state}"))?;
    output.hint(&format!("{} --wait", status_command(&args.digest)));
    Ok(())
}

/// What shows where an upload stands.
fn status_command(digest: &Digest) -> String {
    format!("heyday plugin status {digest}")
}

/// Waits until what was uploaded is compiled, or has failed.
async fn compiled(
    context: &Context,
    mut answer: Answer,
    digest: &Digest,
    name: &str,
    step: &Step,
) -> Result<Answer, CliError> {
    let request = Request::get(&["uploads", &digest.to_string()]).wait(SLICE);
    while answer.status == StatusCode::ACCEPTED {
        let state = view::text(&answer.json()?, "state");
        step.message(&format!("{name} is {state}"));
        let next = context.client.send(&request);
        answer = interruptible(next, "the compilation", digest).await?;
    }
    Ok(answer)
}

/// Says what an upload has become: a version, or none.
fn ended(context: &Context, answer: &Answer, name: &str, staged: bool) -> Result<(), CliError> {
    let version = answer.json()?;
    if context.output.is_json() {
        context.output.raw_json(&answer.body)?;
    }
    if view::text(&version, "state") == "failed" {
        return Err(CliError::Refused {
            message: format!("{name} cannot be used: {}", versions::reason(&version)),
            help: None,
        });
    }
    if context.output.is_json() {
        return Ok(());
    }
    tell(context, &version, staged)
}

/// Says what an upload led to, and what to do next.
fn tell(context: &Context, plugin: &Value, staged: bool) -> Result<(), CliError> {
    let output = &context.output;
    let style = output.style;
    let name = view::text(plugin, "name");
    let version = view::text(plugin, "version");
    let active = plugin.get("active") == Some(&Value::Bool(true));
    let missing = versions::missing_grants(plugin);
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
    for warning in view::rows_of(plugin, "warnings") {
        output.warn(&view::pretty(warning));
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
    let unfit = versions::unfit_grants(plugin);
    if !unfit.is_empty() {
        output.warn(&format!("{name} cannot use {}", unfit.join(", ")));
        for grant in view::rows_of(plugin, "unfit_grants") {
            let (capability, binding) = (
                view::text(grant, "capability"),
                view::text(grant, "binding"),
            );
            output.hint(&format!(
                "heyday grant revoke {name} {capability}={binding}"
            ));
        }
    }
    if !active {
        if !missing.is_empty() || !unfit.is_empty() || staged {
            output.hint(&format!("heyday plugin activate {name} {version}"));
        }
    } else if let Some(first) = view::rows_of(plugin, "activities").first() {
        let input = sample::of_schema(first.get("input").unwrap_or(&Value::Null)).to_string();
        let activity = view::text(first, "name");
        output.hint(&format!(
            "heyday activity run {name}.{activity} --input {}",
            view::shell_word(&input)
        ));
    }
    Ok(())
}

/// Ends the wait, not the work, at Ctrl-C.
async fn interruptible<T>(
    work: impl Future<Output = Result<T, CliError>>,
    what: &'static str,
    digest: &Digest,
) -> Result<T, CliError> {
    tokio::select! {
        done = work => done,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
            Err(CliError::Interrupted {
                message: format!("{what} may go on at the server"),
                help: format!("look at it with `{}`", status_command(digest)),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
