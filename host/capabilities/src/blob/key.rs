//! Which keys objects may have.

use super::{BlobCode, BlobError};

const KEY_BYTES: usize = 1_024;

/// Checks a key, as the doc comment of `invalid-key` in `wit/blob` says. In a container that
/// is `read_only` nothing is staged, so that a document may be called `Issue #12` there.
///
/// # Errors
/// `invalid-key`, with the rule that it breaks.
pub fn check_key(key: &str, read_only: bool) -> Result<(), BlobError> {
    let broken = if key.is_empty() {
        "a key is not empty"
    } else if key.len() > KEY_BYTES {
        "a key has at most 1,024 bytes"
    } else if key.chars().any(|c| c.is_control() || c == '\\') {
        "a key has no control characters and no backslash"
    } else if key.split('/').any(str::is_empty) {
        "a key has no empty segments: no `/` at its begin or end, and no `//`"
    } else if key
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        "a key has no segment `.` or `..`"
    } else if !read_only && is_staged(key) {
        "a key does not end in `#` and digits, unless its container is read-only"
    } else {
        return Ok(());
    };
    Err(BlobError::new(BlobCode::InvalidKey, broken))
}

/// Whether a name is one of those that unfinished writes have.
pub(super) fn is_staged(key: &str) -> bool {
    key.rsplit_once('#').is_some_and(|(_, suffix)| {
        !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_lead_out_are_refused() {
        for key in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a\\..\\b",
            "a\0b",
            "a\nb",
            "a\u{85}b",
        ] {
            for read_only in [false, true] {
                let error = check_key(key, read_only).expect_err(key);
                assert_eq!(error.code, BlobCode::InvalidKey, "{key:?}");
            }
        }
        assert!(check_key(&"k".repeat(1_025), true).is_err());
    }

    #[test]
    fn names_of_unfinished_writes_are_refused_where_there_are_writes() {
        for key in ["a#12", "folder/x#0", "Issue #12"] {
            let error = check_key(key, false).expect_err(key);
            assert_eq!(error.code, BlobCode::InvalidKey, "{key:?}");
            assert_eq!(check_key(key, true), Ok(()), "{key:?}");
        }
    }

    #[test]
    fn names_of_documents_are_keys() {
        for key in [
            "a",
            "...",
            "..a",
            "a..b/c..",
            "a b.txt",
            "Größe/日本語.pdf",
            "100% #1.txt",
            "C#",
            "%2e%2e/x",
            "~",
            "a:b",
            "*?<>|\"'",
            "-rf",
            "a#b12",
        ] {
            assert!(check_key(key, false).is_ok(), "{key:?}");
        }
        assert!(check_key(&"k".repeat(1_024), false).is_ok());
    }
}
