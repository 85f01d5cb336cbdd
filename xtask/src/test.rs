//! `cargo xtask test`: builds everything and runs all tests.
//!
//! The guests are built while the host's dependencies compile. The binary embeds the
//! evaluator, so its build script waits for that one component; then it compiles once.
//! The servers that the tests need are fetched and built beside all of it. Where one
//! cannot be had, its tests say that they were not run, and so does the end; in CI that is
//! a failure.

use anyhow::bail;
use clap::Args;

use crate::guests;
use crate::process::{self, Budget, Project, counted, timed};
use crate::{
    gcs_emulator, inference, interop, neo4j, real_temporal, s3_gateway, temporal, weaviate,
};

/// Which tests to run.
#[derive(Args)]
pub struct Options {
    /// Run only tests whose names contain this text.
    filter: Option<String>,
    /// Run clippy and the tests of models on a GPU instead: one in software, or
    /// `HEYDAY_TEST_DEVICE`.
    #[arg(long)]
    gpu: bool,
}

/// Makes something ready.
type Install = fn(&Project) -> anyhow::Result<()>;

/// What is not to be had everywhere, so that a missing one is no failure everywhere: what
/// it is, and what installs it.
const SERVERS: [(&str, Install); 7] = [
    ("PostgreSQL", |_| real_temporal::install_postgres()),
    ("Temporal's real server", |_| real_temporal::install()),
    ("Temporal's Go SDK", interop::build_go),
    ("Weaviate", |_| weaviate::install()),
    ("Neo4j", |_| neo4j::install()),
    ("a gateway that speaks S3", |_| s3_gateway::install()),
    ("an emulator of Google Cloud Storage", |_| {
        gcs_emulator::install()
    }),
];

/// Workspaces of guests, whose tests run on this machine.
const WORKSPACES: [&str; 2] = ["plugins", "tests/guests"];

