//! The documentation names only commands and options that there are: each is parsed with
//! the real definitions.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::Cli;

/// Every page of the repository.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut open = vec![root.join("docs"), root.join("examples")];
    let mut paths: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "sdk-guest/README.md"]
        .map(|page| root.join(page))
        .into();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a page");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn parse(command: &str) -> Result<(), clap::Error> {
    // What its output is given to is another program's.
    let command = command.split(" | ").next().unwrap_or(command);
    let words = shlex::split(command).unwrap_or_else(|| panic!("quotes in `{command}`"));
    Cli::try_parse_from(words).map(drop)
}

#[test]
fn commands_to_be_typed_are_whole() {
    let mut count = 0;
    for (path, text) in pages() {
        for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
            if line.starts_with("heyday ") {
                count += 1;
                parse(line).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
    }
    assert!(count > 10, "{count} commands were found");
}

#[test]
fn commands_that_are_mentioned_exist() {
    let mut count = 0;
    for (path, text) in pages() {
        for command in text.split('`').skip(1).step_by(2) {
            if !command.starts_with("heyday ") || command.contains('\n') {
                continue;
            }
            count += 1;
            // What a sentence names needs no arguments.
            if let Err(error) = parse(command)
                && !matches!(
                    error.kind(),
                    ErrorKind::DisplayHelp
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                )
            {
                panic!("{}: `{command}`: {error}", path.display());
            }
        }
    }
    assert!(count > 10, "{count} commands were found");
}
