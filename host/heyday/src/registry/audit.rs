//! The audit of what operators do here.

use serde_json::{Value, json};

use super::types::{Actor, AuditEntry, AuditFilter};
use super::versions::Stored;
use super::{Registry, RegistryError};

impl Registry {
    /// What operators did and what was refused, newest first, before that id.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn audit(
        &self,
        namespace: &str,
        before: Option<u64>,
        limit: usize,
        filter: &AuditFilter,
    ) -> Result<Vec<AuditEntry>, RegistryError> {
        let before = before
            .and_then(|before| i64::try_from(before).ok())
            .unwrap_or(i64::MAX);
        Ok(self
            .core
            .database()
            .audit_page(namespace, before, limit, filter)
            .await?)
    }

    /// Notes what was done with a version.
    pub(super) async fn note_version(&self, actor: Actor<'_>, what: &str, stored: &Stored) {
        let row = &stored.row;
        let action = format!("{}.{what}", row.kind.word());
        let resource = format!("{} {}", row.name, row.version);
        self.note(actor, &action, &resource, json!({})).await;
    }

    /// Writes to the audit.
    pub(crate) async fn note(
        &self,
        actor: Actor<'_>,
        action: &str,
        resource: &str,
        details: Value,
    ) {
        let (namespace, principal) = (actor.namespace, actor.principal);
        self.core
            .note(namespace, principal, action, resource, &details)
            .await;
    }
}
