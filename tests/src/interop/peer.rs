//! A worker in another language beside ours: each calls what the other has.
//!
//! The worker (`peer`) polls the queue `peer` and has
//!
//! | | |
//! |---|---|
//! | activities | `Length` of a `text`; `Text` of `n` letters; `Break`, which fails; `Wait`, which is to be cancelled |
//! | `Theirs` | answers `{theirs: INPUT}`; fails as `Break` does where `break` is set |
//! | `CallActivity` | calls an activity of ours by its `type` with `input`, on `general-queue` or `queue` |
//! | `RunFlow` | runs a flow of ours by its `type` with `input`, as its child |
//!
//! The last two answer `{answer}`, or `{failure}` as their SDK shows it.

use heyday_durable::engine::{ExecutionStatus, PendingState};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::error::COMMUNICATION;
use heyday_durable::payload::FOREIGN_LIMIT;
use serde_json::{Value, json};

use super::{Language, Worker};
use crate::conformance::bench::{Bench, run};
use crate::conformance::foreign::workflow;

/// Letters of a text that nearly fills what goes to and comes from foreign code; a little
/// is left for what is said around it.
const MOST: usize = FOREIGN_LIMIT - 2_000;

/// Makes of each function a test for each language.
macro_rules! in_each_language {
    ($($name:ident),+ $(,)?) => {
        mod python {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(peer) = super::Peer::start(super::Language::Python).await {
                        super::$name(peer).await;
                    }
                }
            )+
        }
        mod go {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(peer) = super::Peer::start(super::Language::Go).await {
                        super::$name(peer).await;
                    }
                }
            )+
        }
    };
}

in_each_language!(
    a_foreign_workflow_calls_our_activities,
    an_activitys_failure_reaches_a_foreign_workflow,
    a_foreign_workflow_runs_a_flow_as_its_child,
    a_flow_calls_a_foreign_activity,
    a_foreign_activitys_failure_reaches_the_flow,
    a_flow_runs_a_foreign_workflow_as_its_child,
    a_cancel_reaches_a_foreign_activity,
    a_foreign_client_queries_and_updates_a_flow,
);

/// An engine on a cluster, and a foreign worker beside it.
struct Peer {
    bench: Bench,
    language: Language,
    _worker: Worker,
}

impl Peer {
    async fn start(language: Language) -> Option<Self> {
        let mut command = language.program("peer")?;
        let bench = Bench::temporal().await?;
        let (address, namespace) = bench.cluster().unwrap();
        command.arg("peer");
        Some(Self {
            bench,
            language,
            _worker: Worker::start(command, &address, &namespace),
        })
    }

    /// Runs a workflow of the foreign worker to its end; answers its result.
    async fn execute(&self, workflow_type: &str, id: &str, input: &Value) -> Value {
        // One argument of a command has 128 KiB at most.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), input.to_string()).unwrap();
        let arguments = [
            "start",
            "--type",
            workflow_type,
            "--task-queue",
            "peer",
            "--workflow-id",
            id,
            "--input-file",
            file.path().to_str().unwrap(),
        ];
        workflow(&self.bench, &arguments).await;
        let mut ended = workflow(&self.bench, &["result", "--workflow-id", id]).await;
        assert_eq!(ended["status"], "COMPLETED", "{ended}");
        ended["result"].take()
    }

    /// Lets a client on the SDK ask something of a workflow; answers what it printed.
    async fn ask(&self, arguments: &[&str]) -> Value {
        let (address, namespace) = self.bench.cluster().unwrap();
        super::ask(self.language, &address, &namespace, arguments).await
    }

    /// The stack of a failure as an SDK shows it, taken out; Go's shows none.
    fn take_stack(&self, failure: &mut Value) -> Option<String> {
        let stack = failure.as_object_mut().unwrap().remove("stack");
        assert_eq!(stack.is_some(), self.language == Language::Python);
        stack.map(|stack| stack.as_str().unwrap().to_owned())
    }
}

