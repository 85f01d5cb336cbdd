//! What the tests share: a sandbox, a request, a sink that remembers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::call::{Attempt, CallSink, LogLevel};
use crate::{
    CallContext, CallOutcome, CallRequest, Capability, Compiler, Grants, Limits, Plugin, Sandbox,
    SandboxOptions,
};

/// A sandbox with a folder that goes away with it.
pub(super) struct Fixture {
    pub(super) sandbox: Sandbox,
    pub(super) folder: tempfile::TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(|_| {}, Vec::new())
    }

    pub(super) fn with(
        change: impl FnOnce(&mut SandboxOptions),
        capabilities: Vec<Arc<dyn Capability>>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = SandboxOptions::new(folder.path(), Compiler::InProcessForTests);
        options.max_calls = 16;
        change(&mut options);
        let sandbox = Sandbox::new(options, capabilities).unwrap();
        Self { sandbox, folder }
    }

    pub(super) async fn prepare(&self, component: &[u8]) -> Arc<Plugin> {
        let bytes = bytes::Bytes::copy_from_slice(component);
        let digest = Sandbox::digest(component);
        self.sandbox
            .prepare(&digest, || async { Ok::<_, String>(bytes) })
            .await
            .unwrap()
    }

    /// Calls a plugin with 10 s to go.
    pub(super) async fn call(&self, component: &[u8], limits: Limits) -> CallOutcome {
        let plugin = self.prepare(component).await;
        let (context, _) = context(Duration::from_secs(10));
        self.sandbox.call(&plugin, request(limits), context).await
    }
}

pub(super) fn request(limits: Limits) -> CallRequest {
    CallRequest {
        plugin: "guest".to_owned(),
        activity: "act".to_owned(),
        input: "null".to_owned(),
        attempt: Attempt {
            namespace: "default".to_owned(),
            attempt: 1,
            ..Attempt::default()
        },
        grants: Arc::new(Grants::default()),
        limits: Arc::new(limits),
    }
}

/// What a guest told its sink.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) lines: Mutex<Vec<(LogLevel, String, Option<String>)>>,
    pub(super) heartbeats: Mutex<Vec<Option<String>>>,
    pub(super) heard: tokio::sync::Notify,
}

impl CallSink for Heard {
    fn heartbeat(&self, details: Option<String>) {
        self.heartbeats.lock().unwrap().push(details);
        self.heard.notify_one();
    }
    fn progress(&self, _: u64, _: u64, _: &str) {}
    fn log(&self, level: LogLevel, message: &str, fields: Option<&str>) {
        let line = (level, message.to_owned(), fields.map(str::to_owned));
        self.lines.lock().unwrap().push(line);
        self.heard.notify_one();
    }
}

pub(super) fn context(time: Duration) -> (CallContext, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let context = CallContext {
        cancellation: CancellationToken::new(),
        reason: Arc::default(),
        interrupt: CancellationToken::new(),
        deadline: Instant::now() + time,
        sink: Arc::clone(&heard) as Arc<dyn CallSink>,
    };
    (context, heard)
}
