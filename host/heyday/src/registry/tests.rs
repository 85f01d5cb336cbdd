//! The registry with a real sandbox, a real database and guests as text.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heyday_capabilities::{Bindings, BindingsConfig};
use heyday_durable::definition::{Definitions as _, WorkflowReference};
use heyday_durable::engine::{
    Engine, EngineError, HistoryPage, ListRuns, LiveEvent, QueueStats, RunDescription, RunPage,
    RunRef, RunResult, StartWorkflow, Started,
};
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::failure::kind;
use heyday_durable::payload::Digest;
use heyday_durable::signal::Signal;
use heyday_sandbox::{Compiler, Sandbox, SandboxOptions};

use super::types::{Actor, GrantRequest, Upload, UploadOptions, VersionState};
use super::{Registry, RegistryError, RegistryOptions};
use crate::definitions::HostDefinitions;
use crate::files::ContentFiles;
use crate::state::HostDb;

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
    async fn history(
        &self,
        _: &RunRef,
        _: u64,
        _: usize,
        _: Duration,
    ) -> Result<HistoryPage, EngineError> {
        Err(EngineError::ShuttingDown)
    }
    async fn signal(&self, _: &RunRef, _: Signal) -> Result<(), EngineError> {
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
        "namespaces": { "default": { "sql": { "default": { "path": folder.join("b/s.db") } } } }
    }))
    .expect("bindings");
    let runtime = tokio::runtime::Handle::current();
    let bindings = Arc::new(Bindings::open(&config, &runtime).expect("bindings"));
    let mut options = SandboxOptions::new(folder.join("cache"), Compiler::InProcessForTests);
    options.max_calls = 2;
    let capabilities = heyday_capabilities::capabilities(&bindings);
    let sandbox = Sandbox::new(options, capabilities).expect("a sandbox");
    let registry = Registry::open(RegistryOptions {
        database: HostDb::open(&folder.join("host.db"))
            .await
            .expect("a database"),
        files: ContentFiles::open(folder.join("components")).expect("files"),
        sandbox: sandbox.clone(),
        expressions: Arc::new(MockExpressions),
        bindings,
        queues: BTreeSet::from(["general-queue".to_owned(), "storage-queue".to_owned()]),
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

fn created(upload: Upload) -> super::types::PluginVersion {
    match upload {
        Upload::Created(version) => version,
        other => panic!("{other:?}"),
    }
}

fn flow(version: &str, body: &str) -> Bytes {
    format!(
        "document:\n  dsl: '1.0.0'\n  namespace: docs\n  name: process\n  version: '{version}'\ndo:\n{body}"
    )
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_the_same_version_and_others_are_refused() {
    let World { registry, .. } = &world().await;
    let version = created(push(registry, greet("1.0.0", "")).await.expect("uploaded"));
    assert_eq!((version.name.as_str(), version.active), ("greet", true));
    assert_eq!(version.state, VersionState::Ready);
    assert_eq!(version.activities[0].queue, "storage-queue");
    assert_eq!(version.digest, Digest::of(&greet("1.0.0", "")));

    let again = push(registry, greet("1.0.0", "")).await.expect("uploaded");
    assert!(matches!(again, Upload::Existing(same) if same == version));
    let other = push(registry, greet("1.0.0", "x"))
        .await
        .expect_err("other bytes");
    assert!(
        matches!(&other, RegistryError::Conflict(text) if text.contains("--dev")),
        "{other}"
    );

    let dev = UploadOptions {
        dev: true,
        ..UploadOptions::default()
    };
    let dev = registry
        .upload_plugin(ACTOR, greet("1.0.0", "x"), dev, MINUTE)
        .await;
    let dev = created(dev.expect("uploaded"));
    assert!(
        dev.version.to_string().starts_with("1.0.0-dev."),
        "{}",
        dev.version
    );
    let shown = registry.plugin("default", "greet").expect("there");
    assert_eq!((shown.versions.len(), shown.active), (2, Some(dev.version)));
    let bytes = registry
        .component("default", "greet", "1.0.0")
        .await
        .expect("read");
    assert_eq!(bytes, greet("1.0.0", ""));
    assert!(matches!(
        registry.plugin("other", "greet"),
        Err(RegistryError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_uploads_at_once_are_one_version() {
    let World { registry, .. } = &world().await;
    let (one, two) = tokio::join!(
        push(registry, greet("1.0.0", "")),
        push(registry, greet("1.0.0", ""))
    );
    for upload in [one, two] {
        let (Upload::Created(version) | Upload::Existing(version)) = upload.expect("uploaded")
        else {
            panic!("still pending");
        };
        assert_eq!(version.version.to_string(), "1.0.0");
    }
    assert_eq!(
        registry
            .plugin("default", "greet")
            .expect("there")
            .versions
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn activation_needs_grants_and_can_be_taken_back() {
    let World { registry, .. } = &world().await;
    let index = created(push(registry, indexer()).await.expect("uploaded"));
    assert_eq!(
        (index.active, index.missing_grants),
        (false, vec!["sql".to_owned()])
    );
    let refused = registry
        .activate_plugin(ACTOR, "index", "1.0.0", false)
        .await;
    assert!(
        matches!(refused, Err(RegistryError::MissingGrants { missing, .. }) if missing == ["sql"])
    );
    let grant = |binding: &str, mode: Option<&str>| GrantRequest {
        subject: "index".to_owned(),
        capability: "sql".to_owned(),
        binding: binding.to_owned(),
        mode: mode.map(str::to_owned),
    };
    for (binding, mode, words) in [
        ("nothing", None, "there are default"),
        ("default", Some("w"), "`ro`"),
    ] {
        let refused = registry
            .put_grant(ACTOR, grant(binding, mode))
            .await
            .expect_err("refused");
        assert!(refused.to_string().contains(words), "{refused}");
    }
    registry
        .put_grant(ACTOR, grant("default", Some("rw")))
        .await
        .expect("granted");
    let before = registry.grants_of("default", "index");
    assert!(before.find("sql", "default").is_some());
    let active = registry
        .activate_plugin(ACTOR, "index", "1.0.0", false)
        .await;
    assert!(active.expect("active").active);

    // Less than before ends what goes on with the old grant.
    registry
        .put_grant(ACTOR, grant("default", Some("ro")))
        .await
        .expect("granted");
    assert!(before.revoked.is_cancelled());
    let before = registry.grants_of("default", "index");
    registry
        .delete_grant(ACTOR, "index", "sql", Some("default"))
        .await
        .expect("taken back");
    assert!(before.revoked.is_cancelled());
    assert!(registry.grants("default", None).is_empty());
    let missing = registry.delete_grant(ACTOR, "index", "sql", None).await;
    assert!(matches!(
        missing,
        Err(RegistryError::NotFound { what: "grant", .. })
    ));

    let audit = registry.audit("default", None, 100).await.expect("read");
    let actions: Vec<&str> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "grant.delete",
            "grant.put",
            "plugin.activate",
            "grant.put",
            "plugin.upload"
        ]
    );
    assert_eq!(audit[0].principal, "tester");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_goes_one_version_back_and_survives_a_restart() {
    let World {
        registry, folder, ..
    } = &world().await;
    push(registry, greet("1.0.0", "")).await.expect("uploaded");
    let nothing = registry.rollback_plugin(ACTOR, "greet").await;
    assert!(matches!(nothing, Err(RegistryError::Conflict(_))));
    push(registry, greet("1.1.0", "")).await.expect("uploaded");
    let staged = UploadOptions {
        activate: false,
        ..UploadOptions::default()
    };
    let staged = registry
        .upload_plugin(ACTOR, greet("2.0.0", ""), staged, MINUTE)
        .await;
    assert!(!created(staged.expect("uploaded")).active);
    let back = registry
        .rollback_plugin(ACTOR, "greet")
        .await
        .expect("rolled back");
    assert_eq!(back.version.to_string(), "1.0.0");
    let definitions = HostDefinitions::new(registry.clone());
    let pinned = definitions
        .pin_activity("default", "greet.hello")
        .await
        .expect("pinned");
    assert_eq!(pinned.activities["greet.hello"].digest, Some(back.digest));

    let again = open(folder.path()).await;
    let shown = again.plugin("default", "greet").expect("there");
    assert_eq!(shown.active, Some(back.version));
    assert_eq!(shown.versions.len(), 3);
    let page = again.plugins("default", None, 10);
    assert_eq!((page.rows.len(), page.next), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_removed_only_when_nothing_needs_it() {
    let World { registry, .. } = &world().await;
    let old = created(push(registry, greet("1.0.0", "")).await.expect("uploaded"));
    push(registry, greet("1.1.0", "")).await.expect("uploaded");
    let active = registry
        .remove_plugin_version(ACTOR, "greet", "1.1.0", &MockEngine(0))
        .await;
    assert!(matches!(active, Err(RegistryError::Conflict(text)) if text.contains("is active")));
    let used = registry
        .remove_plugin_version(ACTOR, "greet", "1.0.0", &MockEngine(2))
        .await;
    assert!(matches!(used, Err(RegistryError::Conflict(text)) if text.contains("2 open runs")));
    assert!(
        registry.plugin_version("default", "greet", "1.0.0").is_ok(),
        "it is still there"
    );
    let removed = registry
        .remove_plugin_version(ACTOR, "greet", "1.0.0", &MockEngine(0))
        .await;
    removed.expect("removed");
    assert!(
        registry
            .plugin_version("default", "greet", "1.0.0")
            .is_err()
    );
    let nothing = registry.rollback_plugin(ACTOR, "greet").await;
    assert!(nothing.is_err(), "what was removed is not rolled back to");
    // An attempt that was about to begin still finds it.
    assert!(registry.stored(&old.digest).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_crossed_a_start_is_revived_from_its_bytes() {
    let World {
        registry, folder, ..
    } = &world().await;
    let old = created(push(registry, greet("1.0.0", "")).await.expect("uploaded"));
    push(registry, greet("1.1.0", "")).await.expect("uploaded");
    let removed = registry
        .remove_plugin_version(ACTOR, "greet", "1.0.0", &MockEngine(0))
        .await;
    removed.expect("removed");
    let again = open(folder.path()).await;
    assert!(again.stored(&old.digest).is_none());
    again.sweep(&MockEngine(1)).await;
    let revived = again
        .stored_or_revived("default", &old.digest)
        .await
        .expect("revived");
    assert_eq!(revived.row.name, "greet");
    let unknown = again
        .stored_or_revived("default", &Digest::of(b"never"))
        .await;
    assert!(unknown.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_no_plugins_say_why() {
    let World { registry, .. } = &world().await;
    let module = Bytes::from_static(b"\0asm\x01\0\0\0");
    let bad = plugin(r#"{"name":"heyday","version":"1","activities":[]}"#, "", "");
    let foreign = plugin("{}", r#"(import "acme:other/thing@1.0.0" (instance))"#, "");
    for (bytes, words) in [
        (Bytes::from_static(b"hello"), "not a WebAssembly component"),
        (module, "core WebAssembly module"),
        (foreign, "acme:other/thing@1.0.0"),
        (bad, "description is wrong"),
    ] {
        let error = push(registry, bytes).await.expect_err(words);
        assert!(matches!(error, RegistryError::Unusable { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let bad = plugin(r#"{"name":"heyday","version":"1","activities":[]}"#, "", "");
    let status = registry
        .upload_status("default", &Digest::of(&bad))
        .expect("known");
    assert_eq!(status.state, VersionState::Failed);
    assert!(status.reason.expect("a reason").contains("/name"));
    assert!(
        registry
            .upload_status("default", &Digest::of(b"hello"))
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_waits_for_goes_on() {
    let World { registry, .. } = &world().await;
    let bytes = greet("1.0.0", "");
    let digest = Digest::of(&bytes);
    let options = UploadOptions::default();
    let pending = registry
        .upload_plugin(ACTOR, bytes, options, Duration::ZERO)
        .await;
    match pending.expect("taken") {
        Upload::Pending(status) => assert_eq!(status.digest, digest),
        // It was that fast.
        Upload::Created(version) => assert_eq!(version.digest, digest),
        other @ Upload::Existing(_) => panic!("{other:?}"),
    }
    let done = registry
        .await_upload("default", &digest, MINUTE)
        .await
        .expect("done");
    assert!(
        matches!(done, Upload::Created(_) | Upload::Existing(_)),
        "{done:?}"
    );
    let status = registry.upload_status("default", &digest).expect("known");
    assert_eq!(status.state, VersionState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_checked_stored_and_pinned() {
    let World {
        registry, folder, ..
    } = &world().await;
    let body = "  - greet:\n      call: greet.hello\n";
    let dry = registry
        .upload_flow(ACTOR, flow("1.0.0", body), true, true)
        .await;
    assert!(matches!(dry, Ok(super::types::FlowUpload::Existing(_))));
    assert!(
        registry.flow("default", "docs.process").is_err(),
        "a dry run stores nothing"
    );

    let stored = registry
        .upload_flow(ACTOR, flow("1.0.0", body), true, false)
        .await;
    let Ok(super::types::FlowUpload::Created(version)) = stored else {
        panic!("{stored:?}");
    };
    assert_eq!(
        (version.name.as_str(), version.active),
        ("docs.process", true)
    );
    assert!(
        version.warnings[0].contains("greet.hello"),
        "{:?}",
        version.warnings
    );
    let other = registry.upload_flow(
        ACTOR,
        flow("1.0.0", "  - w:\n      wait: PT1S\n"),
        true,
        false,
    );
    assert!(matches!(other.await, Err(RegistryError::Conflict(_))));

    push(registry, greet("1.0.0", "")).await.expect("uploaded");
    let version = registry
        .flow_version("default", "docs.process", "1.0.0")
        .expect("there");
    assert!(version.warnings.is_empty(), "{:?}", version.warnings);
    let reference = |version: Option<&str>| WorkflowReference {
        workflow_type: "docs.process".to_owned(),
        version: version.map(|text| text.parse().expect("a version")),
    };
    for registry in [registry.clone(), open(folder.path()).await] {
        let definitions = HostDefinitions::new(registry);
        let pinned = definitions
            .pin("default", &reference(None))
            .await
            .expect("pinned");
        assert_eq!(pinned.activities["greet.hello"].queue, "storage-queue");
        let flow = definitions
            .load("default", &pinned.digest)
            .await
            .expect("loaded");
        assert_eq!(flow.workflow_type(), "docs.process");
        let none = definitions.pin("default", &reference(Some("9.0.0"))).await;
        assert_eq!(none.expect_err("none").kind, kind::UNKNOWN_WORKFLOW);
        let none = definitions.pin("other", &reference(None)).await;
        assert_eq!(none.expect_err("none").kind, kind::UNKNOWN_WORKFLOW);
        for (name, words) in [
            ("greet.nothing", "it has hello"),
            ("nobody.x", "no plugin"),
            ("greet.hello:3.0.0", "no version 3.0.0"),
            ("greet", "PLUGIN.ACTIVITY"),
        ] {
            let none = definitions
                .pin_activity("default", name)
                .await
                .expect_err(name);
            assert_eq!(none.kind, kind::UNKNOWN_ACTIVITY);
            assert!(none.message.contains(words), "{}", none.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_cannot_run_name_the_line() {
    let World { registry, .. } = &world().await;
    let reserved = String::from_utf8(flow("1.0.0", "  - w:\n      wait: PT1S\n").to_vec())
        .expect("text")
        .replace("namespace: docs", "namespace: heyday");
    for (document, line, words) in [
        (
            flow("1.0.0", "  - a:\n      set: ${ wrong }\n"),
            Some(8),
            "it is wrong",
        ),
        (
            flow("1.0.0", "  - a:\n      call: p.a\n      then: nowhere\n"),
            Some(9),
            "nowhere",
        ),
        (
            flow(
                "1.0.0",
                "  - a:\n      call: p.a\n      metadata: { heyday: { queue: fast } }\n",
            ),
            Some(7),
            "there is no queue",
        ),
        (Bytes::from(reserved), None, "kept for the host's own flows"),
    ] {
        let error = registry
            .upload_flow(ACTOR, document, true, false)
            .await
            .expect_err(words);
        let RegistryError::Unusable { message, problems } = error else {
            panic!("{error:?}");
        };
        assert!(message.contains(words), "{message}");
        assert_eq!(
            problems.first().and_then(|problem| problem.line),
            line,
            "{problems:?}"
        );
    }
    assert!(registry.flows("default", None, 10).rows.is_empty());
}
