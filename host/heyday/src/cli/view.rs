//! Members of the API's JSON as text for a person.
//!
//! Rendering reads members by name and shows an absent one as nothing: a client must
//! go on working with a server that says more, or less, than it knows.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use super::client::Request;
use super::error::CliError;
use super::output::printable;
use super::table::Table;

/// A member as text: strings as they are, null and absent as nothing, others as JSON.
pub fn text(value: &Value, member: &str) -> String {
    match value.get(member) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The first of these members that says something.
pub fn first_text(value: &Value, members: &[&str]) -> String {
    members
        .iter()
        .map(|member| text(value, member))
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// A member that is a number.
pub fn number(value: &Value, member: &str) -> Option<u64> {
    value.get(member)?.as_u64()
}

/// Reads a whole list, page by page. As JSON each page is printed as it is, and there is
/// nothing left to show: `None` then.
pub async fn all_rows(
    context: &Context,
    list: Request,
    member: &str,
) -> Result<Option<Vec<Value>>, CliError> {
    let mut all = Vec::new();
    let mut token = None;
    loop {
        let request = list.clone().query_if("page_token", token);
        let answer = context.client.send(&request).await?;
        let page = answer.json()?;
        if context.output.is_json() {
            context.output.raw_json(&answer.body)?;
        } else {
            all.extend_from_slice(rows(&page, member));
        }
        token = next_page(&page);
        if token.is_none() {
            return Ok((!context.output.is_json()).then_some(all));
        }
    }
}

/// The rows of a list: the array itself, or the member that holds it.
pub fn rows<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value
        .as_array()
        .or_else(|| value.get(member)?.as_array())
        .map_or(&[], Vec::as_slice)
}

/// A member that is a list; empty where it is absent.
pub fn rows_of<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value
        .get(member)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The rows of a list whose member has one of these names.
pub fn rows_any<'a>(value: &'a Value, members: &[&str]) -> &'a [Value] {
    members
        .iter()
        .map(|member| rows(value, member))
        .find(|rows| !rows.is_empty())
        .unwrap_or_default()
}

/// A page's token for the next one; none at the end.
pub fn next_page(value: &Value) -> Option<String> {
    Some(text(value, "next_page_token")).filter(|token| !token.is_empty())
}

/// What is said of a list that has nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nothing<'a> {
    /// That there is nothing.
    pub note: &'a str,
    /// The command that would make the first one.
    pub hint: Option<&'a str>,
}

impl<'a> From<&'a str> for Nothing<'a> {
    fn from(note: &'a str) -> Self {
        Self { note, hint: None }
    }
}

/// Shows what a list answers as a table, from the page of a token on: that page, or `all` that
/// follow. `rows` puts a page into the table; `nothing` is said where there are none.
pub async fn pages(
    context: &Context,
    list: &Request,
    mut token: Option<String>,
    all: bool,
    mut table: Table,
    nothing: Nothing<'_>,
    rows: impl Fn(&Value, &mut Table),
) -> Result<(), CliError> {
    let output = &context.output;
    loop {
        let request = list.clone().query_if("page_token", token);
        let answer = context.client.send(&request).await?;
        let page = answer.json()?;
        if output.is_json() {
            output.raw_json(&answer.body)?;
        }
        rows(&page, &mut table);
        token = next_page(&page);
        if !all || token.is_none() {
            break;
        }
    }
    if output.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        output.note(nothing.note);
        if let Some(hint) = nothing.hint {
            output.hint(hint);
        }
    } else {
        output.line(&table.render(output.style))?;
    }
    if let Some(token) = token {
        output.hint(&format!(
            "more with --all, or from here with --page-token {}",
            shell_word(&token)
        ));
    }
    Ok(())
}

/// A list of strings, separated by commas.
pub fn list(value: &Value, member: &str) -> String {
    value
        .get(member)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|item| {
            item.as_str()
                .map_or_else(|| item.to_string(), str::to_owned)
        })
        .collect::<Vec<_>>()
        .join(", ")
}

