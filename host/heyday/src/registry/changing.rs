//! What changes the registry: each change runs to its end, in a task of its own.
//!
//! Who asked may go at any moment, and whatever waits for it is dropped then, in the middle of
//! a commit too. A change that ended there would leave memory apart from what is stored until
//! the next start.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heyday_durable::engine::Engine;
use tracing::Instrument as _;

use super::types::{
    Actor, FlowUpload, FlowVersion, GrantInfo, GrantRequest, Upload, UploadOptions,
};
use super::{Kind, Registry, RegistryError, VersionView, parse_version, view};
use crate::state::versions::GrantRow;

/// Whom a change belongs to, for as long as it takes.
struct Asking {
    namespace: String,
    principal: String,
}

impl Asking {
    fn of(actor: Actor<'_>) -> Self {
        Self {
            namespace: actor.namespace.to_owned(),
            principal: actor.principal.to_owned(),
        }
    }

    fn actor(&self) -> Actor<'_> {
        Actor {
            namespace: &self.namespace,
            principal: &self.principal,
        }
    }
}

/// Makes a change whole: it ends also where nobody waits for it any more.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, RegistryError> {
    let ended = tokio::spawn(change.in_current_span()).await;
    ended.unwrap_or_else(|error| Err(RegistryError::Internal(error.to_string())))
}

impl Registry {
    /// Takes a component and waits up to `wait` until it is a version.
    ///
    /// # Errors
    /// When it is no plugin, cannot become a version, or cannot be stored.
    pub async fn upload_plugin(
        &self,
        actor: Actor<'_>,
        bytes: Bytes,
        options: UploadOptions,
        wait: Duration,
    ) -> Result<Upload, RegistryError> {
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        let progress = whole(async move {
            core.upload_plugin(asking.actor(), bytes, options, wait)
                .await
        });
        Ok(self.upload(progress.await?))
    }

    /// Makes a version the active one: new runs use it.
    ///
    /// # Errors
    /// When there is none, or a plugin's grants are missing and that was not allowed.
    pub async fn activate<V: VersionView>(
        &self,
        actor: Actor<'_>,
        name: &str,
        version: &str,
        allow_missing: bool,
    ) -> Result<V, RegistryError> {
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        let (kind, name, version) = (V::KIND, name.to_owned(), version.to_owned());
        let stored = whole(async move {
            core.activate(kind, asking.actor(), &name, &version, allow_missing)
                .await
        });
        let stored = stored.await?;
        Ok(V::of(&self.core, &stored))
    }

    /// Makes the version before the active one active again, whatever its grants are now: a
    /// call of a capability that is not granted any more is denied. Where `from` is named, only
    /// if that is the active one: asked twice, it goes back once.
    ///
    /// # Errors
    /// When there is none of that name, no version was active before, or the active one is
    /// another.
    pub async fn rollback<V: VersionView>(
        &self,
        actor: Actor<'_>,
        name: &str,
        from: Option<&str>,
    ) -> Result<V, RegistryError> {
        let from = from.map(parse_version).transpose()?;
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        let (kind, name) = (V::KIND, name.to_owned());
        let stored = whole(async move {
            core.rollback(kind, asking.actor(), &name, from.as_ref())
                .await
        });
        let stored = stored.await?;
        Ok(V::of(&self.core, &stored))
    }

    /// Removes a version that no open run needs; the active one only where it is the only
    /// one.
    ///
    /// # Errors
    /// When there is none, an open run needs it, or it is active beside others.
    pub async fn remove(
        &self,
        kind: Kind,
        actor: Actor<'_>,
        name: &str,
        version: &str,
        engine: Arc<dyn Engine>,
    ) -> Result<(), RegistryError> {
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        let (name, version) = (name.to_owned(), version.to_owned());
        whole(async move {
            core.remove(engine.as_ref(), kind, asking.actor(), &name, &version)
                .await
        })
        .await
    }

    /// Takes a flow, YAML or JSON; only checks it where `dry_run`.
    ///
    /// # Errors
    /// When it is no flow that can run, with every line that is wrong.
    pub async fn upload_flow(
        &self,
        actor: Actor<'_>,
        bytes: Bytes,
        options: UploadOptions,
        dry_run: bool,
    ) -> Result<FlowUpload, RegistryError> {
        let namespace = actor.namespace;
        let read = self.core.read_flow(namespace, &bytes, options.dev);
        let (stored, flow) = read.await?;
        if dry_run {
            self.core.check_new(&stored)?;
            let version = FlowVersion::of(&self.core, &stored);
            return Ok(FlowUpload::Existing(version));
        }
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        let done = whole(async move {
            core.store_flow(&asking.principal, bytes, stored, &flow, options)
                .await
        });
        let done = done.await?;
        let version = FlowVersion::of(&self.core, &done.stored);
        Ok(match done.created {
            true => FlowUpload::Created(version),
            false => FlowUpload::Existing(version),
        })
    }

    /// Grants a binding, or gives the grant another mode.
    ///
    /// # Errors
    /// When there is no such binding, or the grant makes no sense.
    pub async fn put_grant(
        &self,
        actor: Actor<'_>,
        grant: GrantRequest,
    ) -> Result<GrantInfo, RegistryError> {
        let row = GrantRow {
            namespace: actor.namespace.to_owned(),
            subject: grant.subject,
            capability: grant.capability,
            binding: grant.binding,
            mode: grant.mode,
            granted_at: crate::state::now(),
        };
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        whole(async move {
            match core.grant(&asking.principal, &row).await {
                Ok(()) => Ok(view::grant(row)),
                Err(error) => {
                    core.note_refused_grant(asking.actor(), &row, &error).await;
                    Err(error)
                }
            }
        })
        .await
    }

    /// Takes a grant back, or all of a capability where no binding is named. Host calls
    /// in flight end as denied.
    ///
    /// # Errors
    /// When there is no such grant.
    pub async fn delete_grant(
        &self,
        actor: Actor<'_>,
        subject: &str,
        capability: &str,
        binding: Option<&str>,
    ) -> Result<(), RegistryError> {
        let (core, asking) = (Arc::clone(&self.core), Asking::of(actor));
        let (subject, capability) = (subject.to_owned(), capability.to_owned());
        let binding = binding.map(str::to_owned);
        whole(async move {
            core.revoke(asking.actor(), &subject, &capability, binding.as_deref())
                .await
        })
        .await
    }
}
