//! The audit: who did what, and when; and what plugins and flows were refused.

use jiff::Timestamp;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::recorder::ReceiptRow;
use crate::registry::types::{Actor, AuditEntry, AuditFilter, TextFilter};

use super::backend::{Backend, Tx, Value, placeholders, values};
use super::changes::Change;
use super::shared::{AUDIT_LOCK, in_order};
use super::{HostDb, StateError, json, limit, micros, timestamp, unsigned};

/// The action of entries that are made of what attempts were refused.
pub const DENY: &str = "capability.deny";

/// Entries of one statement.
const ROWS: usize = 100;

/// Writes what attempts were refused.
pub(super) async fn insert_denied(tx: &mut Tx, receipts: &[ReceiptRow]) -> Result<(), StateError> {
    let denied = receipts
        .iter()
        .flat_map(|row| row.denied.iter().map(move |denied| (row, denied)));
    let denied: Vec<_> = denied.collect();
    if denied.is_empty() {
        return Ok(());
    }
    in_order(tx, AUDIT_LOCK).await?;
    for denied in denied.chunks(ROWS) {
        let mut values = Vec::with_capacity(denied.len() * 6);
        for (row, denied) in denied {
            let attempt = &row.attempt;
            // Flows alone have a dot in their names. No token's name has a space.
            let kind = if denied.subject.contains('.') {
                "flow"
            } else {
                "plugin"
            };
            let details = json!({
                "capability": denied.capability, "binding": denied.binding,
                "reason": denied.reason, "count": denied.count,
                "run_id": attempt.run_id, "activity_id": attempt.activity_id,
                "activity_type": attempt.activity_type, "attempt": attempt.attempt,
            });
            values.extend([
                Value::from(micros(row.ended_at)),
                Value::from(&attempt.namespace),
                Value::from(format!("{kind} {}", denied.subject)),
                Value::from(DENY),
                Value::from(&denied.subject),
                Value::from(details.to_string()),
            ]);
        }
        let text = format!(
            "INSERT INTO audit (at_us, namespace, principal, action, subject, details) VALUES {}",
            placeholders(denied.len(), 6)
        );
        tx.execute_once(text, &values).await?;
    }
    Ok(())
}

/// Writes an entry. On PostgreSQL others that write any wait from here to the commit.
async fn insert(
    tx: &mut Tx,
    actor: Actor<'_>,
    action: &str,
    subject: &str,
    details: &serde_json::Value,
) -> Result<(), StateError> {
    in_order(tx, AUDIT_LOCK).await?;
    tx.execute(
        "INSERT INTO audit (at_us, namespace, principal, action, subject, details) \
         VALUES ($1,$2,$3,$4,$5,$6)",
        values![
            micros(Timestamp::now()),
            actor.namespace,
            actor.principal,
            action,
            subject,
            details.to_string(),
        ],
    )
    .await?;
    Ok(())
}

/// The statement of a page of entries, with its values. It has only the conditions that are
/// asked for, so that an index serves one: it has the text and, for each text, the order.
/// No index has the order of all texts with one beginning: where nothing but beginnings is
/// asked for, entries are read newest first until the page is full. SQLite is told which index
/// it is, for it has no statistics to choose by.
fn page<'v>(
    backend: &Backend,
    namespace: &'v str,
    before: i64,
    rows: usize,
    filter: &'v AuditFilter,
) -> (String, Vec<Value<'v>>) {
    let exact = |filter: &Option<TextFilter>| matches!(filter, Some(TextFilter::Exact(_)));
    let index = match (exact(&filter.action), exact(&filter.resource)) {
        (true, true) => "audit_by_action_and_subject",
        (true, false) => "audit_by_action",
        (false, true) => "audit_by_subject",
        (false, false) => "audit_by_namespace",
    };
    let by = match backend {
        Backend::Sqlite { .. } => format!("INDEXED BY {index} "),
        Backend::Postgres(_) => String::new(),
    };
    let mut text = format!(
        "SELECT id, at_us, principal, action, subject, details FROM audit {by}\
         WHERE namespace = $1 AND id < $2"
    );
    let mut values = vec![
        Value::from(namespace),
        Value::from(before),
        Value::from(limit(rows)),
    ];
    for (column, filter) in [("action", &filter.action), ("subject", &filter.resource)] {
        let Some(filter) = filter else { continue };
        values.push(Value::from(filter.said()));
        let number = values.len();
        text.push_str(&match filter {
            TextFilter::Exact(_) => format!(" AND {column} = ${number}"),
            TextFilter::Prefix(_) => {
                format!(" AND substr({column}, 1, length(${number})) = ${number}")
            }
        });
    }
    text.push_str(" ORDER BY id DESC LIMIT $3");
    (text, values)
}