/// JSON for a person: a string as it is, anything else indented.
pub fn pretty(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text).into_owned(),
        other => {
            printable(&serde_json::to_string_pretty(other).unwrap_or_else(|_| other.to_string()))
                .into_owned()
        }
    }
}

/// A number of bytes: `812 B`, `1.4 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = count as f64 / 1000.0;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A duration: `350 us`, `12 ms`, `3.4 s`, `2 m 5 s`, `3 h 20 m`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() == 0 => format!("{} us", duration.as_micros()),
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a member's time was: `12 s ago`; the text itself where it is no time.
pub fn ago(value: &Value, member: &str, now: Timestamp) -> String {
    let text = text(value, member);
    let Ok(then) = text.parse::<Timestamp>() else {
        return text;
    };
    match Duration::try_from(now.duration_since(then)) {
        Ok(passed) if passed.as_secs() == 0 => "just now".to_owned(),
        Ok(passed) if passed.as_secs() < 60 => format!("{} s ago", passed.as_secs()),
        Ok(passed) => format!("{} ago", duration(passed)),
        // A clock that differs, or a time to come.
        Err(_) => format!("in {}", duration(now.duration_since(then).unsigned_abs())),
    }
}

/// The time from one member to the other, or to now.
pub fn lasted(value: &Value, from: &str, to: &str, now: Timestamp) -> String {
    let time = |member: &str| text(value, member).parse::<Timestamp>().ok();
    let Some(begun) = time(from) else {
        return String::new();
    };
    let ended = time(to).unwrap_or(now);
    Duration::try_from(ended.duration_since(begun))
        .map(duration)
        .unwrap_or_default()
}

/// A failure with its causes, as a person reads it.
pub fn failure(value: &Value) -> String {
    let mut lines = Vec::new();
    let mut next = Some(value);
    let mut first = true;
    while let Some(failure) = next.filter(|failure| failure.is_object()) {
        let kind = text(failure, "kind");
        let message = text(failure, "message");
        let message = super::output::shortened(&message);
        let details = failure.get("details").filter(|details| !details.is_null());
        let task = details.and_then(|details| task(&kind, details));
        let both = match (kind.is_empty(), message.is_empty()) {
            (false, false) => format!("{kind}: {message}"),
            _ => format!("{kind}{message}"),
        };
        let both = match task {
            Some(task) => format!("{both} (task {task})"),
            None => both,
        };
        lines.push(if first {
            both
        } else {
            format!("caused by {both}")
        });
        next = failure.get("cause").filter(|cause| cause.is_object());
        // A flow's error has in its details what stands above and, again, its cause.
        let more = |details: &&Value| {
            task.is_none() && next.is_none() && !is_in_message(&message, details)
        };
        if let Some(details) = details.filter(more) {
            let details = details.to_string();
            let details = super::output::shortened(&details);
            lines.push(format!("details: {details}"));
        }
        let stack = text(failure, "stack");
        if !stack.is_empty() {
            lines.push(stack.trim_end().to_owned());
        }
        first = false;
    }
    printable(&lines.join("\n")).into_owned()
}

/// The task that an error of a flow comes from, as JSON pointer.
fn task<'a>(kind: &str, details: &'a Value) -> Option<&'a str> {
    details.get("type").filter(|it| *it == kind)?;
    details.get("status")?;
    details.get("instance")?.as_str()
}

/// Whether the message has it all: of a value that does not fit its schema it says each fault.
fn is_in_message(message: &str, details: &Value) -> bool {
    let only = details.as_object().filter(|it| it.len() == 1);
    let violations = only.and_then(|it| it.get("violations")?.as_array());
    let said = |violation: &Value| {
        let fault = violation.get("message").and_then(Value::as_str);
        fault.is_some_and(|fault| message.contains(fault))
    };
    violations.is_some_and(|it| it.iter().all(said))
}

/// A name of a plugin, namespace, queue or binding: `[a-z][a-z0-9-]{0,62}`.
pub fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Reads such a name for clap; `what` begins the message ("a namespace").
pub fn name(what: &str, text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{what} has 1 to 63 lower-case letters, digits and hyphens, and begins with a letter"
        ))
    }
}