/// The tests that need a GPU, on one: a build of its own, and a long one. Nothing else lints it.
fn run_gpu(project: &Project, filter: Option<&str>) -> anyhow::Result<()> {
    timed("what inference is compared with", || {
        inference::prepare(project)
    })?;
    if std::env::var_os("HEYDAY_TEST_DEVICE").is_none() {
        timed("a GPU in software", inference::install_software_gpu)?;
    }
    let arguments = [
        "test",
        "--locked",
        "-p",
        "heyday-inference",
        "--features",
        "gpu",
        "--lib",
    ];
    counted(Budget::Builds, "building for a GPU", || {
        process::run(project.cargo(arguments).arg("--no-run"))
    })?;
    counted(Budget::Lints, "clippy for a GPU", || {
        process::run(&mut project.cargo([
            "clippy",
            "--locked",
            "-p",
            "heyday-inference",
            "--features",
            "gpu",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    counted(Budget::Tests, "tests on a GPU", || {
        let listed = process::output(project.cargo(arguments).args(["gpu", "--", "--list"]))?;
        let tests = matching(&listed, filter.unwrap_or_default())?;
        process::run(project.cargo(arguments).args(["--", "--exact"]).args(tests))
    })
}

/// Those of the tests that a harness lists whose names contain a text; without any, what is run
/// would pass.
fn matching<'a>(listed: &'a str, filter: &str) -> anyhow::Result<Vec<&'a str>> {
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<&str> = names.filter(|name| name.contains(filter)).collect();
    if names.is_empty() {
        bail!("no test on a GPU has a name that contains `{filter}`");
    }
    Ok(names)
}

fn run_all(project: &Project, filter: Option<&str>) -> anyhow::Result<()> {
    let native = |workspace: &str| {
        let mut command = project.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command
            .current_dir(project.root.join(workspace))
            .env("CARGO_TARGET_DIR", project.native());
        command
    };
    counted(Budget::Tests, "tests of the host", || {
        let mut command = project.cargo(["test", "--workspace", "--no-fail-fast"]);
        // Half of the time of a test with servers is theirs, or waiting.
        if std::env::var_os("RUST_TEST_THREADS").is_none()
            && let Ok(cores) = std::thread::available_parallelism()
        {
            command.env("RUST_TEST_THREADS", (2 * cores.get()).to_string());
        }
        if let Some(filter) = filter {
            command.arg(filter);
        }
        process::run(&mut command)
    })?;
    counted(Budget::Builds, "building the plugins, native", || {
        WORKSPACES
            .iter()
            .try_for_each(|workspace| process::run(native(workspace).arg("--no-run")))
    })?;
    counted(Budget::Tests, "tests of the plugins, native", || {
        WORKSPACES.iter().try_for_each(|workspace| {
            let mut command = native(workspace);
            if let Some(filter) = filter {
                command.arg(filter);
            }
            process::run(&mut command)
        })
    })?;
    // The host's tests have those of the SDK without its databases in memory, which are compiled
    // for the guests' tests anyway.
    counted(Budget::Tests, "examples of the SDK's databases", || {
        let mut command = project.cargo(["test", "-p", "heyday-sdk", "--doc", "--locked"]);
        command
            .current_dir(project.root.join("tests/guests"))
            .env("CARGO_TARGET_DIR", project.native())
            .arg(filter.unwrap_or("databases"));
        process::run(&mut command)
    })
}

/// Builds everything and runs all tests.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    if options.gpu {
        return run_gpu(project, options.filter.as_deref());
    }
    let missing = std::thread::scope(|scope| {
        let servers = scope.spawn(|| {
            timed("what inference is compared with", || {
                inference::prepare(project)
            })?;
            timed("Temporal's dev server and SDKs", || {
                temporal::install(project)?;
                interop::prepare(project)
            })?;
            let missing = SERVERS
                .map(|(what, install)| Some((what, timed(what, || install(project)).err()?)));
            anyhow::Ok(missing.into_iter().flatten().collect::<Vec<_>>())
        });
        let built = build(project);
        let servers = counted(Budget::Builds, "waiting for the servers", || {
            servers
                .join()
                .map_err(|_| anyhow::anyhow!("fetching the servers panicked"))?
        });
        built.and(servers)
    })?;
    let left_out = left_out(&missing, process::in_ci())?;
    let ran = run_all(project, options.filter.as_deref());
    for line in left_out {
        println!("{line}");
    }
    ran
}

/// What is said of the tests whose servers cannot be had; in CI that is an error, which says
/// it of all of them.
fn left_out(missing: &[(&str, anyhow::Error)], in_ci: bool) -> anyhow::Result<Vec<String>> {
    let line =
        |(what, why): &(&str, anyhow::Error)| format!("--- not run: the tests on {what}: {why:#}");
    let lines: Vec<String> = missing.iter().map(line).collect();
    if in_ci && !lines.is_empty() {
        bail!("CI runs all tests\n{}", lines.join("\n"));
    }
    Ok(lines)
}

/// Builds the guests, the tests and the binary that they start.
pub fn build(project: &Project) -> anyhow::Result<()> {
    counted(Budget::Builds, "building everything", || {
        let pending = guests::Pending::begin(project)?;
        std::thread::scope(|scope| {
            let guests = scope.spawn(|| {
                timed("building the guests", || {
                    guests::build_pending(project, pending)
                })
            });
            let host = timed("building the host", || {
                process::run(&mut project.cargo(["build", "--workspace", "--all-targets"]))
            });
            let guests = guests
                .join()
                .map_err(|_| anyhow::anyhow!("building the guests panicked"))?;
            guests.and(host)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_narrows_what_is_listed_and_finds_something() {
        let listed = "a::gpu_one: test\nb::gpu_two: test\n\n2 tests, 0 benchmarks\n";
        let found = matching(listed, "").expect("both");
        assert_eq!(found, ["a::gpu_one", "b::gpu_two"]);
        assert_eq!(matching(listed, "two").expect("one"), ["b::gpu_two"]);
        for (listed, filter) in [(listed, "three"), ("0 tests, 0 benchmarks\n", "")] {
            let error = matching(listed, filter).expect_err("none").to_string();
            assert!(error.contains("no test on a GPU"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_told_and_fails_in_ci() {
        let missing = || {
            let advice = process::apt_advice(&["default-jre-headless", "maven"]);
            [
                ("Neo4j", anyhow::anyhow!(advice)),
                (
                    "Weaviate",
                    anyhow::anyhow!("no Go").context("it cannot be built"),
                ),
            ]
        };
        let command = "`sudo apt-get install default-jre-headless maven`";
        let lines = left_out(&missing(), false).expect("no failure elsewhere");
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("Neo4j") && lines[0].contains(command));
        assert!(lines[1].contains("it cannot be built: no Go"), "{lines:?}");
        let failure = left_out(&missing(), true)
            .expect_err("a failure")
            .to_string();
        assert!(lines.iter().all(|line| failure.contains(line)), "{failure}");
        assert!(left_out(&[], true).expect("nothing is missing").is_empty());
    }
}
