//! The audit: who did what, and when; and what plugins and flows were refused.

use jiff::Timestamp;
use serde_json::json;

use crate::recorder::ReceiptRow;
use crate::registry::types::{AuditEntry, AuditFilter, TextFilter};

use super::backend::{Tx, Value, placeholders, values};
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

/// What a text must be, and what it must begin with; anything where empty.
fn wanted(filter: Option<&TextFilter>) -> (&str, &str) {
    match filter {
        None => ("", ""),
        Some(TextFilter::Exact(text)) => (text, ""),
        Some(TextFilter::Prefix(text)) => ("", text),
    }
}

impl HostDb {
    /// Adds an entry.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn audit(
        &self,
        namespace: &str,
        principal: &str,
        action: &str,
        subject: &str,
        details: &serde_json::Value,
    ) -> Result<(), StateError> {
        let mut tx = self.backend.begin().await?;
        in_order(&mut tx, AUDIT_LOCK).await?;
        tx.execute(
            "INSERT INTO audit (at_us, namespace, principal, action, subject, details) \
             VALUES ($1,$2,$3,$4,$5,$6)",
            values![
                micros(Timestamp::now()),
                namespace,
                principal,
                action,
                subject,
                details.to_string(),
            ],
        )
        .await?;
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
        let (action, actions) = wanted(filter.action.as_ref());
        let (resource, resources) = wanted(filter.resource.as_ref());
        let rows = self
            .rows(
                "SELECT id, at_us, principal, action, subject, details FROM audit \
             WHERE namespace = $1 AND id < $2 \
             AND ($4 = '' OR action = $4) AND substr(action, 1, length($5)) = $5 \
             AND ($6 = '' OR subject = $6) AND substr(subject, 1, length($7)) = $7 \
             ORDER BY id DESC LIMIT $3",
                values![
                    namespace,
                    before,
                    limit(rows),
                    action,
                    actions,
                    resource,
                    resources
                ],
            )
            .await;
        rows?
            .iter()
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
