//! Values from the command line: JSON as text, from a file, or from stdin; durations.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::CliError;

/// How large what is read may be. More is refused before anything is sent.
#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes: u64,
    help: &'static str,
}

/// Of JSON and of texts; the server's own limits are lower and say what to do.
const INPUT: Limit = Limit {
    bytes: 64 << 20,
    help: "put large values into a blob and pass its key",
};

/// Of components: as many bytes as a server may be told to take (`limits.upload_bytes`).
const COMPONENT: Limit = Limit {
    bytes: heyday::config::MAX_UPLOAD_BYTES as u64,
    help: "build it in release mode without debug information",
};

/// Reads `--input`: JSON text, `@FILE`, or `-` for stdin. It is sent as it was written:
/// the order of members and the digits of numbers stay.
pub fn json(argument: &str) -> Result<Box<RawValue>, CliError> {
    let (text, origin) = match argument {
        "-" => (read_stdin(INPUT)?, "stdin".to_owned()),
        _ => match argument.strip_prefix('@') {
            Some("-") => (read_stdin(INPUT)?, "stdin".to_owned()),
            Some(path) => (read_file(Path::new(path), INPUT)?, path.to_owned()),
            None => (argument.as_bytes().to_vec(), "the argument".to_owned()),
        },
    };
    serde_json::from_slice(&text).map_err(|error| {
        let help = if origin == "the argument" {
            "give one JSON value ('{\"name\":\"Ada\"}', '\"text\"', '7'), @FILE to read it from a file, \
             or - to read it from stdin"
        } else {
            "the file must hold one JSON value"
        };
        CliError::usage_help(format!("{origin} is not JSON: {error}"), help)
    })
}

/// The bytes of a file; `-` is stdin.
pub fn bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    read(path, INPUT)
}

/// The bytes of a component's file; `-` is stdin.
pub fn component(path: &Path) -> Result<Vec<u8>, CliError> {
    read(path, COMPONENT)
}

fn read(path: &Path, limit: Limit) -> Result<Vec<u8>, CliError> {
    if path == Path::new("-") {
        read_stdin(limit)
    } else {
        read_file(path, limit)
    }
}

fn read_stdin(limit: Limit) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(limit.bytes + 1)
        .read_to_end(&mut text)
        .map_err(|error| CliError::usage(format!("stdin cannot be read: {error}")))?;
    limit.check("stdin", text.len() as u64)?;
    Ok(text)
}

fn read_file(path: &Path, limit: Limit) -> Result<Vec<u8>, CliError> {
    let cannot = |error: std::io::Error| {
        CliError::usage(format!("{} cannot be read: {error}", path.display()))
    };
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if metadata.is_dir() {
        return Err(CliError::usage(format!(
            "{} is a folder, not a file",
            path.display()
        )));
    }
    limit.check(&path.display().to_string(), metadata.len())?;
    std::fs::read(path).map_err(cannot)
}

impl Limit {
    fn check(self, what: &str, size: u64) -> Result<(), CliError> {
        if size > self.bytes {
            return Err(CliError::usage_help(
                format!("{what} has more than {} MiB", self.bytes >> 20),
                self.help,
            ));
        }
        Ok(())
    }
}

/// Reads a duration for clap: `30s`, `5m`, `1h30m`, `PT5M`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    heyday_durable::flow::duration::parse(text)
}

/// A duration as parameters of the API take it: whole milliseconds.
pub fn duration_parameter(wait: Duration) -> String {
    format!("{}ms", wait.as_millis())
}

/// `NAME=JSON`, or `NAME=TEXT`.
///
/// # Errors
/// A sentence for a person.
pub fn named_value(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=JSON"))?;
    if name.is_empty() {
        return Err(format!("{text:?} has no name"));
    }
    // A word that is no JSON is meant as text.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn json_comes_as_text_or_from_a_file() {
        let text = "{\"b\": 12345678901234567890123, \"a\": 1}";
        assert_eq!(json(text).expect("json").get(), text);
        assert_eq!(json("\"x\"").expect("json").get(), "\"x\"");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b" [1, 2]\n").expect("written");
        let argument = format!("@{}", file.path().display());
        assert_eq!(json(&argument).expect("json").get(), "[1, 2]");
    }

    #[test]
    fn what_is_no_json_says_how_to_give_it() {
        let error = json("{name: x}").expect_err("not JSON");
        assert_eq!(error.code(), 2);
        assert!(
            error
                .render(super::super::output::Style::plain())
                .contains("@FILE")
        );
        assert!(
            json("@/no/such/file")
                .expect_err("no file")
                .to_string()
                .contains("/no/such/file")
        );
        assert!(
            json("@/")
                .expect_err("a folder")
                .to_string()
                .contains("folder")
        );
    }

    #[test]
    fn a_component_may_be_larger_than_an_input() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        // Of a hole, which takes no room.
        file.as_file().set_len(INPUT.bytes + 1).expect("made");
        let error = bytes(file.path()).expect_err("too large");
        let text = error.render(super::super::output::Style::plain());
        assert!(text.contains("64 MiB") && text.contains("a blob"), "{text}");
        let read = component(file.path()).expect("a component");
        assert_eq!(read.len() as u64, INPUT.bytes + 1);
        file.as_file().set_len(COMPONENT.bytes + 1).expect("made");
        let error = component(file.path()).expect_err("too large");
        let text = error.render(super::super::output::Style::plain());
        assert!(
            text.contains("1024 MiB") && !text.contains("a blob"),
            "{text}"
        );
    }

    #[test]
    fn durations_are_read_in_each_form() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("PT1M30S"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("soon").is_err());
        assert!(duration("-5s").is_err());
        assert_eq!(
            duration(&duration_parameter(Duration::from_millis(1500))),
            Ok(Duration::from_millis(1500))
        );
    }
}
