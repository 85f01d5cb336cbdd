//! Builds the guests: the evaluator that the binary embeds, the first-party plugins, and
//! the guests that tests run.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Context as _;
use heyday_toolchain::{BuildRequest, Kind, Progress, Toolchain};

use crate::process::Project;

/// Builds all guests and puts their components into [`Project::components`].
pub fn build(project: &Project) -> anyhow::Result<()> {
    let kind = Kind::from_environment()?;
    let toolchain = Toolchain::locate(kind, &mut show)?;
    println!("guests: {}", toolchain.description());
    let components = project.components();
    std::fs::create_dir_all(&components)?;
    for workspace in ["plugins", "tests/guests"] {
        let folder = project.root.join(workspace);
        if !folder.is_dir() {
            continue;
        }
        let mut request = BuildRequest::release(&folder);
        request.target_dir = Some(project.target.join("guests-build"));
        request.locked = true;
        for artifact in toolchain.build(&request, &mut show)? {
            // A dependency may be a cdylib of its own.
            if !folder.join(&artifact.package).is_dir() {
                continue;
            }
            let target = components.join(format!("{}.wasm", artifact.package));
            install(&artifact.path, &target)?;
        }
    }
    Ok(())
}

/// Copies a component where it changed only: what embeds it is rebuilt by its time.
fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = to.with_extension("tmp");
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, to)?;
    println!("guests: {}", to.display());
    Ok(())
}

fn show(progress: Progress<'_>) {
    match progress {
        Progress::Step(step) => println!("guests: {step}"),
        Progress::Line(line) if std::io::stdout().is_terminal() || line.contains("error") => {
            println!("guests:   {line}");
        }
        // A log needs no line for each crate.
        Progress::Line(_) => {}
    }
}
