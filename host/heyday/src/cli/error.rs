//! What can go wrong on the command line, how it reads, and the exit code it becomes.
//!
//! Every command answers `Result<(), CliError>`; `main` renders the error once, on
//! stderr, and ends with [`CliError::exit_code`]. The codes are part of the interface
//! (scripts branch on them) and are listed in `heyday --help`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::output::{Style, printable};

/// The process's exit codes, as `heyday --help` documents them.
pub mod code {
    /// Done.
    pub const OK: u8 = 0;
    /// A run or an activity ended otherwise than completed.
    pub const RUN_FAILED: u8 = 1;
    /// The command line or its input is wrong.
    pub const USAGE: u8 = 2;
    /// What was named does not exist.
    pub const NOT_FOUND: u8 = 3;
    /// The server refused: a conflict, a missing grant, a token it does not accept.
    pub const REFUSED: u8 = 4;
    /// No server answers, or it cannot work at the moment.
    pub const UNAVAILABLE: u8 = 5;
    /// A fault of the server or of this program.
    pub const INTERNAL: u8 = 6;
    /// The plugin does not build.
    pub const BUILD_FAILED: u8 = 7;
    /// A history does not fit the definition.
    pub const DIVERGES: u8 = 8;
    /// The wait was over before the end; what was waited for goes on.
    pub const TIMEOUT: u8 = 124;
    /// Interrupted by Ctrl-C while waiting; what was waited for goes on.
    pub const INTERRUPTED: u8 = 130;
}

/// The part of `heyday --help` that lists the exit codes.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done
  1    a run or an activity failed, was cancelled, was terminated or timed out
  2    the command line or its input is wrong
  3    what was named does not exist
  4    refused: a conflict, a missing grant, a token that is not accepted
  5    no server answers, or it cannot work at the moment
  6    a fault of the server or of this program
  7    a plugin does not build
  8    a history does not fit the definition that it was replayed against
  124  the wait was over first; what was waited for goes on
  130  interrupted by Ctrl-C; what was waited for goes on";

/// A problem document (RFC 9457) as the server sent it.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The document; made from the status line where the body was none.
    pub document: Value,
}

impl Problem {
    fn text(&self, member: &str) -> Option<&str> {
        self.document
            .get(member)?
            .as_str()
            .filter(|text| !text.is_empty())
    }

    /// The exit code that belongs to its status.
    fn exit_code(&self) -> u8 {
        match self.status {
            404 | 410 => code::NOT_FOUND,
            401 | 403 | 409 | 412 | 423 | 428 | 451 => code::REFUSED,
            408 | 429 | 502 | 503 | 504 | 507 => code::UNAVAILABLE,
            400..=499 => code::USAGE,
            _ => code::INTERNAL,
        }
    }

    fn render(&self, style: Style) -> String {
        let title = self
            .text("title")
            .unwrap_or("the server refused the request");
        let mut text = format!(
            "{} {}",
            style.error("error:"),
            style.bold(&printable(title))
        );
        if let Some(detail) = self.text("detail").filter(|detail| *detail != title) {
            text.push_str(&format!("\n  {}", indent(&printable(detail), 2)));
        }
        let errors = self.document.get("errors").and_then(Value::as_array);
        for error in errors.into_iter().flatten() {
            text.push_str(&format!("\n  {}", indent(&listed_error(error, style), 4)));
        }
        for member in ["help", "hint"] {
            if let Some(help) = self.text(member) {
                text.push_str(&format!(
                    "\n{} {}",
                    style.hint("help:"),
                    indent(&printable(help), 2)
                ));
            }
        }
        match (self.status, self.text("request_id")) {
            (401, _) => text.push_str(&format!(
                "\n{} `heyday up` prints its data folder and where its token is; name the folder \
                 with --data DIR or the file with --token-file FILE; HEYDAY_TOKEN, which has the \
                 token itself, goes over both",
                style.hint("help:")
            )),
            (500.., Some(id)) => text.push_str(&format!(
                "\n{} the server's log has the cause under request id {}",
                style.hint("help:"),
                printable(id)
            )),
            _ => {}
        }
        text
    }
}

