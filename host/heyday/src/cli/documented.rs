//! The documentation names only commands and options that there are: each is parsed with
//! the real definitions.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::Cli;

/// Every page of the repository.
fn pages() -> Vec<(PathBuf, String)> {
    // Cargo says it now: with a target folder of two checkouts it may have been built in the other.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it");
    let root = Path::new(&manifest).join("../..");
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

/// The code spans of a text in Markdown: what stands between a run of backticks and the next
/// run of as many. Fences are such runs too. A run that nothing closes is text.
fn code_spans(text: &str) -> Vec<&str> {
    /// Where the first run of backticks is.
    fn run(text: &str) -> Option<Range<usize>> {
        let start = text.find('`')?;
        let rest = &text[start..];
        let length = rest.find(|c| c != '`').unwrap_or(rest.len());
        Some(start..start + length)
    }
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(opening) = run(rest) {
        let inner = &rest[opening.end..];
        rest = inner;
        let mut at = 0;
        while let Some(closing) = run(&inner[at..]) {
            let (start, end) = (at + closing.start, at + closing.end);
            if closing.len() == opening.len() {
                spans.push(&inner[..start]);
                rest = &inner[end..];
                break;
            }
            at = end;
        }
    }
    spans
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
        for command in code_spans(&text) {
            // A space beside the backticks is not of the command.
            let command = command.trim_ascii();
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

#[test]
fn a_code_span_ends_at_as_many_backticks() {
    assert_eq!(code_spans("no code"), [""; 0]);
    assert_eq!(code_spans("`a` and `b`"), ["a", "b"]);
    assert_eq!(code_spans("`` a ` b `` and `c`"), [" a ` b ", "c"]);
    assert_eq!(code_spans("` a `` b ` and `c`"), [" a `` b ", "c"]);
    assert_eq!(code_spans("```sh\na `b`\n```\n`c`"), ["sh\na `b`\n", "c"]);
    // What nothing closes hides no later one.
    assert_eq!(code_spans("a `` b `c` d"), ["c"]);
    assert_eq!(code_spans("`a` `"), ["a"]);
}