impl Change {
    /// Adds an entry that appears with the change, or not at all; the last step before its
    /// commit.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn audit(
        &mut self,
        actor: Actor<'_>,
        action: &str,
        subject: &str,
        details: &serde_json::Value,
    ) -> Result<(), StateError> {
        insert(&mut self.reading.tx, actor, action, subject, details).await
    }
}

impl HostDb {
    /// Adds an entry of what is no change here.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn audit(
        &self,
        actor: Actor<'_>,
        action: &str,
        subject: &str,
        details: &serde_json::Value,
    ) -> Result<(), StateError> {
        let mut tx = self.backend.begin().await?;
        insert(&mut tx, actor, action, subject, details).await?;
        tx.commit().await
    }

    /// Entries of a namespace, newest first, before that id, that pass the filter.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn audit_page(
        &self,
        namespace: &str,
        before: i64,
        rows: usize,
        filter: &AuditFilter,
    ) -> Result<Vec<AuditEntry>, StateError> {
        let (text, values) = page(&self.backend, namespace, before, rows, filter);
        // It is made of this module's own texts and numbers.
        let rows = self.backend.rows(AssertSqlSafe(text), &values).await?;
        rows.iter()
            .map(|row| {
                Ok(AuditEntry {
                    id: unsigned(row.int("id")?),
                    at: timestamp(row.int("at_us")?)?,
                    principal: row.string("principal")?,
                    action: row.string("action")?,
                    resource: row.string("subject")?,
                    details: json(row.text("details")?)?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateLocation;

    /// How SQLite finds a page.
    async fn plan(database: &HostDb, action: Option<&str>, resource: Option<&str>) -> String {
        let filter = AuditFilter {
            action: action.map(TextFilter::parse),
            resource: resource.map(TextFilter::parse),
        };
        let (text, values) = page(&database.backend, "default", i64::MAX, 50, &filter);
        let text = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
        let rows = database.backend.rows(text, &values).await.expect("a plan");
        let steps = rows.iter().map(|row| row.string("detail").expect("text"));
        steps.collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn every_page_is_found_by_an_index_that_has_its_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = StateLocation::File(folder.path().join("host.db"));
        let before = HostDb::open(&location).await.expect("opened");
        // As a version without these indexes left it.
        for statement in [
            "DROP INDEX audit_by_action",
            "DROP INDEX audit_by_subject",
            "DROP INDEX audit_by_action_and_subject",
            "DROP TABLE batches",
            "PRAGMA user_version = 6",
        ] {
            before.execute(statement, &[]).await.expect("done");
        }
        before.close().await;
        let database = HostDb::open(&location).await.expect("migrated");
        let pages: [(Option<&str>, Option<&str>, &str); 7] = [
            (None, None, "audit_by_namespace"),
            (Some("grant.put"), None, "audit_by_action"),
            (None, Some("index"), "audit_by_subject"),
            (
                Some("grant.put"),
                Some("index"),
                "audit_by_action_and_subject",
            ),
            (Some("grant.put"), Some("in*"), "audit_by_action"),
            (Some("grant.*"), Some("index"), "audit_by_subject"),
            (Some("grant.*"), None, "audit_by_namespace"),
        ];
        for (action, resource, index) in pages {
            let plan = plan(&database, action, resource).await;
            let searched = format!("SEARCH audit USING INDEX {index} ");
            assert!(plan.contains(&searched), "{action:?} {resource:?}: {plan}");
            // Nothing is sorted, and no more is read than the page has.
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
