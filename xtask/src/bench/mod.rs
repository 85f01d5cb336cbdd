//! `cargo xtask bench`: measures a release build beside its peers, in one run.
//!
//! The measuring itself is `peers/bench`, a program of a workspace of its own; here
//! everything is built while the peers are fetched ([`parts`], [`peers`]), the program is called once
//! for each benchmark, and its figures are gathered, printed and written.

mod parts;
mod peers;
mod times;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::process::{self, Profile, Project, timed};

use parts::Parts;
use times::{Kind, Times};

/// What `--help` shows beneath the options.
const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                          all of them, in about 30 minutes once it is built;
                                             at its end it says how long what took, and fails
                                             where a benchmark did or something took too long
  cargo xtask bench sandbox                  only the sandbox
  cargo xtask bench sandbox interrupt
  cargo xtask bench --json figures.json      also writes [{name, value, unit, peer, peer_value,
                                             ratio, goal, met, seconds}]
  cargo xtask bench --quick                  a debug build and few samples: shows that each
                                             benchmark works, and measures nothing

Peers: wasmtime; Restate (needs node and npm); Temporal's dev server with workers on its Rust,
Python and Go SDKs (needs python3, and go for the last); PostgreSQL, Weaviate (needs go) and Neo4j
(needs java and maven); onnxruntime (needs python3) and candle. They are fetched into the user's cache folder. Close other programs: what counts is the ratio to the
peer in the same run, but a busy machine still makes it uncertain. docs/benchmarks.md says
what each figure is.";

/// What to measure.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Which benchmarks; all where none is named.
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A debug build and few samples, to see that it works.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// An activity call in a fresh sandbox against bare wasmtime, and its memory.
    Sandbox,
    /// How late a guest that computes for ever is stopped.
    Interrupt,
    /// Durable workflows over HTTP against Restate and Temporal.
    Workflow,
    /// One activity on a Temporal cluster against activities on its SDKs.
    Temporal,
    /// A worker's start, and its memory with many plugins.
    Workers,
    /// Calls of capabilities by a guest against the same done natively.
    HostCalls,
    /// The embedded vector store against Weaviate.
    Vectors,
    /// The embedded graph against Neo4j.
    Graphs,
    /// Models against onnxruntime and candle, and the service around them.
    Inference,
    /// What the knowledge example's search finds, against what people judged.
    Retrieval,
}

impl Name {
    const ALL: [Self; 10] = [
        Self::Sandbox,
        Self::Interrupt,
        Self::Workflow,
        Self::Temporal,
        Self::Workers,
        Self::HostCalls,
        Self::Vectors,
        Self::Graphs,
        Self::Inference,
        Self::Retrieval,
    ];

    const fn text(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Interrupt => "interrupt",
            Self::Workflow => "workflow",
            Self::Temporal => "temporal",
            Self::Workers => "workers",
            Self::HostCalls => "host-calls",
            Self::Vectors => "vectors",
            Self::Graphs => "graphs",
            Self::Inference => "inference",
            Self::Retrieval => "retrieval",
        }
    }

    /// Whether it measures the whole server.
    const fn needs_heyday(self) -> bool {
        matches!(
            self,
            Self::Workflow | Self::Temporal | Self::Workers | Self::Retrieval
        )
    }
}

/// Measures, prints and writes.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    let profile = if options.quick {
        Profile::Debug
    } else {
        Profile::Release
    };
    let times = Times::begin();
    let names = match &*options.names {
        [] => &Name::ALL[..],
        names => names,
    };
    let (what, server): (_, &[&str]) = if names.iter().any(|name| name.needs_heyday()) {
        ("Heyday and the harness", &["--package", "heyday"])
    } else {
        ("the harness", &[])
    };
    let parts = parts::beside(project, names, &times, || {
        times.count(Kind::Builds, what, || {
            timed(&format!("building {what}"), || {
                let mut command = project.cargo(["build", "--locked", "--package", "heyday-bench"]);
                // Together, since apart they would want other features of a few dependencies,
                // and so most of them twice.
                command
                    .args(server)
                    .args(profile.arguments())
                    .current_dir(project.root.join("peers"))
                    .env("CARGO_TARGET_DIR", &project.target);
                process::run(&mut command)
            })
        })
    })?;
    let measuring = Measuring {
        project,
        profile,
        quick: options.quick,
        times: &times,
    };
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for (name, parts) in names.iter().zip(parts) {
        // The others are worth measuring.
        if let Err(error) = measuring.measure(*name, parts, &mut figures) {
            println!("--- benchmark {}: {error:#}", name.text());
            failed.push((*name, error));
        }
    }
    print(&figures);
    let whole = times.whole();
    println!("{}", times.text(whole, &figures));
    let over = times::over(whole, &figures);
    if let Some(path) = &options.json {
        std::fs::write(path, Value::from(figures).to_string())
            .with_context(|| format!("--json {}", path.display()))?;
    }
    outcome(&failed, &over)
}

/// An error that names what failed and why, and what took too long, where anything did.
fn outcome(failed: &[(Name, anyhow::Error)], over: &[String]) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    if !failed.is_empty() {
        lines.push("benchmarks that failed:".to_owned());
        lines.extend(
            failed
                .iter()
                .map(|(name, why)| format!("  {}: {why:#}", name.text())),
        );
    }
    if !over.is_empty() {
        lines.push("what took too long:".to_owned());
        lines.extend(over.iter().map(|what| format!("  {what}")));
    }
    if !lines.is_empty() {
        bail!("{}", lines.join("\n"));
    }
    Ok(())
}

