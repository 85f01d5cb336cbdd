//! The embedded graph, its process included: this test program starts itself once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::runtime::Handle;

use super::*;
use crate::Mode::ReadWrite;
use crate::error::ErrorCode as _;

/// The process, as `heyday` starts it; run by the tests, not as one.
#[test]
#[ignore = "it is what the tests start"]
fn engine_process() {
    std::process::exit(engine::main().into());
}

fn command() -> EngineCommand {
    EngineCommand {
        program: std::env::current_exe().expect("this program"),
        args: [
            "graph::tests::engine_process",
            "--exact",
            "--ignored",
            "--nocapture",
        ]
        .map(Into::into)
        .into(),
    }
}

struct Opened {
    graph: Graph,
    folder: tempfile::TempDir,
}

fn opened(limits: GraphLimits) -> Opened {
    let folder = tempfile::tempdir().expect("a folder");
    let graph = open(folder.path(), false, limits);
    Opened { graph, folder }
}

fn open(folder: &std::path::Path, read_only: bool, limits: GraphLimits) -> Graph {
    embedded::open(folder, read_only, limits, command(), Handle::current()).expect("a folder")
}

async fn ask(graph: &Graph, statement: &str) -> Result<Vec<Json>, GraphError> {
    let asked = graph.query(ReadWrite, statement.to_owned(), "{}".to_owned());
    let rows = asked.await?.rows;
    let rows = rows.iter().map(|row| serde_json::from_str(row));
    Ok(rows.collect::<Result<_, _>>().expect("JSON"))
}

