//! `cargo xtask test`: builds everything and runs all tests.
//!
//! The guests are built while the host's dependencies compile. The binary embeds the
//! evaluator, so its build script waits for that one component; then it compiles once.
//! The servers that the tests need are fetched and built beside all of it. Where one
//! cannot be had, its tests say that they were not run, and so does the end; in CI that is
//! a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::bail;
use clap::Args;

use crate::guests;
use crate::process::{self, Budget, Missing, Project, counted, timed};
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
    let in_software = std::env::var_os("HEYDAY_TEST_DEVICE").is_none();
    if in_software {
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
        let mut run = project.cargo(arguments);
        if in_software {
            // Below it, kernels are chosen by how near they come to what the device can at most,
            // and to measure that takes longer than all tests where it computes in software.
            run.env("CUBECL_AUTOTUNE_LEVEL", "full");
        }
        process::run(run.args(["--", "--exact"]).args(tests))
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

/// Runs all tests; those that lack what they need, or have parts that do, are listed in a file.
fn run_all(project: &Project, filter: Option<&str>, lacking: &Path) -> anyhow::Result<()> {
    let native = |workspace: &str| {
        let mut command = project.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command
            .current_dir(project.root.join(workspace))
            .env("CARGO_TARGET_DIR", project.native());
        command
    };
    counted(Budget::Tests, "tests of the host", || {
        let mut command = project.cargo(["test", "--workspace", "--no-fail-fast"]);
        command.env("HEYDAY_NOT_RUN", lacking);
        // Most of the time of a test with servers is theirs, or waiting. Tests hold with so many
        // beside them, and their servers take less than a gigabyte each.
        if std::env::var_os("RUST_TEST_THREADS").is_none()
            && let Ok(cores) = std::thread::available_parallelism()
        {
            command.env("RUST_TEST_THREADS", (3 * cores.get()).to_string());
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
    let name = format!("not-run-{}", std::process::id());
    let lacking = project.target.join(name);
    let ran = run_all(project, options.filter.as_deref(), &lacking);
    // There is none where nothing was lacking.
    let listed = std::fs::read_to_string(&lacking).unwrap_or_default();
    let _ = std::fs::remove_file(&lacking);
    for line in parts_left_out(&listed).into_iter().chain(left_out) {
        println!("{line}");
    }
    ran
}

/// What is said of the tests whose servers cannot be had, and one command that installs what
/// may not be installed here; in CI that is an error, which says it of all of them.
fn left_out(missing: &[(&str, anyhow::Error)], in_ci: bool) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut packages: BTreeSet<&'static str> = BTreeSet::new();
    for (what, why) in missing {
        let causes = why
            .chain()
            .map(|cause| match cause.downcast_ref::<Missing>() {
                Some(missing) => {
                    packages.extend(&missing.0);
                    missing.named()
                }
                None => cause.to_string(),
            });
        let why = causes.collect::<Vec<_>>().join(": ");
        lines.push(format!("--- not run: the tests on {what}: {why}"));
    }
    if !packages.is_empty() {
        let command = Missing(packages.into_iter().collect()).command();
        lines.push(format!("--- `{command}` installs all of these packages"));
    }
    if in_ci && !lines.is_empty() {
        bail!("CI runs all tests\n{}", lines.join("\n"));
    }
    Ok(lines)
}

/// What is said of a list of the tests that lacked something, of which rows on another server
/// may have run: in each line, what was lacking, a tab, and the test.
fn parts_left_out(listed: &str) -> Vec<String> {
    let mut tests: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (what, test) in listed.lines().filter_map(|line| line.split_once('\t')) {
        tests.entry(what).or_default().insert(test);
    }
    let line = |(what, tests): (&str, BTreeSet<&str>)| {
        let tests = tests.into_iter().collect::<Vec<_>>().join(", ");
        format!("--- not run: all that needs {what} in {tests}")
    };
    tests.into_iter().map(line).collect()
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
    fn what_is_missing_is_told_with_one_command_and_fails_in_ci() {
        let missing = || {
            let lacks = |packages: &[&'static str]| anyhow::Error::from(Missing(packages.to_vec()));
            [
                ("Neo4j", lacks(&["maven", "default-jre-headless"])),
                (
                    "Weaviate",
                    lacks(&["golang-go"]).context("it cannot be built"),
                ),
                ("Temporal", lacks(&["golang-go"])),
                ("a gateway", anyhow::anyhow!("no network")),
            ]
        };
        let lines = left_out(&missing(), false).expect("no failure elsewhere");
        let expected = [
            "--- not run: the tests on Neo4j: maven and default-jre-headless are missing",
            "--- not run: the tests on Weaviate: it cannot be built: golang-go is missing",
            "--- not run: the tests on Temporal: golang-go is missing",
            "--- not run: the tests on a gateway: no network",
            "--- `sudo apt-get install default-jre-headless golang-go maven` installs all of \
             these packages",
        ];
        assert_eq!(lines, expected);
        let failure = left_out(&missing(), true)
            .expect_err("a failure")
            .to_string();
        assert!(lines.iter().all(|line| failure.contains(line)), "{failure}");
        assert!(left_out(&[], true).expect("nothing is missing").is_empty());
    }

    #[test]
    fn the_tests_that_lacked_something_are_told() {
        let listed = "Neo4j\tb::two\nPostgreSQL\ta::one\nNeo4j\ta::one\nNeo4j\tb::two\n";
        let expected = [
            "--- not run: all that needs Neo4j in a::one, b::two",
            "--- not run: all that needs PostgreSQL in a::one",
        ];
        assert_eq!(parts_left_out(listed), expected);
        assert!(parts_left_out("").is_empty());
    }
}
