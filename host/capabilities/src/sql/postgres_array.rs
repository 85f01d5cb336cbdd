//! Arrays: JSON on the guest's side, `{1,2,NULL}` on PostgreSQL's.

use serde_json::value::RawValue;

use super::check;
use super::postgres_value::Kind;
use crate::postgres::array_element;

/// The most nested arrays: PostgreSQL has six dimensions.
const DEPTH: usize = 6;

/// A JSON array as an array's text form. Numbers keep their digits, objects become the
/// text of their JSON.
pub(super) fn to_text(json: &str) -> Option<String> {
    let mut text = String::with_capacity(json.len());
    write_array(json, 0, &mut text)?;
    Some(text)
}

fn write_array(json: &str, depth: usize, text: &mut String) -> Option<()> {
    let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    if depth >= DEPTH {
        return None;
    }
    text.push('{');
    for (index, element) in elements.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        let raw = element.get();
        match raw.as_bytes().first()? {
            b'[' => write_array(raw, depth + 1, text)?,
            b'"' => array_element(&serde_json::from_str::<String>(raw).ok()?, text),
            b'{' => array_element(raw, text),
            b'n' => text.push_str("NULL"),
            // Numbers and booleans are written alike.
            _ => text.push_str(raw),
        }
    }
    text.push('}');
    Some(())
}

/// An array's text form as a JSON array of elements of that kind.
pub(super) fn to_json(text: &str, element: Kind) -> Option<String> {
    // `[2:3]={1,2}` where an array does not begin at 1; JSON's always begin alike.
    let body = if text.starts_with('[') {
        text.split_once('=')?.1
    } else {
        text
    };
    let mut json = String::with_capacity(body.len() + 2);
    let mut rest = body.chars().peekable();
    read_array(&mut rest, element, 0, &mut json)?;
    rest.next().is_none().then_some(json)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn read_array(rest: &mut Rest<'_>, element: Kind, depth: usize, json: &mut String) -> Option<()> {
    if rest.next()? != '{' || depth >= DEPTH {
        return None;
    }
    json.push('[');
    if rest.next_if_eq(&'}').is_some() {
        json.push(']');
        return Some(());
    }
    loop {
        match rest.peek()? {
            '{' => read_array(rest, element, depth + 1, json)?,
            '"' => {
                rest.next();
                let mut value = String::new();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => value.push(rest.next()?),
                        character => value.push(character),
                    }
                }
                write_element(&value, element, json)?;
            }
            _ => {
                let mut value = String::new();
                while let Some(character) = rest.next_if(|next| !matches!(next, ',' | '}')) {
                    match character {
                        '\\' => value.push(rest.next()?),
                        character => value.push(character),
                    }
                }
                if value == "NULL" {
                    json.push_str("null");
                } else {
                    write_element(&value, element, json)?;
                }
            }
        }
        match rest.next()? {
            ',' => json.push(','),
            '}' => break,
            _ => return None,
        }
    }
    json.push(']');
    Some(())
}

fn write_element(value: &str, element: Kind, json: &mut String) -> Option<()> {
    match element {
        Kind::Boolean if value == "t" => json.push_str("true"),
        Kind::Boolean if value == "f" => json.push_str("false"),
        // NaN and the infinities are no numbers of JSON.
        Kind::Integer | Kind::Real | Kind::Decimal | Kind::Json if check::is_json(value) => {
            json.push_str(value);
        }
        Kind::Timestamp => {
            let instant = super::postgres_value::instant(value);
            let text = instant.as_deref().unwrap_or(value);
            json.push_str(&serde_json::to_string(text).ok()?);
        }
        Kind::Datetime => {
            let local = super::postgres_value::local(value);
            let text = local.as_deref().unwrap_or(value);
            json.push_str(&serde_json::to_string(text).ok()?);
        }
        _ => json.push_str(&serde_json::to_string(value).ok()?),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_an_array_and_comes_back() {
        for (json, text, kind) in [
            ("[1,2,null]", "{1,2,NULL}", Kind::Integer),
            ("[]", "{}", Kind::Integer),
            ("[[1,2],[3,4]]", "{{1,2},{3,4}}", Kind::Integer),
            (
                "[12345678901234567890.10]",
                "{12345678901234567890.10}",
                Kind::Decimal,
            ),
            (
                r#"["a\"b\\c","","NULL","x,y}"]"#,
                r#"{"a\"b\\c","","NULL","x,y}"}"#,
                Kind::Text,
            ),
            (r#"[{"a":[1]}]"#, r#"{"{\"a\":[1]}"}"#, Kind::Json),
        ] {
            assert_eq!(to_text(json).as_deref(), Some(text), "{json}");
            assert_eq!(to_json(text, kind).as_deref(), Some(json), "{text}");
        }
        assert_eq!(to_text("[true]").as_deref(), Some("{true}"));
        assert_eq!(
            to_json("{t,f}", Kind::Boolean).as_deref(),
            Some("[true,false]")
        );
        assert_eq!(
            to_json("[2:3]={1,2}", Kind::Integer).as_deref(),
            Some("[1,2]")
        );
        assert_eq!(
            to_json("{a,b c}", Kind::Text).as_deref(),
            Some(r#"["a","b c"]"#)
        );
        assert_eq!(to_json("{NaN}", Kind::Real).as_deref(), Some(r#"["NaN"]"#));
        for broken in ["", "1", "{", "{1", "{1}x", "{\"a}", "{{1}", "[1:2]"] {
            assert_eq!(to_json(broken, Kind::Integer), None, "{broken}");
        }
        let deep = format!("{}{}", "[".repeat(7), "]".repeat(7));
        assert_eq!(to_text(&deep), None);
        assert_eq!(to_text("{}"), None);
    }
}
