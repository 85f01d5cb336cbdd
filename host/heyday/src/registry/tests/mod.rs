//! The registry with a real sandbox, a real database and guests as text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heyday_capabilities::{Bindings, BindingsConfig};
use heyday_durable::engine::{
    Engine, EngineError, HistoryPage, ListRuns, LiveEvent, QueueStats, RunDescription, RunPage,
    RunRef, RunResult, StartWorkflow, Started, UpdateStatus,
};
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::payload::{Digest, Payload};
use heyday_durable::replay::RecordedHistory;
use heyday_durable::schedule::{
    CreateSchedule, ListSchedules, Schedule, ScheduleDescription, SchedulePage, SchedulePatch,
    ScheduleRef, Schedules,
};
use heyday_durable::signal::Signal;
use heyday_sandbox::{Compiler, Sandbox, SandboxOptions};

use super::types::{Actor, AuditEntry, AuditFilter, PluginVersion, Upload, UploadOptions};
use super::{Registry, RegistryError, RegistryOptions};
use crate::config::Config;
use crate::files::ContentFiles;
use crate::state::{HostDb, StateLocation};

mod audited;
mod changing;
mod dialects;
mod flows;
mod uploads;
mod versions;

const ACTOR: Actor<'_> = Actor {
    namespace: "default",
    principal: "tester",
};
const MINUTE: Duration = Duration::from_secs(60);

/// Compiles everything but expressions with `wrong` in them; evaluates nothing.
struct MockExpressions;

impl Expressions for MockExpressions {
    fn compile(
        &self,
        expressions: &[String],
        _: &[String],
    ) -> Result<Arc<dyn Program>, ExpressionError> {
        struct MockProgram;
        impl Program for MockProgram {
            fn evaluate(
                &self,
                _: usize,
                _: &serde_json::Value,
                _: &[serde_json::Value],
            ) -> Result<serde_json::Value, ExpressionError> {
                Err(ExpressionError::Unavailable("a mock".to_owned()))
            }
        }
        match expressions.iter().find(|text| text.contains("wrong")) {
            Some(text) => Err(ExpressionError::Invalid {
                expression: text.clone(),
                message: "it is wrong".to_owned(),
            }),
            None => Ok(Arc::new(MockProgram)),
        }
    }

    fn digest(&self) -> Digest {
        Digest::of(b"mock")
    }
}

/// Says how many runs use anything; can do nothing else.
struct MockEngine(u64);

#[async_trait::async_trait]
impl Schedules for MockEngine {
    async fn create_schedule(&self, _: CreateSchedule) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn describe_schedule(&self, _: &ScheduleRef) -> Result<ScheduleDescription, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn list_schedules(&self, _: &ListSchedules) -> Result<SchedulePage, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn update_schedule(&self, _: &ScheduleRef, _: Schedule) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn patch_schedule(&self, _: &ScheduleRef, _: SchedulePatch) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn delete_schedule(&self, _: &ScheduleRef) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn schedule_times(
        &self,
        _: &ScheduleRef,
        _: jiff::Timestamp,
        _: jiff::Timestamp,
    ) -> Result<Vec<jiff::Timestamp>, EngineError> {
        Err(EngineError::ShuttingDown)
    }
}

#[async_trait::async_trait]
impl Engine for MockEngine {
    async fn start(&self, _: StartWorkflow) -> Result<Started, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn result(&self, _: &RunRef, _: Duration) -> Result<Option<RunResult>, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn describe(&self, _: &RunRef) -> Result<RunDescription, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn list(&self, _: &ListRuns) -> Result<RunPage, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn count(&self, _: &str, _: Option<&str>) -> Result<u64, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn history(
        &self,
        _: &RunRef,
        _: u64,
        _: usize,
        _: Duration,
    ) -> Result<HistoryPage, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn recorded(&self, _: &RunRef) -> Result<RecordedHistory, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn signal(&self, _: &RunRef, _: Signal) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn query(&self, _: &RunRef, _: &str, _: Payload) -> Result<Payload, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn update(
        &self,
        _: &RunRef,
        _: Signal,
        _: Duration,
    ) -> Result<UpdateStatus, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn update_result(
        &self,
        _: &RunRef,
        _: &str,
        _: Duration,
    ) -> Result<UpdateStatus, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn cancel(&self, _: &RunRef, _: &str) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn terminate(&self, _: &RunRef, _: &str) -> Result<(), EngineError> {
        Err(EngineError::ShuttingDown)
    }
    fn live(&self, _: uuid::Uuid) -> tokio::sync::broadcast::Receiver<LiveEvent> {
        tokio::sync::broadcast::channel(1).1
    }
    async fn open_runs_using(&self, _: &Digest) -> Result<u64, EngineError> {
        Ok(self.0)
    }
    fn queues(&self) -> Vec<QueueStats> {
        Vec::new()
    }
    async fn drain(&self, _: Duration) {}
}

/// An engine with so many runs that use anything.
fn used(runs: u64) -> Arc<MockEngine> {
    Arc::new(MockEngine(runs))
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) registry: Registry,
    pub(crate) sandbox: Sandbox,
}

async fn open(folder: &std::path::Path) -> Registry {
    open_with_sandbox(folder).await.0
}

