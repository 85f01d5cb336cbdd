//! JSON into [`Node`]s: RFC 8259, with lines.

use serde_json::{Number, Value};

use super::source::{Data, MAX_DEPTH, Member, Node, Problems, without_duplicates};

/// Why a text cannot be read.
#[derive(Debug)]
pub(super) struct JsonError {
    pub(super) line: u32,
    pub(super) message: String,
    /// Whether it is no JSON at all, rather than JSON past a limit.
    pub(super) syntax: bool,
}

struct Reader<'t, 'p> {
    text: &'t str,
    at: usize,
    line: u32,
    problems: &'p mut Problems,
}

/// Reads one JSON value.
pub(super) fn read(text: &str, problems: &mut Problems) -> Result<Node, JsonError> {
    let mut reader = Reader {
        text,
        at: 0,
        line: 1,
        problems,
    };
    let node = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.error("text follows the JSON document"));
    }
    Ok(node)
}

impl Reader<'_, '_> {
    fn error(&self, message: impl Into<String>) -> JsonError {
        JsonError {
            line: self.line,
            message: format!("not valid JSON: {}", message.into()),
            syntax: true,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.line += u32::from(byte == b'\n');
            self.at += 1;
        }
    }

    /// Takes that byte, if it is next after white space.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, JsonError> {
        self.space();
        let line = self.line;
        let data = match self.peek() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => {
                return Err(JsonError {
                    line,
                    message: format!("the document nests deeper than {MAX_DEPTH} levels"),
                    syntax: false,
                });
            }
            Some(b'{') => Data::Object(self.object(depth)?),
            Some(b'[') => Data::Array(self.array(depth)?),
            Some(b'"') => Data::Scalar(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Data::Scalar(self.number()?),
            Some(_) => Data::Scalar(self.word()?),
            None => return Err(self.error("the text ends where a value should stand")),
        };
        Ok(Node { line, data })
    }

    fn object(&mut self, depth: usize) -> Result<Vec<Member>, JsonError> {
        self.at += 1;
        let mut members = Vec::new();
        if self.take(b'}') {
            return Ok(members);
        }
        loop {
            self.space();
            let line = self.line;
            if self.peek() != Some(b'"') {
                return Err(self.error("a key in double quotes should stand here"));
            }
            let key = self.string()?;
            if !self.take(b':') {
                return Err(self.error("a \":\" should follow the key"));
            }
            let value = self.value(depth + 1)?;
            members.push(Member { key, line, value });
            if self.take(b'}') {
                return Ok(without_duplicates(members, self.problems));
            }
            if !self.take(b',') {
                return Err(self.error("a \",\" or \"}\" should follow the member"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Node>, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(items);
            }
            if !self.take(b',') {
                return Err(self.error("a \",\" or \"]\" should follow the element"));
            }
        }
    }

    fn word(&mut self) -> Result<Value, JsonError> {
        let rest = &self.text[self.at..];
        for (word, value) in [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
        ] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("a value should stand here"))
    }

    /// Finds the number's end and leaves its grammar to `serde_json`.
    fn number(&mut self) -> Result<Value, JsonError> {
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
            .unwrap_or(rest.len());
        let number: Number = serde_json::from_str(&rest[..end])
            .map_err(|_| self.error("a number is malformed or out of range"))?;
        self.at += end;
        Ok(Value::Number(number))
    }

    /// Finds the string's end and leaves its escapes to `serde_json`.
    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(b'\n') | None => return Err(self.error("a string is not closed on its line")),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let text = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(text).map_err(|_| {
            self.error(
                "a string has a malformed escape, half a surrogate pair or a control character",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Result<Value, String> {
        let mut problems = Problems::default();
        let node = read(text, &mut problems).map_err(|error| error.message)?;
        assert!(problems.is_empty());
        Ok(node.to_value())
    }

    #[test]
    fn reads_what_serde_json_reads() {
        for text in [
            r#"{"a":[1,-2.5e3,0,18446744073709551615,123456789012345678901234567890],"":{}}"#,
            r#" [ true , false , null , "" , [] ] "#,
            r#""\ud83d\ude00 \u00e4 \n \" \\ \/ \b""#,
            "\"\u{1f600}\u{7f}\"",
        ] {
            assert_eq!(
                value(text).unwrap(),
                serde_json::from_str::<Value>(text).unwrap(),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_serde_json_refuses() {
        for text in [
            "",
            "{",
            "[",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
            "{a:1}",
            "nul",
            "truex",
            "01",
            "1.",
            "-",
            "+1",
            ".5",
            "1e",
            "NaN",
            "\"a",
            "\"\\",
            "\"\\x\"",
            "\"\\ud83d\"",
            "\"\\ude00\"",
            "\"\u{1}\"",
            "\"a\nb\"",
            "1 2",
            "{\"a\":1}}",
            "\"\\ud83d\\u0041\"",
            "'a'",
            "[1]//",
            "\u{feff}1",
            "1e999",
        ] {
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text:?}");
            assert!(value(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn knows_lines() {
        let mut problems = Problems::default();
        let node = read("\n{\"a\":\n [1,\n {\"b\": 2}]}", &mut problems).unwrap();
        assert_eq!(node.line, 2);
        assert_eq!(node.nearest("/a").line, 3);
        assert_eq!(node.nearest("/a/1/b").line, 4);
        assert_eq!(node.to_value(), json!({"a": [1, {"b": 2}]}));
    }
}
