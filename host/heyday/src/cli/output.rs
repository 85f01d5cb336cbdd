//! What a command shows: text for a person or the API's JSON, on stdout; everything
//! that only accompanies the work (progress, hints, errors) goes to stderr.
//!
//! Whatever a plugin, a flow or a caller wrote is passed through [`printable`] where it
//! becomes part of a text: a log line must not be able to move the cursor or retitle
//! the window. What was forgotten is caught where [`Output`] writes: there only our own
//! colours pass.

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
            "ContinuedAsNew" => self.dim(word),
            "Canceled" | "Terminated" | "compiling" | "staged" | "draining" => self.warn(word),
            _ => word.to_owned(),
        }
    }
}

/// What a terminal may obey, or a reader be misled by: control characters other than
/// line feed and tab, further line separators, bidirectional overrides.
fn harmful(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text without anything that a terminal would obey: such characters are written as
/// `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
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

/// Bytes of a plugin's text that are shown.
const LONGEST: usize = 8 << 10;

/// The beginning of a text, and how much is missing.
pub fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(LONGEST)];
    let left = text.len() - kept.len();
    Cow::Owned(format!("{kept}… ({left} bytes more: --output json)"))
}

/// Lets the colours of [`Style`] through, where there are any, and nothing else that a
/// terminal would obey.
fn guarded(text: &str, colour: bool) -> Cow<'_, str> {
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    if !colour {
        return printable(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        clean.push_str(&printable(&rest[..at]));
        let code = rest[at..].strip_prefix("\u{1b}[").map_or(0, |code| {
            let digits = code
                .bytes()
                .take_while(|b| b.is_ascii_digit() || *b == b';');
            let length = digits.count();
            if code[length..].starts_with('m') {
                length + 3
            } else {
                0
            }
        });
        clean.push_str(&rest[at..at + code]);
        // An escape that is none of ours becomes visible.
        let end = at + code.max(1);
        if code == 0 {
            clean.push_str(&printable(&rest[at..end]));
        }
        rest = &rest[end..];
    }
    clean.push_str(&printable(rest));
    Cow::Owned(clean)
}

/// JSON with such characters as `\u009b`: it says the same. They stand only in strings.
fn guarded_json(text: &str) -> Cow<'_, str> {
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) && c != '\r' {
            clean.push_str(&format!("\\u{:04x}", u32::from(c)));
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
        self.write(&if self.is_json() {
            guarded_json(text)
        } else {
            guarded(text, self.style.colour)
        })
    }

    /// Writes a name alone on its line, as it is where a program reads it.
    pub fn name(&self, name: &str) -> Result<(), CliError> {
        if io::stdout().is_terminal() {
            self.line(name)
        } else {
            self.write(name)
        }
    }

    fn write(&self, text: &str) -> Result<(), CliError> {
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

    /// Writes the server's answer as it came: nothing parsed, nothing reordered; only what
    /// a terminal would obey is escaped as JSON does.
    pub fn raw_json(&self, body: &[u8]) -> Result<(), CliError> {
        self.write(&guarded_json(String::from_utf8_lossy(body).trim_end()))
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
        let text = guarded(text, self.err_style.colour);
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Writes an error where errors go.
    pub fn error(&self, error: &CliError) {
        let text = if self.is_json() {
            error
                .to_json()
                .map(|document| guarded_json(&document.to_string()).into_owned())
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
    fn only_our_own_colours_pass() {
        let text = "\u{1b}[1;31merror:\u{1b}[0m a\u{1b}[2Jb\u{1b}]0;t\u{7}\u{1b}";
        assert_eq!(
            guarded(text, true),
            "\u{1b}[1;31merror:\u{1b}[0m a\\u{1b}[2Jb\\u{1b}]0;t\\u{7}\\u{1b}"
        );
        assert!(!guarded(text, false).contains('\u{1b}'));
        assert!(matches!(guarded("plain\n\t", true), Cow::Borrowed(_)));
    }

    #[test]
    fn json_says_the_same_with_escapes() {
        let value = serde_json::json!({ "a": "\u{1b}\u{9b}\u{7f}\u{202e}\u{2028}ä" });
        let text = value.to_string();
        let safe = guarded_json(&text);
        assert!(!safe.contains(harmful), "{safe}");
        let read: serde_json::Value = serde_json::from_str(&safe).expect("JSON");
        assert_eq!(read, value);
    }

    #[test]
    fn huge_texts_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let text = format!("{}ää", "x".repeat(LONGEST - 1));
        let short = shortened(&text);
        assert!(
            short.ends_with("x… (4 bytes more: --output json)"),
            "{short}"
        );
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
