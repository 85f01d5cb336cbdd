//! Our side: the sandbox as the server sets it up, with every capability linked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use heyday_capabilities::Bindings;
use heyday_capabilities::http::{HttpCapability, PluginHttpLimits};
use heyday_sandbox::call::{Attempt, CallSink, LogLevel};
use heyday_sandbox::{
    CallContext, CallOutcome, CallRequest, Compiler, Grants, Limits, Plugin, Sandbox,
    SandboxOptions,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Drops what guests say.
struct Nowhere;

impl CallSink for Nowhere {
    fn heartbeat(&self, _: Option<String>) {}
    fn progress(&self, _: u64, _: u64, _: &str) {}
    fn log(&self, _: LogLevel, _: &str, _: Option<&str>) {}
}

/// A sandbox with one plugin.
pub struct Ours {
    name: &'static str,
    sandbox: Sandbox,
    plugin: Arc<Plugin>,
    grants: Arc<Grants>,
    limits: Arc<Limits>,
    sink: Arc<dyn CallSink>,
    /// Goes away with it.
    _folder: tempfile::TempDir,
}

impl Ours {
    /// The usual setup, with the plugin `probe` compiled, and nothing granted.
    pub async fn new(component: &[u8], limits: Limits) -> anyhow::Result<Arc<Self>> {
        Self::with(
            "probe",
            component,
            limits,
            Arc::default(),
            Grants::default(),
        )
        .await
    }

    /// As [`new`](Self::new), with any plugin, and with bindings and grants of them.
    pub async fn with(
        name: &'static str,
        component: &[u8],
        limits: Limits,
        bindings: Arc<Bindings>,
        grants: Grants,
    ) -> anyhow::Result<Arc<Self>> {
        let folder = tempfile::tempdir()?;
        let options = SandboxOptions::new(folder.path(), Compiler::InProcessForTests);
        let http = HttpCapability::new(PluginHttpLimits::default(), Handle::current());
        let capabilities = heyday_capabilities::capabilities(&bindings, http);
        let sandbox = Sandbox::new(options, capabilities)?;
        let digest = Sandbox::digest(component);
        let bytes = bytes::Bytes::copy_from_slice(component);
        let plugin = sandbox
            .prepare(&digest, || async { Ok::<_, String>(bytes) })
            .await
            .context("the component is not ready")?;
        Ok(Arc::new(Self {
            name,
            sandbox,
            plugin,
            grants: Arc::new(grants),
            limits: Arc::new(limits),
            sink: Arc::new(Nowhere),
            _folder: folder,
        }))
    }

    /// The runtime that guests run on.
    pub fn guests(&self) -> Handle {
        self.sandbox.guests().clone()
    }

    /// A context with so much time.
    pub fn context(&self, time: Duration) -> CallContext {
        CallContext {
            cancellation: CancellationToken::new(),
            reason: Arc::default(),
            interrupt: CancellationToken::new(),
            deadline: Instant::now() + time,
            sink: Arc::clone(&self.sink),
        }
    }

    /// Calls an activity; its attempt has what an attempt of a workflow has.
    pub async fn call_in(&self, activity: &str, input: &str, context: CallContext) -> CallOutcome {
        let request = CallRequest {
            plugin: self.name.to_owned(),
            activity: activity.to_owned(),
            input: input.to_owned(),
            attempt: Attempt {
                namespace: "default".to_owned(),
                workflow_id: "0199a3f0-7e7a-7cc2-b5a1-3d6c3f2d6c11".to_owned(),
                run_id: "0199a3f0-7e7a-7cc2-b5a1-3d6c3f2d6c12".to_owned(),
                activity_id: "1".to_owned(),
                activity_type: format!("{}.{activity}", self.name),
                queue: "general-queue".to_owned(),
                attempt: 1,
                idempotency_key: "default/0199a3f0-7e7a-7cc2-b5a1-3d6c3f2d6c12/1".to_owned(),
                last_heartbeat: None,
            },
            grants: Arc::clone(&self.grants),
            limits: Arc::clone(&self.limits),
        };
        self.sandbox.call(&self.plugin, request, context).await
    }

    /// Calls an activity that must succeed.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn call(&self, activity: &str, input: &str) -> anyhow::Result<()> {
        let context = self.context(Duration::from_secs(60));
        let outcome = self.call_in(activity, input, context).await;
        outcome.result.map(drop).map_err(anyhow::Error::new)
    }
}
