//! The audit: who did what, and when.

use jiff::Timestamp;

use crate::registry::types::AuditEntry;

use super::backend::values;
use super::shared::{AUDIT_LOCK, in_order};
use super::{HostDb, StateError, json, limit, micros, timestamp, unsigned};

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

    /// Entries of a namespace, newest first, before that id.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn audit_page(
        &self,
        namespace: &str,
        before: i64,
        rows: usize,
    ) -> Result<Vec<AuditEntry>, StateError> {
        let rows = self
            .rows(
                "SELECT id, at_us, principal, action, subject, details FROM audit \
             WHERE namespace = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
                values![namespace, before, limit(rows)],
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
