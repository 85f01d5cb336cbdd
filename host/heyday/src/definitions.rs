//! What the engine asks about definitions, answered by the registry.

use std::sync::Arc;

use async_trait::async_trait;
use heyday_durable::definition::{Definitions, PinnedDefinition, WorkflowReference};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::Flow;
use heyday_durable::payload::Digest;

use crate::registry::{ActivityOptions, Registry, RegistryError};

/// Finds and pins definitions.
#[derive(Debug, Clone)]
pub struct HostDefinitions {
    registry: Registry,
}

impl HostDefinitions {
    /// Over this registry.
    #[must_use]
    pub const fn new(registry: Registry) -> Self {
        Self { registry }
    }

    /// The one-step workflow that runs this activity, `plugin.activity` or
    /// `plugin.activity:1.2.0`, pinned.
    ///
    /// # Errors
    /// [`UNKNOWN_ACTIVITY`](kind::UNKNOWN_ACTIVITY) or
    /// [`UNKNOWN_QUEUE`](kind::UNKNOWN_QUEUE) where there is none;
    /// [`INVALID_INPUT`](kind::INVALID_INPUT) where the options cannot be used; retryable
    /// where the registry cannot answer now.
    pub async fn pin_activity(
        &self,
        namespace: &str,
        activity: &str,
        options: &ActivityOptions,
    ) -> Result<PinnedDefinition, Failure> {
        let pinned = self
            .registry
            .pin_activity(namespace, activity, options)
            .await;
        pinned.map_err(|error| failure(&error, kind::UNKNOWN_ACTIVITY))
    }
}

#[async_trait]
impl Definitions for HostDefinitions {
    async fn pin(
        &self,
        namespace: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure> {
        let pinned = self.registry.pin_flow(namespace, reference).await;
        pinned.map_err(|error| failure(&error, kind::UNKNOWN_WORKFLOW))
    }

    async fn load(&self, _namespace: &str, digest: &Digest) -> Result<Arc<Flow>, Failure> {
        let flow = self.registry.parsed(digest).await;
        flow.map_err(|error| failure(&error, kind::UNKNOWN_WORKFLOW))
    }
}

fn failure(error: &RegistryError, unknown: &'static str) -> Failure {
    match error {
        RegistryError::NotFound { .. } | RegistryError::UnknownActivity(_) => {
            Failure::permanent(unknown, error.to_string())
        }
        RegistryError::UnknownQueue(_) => {
            Failure::permanent(kind::UNKNOWN_QUEUE, error.to_string())
        }
        RegistryError::Invalid(_) | RegistryError::Unusable { .. } => {
            Failure::permanent(kind::INVALID_INPUT, error.to_string())
        }
        RegistryError::Unavailable(_) => Failure::transient(kind::INTERNAL, error.to_string()),
        error => {
            tracing::error!(%error, "a definition cannot be read");
            Failure::transient(
                kind::INTERNAL,
                "the definition cannot be read; the server's log has the cause",
            )
        }
    }
}
