//! Values from the command line: JSON as text, from a file, or from stdin; durations.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::CliError;

/// Inputs over this many bytes are refused before anything is sent; the server's own
/// limit is lower and says what to do.
const LARGEST_INPUT: u64 = 64 << 20;

/// Reads `--input`: JSON text, `@FILE`, or `-` for stdin. It is sent as it was written:
/// the order of members and the digits of numbers stay.
pub fn json(argument: &str) -> Result<Box<RawValue>, CliError> {
    let (text, origin) = match argument {
        "-" => (read_stdin()?, "stdin".to_owned()),
        _ => match argument.strip_prefix('@') {
            Some("-") => (read_stdin()?, "stdin".to_owned()),
            Some(path) => (read_file(Path::new(path))?, path.to_owned()),
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
    if path == Path::new("-") {
        read_stdin()
    } else {
        read_file(path)
    }
}

fn read_stdin() -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(LARGEST_INPUT + 1)
        .read_to_end(&mut text)
        .map_err(|error| CliError::usage(format!("stdin cannot be read: {error}")))?;
    check_size("stdin", text.len() as u64)?;
    Ok(text)
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
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
    check_size(&path.display().to_string(), metadata.len())?;
    std::fs::read(path).map_err(cannot)
}

fn check_size(what: &str, size: u64) -> Result<(), CliError> {
    if size > LARGEST_INPUT {
        return Err(CliError::usage_help(
            format!("{what} has more than {} MiB", LARGEST_INPUT >> 20),
            "put large values into a blob and pass its key",
        ));
    }
    Ok(())
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