/// One member of a problem's `errors`: where, what, and what to do.
fn listed_error(error: &Value, style: Style) -> String {
    let text = |member: &str| {
        error
            .get(member)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let number = |member: &str| error.get(member).and_then(Value::as_u64);
    let mut place = Vec::new();
    if let Some(line) = number("line") {
        match number("column") {
            Some(column) => place.push(format!("line {line}, column {column}")),
            None => place.push(format!("line {line}")),
        }
    }
    for member in ["pointer", "path", "task", "name", "import", "activity"] {
        if let Some(value) = text(member) {
            place.push(printable(value).into_owned());
            break;
        }
    }
    let message = text("message")
        .or_else(|| text("detail"))
        .or_else(|| error.as_str())
        .map_or_else(|| error.to_string(), |text| printable(text).into_owned());
    let mut line = if place.is_empty() {
        message
    } else {
        format!("{}: {message}", style.bold(&place.join(", ")))
    };
    for member in ["help", "hint"] {
        if let Some(help) = text(member) {
            line.push_str(&format!("\n{} {}", style.hint("help:"), printable(help)));
        }
    }
    line
}

/// Continues a text's further lines under its first.
fn indent(text: &str, by: usize) -> String {
    text.trim_end()
        .replace('\n', &format!("\n{}", " ".repeat(by)))
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line, or a file or text that it names, is wrong.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// The server answered with a problem document.
    #[error("the server answered {}", .0.status)]
    Problem(Box<Problem>),
    /// No server answers at that address.
    #[error("no server answers at {server}: {cause}")]
    Unreachable {
        /// The address.
        server: String,
        /// What the connection said.
        cause: String,
        /// What to do about it.
        help: String,
    },
    /// The connection was lost and the request was not repeated.
    #[error("the connection to {server} was lost: {cause}")]
    ConnectionLost {
        /// The address.
        server: String,
        /// What the connection said.
        cause: String,
        /// What to do about it.
        help: String,
    },
    /// The server's answer cannot be read.
    #[error("the answer of {server} cannot be read: {cause}")]
    BadAnswer {
        /// The address.
        server: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A run or an activity ended otherwise than completed. Its failure was shown.
    #[error("{0}")]
    RunFailed(String),
    /// What is configured cannot be used. What and why was shown.
    #[error("{0}")]
    Unusable(String),
    /// Something stands in the way.
    #[error("{message}")]
    Refused {
        /// What.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// The plugin does not build. The compiler's messages were shown.
    #[error("{message}")]
    BuildFailed {
        /// What failed.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// A history does not fit the definition that it was replayed against.
    #[error("{message}")]
    Diverges {
        /// Where they differ.
        message: String,
    },
    /// The wait was over first.
    #[error("{message}")]
    TimedOut {
        /// What is still going on.
        message: String,
        /// How to look at it.
        help: String,
    },
    /// Ctrl-C while waiting.
    #[error("{message}")]
    Interrupted {
        /// What goes on.
        message: String,
        /// How to look at it.
        help: String,
    },
    /// Anything else: a file that cannot be written, a server that did not start.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
    /// Whoever read stdout has gone (`heyday ... | head`). Nothing to say.
    #[error("stdout is closed")]
    StdoutClosed,
}

impl CliError {
    /// A usage error without further help.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            help: None,
        }
    }

    /// A usage error that says what to do.
    pub fn usage_help(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// The code that the process ends with.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } => code::USAGE,
            Self::Problem(problem) => problem.exit_code(),
            Self::Unreachable { .. } | Self::ConnectionLost { .. } => code::UNAVAILABLE,
            Self::BadAnswer { .. } | Self::Other(_) => code::INTERNAL,
            Self::RunFailed(_) => code::RUN_FAILED,
            Self::Unusable(_) => code::UNAVAILABLE,
            Self::Refused { .. } => code::REFUSED,
            Self::BuildFailed { .. } => code::BUILD_FAILED,
            Self::Diverges { .. } => code::DIVERGES,
            Self::TimedOut { .. } => code::TIMEOUT,
            Self::Interrupted { .. } => code::INTERRUPTED,
            Self::StdoutClosed => code::OK,
        }
    }

    /// [`code`](Self::code) as the standard library wants it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn help(&self) -> Option<&str> {
        match self {
            Self::Usage { help, .. }
            | Self::Refused { help, .. }
            | Self::BuildFailed { help, .. } => help.as_deref(),
            Self::Unreachable { help, .. }
            | Self::ConnectionLost { help, .. }
            | Self::TimedOut { help, .. }
            | Self::Interrupted { help, .. } => Some(help),
            _ => None,
        }
    }

    /// The error for a person; empty where there is nothing to say.
    pub fn render(&self, style: Style) -> String {
        match self {
            Self::StdoutClosed => String::new(),
            Self::Problem(problem) => problem.render(style),
            _ => {
                let message = match self {
                    // The causes below an anyhow error say what the operating system said.
                    Self::Other(error) => format!("{error:#}"),
                    other => other.to_string(),
                };
                let label = match self {
                    Self::Interrupted { .. } | Self::TimedOut { .. } => style.hint("note:"),
                    _ => style.error("error:"),
                };
                let mut text = format!("{label} {}", indent(&printable(&message), 2));
                if let Some(help) = self.help() {
                    text.push_str(&format!(
                        "\n{} {}",
                        style.hint("help:"),
                        indent(&printable(help), 2)
                    ));
                }
                text
            }
        }
    }

    /// The error as one JSON value: the server's problem document as it came, or one
    /// of the same form.
    pub fn to_json(&self) -> Option<Value> {
        let kind = match self {
            Self::StdoutClosed => return None,
            Self::Problem(problem) => return Some(problem.document.clone()),
            Self::Usage { .. } => "usage",
            Self::Unreachable { .. } => "unreachable",
            Self::ConnectionLost { .. } => "connection-lost",
            Self::BadAnswer { .. } => "bad-answer",
            Self::RunFailed(_) => "run-failed",
            Self::Unusable(_) => "unusable",
            Self::Refused { .. } => "refused",
            Self::BuildFailed { .. } => "build-failed",
            Self::Diverges { .. } => "diverges",
            Self::TimedOut { .. } => "timed-out",
            Self::Interrupted { .. } => "interrupted",
            Self::Other(_) => "internal",
        };
        let message = match self {
            Self::Other(error) => format!("{error:#}"),
            other => other.to_string(),
        };
        Some(json!({
            "type": format!("urn:heyday:cli:{kind}"),
            "title": message,
            "help": self.help(),
            "exit_code": self.code(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, document: Value) -> CliError {
        CliError::Problem(Box::new(Problem { status, document }))
    }

    #[test]
    fn statuses_become_exit_codes() {
        for (status, expected) in [
            (400, code::USAGE),
            (401, code::REFUSED),
            (403, code::REFUSED),
            (404, code::NOT_FOUND),
            (409, code::REFUSED),
            (413, code::USAGE),
            (415, code::USAGE),
            (422, code::USAGE),
            (429, code::UNAVAILABLE),
            (500, code::INTERNAL),
            (503, code::UNAVAILABLE),
        ] {
            assert_eq!(problem(status, json!({})).code(), expected, "{status}");
        }
        assert_eq!(CliError::usage("x").code(), 2);
        assert_eq!(CliError::RunFailed(String::new()).code(), 1);
        assert_eq!(CliError::StdoutClosed.code(), 0);
        assert_eq!(CliError::from(anyhow::anyhow!("x")).code(), 6);
    }

    #[test]
    fn every_exit_code_is_documented() {
        for code in [
            code::OK,
            code::RUN_FAILED,
            code::USAGE,
            code::NOT_FOUND,
            code::REFUSED,
            code::UNAVAILABLE,
            code::INTERNAL,
            code::BUILD_FAILED,
            code::DIVERGES,
            code::TIMEOUT,
            code::INTERRUPTED,
        ] {
            assert!(
                EXIT_CODES_HELP
                    .lines()
                    .any(|line| line.trim_start().starts_with(&format!("{code} "))),
                "{code}"
            );
        }
    }

    #[test]
    fn a_problem_shows_title_detail_and_each_listed_error() {
        let error = problem(
            422,
            json!({
                "title": "The flow is not valid",
                "detail": "2 errors",
                "errors": [
                    { "line": 7, "column": 3, "message": "unknown task \"sing\"", "help": "use `call`" },
                    { "pointer": "/do/0", "detail": "`then` names no task" },
                    "something else",
                ],
            }),
        );
        let text = error.render(Style::plain());
        assert_eq!(
            text,
            "error: The flow is not valid\n  2 errors\n  line 7, column 3: unknown task \"sing\"\n    help: use `call`\n  \
             /do/0: `then` names no task\n  something else"
        );
    }

    #[test]
    fn a_refused_token_says_where_tokens_are() {
        let text = problem(401, json!({ "title": "Unauthorized" })).render(Style::plain());
        for way in ["--token-file", "--data", "HEYDAY_TOKEN"] {
            assert!(text.contains(way), "{text}");
        }
    }

    #[test]
    fn text_of_the_server_cannot_drive_the_terminal() {
        let text = problem(400, json!({ "title": "a\u{1b}[2Jb" })).render(Style::plain());
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn errors_as_json_keep_the_problem_document() {
        let document = json!({ "type": "urn:x", "title": "T", "status": 404 });
        assert_eq!(problem(404, document.clone()).to_json(), Some(document));
        let own = CliError::usage_help("a", "b")
            .to_json()
            .expect("a document");
        assert_eq!(own["exit_code"], 2);
        assert_eq!(own["help"], "b");
    }
}
