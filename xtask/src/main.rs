//! The project's own commands: `cargo xtask up | test | bench | chaos | histories | build | lint`.
//!
//! Everything that a command needs it makes or fetches by itself, with progress shown:
//! the wasm target, the evaluator component, the first-party plugins.
//!
//! The way of a command: its module asks `guests` for the components and `process` for the
//! binary, fetches the servers that it needs (each has a module), and runs cargo, the binary or
//! both as processes of their own.
//!
//! Start reading at the module of the command.

#![allow(clippy::print_stdout, reason = "a command line")]

mod bench;
mod chaos;
mod gcs_emulator;
mod go;
mod guests;
mod histories;
mod inference;
mod interop;
mod licences;
mod lint;
mod neo4j;
mod process;
mod real_temporal;
mod s3_gateway;
mod temporal;
mod test;
mod up;
mod weaviate;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, start Heyday, process a folder of documents and search it.
    Up(up::Options),
    /// Build everything and run all tests.
    Test(test::Options),
    /// Measure a release build beside its peers.
    Bench(bench::Options),
    /// Build everything and kill the real server again and again under load.
    Chaos(chaos::Options),
    /// Build everything and record the histories of this driver's revision as test data.
    Histories,
    /// Build the guests and the `heyday` binary.
    Build {
        /// As it is released: optimized, with GPUs (Vulkan, Metal). Takes long.
        #[arg(long)]
        release: bool,
    },
    /// Check formatting, run clippy with warnings denied, build the docs, and check the licences
    /// of what is built, and the dependencies where `cargo deny` is installed.
    Lint(lint::Options),
}

fn main() -> anyhow::Result<()> {
    let project = process::Project::locate()?;
    match Arguments::parse().command {
        Command::Up(options) => up::run(&project, &options),
        Command::Test(options) => test::run(&project, &options),
        Command::Bench(options) => bench::run(&project, &options),
        Command::Chaos(options) => chaos::run(&project, &options),
        Command::Histories => histories::run(&project),
        Command::Build { release } => {
            guests::build(&project)?;
            let profile = if release {
                process::build_release(&project)?;
                process::Profile::Release
            } else {
                process::build_binary(&project)?;
                process::Profile::Debug
            };
            println!("built {}", project.program(profile, "heyday").display());
            Ok(())
        }
        Command::Lint(options) => lint::run(&project, &options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_names_commands_that_there_are() {
        let root = process::Project::locate().expect("it is found").root;
        let mut count = 0;
        for page in [
            "README.md",
            "CONTRIBUTING.md",
            "tests/histories/README.md",
            "examples/knowledge/README.md",
        ] {
            let text = std::fs::read_to_string(root.join(page)).expect("a page");
            let typed = text.lines().filter_map(|line| line.strip_prefix("    "));
            let mentioned = text.split('`').skip(1).step_by(2);
            for command in typed.chain(mentioned) {
                let Some(arguments) = command.strip_prefix("cargo xtask") else {
                    continue;
                };
                count += 1;
                let words = shlex::split(arguments).expect("closed quotes");
                let words = std::iter::once("cargo xtask".to_owned()).chain(words);
                if let Err(error) = Arguments::try_parse_from(words) {
                    panic!("{page}: `{command}`: {error}");
                }
            }
        }
        assert!(count > 3, "{count} commands were found");
    }
}
