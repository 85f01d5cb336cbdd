//! `cargo xtask chaos`: kills the real server again and again, and checks that nothing
//! was lost.
//!
//! It is the test `process_death` of the integration tests, with another number of
//! kills; debug builds only, since others have no fail points.

use clap::{Args, ValueEnum};

use crate::process::{self, Project, timed};
use crate::test;

/// Which engine, and how often.
#[derive(Args)]
pub struct Options {
    /// The engine that the server runs on.
    #[arg(long, value_enum, default_value_t = Engine::Embedded)]
    engine: Engine,
    /// How often the server is killed; the phases take turns.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// SQLite, in the server's own process.
    Embedded,
}

/// Builds everything and kills the server so many times.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    match options.engine {
        // The server's default.
        Engine::Embedded => {}
    }
    test::build(project)?;
    timed(&format!("{} kills", options.kills), || {
        let mut command = project.cargo(["test", "--workspace", "--test", "integration", "--"]);
        command
            .args(["--exact", "process_death::process_death", "--nocapture"])
            .env("HEYDAY_CHAOS_KILLS", options.kills.to_string());
        process::run(&mut command)
    })
}
