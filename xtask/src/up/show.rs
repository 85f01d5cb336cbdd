//! What `up` prints: steps with their times, progress, failures, passages.
//!
//! On a terminal a bar is drawn; a log gets plain lines, few of them.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// Keys that are named of each kind of failure.
pub const EXAMPLES: usize = 5;

/// How often a log is told how far the documents are.
const LOG_EVERY: Duration = Duration::from_secs(15);

/// Runs a part, says what it is and, when it is done, how long it took.
pub fn step<T>(name: &str, part: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("• {name}");
    let begun = Instant::now();
    let result = part()?;
    println!("✓ {name} ({})", seconds(begun.elapsed()));
    Ok(result)
}

/// `0.4 s`, `75 s`, `12 min 5 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 10 {
        format!("{:.1} s", duration.as_secs_f64())
    } else if whole < 120 {
        format!("{whole} s")
    } else {
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// `1,234`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 document`, `2,000 documents`.
pub fn documents(count: u64) -> String {
    let word = if count == 1 { "document" } else { "documents" };
    format!("{} {word}", number(count))
}

/// How far the documents are.
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// None is done of so many, as far as is known.
    pub fn new(total: u64) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stdout()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "  {bar:30} {human_pos} of {human_len} documents, {elapsed}, {eta} left";
        // A constant; a wrong one would fall back to the default.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        let now = Instant::now();
        Self {
            bar,
            begun: now,
            told: now,
        }
    }

    /// So many are done of so many.
    pub fn at(&mut self, done: u64, total: u64) {
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.elapsed() >= LOG_EVERY {
            self.told = Instant::now();
            println!(
                "  {} of {} after {}",
                number(done),
                documents(total.max(done)),
                seconds(self.begun.elapsed())
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The documents that cannot be read, by kind: how many, the first keys, and why.
pub fn failures(answer: &Value) -> String {
    let total = answer["total"].as_u64().unwrap_or_default();
    let mut text = String::new();
    if total == 0 {
        return text;
    }
    // Writing to a String does not fail.
    let _ = writeln!(text, "\n{} cannot be read:", documents(total));
    for group in answer["kinds"].as_array().into_iter().flatten() {
        let count = group["total"].as_u64().unwrap_or_default();
        let kind = group["kind"].as_str().unwrap_or_default();
        let _ = writeln!(text, "  {kind}: {}", number(count));
        let shown: Vec<&Value> = group["documents"]
            .as_array()
            .into_iter()
            .flatten()
            .take(EXAMPLES)
            .collect();
        for document in &shown {
            let key = document["key"].as_str().unwrap_or_default();
            let reason = document["reason"].as_str().unwrap_or_default();
            let _ = writeln!(
                text,
                "    {}: {}",
                one_line(key, 100),
                one_line(reason, 160)
            );
        }
        let more = count.saturating_sub(shown.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "    and {} more", number(more));
        }
    }
    text
}

/// Found passages with where they come from.
pub fn passages(answer: &Value) -> String {
    let mut text = String::new();
    for passage in answer["passages"].as_array().into_iter().flatten() {
        let word = |name: &str| passage[name].as_str().unwrap_or_default();
        let mut place = one_line(word("key"), 100);
        if let Some(page) = passage["page"].as_u64() {
            let _ = write!(place, ", page {page}");
        }
        if passage["heading"].is_string() {
            let _ = write!(place, ", under \"{}\"", one_line(word("heading"), 80));
        }
        let _ = writeln!(text, "  {} ({place})", one_line(word("title"), 100));
        let _ = writeln!(text, "    {}", one_line(word("snippet"), 260));
    }
    text
}

/// Keys and texts come from strangers' files: no line ends, no control characters.
pub fn one_line(text: &str, most: usize) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most)
        .collect();
    if text.chars().count() > most {
        format!("{line}…")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(documents(1), "1 document");
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(75)), "75 s");
        assert_eq!(seconds(Duration::from_secs(725)), "12 min 5 s");
    }

    #[test]
    fn failures_name_documents_and_reasons() {
        let document =
            |n: u64| json!({"key": format!("a/{n}.pdf\n"), "reason": "needs a password"});
        let answer = json!({"total": 501, "kinds": [
            {"kind": "file-encrypted", "total": 500, "documents": (0..9).map(document).collect::<Vec<_>>()},
            {"kind": "no-text", "total": 1, "documents": [{"key": "scan.pdf", "reason": "a scan"}]},
        ]});
        let text = failures(&answer);
        let lines: Vec<&str> = text.trim().lines().collect();
        assert_eq!(lines[0], "501 documents cannot be read:");
        assert_eq!(lines[1], "  file-encrypted: 500");
        assert_eq!(lines[2], "    a/0.pdf : needs a password");
        assert_eq!(lines[1 + EXAMPLES + 1], "    and 495 more");
        assert_eq!(lines.last(), Some(&"    scan.pdf: a scan"));
        assert_eq!(failures(&json!({"total": 0, "kinds": []})), "");
    }

    #[test]
    fn passages_name_their_source() {
        let answer = json!({"passages": [{
            "key": "a.pdf", "title": "A", "page": 3, "heading": "Two", "snippet": "… found …"
        }]});
        assert_eq!(
            passages(&answer),
            "  A (a.pdf, page 3, under \"Two\")\n    … found …\n"
        );
    }
}
