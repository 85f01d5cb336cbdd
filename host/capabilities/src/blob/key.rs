//! Which keys objects may have.

use super::{BlobCode, BlobError};

const KEY_BYTES: usize = 1_024;

/// Checks a key, as the doc comment of `invalid-key` in `wit/blob` says.
///
/// # Errors
/// `invalid-key`, with the rule that it breaks.
pub fn check_key(key: &str) -> Result<(), BlobError> {
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
    } else if is_staged(key) {
        "a key does not end in `#` and digits"
    } else {
        return Ok(());
    };
    Err(BlobError::new(BlobCode::InvalidKey, broken))
}

/// Whether a name is one of those that unfinished writes have.
fn is_staged(key: &str) -> bool {
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
            "a#12",
            "folder/x#0",
        ] {
            let error = check_key(key).expect_err(key);
            assert_eq!(error.code, BlobCode::InvalidKey, "{key:?}");
        }
        assert!(check_key(&"k".repeat(1_025)).is_err());
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
            assert!(check_key(key).is_ok(), "{key:?}");
        }
        assert!(check_key(&"k".repeat(1_024)).is_ok());
    }
}
