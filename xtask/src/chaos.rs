//! `cargo xtask chaos`: kills the real server again and again, and checks that nothing
//! was lost.
//!
//! It is the test `process_death` of the integration tests, or with Temporal
//! `cluster_death`, which kills workers and the cluster too, with another number of kills;
//! debug builds only, since others have no fail points. With Temporal the cluster is also
//! once away for a minute.

use clap::{Args, ValueEnum};

use crate::process::{self, Project, timed};
use crate::{temporal, test};

/// Which engine, and how often.
#[derive(Args)]
pub struct Options {
    /// The engine that the server runs on.
    #[arg(long, value_enum, default_value_t = Engine::Embedded)]
    engine: Engine,
    /// How often something is killed.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// SQLite, in the server's own process.
    Embedded,
    /// Temporal's dev server on a file, which is killed too, as workers are.
    Temporal,
}

/// The test of a cluster that is away.
const AWAY: &str = "conformance::away::a_cluster_that_is_away_is_waited_for_and_loses_nothing";

/// Builds everything and kills the server so many times.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    test::build(project)?;
    let test = match options.engine {
        Engine::Embedded => "process_death::process_death",
        Engine::Temporal => {
            temporal::install(project)?;
            "cluster_death::cluster_death"
        }
    };
    let run = |test: &str| {
        let mut command = project.cargo(["test", "--workspace", "--test", "integration", "--"]);
        command.args(["--exact", test, "--nocapture"]);
        process::run(command.env("HEYDAY_CHAOS_KILLS", options.kills.to_string()))
    };
    if matches!(options.engine, Engine::Temporal) {
        timed("a cluster that is away for a minute", || run(AWAY))?;
    }
    timed(&format!("{} kills", options.kills), || run(test))
}