/// Quotes a word for a POSIX shell where that is needed, so that commands we print
/// can be pasted.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Says that something was done; as JSON, what the server answered.
pub fn told(context: &Context, body: &[u8], message: &str) -> Result<(), CliError> {
    let output = &context.output;
    if !output.is_json() {
        return output.line(&format!("{} {message}", output.style.good("✓")));
    }
    if body.is_empty() {
        Ok(())
    } else {
        output.raw_json(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_members_show_as_nothing() {
        let value = json!({ "a": "x", "b": null, "c": 7, "d": ["p", "q"] });
        assert_eq!(text(&value, "a"), "x");
        assert_eq!(text(&value, "b"), "");
        assert_eq!(text(&value, "c"), "7");
        assert_eq!(text(&value, "nothing"), "");
        assert_eq!(first_text(&value, &["b", "c"]), "7");
        assert_eq!(list(&value, "d"), "p, q");
        assert!(rows(&value, "a").is_empty());
    }

    #[test]
    fn amounts_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(117_000), "117.0 kB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(64 << 20), "67.1 MB");
        assert_eq!(duration(Duration::from_micros(350)), "350 us");
        assert_eq!(duration(Duration::from_millis(3400)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 m 5 s");
        assert_eq!(duration(Duration::from_secs(12_000)), "3 h 20 m");
    }

    #[test]
    fn times_are_relative() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let value =
            json!({ "at": "2026-01-01T00:00:48Z", "end": "2026-01-01T00:00:58Z", "odd": "then" });
        assert_eq!(ago(&value, "at", now), "12 s ago");
        assert_eq!(ago(&value, "odd", now), "then");
        assert_eq!(lasted(&value, "at", "end", now), "10.0 s");
        assert_eq!(lasted(&value, "at", "nothing", now), "12.0 s");
    }

    #[test]
    fn failures_show_their_causes() {
        let value = json!({
            "kind": "timeout", "message": "too slow", "retryable": false,
            "cause": { "kind": "trap", "message": "unreachable\u{1b}[2J", "stack": "0: f\n1: g\n" },
        });
        assert_eq!(
            failure(&value),
            "timeout: too slow\ncaused by trap: unreachable\\u{1b}[2J\n0: f\n1: g"
        );
    }

    #[test]
    fn details_are_shown_where_they_say_more_than_the_message() {
        let with = |kind: &str, details: Value| {
            failure(&json!({ "kind": kind, "message": "/b: no number", "details": details }))
        };
        let violations = |fault: &str| json!({ "violations": [{ "message": fault }] });
        let unfit = with("invalid-input", violations("no number"));
        assert_eq!(unfit, "invalid-input: /b: no number");
        let other = with("invalid-input", violations("no text"));
        assert!(other.contains("\ndetails: {\"violations\":"), "{other}");
        assert!(with("busy", json!({ "page": 3 })).contains("\"page\":3"));
        let long = with("x", json!("y".repeat(1 << 20)));
        assert!(long.len() < 10_000 && long.ends_with("--output json)"));
    }

    #[test]
    fn an_error_of_a_flow_names_its_task() {
        let details = json!({ "type": "urn:x", "status": 500, "instance": "/do/0/step" });
        let mut value = json!({ "kind": "urn:x", "message": "why", "details": details });
        assert_eq!(failure(&value), "urn:x: why (task /do/0/step)");
        value["cause"] = json!({ "kind": "trap", "message": "unreachable" });
        let text = "urn:x: why (task /do/0/step)\ncaused by trap: unreachable";
        assert_eq!(failure(&value), text);
        // One of a plugin's own that has such a member.
        value["kind"] = json!("busy");
        assert!(!failure(&value).contains("task"));
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "my-plugin", "x1", &format!("a{}", "b".repeat(62))] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "1a",
            "-a",
            "A",
            "a_b",
            "a b",
            "ä",
            &format!("a{}", "b".repeat(63)),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn printed_commands_can_be_pasted() {
        assert_eq!(shell_word("doc-1"), "doc-1");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