async fn a_foreign_workflow_calls_our_activities(peer: Peer) {
    let call = |name: &str, input: Value| json!({ "type": name, "input": input });
    let echo = call("t.echo", json!({"n": [1, null, "é"]}));
    let answer = peer.execute("CallActivity", "echo", &echo).await;
    assert_eq!(answer, json!({"answer": {"n": [1, null, "é"]}}));
    // On any queue of ours.
    let narrow = json!({ "type": "t.echo", "input": {"n": 1}, "queue": "narrow" });
    let answer = peer.execute("CallActivity", "narrow", &narrow).await;
    assert_eq!(answer, json!({"answer": {"n": 1}}));
    let scheduled = peer
        .bench
        .until_event(&run("narrow"), "ActivityTaskScheduled")
        .await;
    assert_eq!(scheduled.attributes["task_queue"], "narrow");
    // What is large would go by reference to a flow.
    let big = call("t.big", json!({ "n": MOST }));
    let answer = peer.execute("CallActivity", "big", &big).await;
    assert_eq!(answer["answer"].as_str().unwrap().len(), MOST);
    let text = call("t.length", json!({"text": "y".repeat(MOST)}));
    let answer = peer.execute("CallActivity", "length", &text).await;
    assert_eq!(answer, json!({ "answer": MOST }));
    assert_eq!(peer.bench.payloads.len(), 0);
    // With its quotes, one byte more than is given to foreign code.
    let larger = call("t.big", json!({ "n": FOREIGN_LIMIT - 1 }));
    let answer = peer.execute("CallActivity", "larger", &larger).await;
    let failure = &answer["failure"];
    assert_eq!(failure["type"], kind::LIMIT_EXCEEDED, "{failure}");
    assert_eq!(failure["non_retryable"], true);
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("write it to a blob"), "{message}");
}

async fn an_activitys_failure_reaches_a_foreign_workflow(peer: Peer) {
    let call = json!({ "type": "t.fail", "input": {} });
    let mut answer = peer.execute("CallActivity", "fails", &call).await;
    let failure = &mut answer["failure"];
    if let Some(stack) = peer.take_stack(failure) {
        assert_eq!(stack, "at t::fail");
        peer.take_stack(&mut failure["cause"]);
    }
    assert_eq!(
        *failure,
        json!({
            "type": "broken",
            "message": "as it was told",
            "details": [{"page": 4}],
            "non_retryable": true,
            "cause": {
                "type": "disk",
                "message": "it is full",
                // As Temporal's command line shows an empty list.
                "details": null,
                "non_retryable": false,
                "cause": null,
            },
        })
    );
    assert_eq!(peer.bench.begun("t.fail"), 1);
}

async fn a_foreign_workflow_runs_a_flow_as_its_child(peer: Peer) {
    let bench = &peer.bench;
    bench.define("child", "  - a: {call: t.echo, with: {got: '${ .n }'}}\n");
    bench.define("broken", "  - a: {call: t.fail}\n");
    let call = json!({ "type": "test.child", "input": {"n": 3} });
    let answer = peer.execute("RunFlow", "parent", &call).await;
    assert_eq!(answer, json!({"answer": {"got": 3}}));
    let child = bench.engine().describe(&run("parent-child")).await.unwrap();
    assert_eq!(child.info.workflow_type, "test.child");
    assert_eq!(child.info.parent.unwrap().0, "parent");
    let call = json!({ "type": "test.broken", "input": {} });
    let answer = peer.execute("RunFlow", "fails", &call).await;
    let failure = &answer["failure"];
    assert_eq!(failure["type"], COMMUNICATION, "{failure}");
    assert_eq!(failure["message"], "broken: as it was told");
    let fault = &failure["details"][0];
    assert_eq!(fault["instance"], "/do/0/a");
    assert_eq!(fault["failure"]["kind"], "broken");
    assert_eq!(fault["failure"]["details"], json!({"page": 4}));
    let call = json!({ "type": "test.nobody", "input": {} });
    let answer = peer.execute("RunFlow", "unknown", &call).await;
    assert_eq!(answer["failure"]["type"], kind::UNKNOWN_WORKFLOW);
}

