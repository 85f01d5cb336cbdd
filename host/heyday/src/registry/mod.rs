//! Plugins, flows and grants: immutable versions, one of each active.
//!
//! [`Registry`] is what the API and the executor ask; behind it, `core` keeps
//! everything in memory and in the state, `follow` brings memory to what is stored,
//! `versions` changes which versions there are and
//! which one is active, of plugins and flows alike, `plugins` takes uploads of
//! components, `flows` of flows, `grants` says what they may reach, `definitions` resolves
//! names for runs, `feed` tells workers what changed, `audit` says who did what, and `view`
//! shows all of it. What changes something comes in by `changing`, which lets each change end.
//!
//! The way of a plugin's upload: the bytes are verified, stored by digest, compiled in
//! the child process, described, and the description checked; only then is there a name
//! and a version, and the version is stored and made active in one transaction. An
//! upload under way has the digest as its name; it survives a restart.

mod audit;
mod changing;
mod core;
mod definitions;
pub mod error;
pub mod feed;
mod flows;
pub mod follow;
pub mod grants;
mod plugins;
mod refusals;
pub mod types;
mod versions;
pub(crate) mod view;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heyday_durable::definition::{PinnedDefinition, WorkflowReference};
use heyday_durable::engine::Engine;
use heyday_durable::flow::Flow;
use heyday_durable::flow::model::EventTrigger;
use heyday_durable::payload::Digest;
use heyday_sandbox::Grants;
use tokio::sync::watch;

use self::core::Core;
pub use self::core::RegistryOptions;
pub use self::error::RegistryError;
use self::feed::{News, Revision};
pub use self::flows::ActivityOptions;
use self::follow::Moved;
use self::plugins::Progress;
use self::types::{
    BindingInfo, GrantInfo, NamesPage, PluginVersion, Upload, UploadStatus, VersionState, Versions,
};
pub use self::versions::{Stored, parse_version};
pub use self::view::VersionView;
pub use crate::state::versions::Kind;
use crate::state::versions::UploadRow;

/// Plugins, flows and grants. Clones are handles of the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    core: Arc<Core>,
}

