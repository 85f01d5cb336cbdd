//! Plugins, flows and grants: immutable versions, one of each active.
//!
//! What is registered lives in `host.db` and, as it is, in memory: reads (every pin of
//! a run, every call) take an `Arc` of the current [`snapshot`] and never touch the
//! database; a change is one transaction under one lock, and the next snapshot.
//!
//! The way of a plugin's upload ([`upload`]): the bytes are verified, stored by digest,
//! compiled in the child process, described, and the description checked
//! ([`description`]); only then is there a name and a version, and the version is
//! stored and made active in one transaction. An upload under way has the digest as its
//! name; it survives a restart.

// PUBLIC METHODS of Registry (all on &self; Registry is Clone, a handle):
//
// async fn upload_plugin(&self, actor: Actor<'_>, bytes: Bytes, options: UploadOptions, wait: Duration) -> Result<Upload, RegistryError>
// fn upload_status(&self, namespace: &str, digest: &Digest) -> Result<UploadStatus, RegistryError>      // also of ready ones
// fn plugins(&self, namespace: &str, after: Option<&str>, limit: usize) -> VersionsPage
// fn plugin(&self, namespace: &str, name: &str) -> Result<Versions, RegistryError>
// fn plugin_version(&self, namespace: &str, name: &str, version: &str) -> Result<PluginVersion, RegistryError>
// fn plugin_by_digest(&self, namespace: &str, digest: &Digest) -> Result<PluginVersion, RegistryError>
// async fn component(&self, namespace: &str, name: &str, version: &str) -> Result<Bytes, RegistryError>
// async fn activate_plugin(&self, actor: Actor<'_>, name: &str, version: &str, allow_missing: bool) -> Result<PluginVersion, RegistryError>
// async fn rollback_plugin(&self, actor: Actor<'_>, name: &str) -> Result<PluginVersion, RegistryError>
// async fn remove_plugin_version(&self, actor: Actor<'_>, name: &str, version: &str, engine: &dyn Engine) -> Result<(), RegistryError>
//
// async fn upload_flow(&self, actor: Actor<'_>, bytes: Bytes, activate: bool, dry_run: bool) -> Result<FlowUpload, RegistryError>
// fn flows(&self, namespace: &str, after: Option<&str>, limit: usize) -> VersionsPage
// fn flow(&self, namespace: &str, name: &str) -> Result<Versions, RegistryError>
// fn flow_version(&self, namespace: &str, name: &str, version: &str) -> Result<FlowVersion, RegistryError>
// async fn flow_document(&self, namespace: &str, name: &str, version: &str) -> Result<Bytes, RegistryError>
// async fn activate_flow(&self, actor: Actor<'_>, name: &str, version: &str) -> Result<FlowVersion, RegistryError>
// async fn rollback_flow(&self, actor: Actor<'_>, name: &str) -> Result<FlowVersion, RegistryError>
// async fn remove_flow_version(&self, actor: Actor<'_>, name: &str, version: &str, engine: &dyn Engine) -> Result<(), RegistryError>
//
// fn grants(&self, namespace: &str, subject: Option<&str>) -> Vec<GrantInfo>
// async fn put_grant(&self, actor: Actor<'_>, grant: GrantRequest) -> Result<GrantInfo, RegistryError>
// async fn delete_grant(&self, actor: Actor<'_>, subject: &str, capability: &str, binding: Option<&str>) -> Result<(), RegistryError>   // None: all bindings of it
// fn bindings(&self, namespace: &str) -> Vec<BindingInfo>
// async fn audit(&self, namespace: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, RegistryError>   // newest first
//
// Pinning is in crate::definitions::HostDefinitions (implements durable Definitions):
// async fn pin(namespace, &WorkflowReference) -> Result<PinnedDefinition, Failure>         // for POST /workflows
// async fn pin_activity(&self, namespace: &str, activity: &str) -> Result<PinnedDefinition, Failure>  // for POST /activities/{plugin.activity[:version]}
//
// Logs and receipts are in crate::recorder::Recorder (Clone):
// async fn logs(&self, namespace: &str, run_id: Uuid, after: u64, limit: usize) -> Result<Vec<LogRecord>, RegistryError>
// async fn receipts(&self, namespace: &str, run_id: Uuid) -> Result<Vec<ReceiptRecord>, RegistryError>
// fn written(&self) -> tokio::sync::watch::Receiver<u64>     // changes when a batch was written (for --follow)
// async fn flush(&self)
//
// Idempotency of POSTs other than starts is in crate::state::HostDb (Clone):
// async fn recall(&self, namespace: &str, key: &str) -> Result<Option<RememberedAnswer>, RegistryError>
// async fn remember(&self, namespace: &str, key: &str, answer: &RememberedAnswer) -> Result<(), RegistryError>
//   struct RememberedAnswer { request: Digest, status: u16, body: Bytes }
