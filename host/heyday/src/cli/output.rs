//! What a command shows: text for a person or the API's JSON, on stdout; everything
//! that only accompanies the work (progress, hints, errors) goes to stderr.
//!
//! Whatever a plugin, a flow or a caller wrote is passed through [`printable`] before
//! it reaches a terminal: a log line must not be able to move the cursor or retitle
//! the window.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};

use super::error::CliError;

/// How answers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Text,
    /// The API's JSON, as it came; streams are one JSON value a line.
    Json,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Without colours.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { colour: false }
    }

    /// With colours where the stream is a terminal that has them and nobody said no
    /// (`--no-color`, `NO_COLOR` with any value, `TERM=dumb`).
    pub fn detect(no_colour: bool, terminal: bool) -> Self {
        let refused = no_colour
            || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: terminal && !refused,
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Stands out.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Steps back.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Went well.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Needs attention.
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Went wrong.
    pub fn error(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// A word of advice.
    pub fn hint(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// A status word in the colour of its meaning.
    pub fn status(self, word: &str) -> String {
        match word {
            "Completed" | "ready" | "active" | "ok" => self.good(word),
            "Failed" | "TimedOut" | "failed" => self.paint("31", word),
            "Canceled" | "Terminated" | "compiling" | "staged" | "draining" => self.warn(word),
            _ => word.to_owned(),
        }
    }
}

/// The text without anything that a terminal would obey: control characters other
/// than line feed and tab are written as `\x1b`, bidirectional overrides as `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        // A Windows line end is a line end.
        if c == '\r' && characters.peek() == Some(&'\n') {
            continue;
        }
        if harmful(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

/// As [`printable`], on one line: for cells of a table.
pub fn one_line(text: &str) -> String {
    let mut line = printable(text).replace('\t', " ");
    if line.contains('\n') {
        line = line
            .split('\n')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
    }
    line
}

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Text or JSON.
    pub format: Format,
    /// Colours of stdout.
    pub style: Style,
    /// Colours of stderr.
    pub err_style: Style,
}

impl Output {
    /// Looks at the streams.
    pub fn new(format: Format, no_colour: bool) -> Self {
        Self {
            format,
            style: Style::detect(
                no_colour || format == Format::Json,
                io::stdout().is_terminal(),
            ),
            err_style: Style::detect(no_colour, io::stderr().is_terminal()),
        }
    }

    /// Whether answers are JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes one line, or several, to stdout.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.write_all(b"\n"))
            .and_then(|()| stdout.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::StdoutClosed,
            _ => CliError::Other(anyhow::Error::new(error).context("stdout cannot be written")),
        })
    }

    /// Writes the server's answer as it came: nothing parsed, nothing reordered.
    pub fn raw_json(&self, body: &[u8]) -> Result<(), CliError> {
        self.line(String::from_utf8_lossy(body).trim_end())
    }

    /// Tells something about the work, on stderr; not in JSON mode, whose reader is a
    /// program. A stderr that cannot be written is no reason to stop.
    pub fn note(&self, text: &str) {
        if !self.is_json() {
            self.stderr(text);
        }
    }

    /// Advice on what to do next, on stderr, as [`note`](Self::note).
    pub fn hint(&self, text: &str) {
        self.note(&format!("{} {text}", self.err_style.hint("next:")));
    }

    /// Something that went through but needs attention; in JSON mode too.
    pub fn warn(&self, text: &str) {
        self.stderr(&format!("{} {text}", self.err_style.warn("warning:")));
    }

    /// Writes to stderr whatever the format is.
    pub fn stderr(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Writes an error where errors go.
    pub fn error(&self, error: &CliError) {
        let text = if self.is_json() {
            error
                .to_json()
                .map(|document| document.to_string())
                .unwrap_or_default()
        } else {
            error.render(self.err_style)
        };
        if !text.is_empty() {
            self.stderr(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_is_left_alone() {
        for text in ["", "plain", "two\nlines\tand a tab", "größer 文字 🙂"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(
            printable("a\u{1b}]0;title\u{7}b"),
            "a\\u{1b}]0;title\\u{7}b"
        );
        assert_eq!(printable("a\u{9b}31mb"), "a\\u{9b}31mb");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(printable("a\r\nb"), "a\nb");
        assert_eq!(printable("a\rb"), "a\\rb");
    }

    #[test]
    fn cells_are_one_line() {
        assert_eq!(one_line("a\n  b\tc\n\n"), "a b c");
    }

    #[test]
    fn colours_follow_the_terminal_and_the_wish() {
        assert_eq!(Style::detect(true, true), Style::plain());
        assert_eq!(Style::detect(false, false), Style::plain());
        assert_eq!(Style::plain().error("x"), "x");
        assert_eq!(Style { colour: true }.good("x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
