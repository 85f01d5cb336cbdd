//! The arguments of `#[activity(...)]` and `plugin!(...)`, checked when the plugin is compiled, so that a
//! wrong duration or an unknown key is an error of the author's compiler and not of an
//! upload.

use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser as _;
use syn::{LitFloat, LitInt, LitStr, Token};

/// The dialects that there are, by capability, as `dialect()` answers them.
const DIALECTS: [(&str, &[&str]); 2] = [
    ("sql", &["sqlite", "postgresql"]),
    ("graph", &["kglite", "neo4j"]),
];

/// What stands in the parentheses. Texts are already JSON.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    queue: Option<String>,
    timeouts: Vec<(&'static str, String)>,
    retry: Vec<(&'static str, String)>,
}

impl Options {
    /// The members `queue`, `timeouts` and `retry` of the activity's description, as one
    /// JSON object.
    pub(crate) fn to_json(&self) -> String {
        let mut members = Vec::new();
        if let Some(queue) = &self.queue {
            members.push(("queue", queue.clone()));
        }
        if !self.timeouts.is_empty() {
            members.push(("timeouts", object(&self.timeouts)));
        }
        if !self.retry.is_empty() {
            members.push(("retry", object(&self.retry)));
        }
        object(&members)
    }
}

fn object(members: &[(&'static str, String)]) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", text(name)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// A JSON string. Callers have checked that nothing needs more than these escapes.
fn text(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Reads the attribute's arguments.
pub(crate) fn parse(arguments: TokenStream) -> syn::Result<Options> {
    let mut options = Options::default();
    let mut seen = Vec::new();
    let parser = syn::meta::parser(|meta| {
        let key = once(&meta, &mut seen)?;
        match key.as_str() {
            "name" => options.name = Some(meta.value()?.parse()?),
            "queue" => {
                let queue: LitStr = meta.value()?.parse()?;
                if !is_name(&queue.value(), false) {
                    return Err(syn::Error::new(
                        queue.span(),
                        "a queue's name begins with a-z and has at most 63 characters of a-z, \
                         0-9 and -, such as \"general-queue\"",
                    ));
                }
                options.queue = Some(text(&queue.value()));
            }
            "start_to_close" => options.timeouts.push(("start_to_close", duration(&meta)?)),
            "schedule_to_close" => options
                .timeouts
                .push(("schedule_to_close", duration(&meta)?)),
            "schedule_to_start" => options
                .timeouts
                .push(("schedule_to_start", duration(&meta)?)),
            "heartbeat" => options.timeouts.push(("heartbeat", duration(&meta)?)),
            "retry" => {
                let mut seen = Vec::new();
                meta.parse_nested_meta(|meta| {
                    let member = retry_member(&meta, &mut seen)?;
                    options.retry.push(member);
                    Ok(())
                })?;
            }
            _ => {
                return Err(meta.error(
                    "unknown argument; #[activity] knows name, queue, start_to_close, \
                     schedule_to_close, schedule_to_start, heartbeat and retry(...)",
                ));
            }
        }
        Ok(())
    });
    parser.parse2(arguments)?;
    Ok(options)
}

/// Reads the arguments of `plugin!`: members of the plugin's description, as one JSON
/// object.
pub(crate) fn of_plugin(arguments: TokenStream) -> syn::Result<String> {
    let mut members = Vec::new();
    let mut seen = Vec::new();
    let parser = syn::meta::parser(|meta| {
        if once(&meta, &mut seen)? != "requires" {
            return Err(meta.error("unknown argument; plugin! knows requires(...)"));
        }
        let (mut seen, mut requires) = (Vec::new(), Vec::new());
        meta.parse_nested_meta(|meta| {
            requires.push(required(&meta, &mut seen)?);
            Ok(())
        })?;
        members.push(("requires", object(&requires)));
        Ok(())
    });
    parser.parse2(arguments)?;
    Ok(object(&members))
}

/// `sql = "postgresql"` or `graph = ["kglite", "neo4j"]`.
fn required(
    meta: &ParseNestedMeta<'_>,
    seen: &mut Vec<String>,
) -> syn::Result<(&'static str, String)> {
    let key = once(meta, seen)?;
    let Some((capability, known)) = DIALECTS.iter().find(|(name, _)| *name == key) else {
        return Err(meta.error("unknown member of requires(...); sql and graph have dialects"));
    };
    let value = meta.value()?;
    let needed: Vec<LitStr> = if value.peek(LitStr) {
        vec![value.parse()?]
    } else {
        let content;
        let bracket = syn::bracketed!(content in value);
        let list = content.parse_terminated(<LitStr as syn::parse::Parse>::parse, Token![,])?;
        if list.is_empty() {
            return Err(syn::Error::new(
                bracket.span.join(),
                format!("name at least one dialect: {}", known.join(", ")),
            ));
        }
        list.into_iter().collect()
    };
    let mut texts = Vec::new();
    for dialect in needed {
        if !known.contains(&dialect.value().as_str()) {
            return Err(syn::Error::new(
                dialect.span(),
                format!("{capability} has the dialects {}", known.join(", ")),
            ));
        }
        texts.push(text(&dialect.value()));
    }
    Ok((*capability, format!("[{}]", texts.join(","))))
}

/// The argument's key, which may stand only once.
fn once(meta: &ParseNestedMeta<'_>, seen: &mut Vec<String>) -> syn::Result<String> {
    let key = meta
        .path
        .get_ident()
        .map(ToString::to_string)
        .unwrap_or_default();
    if seen.contains(&key) {
        return Err(meta.error(format!("`{key}` stands here twice")));
    }
    seen.push(key.clone());
    Ok(key)
}

fn retry_member(
    meta: &ParseNestedMeta<'_>,
    seen: &mut Vec<String>,
) -> syn::Result<(&'static str, String)> {
    let key = once(meta, seen)?;
    match key.as_str() {
        "initial_interval" => Ok(("initial_interval", duration(meta)?)),
        "maximum_interval" => Ok(("maximum_interval", duration(meta)?)),
        "maximum_attempts" => {
            let attempts: LitInt = meta.value()?.parse()?;
            let attempts: u32 = attempts.base10_parse()?;
            Ok(("maximum_attempts", attempts.to_string()))
        }
        "backoff_coefficient" => {
            let value = meta.value()?;
            let (span, coefficient) = if value.peek(LitInt) {
                let literal: LitInt = value.parse()?;
                (literal.span(), literal.base10_parse::<f64>()?)
            } else {
                let literal: LitFloat = value.parse()?;
                (literal.span(), literal.base10_parse::<f64>()?)
            };
            if !(coefficient.is_finite() && coefficient >= 1.0) {
                return Err(syn::Error::new(span, "backoff_coefficient is at least 1"));
            }
            Ok(("backoff_coefficient", format!("{coefficient:?}")))
        }
        "non_retryable_kinds" => {
            let value = meta.value()?;
            let content;
            syn::bracketed!(content in value);
            let kinds =
                content.parse_terminated(<LitStr as syn::parse::Parse>::parse, Token![,])?;
            let mut texts = Vec::new();
            for kind in kinds {
                if !is_name(&kind.value(), false) {
                    return Err(syn::Error::new(
                        kind.span(),
                        "a kind of failure is kebab-case, such as \"file-encrypted\"",
                    ));
                }
                texts.push(text(&kind.value()));
            }
            Ok(("non_retryable_kinds", format!("[{}]", texts.join(","))))
        }
        _ => Err(meta.error(
            "unknown member of retry(...); it has initial_interval, backoff_coefficient, \
             maximum_interval, maximum_attempts and non_retryable_kinds",
        )),
    }
}

/// A duration's text as JSON.
fn duration(meta: &ParseNestedMeta<'_>) -> syn::Result<String> {
    let literal: LitStr = meta.value()?.parse()?;
    if is_duration(&literal.value()) {
        Ok(text(&literal.value()))
    } else {
        Err(syn::Error::new(
            literal.span(),
            "a duration is a number with its unit, largest unit first: \"500ms\", \"30s\", \
             \"5m\", \"1h30m\", \"1d\"",
        ))
    }
}

/// Whole numbers with units, each unit at most once, from the largest to the smallest;
/// more than zero and at most 100 years.
fn is_duration(text: &str) -> bool {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    const LONGEST: u64 = 100 * 365 * 86_400_000;
    let mut rest = text;
    let mut next_unit = 0;
    let mut millis = 0_u64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(count) = rest[..digits].parse::<u64>() else {
            return false;
        };
        rest = &rest[digits..];
        let unit_length = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .len();
        let Some(unit) = UNITS
            .iter()
            .position(|(unit, _)| *unit == &rest[..unit_length])
        else {
            return false;
        };
        if unit < next_unit {
            return false;
        }
        next_unit = unit + 1;
        let Some(sum) = count
            .checked_mul(UNITS[unit].1)
            .and_then(|part| millis.checked_add(part))
        else {
            return false;
        };
        millis = sum;
        rest = &rest[unit_length..];
    }
    (1..=LONGEST).contains(&millis)
}

/// Whether a text can name an activity: `[a-z][a-z0-9_-]{0,62}`.
pub(crate) fn is_activity_name(name: &str) -> bool {
    is_name(name, true)
}

fn is_name(name: &str, underscore: bool) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || byte == b'-'
                || (underscore && byte == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::quote;

    #[test]
    fn everything_together_is_json_in_the_described_form() {
        let options = parse(quote!(
            queue = "storage-queue",
            start_to_close = "5m",
            schedule_to_close = "1h30m",
            schedule_to_start = "10m",
            heartbeat = "500ms",
            retry(
                initial_interval = "1s",
                backoff_coefficient = 2,
                maximum_interval = "100s",
                maximum_attempts = 0,
                non_retryable_kinds = ["file-encrypted", "no-text"],
            ),
        ))
        .expect("valid");
        assert_eq!(
            options.to_json(),
            r#"{"queue":"storage-queue","timeouts":{"start_to_close":"5m","schedule_to_close":"1h30m","schedule_to_start":"10m","heartbeat":"500ms"},"retry":{"initial_interval":"1s","backoff_coefficient":2.0,"maximum_interval":"100s","maximum_attempts":0,"non_retryable_kinds":["file-encrypted","no-text"]}}"#
        );
        assert_eq!(parse(quote!()).expect("nothing is valid").to_json(), "{}");
    }

    #[test]
    fn a_plugin_says_which_dialects_it_needs() {
        let json = of_plugin(quote!(requires(
            sql = "postgresql",
            graph = ["kglite", "neo4j"],
        )));
        assert_eq!(
            json.expect("valid"),
            r#"{"requires":{"sql":["postgresql"],"graph":["kglite","neo4j"]}}"#
        );
        assert_eq!(of_plugin(quote!()).expect("nothing is valid"), "{}");
        for (arguments, reason) in [
            (quote!(require(sql = "sqlite")), "knows requires"),
            (quote!(requires(kv = "sqlite")), "unknown member"),
            (quote!(requires(sql = "mysql")), "sqlite, postgresql"),
            (quote!(requires(graph = [])), "at least one"),
            (quote!(requires(sql = "sqlite", sql = "sqlite")), "twice"),
            (quote!(requires(sql = 5)), "expected"),
        ] {
            let error = of_plugin(arguments.clone()).expect_err("refused");
            assert!(error.to_string().contains(reason), "{arguments}: {error}");
        }
    }

    #[test]
    fn wrong_arguments_say_what_is_right() {
        for (arguments, reason) in [
            (quote!(queues = "a"), "knows name, queue"),
            (quote!(queue = "A queue"), "a queue's name"),
            (quote!(queue = "a", queue = "b"), "twice"),
            (quote!(heartbeat = "soon"), "a duration is"),
            (quote!(heartbeat = "30"), "a duration is"),
            (quote!(heartbeat = "0s"), "a duration is"),
            (quote!(heartbeat = "5s1h"), "a duration is"),
            (quote!(heartbeat = "99999999999999999999s"), "a duration is"),
            (quote!(heartbeat = "40000d"), "a duration is"),
            (quote!(retry(backoff_coefficient = 0.5)), "at least 1"),
            (quote!(retry(attempts = 3)), "unknown member"),
            (
                quote!(retry(non_retryable_kinds = ["Not So"])),
                "kebab-case",
            ),
        ] {
            let message = parse(arguments.clone())
                .err()
                .unwrap_or_else(|| panic!("{arguments} must be refused"))
                .to_string();
            assert!(message.contains(reason), "{arguments}: {message}");
        }
    }
}
