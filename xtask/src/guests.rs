//! Builds the guests: the evaluator that the binary embeds, the first-party plugins, and
//! the guests that tests run.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use heyday_toolchain::{BuildRequest, Kind, Progress, Toolchain};

use crate::process::Project;

/// The evaluator while it is being built: `host/heyday/build.rs` waits until this is
/// dropped, so that whatever embeds the evaluator compiles once, beside the guests.
pub struct Pending {
    // Locked; closing it unlocks.
    _lock: std::fs::File,
    since: SystemTime,
}

impl Pending {
    /// From here on, builds of the binary wait for the evaluator.
    pub fn begin(project: &Project) -> anyhow::Result<Self> {
        std::fs::create_dir_all(project.components())?;
        let path = project.expressions().with_extension("lock");
        let lock = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
        lock.lock().with_context(|| path.display().to_string())?;
        Ok(Self {
            _lock: lock,
            since: SystemTime::now(),
        })
    }
}

/// Builds all guests and puts their components into [`Project::components`].
pub fn build(project: &Project) -> anyhow::Result<()> {
    build_pending(project, Pending::begin(project)?)
}

/// The same, where what waits for the evaluator was started after `pending`.
pub fn build_pending(project: &Project, pending: Pending) -> anyhow::Result<()> {
    let kind = Kind::from_environment()?;
    let toolchain = Toolchain::locate(kind, &mut show)?;
    println!("guests: {}", toolchain.description());
    let mut pending = Some(pending);
    // All plugins at once, so that a crate that several of them share is built once.
    for workspace in ["plugins", "tests/guests"] {
        let folder = project.root.join(workspace);
        let mut request = BuildRequest::release(&folder);
        request.target_dir = Some(project.guests_build());
        request.locked = true;
        let since = pending.as_ref().map(|pending| pending.since);
        for artifact in toolchain.build(&request, &mut show)? {
            // A dependency may be a cdylib of its own.
            if !folder.join(&artifact.package).is_dir() {
                continue;
            }
            let target = project
                .components()
                .join(format!("{}.wasm", artifact.package));
            install(&artifact.path, &target, since)?;
        }
        // The evaluator is among the plugins.
        pending = None;
    }
    Ok(())
}

/// Copies a component where it changed only: what embeds it is rebuilt by its time. That
/// time is `since`, where given: a build script that has waited since then has read it.
fn install(from: &Path, to: &Path, since: Option<SystemTime>) -> anyhow::Result<()> {
    let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = to.with_extension("tmp");
    std::fs::write(&temporary, bytes)?;
    if let Some(since) = since {
        std::fs::File::options()
            .write(true)
            .open(&temporary)?
            .set_modified(since)?;
    }
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