async fn a_flow_calls_a_foreign_activity(peer: Peer) {
    let bench = &peer.bench;
    bench.define(
        "caller",
        "  - made: {call: Text, with: {n: '${ .n }'}, metadata: {heyday: {foreign: {queue: peer}}}}
  - measured: {call: Length, with: {text: '${ . }'}, metadata: {heyday: {foreign: {queue: peer}}}}\n",
    );
    // References would be no use to them.
    let run = bench.start("caller", json!({ "n": MOST })).await;
    assert_eq!(bench.result(&run).await, json!(MOST));
    assert_eq!(bench.payloads.len(), 0);
    let scheduled = bench.until_event(&run, "ActivityTaskScheduled").await;
    let attributes = &scheduled.attributes;
    assert_eq!(attributes["activity_type"], "Text", "{attributes}");
    assert_eq!(attributes["task_queue"], "peer", "{attributes}");
    let more = "z".repeat(2 * (FOREIGN_LIMIT - MOST));
    bench.define(
        "above",
        &format!(
            "  - made: {{call: Text, with: {{n: '${{ .n }}'}}, metadata: {{heyday: {{foreign: {{queue: peer}}}}}}}}
  - measured: {{call: Length, with: {{text: '${{ . }}', more: {more}}}, metadata: {{heyday: {{foreign: {{queue: peer}}}}}}}}\n"
        ),
    );
    let run = bench.start("above", json!({ "n": MOST })).await;
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("write it to a blob"), "{failure}");
}

/// That it is what the foreign worker fails with.
fn assert_broken(failure: &Failure, language: Language) {
    assert_eq!(failure.kind, COMMUNICATION, "{failure:?}");
    assert_eq!(failure.message, "Broken: it broke");
    // What a `catch` of the flow sees of it.
    let seen = &failure.details.as_ref().unwrap()["failure"];
    assert_eq!(seen["kind"], "Broken", "{failure:?}");
    assert_eq!(seen["details"], json!({"page": 4}));
    let theirs = failure.cause.as_ref().unwrap();
    assert_eq!((theirs.kind.as_str(), theirs.retryable), ("Broken", false));
    assert_eq!(theirs.message, "it broke");
    let cause = theirs.cause.as_ref().unwrap();
    assert_eq!((cause.kind.as_str(), cause.retryable), ("Disk", true));
    assert_eq!(cause.message, "the disk is full");
    if language == Language::Python {
        let stack = theirs.stack.as_ref().unwrap();
        assert!(stack.contains("peer.py"), "{stack}");
    }
}

async fn a_foreign_activitys_failure_reaches_the_flow(peer: Peer) {
    peer.bench.define(
        "caller",
        "  - a: {call: Break, metadata: {heyday: {foreign: {queue: peer}}}}\n",
    );
    let run = peer.bench.start("caller", json!({})).await;
    assert_broken(&peer.bench.failure(&run).await, peer.language);
}

async fn a_flow_runs_a_foreign_workflow_as_its_child(peer: Peer) {
    let bench = &peer.bench;
    bench.define(
        "parent",
        "  - a:
      run: {workflow: {namespace: test, name: theirs, version: latest}}
      metadata: {heyday: {foreign: {queue: peer, type: Theirs}}}\n",
    );
    let run = bench.start("parent", json!({"n": 3})).await;
    assert_eq!(bench.result(&run).await, json!({"theirs": {"n": 3}}));
    let run = bench.start("parent", json!({"break": true})).await;
    assert_broken(&bench.failure(&run).await, peer.language);
}

async fn a_cancel_reaches_a_foreign_activity(peer: Peer) {
    let bench = &peer.bench;
    bench.define(
        "waits",
        "  - a:
      call: Wait
      metadata: {heyday: {foreign: {queue: peer}, timeouts: {heartbeat: 30s}}}\n",
    );
    let run = bench.start("waits", json!({})).await;
    let started = async || {
        let described = bench.engine().describe(&run).await.unwrap();
        let pending = described.pending_activities.first();
        pending.is_some_and(|one| one.state == PendingState::Started)
    };
    bench.until("the activity runs", started).await;
    bench.engine().cancel(&run, "enough").await.unwrap();
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Canceled);
}

