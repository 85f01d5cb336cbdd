//! What plugins and flows have in common: immutable versions, one of them active.
//!
//! Both are resources of the same shape (`/plugins/{name}/versions/{version}`,
//! `.../activate`, `.../rollback`), so both groups of commands end here.

use clap::Args;
pub use heyday::registry::Kind;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Context;
use super::client::{Answer, Request};
use super::error::CliError;
use super::output::{one_line, printable};
use super::table::{Table, fields};
use super::{gate, view};

/// A name, and which of its versions.
#[derive(Debug, Clone, Args)]
pub struct NameAndVersion {
    /// The name
    pub name: String,
    /// The version, as `list` and `show` show it
    pub version: String,
}

/// Lists what there is, each with its active version.
pub async fn list(context: &Context, kind: Kind) -> Result<(), CliError> {
    let output = &context.output;
    let rows = view::all_rows(context, Request::get(&[kind.segment()]), kind.segment()).await?;
    let Some(rows) = rows else {
        return Ok(());
    };
    let mut table = Table::new(&["NAME", "ACTIVE", ">VERSIONS", "UPLOADED", "ABOUT"]);
    let now = Timestamp::now();
    for row in &rows {
        table.row([
            view::text(row, "name"),
            view::text(row, "active"),
            view::text(row, "version_count"),
            view::ago(row, "uploaded_at", now),
            view::first_text(row, &["documentation", "title", "summary"]),
        ]);
    }
    if table.is_empty() {
        output.note(&format!("There are no {} yet.", kind.segment()));
        output.hint(match kind {
            Kind::Plugin => {
                "make one with `heyday plugin new NAME`, then `heyday plugin push NAME`"
            }
            Kind::Flow => "upload one with `heyday flow push FILE`",
        });
        return Ok(());
    }
    output.line(&table.render(output.style))
}

/// Shows one, or one version of it.
pub async fn show(
    context: &Context,
    kind: Kind,
    name: &str,
    version: Option<&str>,
) -> Result<(), CliError> {
    let output = &context.output;
    if let Some(version) = version {
        let answer = show_version(context, kind, name, version).await?;
        if output.is_json() {
            return output.raw_json(&answer.body);
        }
        return output.line(&describe(context, &answer.json()?));
    }
    // Of the longest pages there are, so that as JSON it is one document as long as it can be.
    let request = Request::get(&[kind.segment(), name]).query("page_size", "1000");
    let Some(versions) = view::all_rows(context, request, "versions").await? else {
        return Ok(());
    };
    // Of the whole, the active version says what it is and offers; the newest where none is.
    let is_active = |version: &&Value| version.get("active") == Some(&Value::Bool(true));
    let shown = versions.iter().find(is_active).or(versions.first());
    if let Some(shown) = shown {
        let version = view::text(shown, "version");
        let answer = show_version(context, kind, name, &version).await?;
        output.line(&format!("{}\n", describe(context, &answer.json()?)))?;
    }
    output.line(&version_table(context, &versions))
}

async fn show_version(
    context: &Context,
    kind: Kind,
    name: &str,
    version: &str,
) -> Result<Answer, CliError> {
    let segments = [kind.segment(), name, "versions", version];
    context.client.send(&Request::get(&segments)).await
}

fn version_table(context: &Context, versions: &[Value]) -> String {
    let now = Timestamp::now();
    let mut table = Table::new(&["VERSION", "STATE", "", ">SIZE", "UPLOADED", "DIGEST"]);
    for version in versions {
        let is_active = version.get("active") == Some(&Value::Bool(true));
        table.row([
            view::text(version, "version").as_str(),
            &view::text(version, "state"),
            if is_active { "active" } else { "" },
            &view::number(version, "size")
                .map(view::bytes)
                .unwrap_or_default(),
            &view::ago(version, "uploaded_at", now),
            &short_digest(&view::text(version, "digest")),
        ]);
    }
    table.render(context.output.style)
}

