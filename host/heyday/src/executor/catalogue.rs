//! Where an executor finds what it runs and what that may use.
//!
//! In the server it is the [`Registry`] of the same process;
//! on a worker it is what the server tells it ([`crate::worker`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use heyday_durable::activity::ActivityTask;
use heyday_durable::failure::{Failure, kind};
use heyday_durable::payload::Digest;
use heyday_sandbox::Grants;

use crate::registry::{Registry, Stored};

/// Why bytes cannot be had; for the log.
pub type FetchError = Box<dyn std::error::Error + Send + Sync>;

/// Plugin versions, their bytes, and grants.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// The plugin version that a task names by its digest; the active one of its activity
    /// where it names none.
    async fn plugin(&self, task: &ActivityTask) -> Result<Arc<Stored>, Failure>;

    /// The component of that digest. The bytes are those: who fetched them has compared.
    async fn component(&self, namespace: &str, digest: &Digest) -> Result<Bytes, FetchError>;

    /// What a plugin or a flow may use now. `needs` are the capabilities that it is about
    /// to use: where one of them is not granted as far as is known here, a catalogue that
    /// may be behind asks before it says so.
    async fn grants(&self, namespace: &str, subject: &str, needs: &BTreeSet<String>)
    -> Arc<Grants>;
}

#[async_trait]
impl Catalogue for Registry {
    async fn plugin(&self, task: &ActivityTask) -> Result<Arc<Stored>, Failure> {
        let Some(digest) = &task.plugin_digest else {
            let found = self.resolve(&task.namespace, &task.activity_type);
            return found.ok_or_else(|| {
                let message = self.unresolved(&task.namespace, &task.activity_type);
                Failure::permanent(kind::UNKNOWN_ACTIVITY, message)
            });
        };
        let found = self.stored_or_revived(&task.namespace, digest).await;
        found.map_err(|error| {
            tracing::error!(%error, %digest, "a removed plugin version cannot be read");
            removed(digest, &task.activity_type)
        })
    }

    async fn component(&self, _: &str, digest: &Digest) -> Result<Bytes, FetchError> {
        Ok(self.content(digest).await?)
    }

    async fn grants(&self, namespace: &str, subject: &str, _: &BTreeSet<String>) -> Arc<Grants> {
        self.grants_of(namespace, subject)
    }
}

/// The failure of a task whose plugin version is gone.
#[must_use]
pub fn removed(digest: &Digest, activity_type: &str) -> Failure {
    Failure::permanent(
        kind::UNKNOWN_ACTIVITY,
        format!("the plugin version {digest} of {activity_type} was removed"),
    )
}
