//! Building plugins: `heyday plugin build`, and what `plugin push` does with a folder.
//!
//! The work is heyday-toolchain's: it finds, or makes, a Rust toolchain for the target
//! and runs cargo. Here its progress becomes a spinner and its errors exit codes. It
//! needs no server.

use std::path::{Path, PathBuf};

use clap::Args;
use heyday_toolchain::{Artifact, BuildRequest, Error, Kind, Progress, Toolchain};
use serde_json::json;

use super::error::CliError;
use super::output::Output;
use super::progress::Step;
use super::view;

/// Arguments of `plugin build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The plugin's folder, or a workspace of plugins
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// How it is built.
    #[command(flatten)]
    pub options: BuildOptions,
}

/// How a plugin is built.
#[derive(Debug, Clone, Default, Args)]
pub struct BuildOptions {
    /// Build for a quick debug cycle: faster to build, slower to run, larger
    #[arg(long)]
    pub debug: bool,
    /// Fail where the lock file would have to be changed
    #[arg(long)]
    pub locked: bool,
    /// Ask no network for crates
    #[arg(long)]
    pub offline: bool,
    /// Only these packages of a workspace; may be given more than once
    #[arg(long, short, value_name = "NAME")]
    pub package: Vec<String>,
}

/// Runs `plugin build`.
pub async fn run(args: BuildArgs, output: &Output) -> Result<(), CliError> {
    let built = build(&args.path, &args.options, output).await?;
    if output.is_json() {
        let built: Vec<_> = built
            .iter()
            .map(|artifact| json!({ "package": artifact.package, "path": artifact.path, "size": size(&artifact.path) }))
            .collect();
        return output.line(&json!({ "components": built }).to_string());
    }
    for artifact in &built {
        // The path alone on stdout, so that a script can use it.
        output.line(&artifact.path.display().to_string())?;
    }
    if let [artifact] = built.as_slice() {
        let path = view::shell_word(&artifact.path.display().to_string());
        output.hint(&format!("heyday plugin push {path}"));
    }
    Ok(())
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path)
        .map(|metadata| metadata.len())
        .unwrap_or_default()
}

/// Builds what is in a folder and answers the components.
///
/// # Errors
/// [`CliError::BuildFailed`] with what the compiler said.
pub async fn build(
    folder: &Path,
    options: &BuildOptions,
    output: &Output,
) -> Result<Vec<Artifact>, CliError> {
    if !folder.join("Cargo.toml").is_file() {
        let what = if folder.is_dir() {
            "has no Cargo.toml"
        } else {
            "is no folder"
        };
        return Err(CliError::usage_help(
            format!("{} {what}", folder.display()),
            "name a plugin's folder; `heyday plugin new NAME` makes one",
        ));
    }
    let kind = Kind::from_environment().map_err(failed)?;
    let request = BuildRequest {
        manifest_dir: folder.to_owned(),
        packages: options.package.clone(),
        release: !options.debug,
        offline: options.offline,
        locked: options.locked,
        target_dir: None,
    };
    let step = Step::spinner(output, &format!("Building {}", folder.display()));
    // cargo takes its time; the runtime has other things to do meanwhile (the spinner
    // ticks on a thread of its own).
    let (step, built) = tokio::task::spawn_blocking(move || {
        let mut tell = |progress: Progress<'_>| match progress {
            Progress::Step(text) => step.part(&capitalized(text)),
            Progress::Line(text) => step.message(text.trim()),
        };
        let built = Toolchain::locate(kind, &mut tell)
            .map_err(failed)
            .and_then(|toolchain| toolchain.build(&request, &mut tell).map_err(not_built));
        (step, built)
    })
    .await
    .map_err(|error| {
        CliError::Other(anyhow::Error::new(error).context("the build ended unexpectedly"))
    })?;
    let built = built?;
    let sizes: Vec<String> = built
        .iter()
        .map(|artifact| {
            format!(
                "{} ({})",
                artifact.package,
                view::bytes(size(&artifact.path))
            )
        })
        .collect();
    step.done(&format!("Built {}", sizes.join(", ")));
    Ok(built)
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// Why there is no toolchain, as an exit code. Its message says what to do.
fn failed(error: Error) -> CliError {
    match error {
        Error::UnknownKind(_) => CliError::usage(error.to_string()),
        error => CliError::BuildFailed {
            message: error.to_string(),
            help: None,
        },
    }
}

/// What cargo and the compiler said, with a word of advice.
fn not_built(error: Error) -> CliError {
    let help = matches!(error, Error::Failed { .. })
        .then(|| "mend what the compiler names above, and build again".to_owned());
    CliError::BuildFailed {
        message: error.to_string(),
        help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, Style};

    #[test]
    fn failures_of_the_toolchain_have_codes() {
        assert_eq!(failed(Error::UnknownKind("x".to_owned())).code(), 2);
        let told = |by: fn(Error) -> CliError, program: &str| {
            let error = by(Error::Failed {
                program: program.to_owned(),
                reason: "ended with status 101".to_owned(),
                output: "error[E0425]: cannot find value `x`".to_owned(),
            });
            assert_eq!(error.code(), 7);
            assert!(error.to_string().contains("E0425"), "{error}");
            error.render(Style::plain())
        };
        assert!(told(not_built, "cargo build").contains("the compiler names"));
        // No plugin is at fault.
        assert!(!told(failed, "apt-get update").contains("compiler names"));
    }

    #[tokio::test]
    async fn a_folder_without_a_plugin_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Output::new(Format::Json, true);
        for path in [folder.path().to_owned(), folder.path().join("nowhere")] {
            let error = build(&path, &BuildOptions::default(), &output)
                .await
                .expect_err("refused");
            assert_eq!(error.code(), 2);
            assert!(error.to_string().contains(&path.display().to_string()));
        }
    }
}