/// What all benchmarks of a run have in common.
struct Measuring<'a> {
    project: &'a Project,
    profile: Profile,
    quick: bool,
    times: &'a Times,
}

impl Measuring<'_> {
    /// Runs one benchmark and adds its figures, of one that fails those that it had measured.
    fn measure(&self, name: Name, parts: Parts, figures: &mut Vec<Value>) -> anyhow::Result<()> {
        let project = self.project;
        let json = project.target.join(format!("bench-{}.json", name.text()));
        if json.exists() {
            // Of a run that was cut off: not to be taken for this one's.
            std::fs::remove_file(&json).with_context(|| json.display().to_string())?;
        }
        let mut command = process::command(project.program(self.profile, "heyday-bench"));
        command
            .arg("--json")
            .arg(&json)
            .arg("--probe")
            .arg(project.components().join("probe.wasm"));
        if self.quick {
            command.arg("--quick");
        }
        command.arg(name.text());
        if let Some(installed) = parts.server {
            if let Err(error) = installed {
                println!("not compared: {error:#}");
            }
            process::name_servers(&mut command);
        }
        if name.needs_heyday() {
            command
                .arg("--heyday")
                .arg(project.program(self.profile, "heyday"));
        }
        let mut options = parts.options?;
        if name == Name::Inference {
            let candle = || peers::candle(project, &project.root.join("peers"));
            let built = self
                .times
                .count(Kind::Builds, "the program on candle", candle);
            options.push(("--candle", built));
        }
        for (option, found) in options {
            match found {
                Ok(path) => {
                    command.arg(option).arg(path);
                }
                // The rest is worth measuring; what is missing shows as not compared.
                Err(error) => println!("not compared: {error:#}"),
            }
        }
        let ran = self.times.count(Kind::Benchmarks, name.text(), || {
            timed(&format!("benchmark {}", name.text()), || {
                process::run(&mut command)
            })
        });
        match read(&json) {
            Ok(measured) => figures.extend(measured),
            Err(error) if ran.is_ok() => return Err(error),
            // One that was killed has written nothing; its end says more.
            Err(_) => {}
        }
        ran
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    std::fs::remove_file(path)?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// All figures, one a line.
fn print(figures: &[Value]) {
    println!();
    for figure in figures {
        println!("{}", line(figure));
    }
    let missed = figures.iter().filter(|figure| figure["met"] == false);
    println!("{} figures, {} goals missed", figures.len(), missed.count());
}

fn line(figure: &Value) -> String {
    let text = |name: &str| figure[name].as_str().unwrap_or_default();
    let number = |name: &str| figure[name].as_f64();
    let value = number("value").map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let mut line = format!("{:<38} {value:>11} {:<6}", text("name"), text("unit"));
    if let Some(value) = number("peer_value") {
        line.push_str(&format!(" {} {value:.3}", text("peer")));
    }
    if let Some(ratio) = number("ratio") {
        line.push_str(&format!(", {ratio:.2}x"));
    }
    if !figure["goal"].is_null() {
        let met = match figure["met"].as_bool() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None if figure["value"].is_null() => "not measured",
            None => "not compared",
        };
        line.push_str(&format!(" (goal {}: {met})", text("goal")));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Name;

    #[test]
    fn a_figure_is_one_line() {
        let figure = json!({
            "name": "sandbox.empty.1", "value": 61.5, "unit": "us", "peer": "bare wasmtime",
            "peer_value": 60.0, "ratio": 1.025, "goal": "at most 1.2x", "met": true,
        });
        let line = super::line(&figure);
        assert!(line.contains("61.500 us"), "{line}");
        assert!(
            line.contains("bare wasmtime 60.000, 1.02x (goal at most 1.2x: met)"),
            "{line}"
        );
        let alone = json!({
            "name": "a", "value": 4.0, "unit": "syncs", "peer": null, "peer_value": null,
            "ratio": null, "goal": "at least 2x", "met": null,
        });
        let line = super::line(&alone);
        assert!(line.ends_with("(goal at least 2x: not compared)"), "{line}");
        let without = json!({
            "name": "a", "value": null, "unit": "syncs", "peer": null, "peer_value": null,
            "ratio": null, "goal": "at most 4 syncs", "met": null,
        });
        let line = super::line(&without);
        assert!(
            line.ends_with(" - syncs  (goal at most 4 syncs: not measured)"),
            "{line}"
        );
    }

    #[test]
    fn what_failed_and_what_took_too_long_is_named_at_the_end() {
        assert!(super::outcome(&[], &[]).is_ok());
        let failed = [
            (
                Name::Workflow,
                anyhow::anyhow!("no answer").context("Heyday does not start"),
            ),
            (Name::HostCalls, anyhow::anyhow!("ended with 1")),
        ];
        let over = ["a.b took 301.0 s of 5 min".to_owned()];
        let said = |failed: &[(Name, anyhow::Error)], over: &[String]| {
            super::outcome(failed, over).unwrap_err().to_string()
        };
        assert_eq!(
            said(&failed, &over),
            "benchmarks that failed:\n  workflow: Heyday does not start: no answer\n  \
             host-calls: ended with 1\nwhat took too long:\n  a.b took 301.0 s of 5 min"
        );
        assert_eq!(
            said(&[], &over),
            "what took too long:\n  a.b took 301.0 s of 5 min"
        );
        assert!(!said(&failed, &[]).contains("too long"));
    }
}
