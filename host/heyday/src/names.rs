//! Names of plugins, flows, namespaces, queues and bindings.

use std::collections::BTreeSet;

/// The most characters of a name.
const LONGEST: usize = 63;

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {name:?} is not a name: use 1 to 63 of {allowed}, beginning with a lower-case letter"
)]
pub struct NameError {
    /// What it was to name.
    pub what: &'static str,
    /// The text, shortened.
    pub name: String,
    /// The characters that there may be.
    pub allowed: &'static str,
}

/// What a name looks like, for messages.
pub const NAME_RULE: &str = "a name has 1 to 63 of a-z, 0-9 and -, and begins with a letter";

/// The plugin name that the host keeps for its built-in activities.
pub const RESERVED: &str = "heyday";

/// The name of the flow that waits for events and starts another one by them.
pub const LISTENER: &str = "listener";

/// Why a queue's name means nothing, for a person: which there are.
#[must_use]
pub fn no_queue(name: &str, known: &BTreeSet<String>) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    format!("there is no queue {name:?}; there are {}", known.join(", "))
}

/// Whether a text may be the name of a plugin, namespace, queue or binding.
#[must_use]
pub fn is_name(text: &str) -> bool {
    check_name("", text).is_ok()
}

fn check(what: &'static str, name: &str, underscore: bool) -> Result<(), NameError> {
    let fits = name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || byte == b'-'
                || (underscore && byte == b'_')
        });
    if fits {
        return Ok(());
    }
    Err(NameError {
        what,
        name: name.chars().take(80).collect(),
        allowed: if underscore {
            "a-z, 0-9, `-` and `_`"
        } else {
            "a-z, 0-9 and `-`"
        },
    })
}

/// Checks a name: `[a-z][a-z0-9-]{0,62}`.
///
/// # Errors
/// When it is none; `what` begins the message ("the plugin").
pub fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    check(what, name, false)
}

/// Checks the name of an activity: `[a-z][a-z0-9_-]{0,62}`.
///
/// # Errors
/// When it is none.
pub fn check_activity(name: &str) -> Result<(), NameError> {
    check("the activity", name, true)
}

/// Checks the name of a flow, `<document.namespace>.<document.name>`.
///
/// # Errors
/// When it is none.
pub fn check_flow(name: &str) -> Result<(), NameError> {
    let (namespace, rest) = name.split_once('.').unwrap_or((name, ""));
    check("the flow", namespace, false)?;
    check("the flow", rest, false).map_err(|error| NameError {
        name: name.chars().take(80).collect(),
        allowed: "a-z, 0-9 and `-` on either side of one dot",
        ..error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        let longest = format!("a{}", "b".repeat(62));
        for good in ["a", "extract", "a-1", &longest] {
            assert!(check_name("the plugin", good).is_ok(), "{good}");
        }
        let too_long = format!("a{}", "b".repeat(63));
        for bad in ["", "1a", "-a", "A", "a_b", "a.b", "ä", "a b", &too_long] {
            assert!(check_name("the plugin", bad).is_err(), "{bad}");
        }
        assert!(check_activity("read_file").is_ok());
        assert!(check_activity("Read").is_err());
    }

    #[test]
    fn a_flow_has_two_names() {
        assert!(check_flow("docs.process").is_ok());
        for bad in ["docs", "docs.", ".process", "a.b.c", "A.b"] {
            let error = check_flow(bad).expect_err(bad);
            assert!(error.to_string().contains("the flow"), "{error}");
        }
    }
}
