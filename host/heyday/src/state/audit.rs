//! The audit: who did what, and when.

use jiff::Timestamp;
use sqlx::Row as _;

use crate::registry::types::AuditEntry;

use super::{HostDb, StateError, json, micros, timestamp};

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
        sqlx::query(
            "INSERT INTO audit (at_us, namespace, principal, action, subject, details) \
             VALUES (?1,?2,?3,?4,?5,?6)",
        )
        .bind(micros(Timestamp::now()))
        .bind(namespace)
        .bind(principal)
        .bind(action)
        .bind(subject)
        .bind(details.to_string())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Entries of a namespace, newest first, before that id.
    ///
    /// # Errors
    /// As [`StateError`] says.
    pub async fn audit_page(
        &self,
        namespace: &str,
        before: i64,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StateError> {
        let rows = sqlx::query(
            "SELECT id, at_us, principal, action, subject, details FROM audit \
             WHERE namespace = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
        )
        .bind(namespace)
        .bind(before)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(AuditEntry {
                    id: u64::try_from(row.try_get::<i64, _>("id")?).unwrap_or_default(),
                    at: timestamp(row.try_get("at_us")?)?,
                    principal: row.try_get("principal")?,
                    action: row.try_get("action")?,
                    resource: row.try_get("subject")?,
                    details: json(row.try_get("details")?)?,
                })
            })
            .collect()
    }
}