async fn a_foreign_client_queries_and_updates_a_flow(peer: Peer) {
    let bench = &peer.bench;
    bench.define_about(
        "asked",
        ", metadata: {heyday: {queries: {taken: '${ .context }', told: '${ .arguments }'}}}",
        "  - first:
      listen: {to: {one: {with: {type: add}}}}
      metadata: {heyday: {update: {answer: {added: '${ .n }'}}}}
      export: {as: '${ . }'}
  - second:
      listen: {to: {one: {with: {type: add}}}}
      metadata: {heyday: {update: {}}}\n",
    );
    let run = bench.start("asked", json!({})).await;
    let id = run.workflow_id.as_str();
    let told = peer.ask(&["query", id, "told", r#"{"é": [1]}"#]).await;
    assert_eq!(told, json!({"answer": {"é": [1]}}));
    let unknown = peer.ask(&["query", id, "nothing", "null"]).await;
    let message = unknown["failure"]["message"].as_str().unwrap();
    assert!(message.contains("nothing"), "{unknown}");
    // Nobody listens for it: it leaves no trace.
    let rejected = peer.ask(&["update", id, "remove", "{}", "zero"]).await;
    let message = rejected["failure"]["message"].as_str().unwrap();
    assert!(message.contains("remove"), "{rejected}");
    let kinds = bench.kinds(&run).await;
    assert!(
        !kinds.iter().any(|kind| kind.contains("Update")),
        "{kinds:?}"
    );
    for _ in 0..2 {
        // The same id again answers the same update.
        let added = peer.ask(&["update", id, "add", r#"{"n": 3}"#, "one"]).await;
        assert_eq!(added, json!({"answer": {"added": 3}}));
    }
    let taken = peer.ask(&["query", id, "taken", "null"]).await;
    assert_eq!(taken, json!({"answer": [{"n": 3}]}));
    // By its run as well as its workflow id.
    let run_id = run.run_id.unwrap().to_string();
    let other = uuid::Uuid::now_v7().to_string();
    let update = |run_id| ["update", id, "add", r#"{"n": 4}"#, "two", run_id];
    let nowhere = peer.ask(&update(other.as_str())).await;
    assert!(nowhere["failure"]["message"].is_string(), "{nowhere}");
    let added = peer.ask(&update(run_id.as_str())).await;
    assert_eq!(added, json!({"answer": {"n": 4}}));
    assert_eq!(bench.result(&run).await, json!([{"n": 4}]));
    // One that has ended answers what it was.
    let taken = peer.ask(&["query", id, "taken", "null"]).await;
    assert_eq!(taken, json!({"answer": [{"n": 3}]}));
    let late = peer
        .ask(&["update", id, "add", r#"{"n": 5}"#, "three"])
        .await;
    assert!(late["failure"]["message"].is_string(), "{late}");
    signals_and_ends(&peer).await;
}

/// A foreign client starts a flow with a signal, and ends others.
async fn signals_and_ends(peer: &Peer) {
    let bench = &peer.bench;
    bench.define(
        "takes",
        "  - first: {listen: {to: {one: {with: {type: go}}}}}
  - second: {listen: {to: {one: {with: {type: go}}}}}\n",
    );
    let start = |given| ["signal-with-start", "taken", "go", given, "test.takes"];
    let started = peer.ask(&start(r#"{"n": 1}"#)).await;
    assert!(started["answer"].is_string(), "{started}");
    // The run that is open gets the next one.
    assert_eq!(peer.ask(&start(r#"{"n": 2}"#)).await, started);
    let taken = bench.result(&run("taken")).await;
    assert_eq!(taken, json!([{"n": 2}]));

    bench.define(
        "cleans",
        "  - t: {try: [{w: {wait: PT1H}}], catch: {errors: {with: {type: 'urn:heyday:errors:cancelled'}}, do: [{c: {call: t.echo, with: {}}}]}}\n",
    );
    let cancelled = bench.start("cleans", json!({})).await;
    bench.until_event(&cancelled, "TimerStarted").await;
    let asked = peer
        .ask(&["cancel", &cancelled.workflow_id, "-", "null"])
        .await;
    assert_eq!(asked["failure"], Value::Null, "{asked}");
    let end = bench.end(&cancelled).await;
    assert_eq!(end.status, ExecutionStatus::Canceled);
    assert_eq!(bench.begun("t.echo"), 1);

    let open = bench.start("cleans", json!({})).await;
    let asked = peer
        .ask(&["terminate", &open.workflow_id, "enough", "null"])
        .await;
    assert_eq!(asked["failure"], Value::Null, "{asked}");
    let end = bench.end(&open).await;
    assert_eq!(end.status, ExecutionStatus::Terminated);
    assert_eq!(end.outcome.unwrap_err().message, "enough");
    assert_eq!(bench.begun("t.echo"), 1);
}
