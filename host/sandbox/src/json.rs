//! Checking JSON text without building it.

use serde::de::IgnoredAny;

/// How deep a value may nest: what everyone who reads it later can read.
const DEPTH: usize = 120;

/// Why a text is no JSON value, if it is none.
pub(crate) fn check(text: &str) -> Result<(), String> {
    // First the depth: whatever comes later may recurse.
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH {
                    return Err(format!("it nests deeper than {DEPTH} levels"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_str::<IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn one_json_value_of_readable_depth_passes() {
        for good in [
            "null",
            " 1 ",
            r#"{"a":["\\\"[",2]}"#,
            &"[".repeat(120).add("]"),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "nul", "1 2", "{", r#"{"a"}"#, "NaN"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        let deep = "[".repeat(121).add("]");
        assert!(check(&deep).unwrap_err().contains("120 levels"));
    }

    trait Add {
        fn add(self, close: &str) -> String;
    }
    impl Add for String {
        fn add(self, close: &str) -> String {
            let count = self.len();
            self + &close.repeat(count)
        }
    }
}
