//! Values as JSON text.
//!
//! jaq's values are more than JSON: numbers without a value, bytes, keys of any type. They
//! are written as jq writes them where it can, and refused where it cannot: infinities and
//! numbers beyond a double become the largest double, not-a-number becomes null, a double
//! without a fraction is written as an integer while it is exact, and text that is not
//! UTF-8 has replacement characters. Members keep the order in which they were inserted.

use std::fmt::Write as _;

use jaq_json::{Num, Val};

/// Integers up to here are exact in a double: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes a value as JSON.
///
/// # Errors
/// A sentence, where it holds bytes or an object key that is no text.
pub fn write(value: &Val) -> Result<String, String> {
    let mut out = String::new();
    write_value(&mut out, value)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Val) -> Result<(), String> {
    match value {
        Val::Null => out.push_str("null"),
        Val::Bool(true) => out.push_str("true"),
        Val::Bool(false) => out.push_str("false"),
        Val::Num(number) => write_number(out, number),
        Val::TStr(bytes) => write_text(out, &String::from_utf8_lossy(bytes)),
        Val::BStr(_) => {
            return Err("the result holds bytes, which JSON cannot; use @base64".to_owned());
        }
        Val::Arr(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item)?;
            }
            out.push(']');
        }
        Val::Obj(members) => {
            out.push('{');
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                match key {
                    Val::TStr(key) => write_text(out, &String::from_utf8_lossy(key)),
                    key => {
                        return Err(format!(
                            "the result has the object key {key}, which is no text"
                        ));
                    }
                }
                out.push(':');
                write_value(out, value)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_number(out: &mut String, number: &Num) {
    match number {
        Num::Int(number) => push(out, format_args!("{number}")),
        Num::BigInt(number) => {
            let digits = number.to_string();
            match digits.parse::<f64>() {
                Ok(value) if value.is_finite() => out.push_str(&digits),
                Ok(value) => write_double(out, value),
                // A decimal integer always parses; were it not so, it has no value.
                Err(_) => out.push_str("null"),
            }
        }
        Num::Float(number) => write_double(out, *number),
        Num::Dec(text) => write_double(out, text.parse().unwrap_or(f64::NAN)),
    }
}

fn write_double(out: &mut String, number: f64) {
    if number.is_nan() {
        out.push_str("null");
    } else if number.is_infinite() {
        push(out, format_args!("{:?}", f64::MAX.copysign(number)));
    } else if number.fract() == 0.0 && number.abs() <= EXACT {
        // Also -0, which is written as jq's integers are.
        push(out, format_args!("{}", number as i64));
    } else {
        push(out, format_args!("{number:?}"));
    }
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(arguments);
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => push(out, format_args!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}