async fn open_with_sandbox(folder: &std::path::Path) -> (Registry, Sandbox) {
    let config: BindingsConfig = serde_json::from_value(serde_json::json!({
        "namespaces": { "default": {
            "sql": {
                "default": { "path": folder.join("b/s.db") },
                // Neither is connected to before it is used.
                "main": { "postgres": { "url": "postgres://main@localhost/main" } },
            },
            "graph": {
                "default": { "path": folder.join("b/g") },
                "people": { "neo4j": {
                    "url": "neo4j://neo4j@localhost", "password_env": "NO_PASSWORD_IS_NEEDED",
                } },
            },
        } }
    }))
    .expect("bindings");
    let runtime = tokio::runtime::Handle::current();
    let bindings = Arc::new(Bindings::open(&config, &runtime).expect("bindings"));
    let mut options = SandboxOptions::new(folder.join("cache"), Compiler::InProcessForTests);
    options.max_calls = 2;
    let capabilities = crate::server::capabilities(&Config::default(), &bindings);
    let sandbox = Sandbox::new(options, capabilities).expect("a sandbox");
    let registry = Registry::open(RegistryOptions {
        database: HostDb::open(&StateLocation::File(folder.join("host.db")))
            .await
            .expect("a database"),
        files: ContentFiles::open(folder.join("components"))
            .expect("files")
            .into(),
        sandbox: sandbox.clone(),
        expressions: Arc::new(MockExpressions),
        bindings,
        queues: BTreeSet::from(["general-queue".to_owned(), "storage-queue".to_owned()]),
        default_queues: BTreeMap::default(),
        foreign_workers: false,
    })
    .await
    .expect("a registry");
    (registry, sandbox)
}

pub(crate) async fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let (registry, sandbox) = open_with_sandbox(folder.path()).await;
    World {
        folder,
        registry,
        sandbox,
    }
}

/// A plugin that describes itself so, and never runs. `salt` makes other bytes of the
/// same description.
fn plugin(description: &str, import: &str, salt: &str) -> Bytes {
    plugin_running(description, import, salt, "unreachable")
}

/// As [`plugin`], with this body of `run`, which gets the activity's and the input's
/// pointer and length; 2048 is room for its answer.
pub(crate) fn plugin_running(description: &str, import: &str, salt: &str, run: &str) -> Bytes {
    let quoted = description.replace('\\', "\\\\").replace('"', "\\\"");
    let text = format!(
        r#"(component
    {import}
    (core module $guest
        (memory (export "memory") 8)
        (data (i32.const 4096) "{quoted}")
        (data (i32.const 512) "{salt}")
        (global $next (mut i32) (i32.const 65536))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (global.get $next))
            (global.set $next (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
        (func (export "describe") (result i32)
            (i32.store (i32.const 1024) (i32.const 4096))
            (i32.store (i32.const 1028) (i32.const {length}))
            (i32.const 1024))
        (func (export "run") (param i32 i32 i32 i32) (result i32) {run}))
    (core instance $guest (instantiate $guest))
    (type $failure (record (field "kind" string) (field "message" string)
        (field "retryable" bool) (field "details" (option string))))
    (func $describe (result string)
        (canon lift (core func $guest "describe") (memory (core memory $guest "memory"))))
    (func $run (param "activity" string) (param "input" string)
        (result (result string (error $failure)))
        (canon lift (core func $guest "run") (memory (core memory $guest "memory"))
            (realloc (core func $guest "realloc"))))
    (component $shim
        (type $failure' (record (field "kind" string) (field "message" string)
            (field "retryable" bool) (field "details" (option string))))
        (import "type-failure" (type $failure (eq $failure')))
        (import "func-describe" (func $describe (result string)))
        (import "func-run" (func $run (param "activity" string) (param "input" string)
            (result (result string (error $failure)))))
        (export $exported "failure" (type $failure))
        (export "describe" (func $describe) (func (result string)))
        (export "run" (func $run) (func (param "activity" string) (param "input" string)
            (result (result string (error $exported))))))
    (instance $activities (instantiate $shim
        (with "type-failure" (type $failure))
        (with "func-describe" (func $describe))
        (with "func-run" (func $run))))
    (export "heyday:plugin/activities@0.1.0" (instance $activities)))"#,
        length = description.len(),
    );
    wat::parse_str(text).expect("a component").into()
}

fn greet(version: &str, salt: &str) -> Bytes {
    let description = serde_json::json!({
        "name": "greet", "version": version, "documentation": "Greets.",
        "activities": [{ "name": "hello", "queue": "storage-queue" }],
    });
    plugin(&description.to_string(), "", salt)
}

fn indexer() -> Bytes {
    let description = serde_json::json!({
        "name": "index", "version": "1.0.0", "activities": [{ "name": "add" }],
    });
    let import = r#"(import "heyday:sql/sql@0.1.0" (instance))"#;
    plugin(&description.to_string(), import, "")
}

pub(crate) async fn push(registry: &Registry, bytes: Bytes) -> Result<Upload, RegistryError> {
    registry
        .upload_plugin(ACTOR, bytes, UploadOptions::default(), MINUTE)
        .await
}

/// The audit, newest first.
async fn entries(registry: &Registry) -> Vec<AuditEntry> {
    let all = AuditFilter::default();
    let read = registry.audit("default", None, 100, &all).await;
    read.expect("read")
}

fn created(upload: Upload) -> PluginVersion {
    match upload {
        Upload::Created(version) => version,
        other => panic!("{other:?}"),
    }
}
