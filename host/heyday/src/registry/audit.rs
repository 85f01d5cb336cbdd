//! The audit of what operators do here.

use serde_json::Value;

use super::types::{Actor, AuditEntry, AuditFilter};
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

    /// Writes to the audit what was done elsewhere than in the registry.
    pub(crate) async fn note(
        &self,
        actor: Actor<'_>,
        action: &str,
        resource: &str,
        details: Value,
    ) {
        self.core.note(actor, action, resource, &details).await;
    }
}