/// `sha256:0123456789ab`, as much of a digest as a person compares.
pub fn short_digest(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// A version for a person: what it is, what it offers, what it lacks.
pub fn describe(context: &Context, value: &Value) -> String {
    let style = context.output.style;
    let clean = |text: String| printable(&text).into_owned();
    let size = ["size", "size_bytes"]
        .iter()
        .find_map(|member| view::number(value, member));
    let imports = view::list(value, "imports");
    let active = match value.get("active") {
        Some(Value::Bool(true)) => "yes",
        Some(Value::Bool(false)) => "no",
        _ => "",
    };
    // A plugin's activities are described; those that a flow calls are only named.
    let activities = view::rows_of(value, "activities");
    let named = activities.iter().all(Value::is_string);
    let calls = if named {
        view::list(value, "activities")
    } else {
        String::new()
    };
    let mut text = fields(
        style,
        &[
            ("name", clean(view::text(value, "name"))),
            ("version", view::text(value, "version")),
            ("active", active.to_owned()),
            ("state", style.status(&view::text(value, "state"))),
            ("reason", clean(reason(value))),
            ("digest", view::text(value, "digest")),
            ("size", size.map(view::bytes).unwrap_or_default()),
            ("uploaded", view::text(value, "uploaded_at")),
            ("needs", clean(view::list(value, "capabilities"))),
            ("calls", clean(calls)),
            ("runs", clean(view::list(value, "children"))),
            ("warnings", clean(view::list(value, "warnings"))),
            ("imports", clean(imports)),
            ("lacks", clean(missing_grants(value).join(", "))),
            ("cannot use", clean(unfit_grants(value).join(", "))),
            (
                "about",
                clean(view::first_text(
                    value,
                    &["documentation", "title", "summary"],
                )),
            ),
        ],
    );
    if !named {
        let mut table = Table::new(&["ACTIVITY", "QUEUE", "ABOUT"]);
        for activity in activities {
            table.row([
                view::text(activity, "name"),
                view::text(activity, "queue"),
                one_line(
                    view::text(activity, "documentation")
                        .lines()
                        .next()
                        .unwrap_or_default(),
                ),
            ]);
        }
        text.push_str(&format!("\n\n{}", table.render(style)));
    }
    text
}

/// Why a version is not ready, where the server says so.
pub fn reason(value: &Value) -> String {
    for member in ["failure", "error"] {
        match value.get(member) {
            Some(Value::String(text)) => return text.clone(),
            Some(failure @ Value::Object(_)) => return view::failure(failure),
            _ => {}
        }
    }
    view::first_text(value, &["reason", "message"])
}

/// Grants that the upload found missing, as `capability` or `capability=binding`.
pub fn missing_grants(value: &Value) -> Vec<String> {
    view::rows_of(value, "missing_grants")
        .iter()
        .map(|grant| match grant {
            Value::String(text) => text.clone(),
            other => {
                let binding = view::text(other, "binding");
                let capability = view::text(other, "capability");
                if binding.is_empty() {
                    capability
                } else {
                    format!("{capability}={binding}")
                }
            }
        })
        .collect()
}

/// Grants of dialects that the plugin cannot use, each with what it needs.
pub fn unfit_grants(value: &Value) -> Vec<String> {
    let unfit = view::rows_of(value, "unfit_grants").iter();
    unfit
        .map(|grant| {
            let text = |member| view::text(grant, member);
            format!(
                "{}={} ({}; it needs {})",
                text("capability"),
                text("binding"),
                text("dialect"),
                view::list(grant, "needed")
            )
        })
        .collect()
}

/// Makes a version the active one. Where open runs diverge, a flow's activation does what
/// `on_divergence` says.
pub async fn activate(
    context: &Context,
    kind: Kind,
    name: &str,
    version: &str,
    allow_missing: bool,
    on_divergence: Option<&str>,
) -> Result<(), CliError> {
    let body = json!({ "version": version, "allow_missing": allow_missing });
    let request = Request::post(&[kind.segment(), name, "activate"])
        .query_if("on_divergence", on_divergence)
        .json(&body)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    context.output.line(&format!(
        "{} {name} {version} is active. Open runs keep the version they started with.",
        context.output.style.good("✓")
    ))?;
    gate::show(&answer.json()?, &context.output);
    Ok(())
}

/// Makes the version before the active one active again.
pub async fn rollback(
    context: &Context,
    kind: Kind,
    name: &str,
    on_divergence: Option<&str>,
) -> Result<(), CliError> {
    let known = Request::get(&[kind.segment(), name]).query("page_size", "1");
    let known = context.client.send(&known).await?.json()?;
    let from = Some(view::text(&known, "active")).filter(|from| !from.is_empty());
    // What it leaves is named: sent again after its answer was lost, it goes back once.
    let request = Request::post(&[kind.segment(), name, "rollback"])
        .query_if("from", from)
        .query_if("on_divergence", on_divergence)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let answer = answer.json()?;
    let version = view::text(&answer, "version");
    context.output.line(&format!(
        "{} {name} is back at {version}. Open runs keep the version they started with.",
        context.output.style.good("✓")
    ))?;
    gate::show(&answer, &context.output);
    Ok(())
}

/// Removes a version.
pub async fn remove(
    context: &Context,
    kind: Kind,
    name: &str,
    version: &str,
) -> Result<(), CliError> {
    let answer = context
        .client
        .send(&Request::delete(&[
            kind.segment(),
            name,
            "versions",
            version,
        ]))
        .await?;
    if context.output.is_json() {
        return if answer.body.is_empty() {
            Ok(())
        } else {
            context.output.raw_json(&answer.body)
        };
    }
    context.output.line(&format!(
        "{} {} {name} {version} is removed.",
        context.output.style.good("✓"),
        kind.word()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_grants_are_read_in_either_form() {
        let value = json!({ "missing_grants": ["blob", { "capability": "sql", "binding": "main" }, { "capability": "http" }] });
        assert_eq!(missing_grants(&value), ["blob", "sql=main", "http"]);
        assert!(missing_grants(&json!({})).is_empty());
        let value = json!({ "unfit_grants": [{
            "capability": "sql", "binding": "main", "dialect": "sqlite", "needed": ["postgresql"],
        }] });
        assert_eq!(
            unfit_grants(&value),
            ["sql=main (sqlite; it needs postgresql)"]
        );
    }

    #[test]
    fn the_reason_of_a_failed_version_is_found() {
        assert_eq!(
            reason(&json!({ "failure": { "kind": "limit-exceeded", "message": "120 s" } })),
            "limit-exceeded: 120 s"
        );
        assert_eq!(reason(&json!({ "reason": "too large" })), "too large");
        assert_eq!(reason(&json!({ "state": "ready" })), "");
    }

    #[test]
    fn digests_are_shortened() {
        assert_eq!(
            short_digest(&format!("sha256:{}", "0".repeat(64))),
            "sha256:000000000000"
        );
    }
}