impl Opened {
    async fn ask(&self, statement: &str) -> Result<Vec<Json>, GraphError> {
        ask(&self.graph, statement).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_what_was_stored_and_no_more() {
    let it = opened(GraphLimits::default());
    for (stored, told) in [
        ("(a:A {x: 1})", json!({ "x": 1 })),
        ("(a:A {name: 'n'})", json!({ "name": "n" })),
        (
            "(a:A {id: 'i', name: 'n'})",
            json!({ "id": "i", "name": "n" }),
        ),
        ("(a:A {id: 7})", json!({ "id": 7 })),
        (
            "(a:A {title: 't', name: 'n', type: 'u'})",
            json!({ "title": "t", "name": "n", "type": "u" }),
        ),
    ] {
        let rows = it.ask(&format!("CREATE {stored} RETURN a")).await;
        assert_eq!(rows.expect(stored)[0][0]["$node"]["properties"], told);
    }
    // Twice the same id would not survive.
    let twice = it.ask("CREATE (a:A {id: 7})").await.expect_err("twice");
    assert_eq!(twice.code, GraphCode::Constraint, "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_much_ends_its_process_and_nothing_else() {
    let limits = GraphLimits {
        memory_bytes: Some(64 << 20),
        ..GraphLimits::default()
    };
    let it = opened(limits.clone());
    it.ask("CREATE (:Kept)").await.expect("made");
    let doubling = format!(
        "WITH 'aaaaaaaaaaaaaaaa' AS s {} RETURN size(s)",
        "WITH s + s AS s ".repeat(40)
    );
    for statement in [
        doubling.as_str(),
        "RETURN reduce(s = 'a', x IN range(1, 60) | s + s) AS s",
        "UNWIND range(1, 5000000) AS x CREATE (:Big {x: x, s: toString(x)})",
    ] {
        let error = it.ask(statement).await.expect_err(statement);
        assert_eq!(error.code, GraphCode::LimitExceeded, "{error}");
        assert!(error.message.contains("memory"), "{error}");
        let kept = it.ask("MATCH (n) RETURN count(n)").await;
        assert_eq!(kept, Ok(vec![json!([1])]), "after {statement}");
    }
    // What nests endlessly is refused before it takes a stack.
    let it = opened(GraphLimits {
        statement_timeout_ms: 5_000,
        ..limits
    });
    for statement in [
        format!("RETURN {} true AS x", "NOT ".repeat(20_000)),
        format!("RETURN 1{} AS x", "+1".repeat(50_000)),
        format!("RETURN {}1{} AS x", "(".repeat(5_000), ")".repeat(5_000)),
        format!(
            "MATCH (n) WHERE {} n.x = 1 RETURN n",
            "n.x = 1 OR ".repeat(9_000)
        ),
        format!(
            "RETURN {} 1 {} AS x",
            "CASE WHEN true THEN ".repeat(3_000),
            "END ".repeat(3_000)
        ),
        format!("RETURN 1 AS x {}", "UNION RETURN 1 AS x ".repeat(10_000)),
        format!("MATCH (a){} RETURN a", "--()".repeat(20_000)),
        format!(
            "WITH 1 AS x {} RETURN x",
            "CALL { RETURN 1 AS y } WITH 1 AS x ".repeat(5_000)
        ),
    ] {
        let begun = Instant::now();
        let answered = it.ask(&statement).await.map(|rows| rows.len());
        let short = &statement[..40];
        if let Err(error) = answered {
            assert!(
                matches!(
                    error.code,
                    GraphCode::InvalidStatement | GraphCode::Timeout | GraphCode::LimitExceeded
                ),
                "{short}: {error}"
            );
            assert!(error.message.len() < 1_100, "{error}");
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{short}: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            it.ask("RETURN 1").await,
            Ok(vec![json!([1])]),
            "after {short}"
        );
    }
    // What comes back too deep is refused, and nobody falls over it.
    let deep = format!("RETURN {}1{} AS x", "[".repeat(90), "]".repeat(90));
    let error = it.ask(&deep).await.expect_err("too deep");
    assert_eq!(error.code, GraphCode::LimitExceeded, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_heeds_its_end_and_a_process_that_does_not_is_killed() {
    let it = opened(GraphLimits {
        statement_timeout_ms: 4_000,
        ..GraphLimits::default()
    });
    it.ask("CREATE (:Kept)").await.expect("made");
    let first = owner(it.folder.path());
    // One expression, which looks at nothing else.
    let endless = "RETURN reduce(a = 0, x IN range(1, 5000) | a + reduce(b = 0, y IN range(1, 5000) \
                   | b + reduce(c = 0, z IN range(1, 5000) | c + z))) AS sum";
    let kept = "MATCH (n:Kept) RETURN count(n)";
    let error = it.ask(endless).await.expect_err("it is told to stop");
    assert_eq!(error.code, GraphCode::Timeout, "{error}");
    assert_eq!(it.ask(kept).await, Ok(vec![json!([1])]));
    // It was not killed for heeding nothing.
    assert_eq!(owner(it.folder.path()), first);
    // Frozen it heeds nothing.
    // SAFETY: it is a child of ours, which nobody waits for before its end is noticed.
    assert_eq!(unsafe { libc::kill(first, libc::SIGSTOP) }, 0);
    let deadline = Instant::now() + Duration::from_secs(120);
    // It may have been told a moment before it heeds that.
    let error = loop {
        match it.ask(kept).await {
            Ok(_) => assert!(Instant::now() < deadline, "it is not frozen"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, GraphCode::Timeout, "{error}");
    loop {
        match it.ask(kept).await {
            Ok(rows) => {
                assert_eq!(rows, [json!([1])]);
                break;
            }
            Err(error) => assert!(error.code.retryable(), "{error}"),
        }
        assert!(Instant::now() < deadline, "its process is not replaced");
    }
    assert_ne!(owner(it.folder.path()), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_has_what_came_after_it() {
    let it = opened(GraphLimits::default());
    it.ask("CREATE (:Doc {text: 'gone'})").await.expect("made");
    it.ask("MATCH (n) DETACH DELETE n").await.expect("deleted");
    it.ask("DROP INDEX t IF EXISTS").await.expect("none");
    let made = it
        .ask("CREATE FULLTEXT INDEX t FOR (n:Doc) ON EACH [n.text]")
        .await;
    made.expect("made");
    for text in ["the cat sat", "a dog barked", "cats and dogs"] {
        let statement = format!("CREATE (:Doc {{name: 'x', text: '{text}'}})");
        it.ask(&statement).await.expect("made");
    }
    let found = "CALL db.index.fulltext.queryNodes('t', 'barked') YIELD node, score \
                 RETURN collect(node.text)";
    assert_eq!(it.ask(found).await, Ok(vec![json!([["a dog barked"]])]));
    it.graph.close().await;
}

/// The process that has the graph open.
fn owner(folder: &std::path::Path) -> libc::pid_t {
    let owner = std::fs::read_to_string(folder.join("graph.kgl.lock-owner")).expect("an owner");
    let pid = owner.lines().find_map(|line| line.strip_prefix("pid="));
    pid.expect(&owner).parse().expect(&owner)
}

/// Kills the process that has the graph open.
fn kill(folder: &std::path::Path) {
    // SAFETY: it is a child of ours, which nobody waits for before its end is noticed.
    assert_eq!(unsafe { libc::kill(owner(folder), libc::SIGKILL) }, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let it = opened(GraphLimits::default());
    let unique = "CREATE CONSTRAINT c FOR (a:A) REQUIRE a.i IS UNIQUE";
    it.ask(unique).await.expect("made");
    let acknowledged = Arc::new(AtomicI64::new(0));
    for round in 1..=3 {
        let writing = tokio::spawn({
            let (graph, acknowledged) = (it.graph.clone(), Arc::clone(&acknowledged));
            async move {
                loop {
                    let next = acknowledged.load(Ordering::Acquire);
                    // One may be there that was not acknowledged.
                    if let Err(error) = ask(&graph, &format!("MERGE (:A {{i: {next}}})")).await {
                        return error;
                    }
                    acknowledged.store(next + 1, Ordering::Release);
                }
            }
        });
        while acknowledged.load(Ordering::Acquire) < round * 20 {
            tokio::task::yield_now().await;
        }
        kill(it.folder.path());
        let error = writing.await.expect("no panic");
        assert_eq!(error.code, GraphCode::Unavailable, "{error}");
        let counted = it.ask("MATCH (a:A) RETURN count(a), max(a.i)").await;
        let counted = &counted.expect("it is there again")[0];
        let least = acknowledged.load(Ordering::Acquire);
        assert!(counted[0].as_i64() >= Some(least), "{least}: {counted}");
        assert_eq!(
            counted[0].as_i64(),
            counted[1].as_i64().map(|last| last + 1)
        );
    }
    let twice = it
        .ask("CREATE (:A {i: 1})")
        .await
        .expect_err("a constraint");
    assert_eq!(twice.code, GraphCode::Constraint, "{twice}");
    // An orderly end leaves nothing to replay, and the next finds it all.
    it.graph.close().await;
    let again = open(it.folder.path(), true, GraphLimits::default());
    let asked = again.query(
        crate::Mode::ReadOnly,
        "MATCH (a:A {i: 59}) RETURN a".into(),
        "{}".into(),
    );
    assert_eq!(asked.await.expect("read only").rows.len(), 1);
    let asked = again.query(ReadWrite, "RETURN 1".into(), "{}".into());
    let denied = asked.await.expect_err("the binding is read-only");
    assert_eq!(denied.code, GraphCode::CapabilityDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_none_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let open = |path: &std::path::Path, read_only| {
        let limits = GraphLimits::default();
        embedded::open(path, read_only, limits, command(), Handle::current())
    };
    let told =
        |opened: Result<Graph, embedded::OpenError>| opened.expect_err("refused").to_string();
    assert!(told(open(&file, false)).contains("is not a folder"));
    assert!(told(open(&folder.path().join("none"), true)).contains("read-only"));
    assert!(told(open(&file.join("below"), false)).contains("cannot be made"));
    // A graph that is damaged is the operator's business.
    let damaged = folder.path().join("damaged");
    std::fs::create_dir(&damaged).expect("made");
    std::fs::write(damaged.join("graph.kgl"), "no graph").expect("written");
    let graph = open(&damaged, false).expect("a folder");
    let error = ask(&graph, "RETURN 1").await.expect_err("damaged");
    assert_eq!(error.code, GraphCode::Unavailable, "{error}");
    assert!(error.message.contains("operator"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_grown_is_folded() {
    let it = opened(GraphLimits::default());
    let large = "x".repeat(1 << 20);
    let params = json!({ "s": large }).to_string();
    for _ in 0..40 {
        let statement = "MERGE (a:A {i: 1}) SET a.s = $s".to_owned();
        let written = it.graph.execute(ReadWrite, statement, params.clone());
        written.await.expect("written");
    }
    let log = it.folder.path().join("graph.kgl-wal");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let bytes = std::fs::metadata(&log).expect("a log").len();
        if bytes < 32 << 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{bytes} bytes of log");
        tokio::task::yield_now().await;
    }
    it.graph.close().await;
}
