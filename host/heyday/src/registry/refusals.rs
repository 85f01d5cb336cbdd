//! What operators were refused, for the audit. What plugins and flows were refused comes
//! with the receipts of their attempts ([`crate::recorder::Denied`]).

use heyday_durable::payload::Digest;
use heyday_sandbox::VerifyError;
use serde_json::json;

use super::RegistryError;
use super::core::Core;
use super::types::Actor;
use crate::state::versions::GrantRow;

/// Characters of each text that are kept: nothing of a refused request was checked.
const LONGEST: usize = 300;

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Core {
    /// Notes that a grant was refused; not where it could not be stored.
    pub(super) async fn note_refused_grant(
        &self,
        actor: Actor<'_>,
        row: &GrantRow,
        error: &RegistryError,
    ) {
        if !matches!(
            error,
            RegistryError::Invalid(_) | RegistryError::UnfitGrants { .. }
        ) {
            return;
        }
        // An address with a user in it may have a password too, and the reason repeats it.
        let details = if row.binding.contains('@') {
            json!({
                "capability": short(&row.capability),
                "reason": "the binding has an `@` and is not kept here",
            })
        } else {
            json!({
                "capability": short(&row.capability), "binding": short(&row.binding),
                "mode": row.mode.as_deref().map(short), "reason": short(&error.to_string()),
            })
        };
        let subject = short(&row.subject);
        self.note(actor, "grant.refuse", &subject, &details).await;
    }

    /// Notes that an upload was refused because of what it imports.
    pub(super) async fn note_refused_upload(
        &self,
        actor: Actor<'_>,
        bytes: &[u8],
        error: &VerifyError,
    ) {
        let VerifyError::RefusedImports(imports) = error else {
            return;
        };
        let imports: Vec<String> = imports.iter().take(20).map(|name| short(name)).collect();
        let details = json!({ "imports": imports, "reason": short(&error.to_string()) });
        let digest = Digest::of(bytes).to_string();
        self.note(actor, "plugin.refuse", &digest, &details).await;
    }
}