impl Registry {
    /// Reads everything that is stored, and goes on with uploads that a stop
    /// interrupted.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn open(options: RegistryOptions) -> Result<Self, RegistryError> {
        Core::open(options).await.map(|core| Self { core })
    }

    fn upload(&self, progress: Progress) -> Upload {
        match progress {
            Progress::UnderWay(row) => Upload::Pending(UploadStatus {
                digest: row.digest,
                state: row.state,
                reason: row.reason,
                uploaded_at: row.created_at,
            }),
            Progress::Done(done) => {
                let version = PluginVersion::of(&self.core, &done.stored);
                if done.created {
                    Upload::Created(version)
                } else {
                    Upload::Existing(version)
                }
            }
        }
    }

    /// Where an upload stands; `ready` for one that became a version.
    ///
    /// # Errors
    /// When no such upload is known.
    pub fn upload_status(
        &self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<UploadStatus, RegistryError> {
        Ok(match self.core.progress(namespace, digest)? {
            Progress::UnderWay(row) => UploadStatus {
                digest: row.digest,
                state: row.state,
                reason: row.reason,
                uploaded_at: row.created_at,
            },
            Progress::Done(done) => UploadStatus {
                digest: *digest,
                state: VersionState::Ready,
                reason: None,
                uploaded_at: done.stored.row.created_at,
            },
        })
    }

    /// Waits up to `wait` for an upload that was sent before.
    ///
    /// # Errors
    /// As [`upload_plugin`](Self::upload_plugin), or when no such upload is known.
    pub async fn await_upload(
        &self,
        namespace: &str,
        digest: &Digest,
        wait: Duration,
    ) -> Result<Upload, RegistryError> {
        let progress = self.core.await_upload(namespace, digest, wait).await?;
        Ok(self.upload(progress))
    }

    /// Plugins or flows by name, after that name, at most so many.
    #[must_use]
    pub fn list(
        &self,
        kind: Kind,
        namespace: &str,
        after: Option<&str>,
        limit: usize,
    ) -> NamesPage {
        view::page(&self.core, kind, namespace, after, limit)
    }

    /// A plugin or flow with its versions, newest upload first, after those of that page's
    /// token, at most so many.
    ///
    /// # Errors
    /// When there is none of that name, or the token is none.
    pub fn versions(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Versions, RegistryError> {
        let entry = self.core.entry(kind, namespace, name)?;
        view::versions(name, &entry, after, limit)
    }

    /// One version.
    ///
    /// # Errors
    /// When there is none.
    pub fn version<V: VersionView>(
        &self,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<V, RegistryError> {
        let stored = self.core.version(V::KIND, namespace, name, version)?;
        Ok(V::of(&self.core, &stored))
    }

    /// The bytes of a version, as they were uploaded.
    ///
    /// # Errors
    /// When there is none, or its file cannot be read.
    pub async fn bytes(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<Bytes, RegistryError> {
        let stored = self.core.version(kind, namespace, name, version)?;
        self.core.bytes(&stored.row.digest).await
    }

    /// The plugin version of that digest.
    ///
    /// # Errors
    /// When there is none.
    pub fn plugin_by_digest(
        &self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<PluginVersion, RegistryError> {
        self.core
            .any_of(namespace, digest)
            .map(|stored| PluginVersion::of(&self.core, &stored))
            .ok_or_else(|| {
                RegistryError::not_found("plugin version", digest.to_string(), namespace)
            })
    }

    /// The bytes of a component or a flow by their digest; `NotFound` where there are none.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub async fn content(&self, digest: &Digest) -> std::io::Result<Bytes> {
        self.core.files.read(digest).await
    }

    /// Grants of a namespace, or of one subject, in order.
    #[must_use]
    pub fn grants(&self, namespace: &str, subject: Option<&str>) -> Vec<GrantInfo> {
        let rows = self.core.list_grants(namespace, subject);
        rows.into_iter().map(view::grant).collect()
    }

    /// What a plugin or flow may use now.
    #[must_use]
    pub fn grants_of(&self, namespace: &str, subject: &str) -> Arc<Grants> {
        self.core.grants_of(namespace, subject)
    }

    /// What serves models, if this process does.
    #[must_use]
    pub fn inference(&self) -> Option<&heyday_inference::Inference> {
        self.core.bindings.inference()
    }

    /// What stands behind the bindings of this process.
    #[must_use]
    pub fn bound(&self) -> &heyday_capabilities::Bindings {
        &self.core.bindings
    }

    /// Bindings that can be granted in a namespace.
    #[must_use]
    pub fn bindings(&self, namespace: &str) -> Vec<BindingInfo> {
        let bindings = self.core.bindings(namespace);
        bindings
            .into_iter()
            .map(|(capability, name, backend)| view::binding(capability, name, backend))
            .collect()
    }

    /// Forgets uploads that failed long ago, and removes files of removed versions that no open
    /// run needs. Call it now and then, when the engine has recovered.
    pub async fn sweep(&self, engine: &dyn Engine) {
        self.core.sweep(engine).await;
    }

    /// A plugin version with its compiled schemas, by digest; also one that was removed
    /// since the start, for attempts that were about to begin.
    #[must_use]
    pub fn stored(&self, digest: &Digest) -> Option<Arc<Stored>> {
        self.core.by_digest(digest)
    }

    /// As [`stored`](Self::stored), made again of its bytes where it was removed while a
    /// run of it was about to start.
    ///
    /// # Errors
    /// When its bytes are gone too.
    pub async fn stored_or_revived(
        &self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<Arc<Stored>, RegistryError> {
        match self.stored(digest) {
            Some(stored) => Ok(stored),
            None => self.core.revive(namespace, digest).await,
        }
    }

    /// The active version of the plugin that has this activity.
    #[must_use]
    pub fn resolve(&self, namespace: &str, activity_type: &str) -> Option<Arc<Stored>> {
        self.core.resolve(namespace, activity_type, None)
    }

    /// Why an activity type means nothing, for a person.
    #[must_use]
    pub fn unresolved(&self, namespace: &str, activity_type: &str) -> String {
        self.core.unresolved(namespace, activity_type, None)
    }

    /// Refuses a queue that there is not.
    pub(crate) fn check_queue(&self, queue: &str) -> Result<(), RegistryError> {
        self.core.check_queue(queue)
    }

    pub(crate) async fn pin_flow(
        &self,
        namespace: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, RegistryError> {
        self.core.pin_flow(namespace, reference).await
    }

    pub(crate) async fn pin_activity(
        &self,
        namespace: &str,
        activity: &str,
        options: &ActivityOptions,
    ) -> Result<PinnedDefinition, RegistryError> {
        self.core.pin_activity(namespace, activity, options).await
    }

    /// The flow that waits for the events of a flow and starts it, pinned.
    pub(crate) async fn pin_listener(
        &self,
        namespace: &str,
        flow: &Flow,
        trigger: &EventTrigger,
    ) -> Result<PinnedDefinition, RegistryError> {
        self.core.pin_listener(namespace, flow, trigger).await
    }

    /// A flow that is stored nowhere, checked, with what it calls pinned; as a development
    /// version where `dev`.
    pub(crate) async fn flow_of(
        &self,
        namespace: &str,
        text: &Bytes,
        dev: bool,
    ) -> Result<PinnedDefinition, RegistryError> {
        self.core.flow_of(namespace, text, dev).await
    }

    /// A flow's active version, and its digest.
    pub(crate) fn active_version(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<(semver::Version, Digest)> {
        let entry = self.core.entry(Kind::Flow, namespace, name).ok()?;
        let row = &entry.active()?.row;
        Some((row.version.clone(), row.digest))
    }

    /// The version to which a rollback would go.
    ///
    /// # Errors
    /// When there is no such name, or none was active before.
    pub(crate) fn version_before(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<semver::Version, RegistryError> {
        let stored = self.core.version_before(kind, namespace, name)?;
        Ok(stored.row.version.clone())
    }

    pub(crate) async fn parsed(&self, digest: &Digest) -> Result<Arc<Flow>, RegistryError> {
        self.core.flow(digest).await
    }

    /// The digest of a flow's active version.
    pub(crate) fn active_flow(&self, namespace: &str, name: &str) -> Option<Digest> {
        self.active_version(namespace, name)
            .map(|(_, digest)| digest)
    }

    /// Whether a version of a flow has a schedule, or there is no such flow any more.
    pub(crate) fn may_have_schedule(&self, namespace: &str, name: &str) -> bool {
        let entry = self.core.entry(Kind::Flow, namespace, name);
        entry.map_or(true, |entry| {
            let mut versions = entry.versions.values();
            versions.any(|version| flows::has_schedule(&version.row))
        })
    }

    /// Namespace and name of all flows whose active version has a schedule.
    pub(crate) fn scheduled_flows(&self) -> Vec<(String, String)> {
        self.core.scheduled_flows()
    }

    /// Those of one namespace.
    pub(crate) fn scheduled_flows_of(&self, namespace: &str) -> Vec<(String, String)> {
        let mut flows = self.scheduled_flows();
        flows.retain(|(of, _)| of == namespace);
        flows
    }

    /// Another number after each change of plugins or flows.
    pub(crate) fn generation(&self) -> u64 {
        self.core.memory().generation
    }

    /// The namespaces that have flows.
    pub(crate) fn flow_namespaces(&self) -> BTreeSet<String> {
        self.core.flow_namespaces()
    }

    /// Where the sequence of changes that workers follow is now.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.core.revision()
    }

    /// What a follower who knows that revision has to be told.
    #[must_use]
    pub fn news(&self, after: Option<Revision>) -> News {
        self.core.news(after)
    }

    /// Brings what is known to what is stored, where other servers changed it; answers what
    /// of it others follow, since this was asked last.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn catch_up(&self) -> Result<Moved, RegistryError> {
        self.core.catch_up().await?;
        Ok(self.core.take_moved())
    }

    /// What [`catch_up`](Self::catch_up) answered is to be answered again.
    pub fn note_moved(&self, moved: Moved) {
        self.core.note_moved(moved);
    }

    /// Goes on with uploads that are this server's from now on.
    pub fn resume_uploads(&self, rows: Vec<UploadRow>) {
        self.core.resume_uploads(rows);
    }

    /// Changes when there are news.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<u64> {
        self.core.told()
    }
}

#[cfg(test)]
pub(crate) mod tests;
