//! Lists and their filters.

use std::collections::BTreeSet;

use heyday_durable::engine::{EngineError, ExecutionStatus, ListRuns, RunPage};
use jiff::Timestamp;
use serde_json::json;

use super::bench::{Bench, NAMESPACE};

on_both!(runs_are_listed_filtered_and_paged, a_bad_list_is_refused);

fn request(query: Option<&str>, page_size: usize, page_token: Option<String>) -> ListRuns {
    ListRuns {
        namespace: NAMESPACE.to_owned(),
        query: query.map(ToOwned::to_owned),
        page_size,
        page_token,
    }
}

async fn list(bench: &Bench, query: Option<&str>) -> BTreeSet<String> {
    let page = bench.engine().list(&request(query, 100, None)).await;
    let runs = page.unwrap().runs.into_iter();
    runs.map(|run| run.workflow_id).collect()
}

/// Waits until the clock shows another millisecond; that one.
async fn next_millisecond(bench: &Bench) -> Timestamp {
    let now = || Timestamp::now().as_millisecond();
    let before = now();
    let what = "the millisecond is over";
    bench.until(what, async || now() > before).await;
    Timestamp::from_millisecond(now()).unwrap()
}

async fn runs_are_listed_filtered_and_paged(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    bench.define("waits", "  - a: {wait: PT1H}\n");
    for n in 0..5 {
        let run = bench.start_as("set", &format!("set-{n}"), json!({})).await;
        bench.end(&run).await;
    }
    // Some stores keep no finer times than milliseconds.
    let between = next_millisecond(&bench).await;
    next_millisecond(&bench).await;
    let open = bench.start_as("waits", "open", json!({})).await;
    // Temporal's lists follow its histories within a moment.
    bench
        .until("all are listed", async || {
            list(&bench, None).await.len() == 6
                && list(&bench, Some("ExecutionStatus = 'Completed'"))
                    .await
                    .len()
                    == 5
        })
        .await;
    for (query, expected) in [
        ("WorkflowType = 'test.waits'", 1),
        ("WorkflowType != 'test.set'", 1),
        ("WorkflowType IN ('test.set', 'test.waits')", 6),
        ("WorkflowType STARTS_WITH 'test.s'", 5),
        (
            "WorkflowType = 'test.set' AND ExecutionStatus = 'Completed'",
            5,
        ),
        ("WorkflowId = 'set-3'", 1),
        ("WorkflowId > 'set-1'", 3),
        ("WorkflowId BETWEEN 'set-1' AND 'set-3'", 3),
        ("WorkflowId NOT BETWEEN 'set-1' AND 'set-3'", 3),
        ("WorkflowId NOT STARTS_WITH 'set-'", 1),
        ("WorkflowId IN ('set-3', 'open')", 2),
        ("WorkflowId NOT IN ('set-3', 'open')", 4),
        (&format!("RunId = '{}'", open.run_id.unwrap()), 1),
        ("ExecutionStatus = 'Failed' OR WorkflowId = 'open'", 1),
        ("ExecutionStatus = 'Failed'", 0),
        ("ExecutionStatus != 'Running'", 5),
        ("ExecutionStatus IN ('Running', 'Failed')", 1),
        ("ExecutionStatus NOT IN ('Running', 'Failed')", 5),
        (&format!("StartTime > '{between}'"), 1),
        (&format!("StartTime < '{between}'"), 5),
        (
            &format!("StartTime BETWEEN '2000-01-01T00:00:00Z' AND '{between}'"),
            5,
        ),
        (&format!("CloseTime < '{between}'"), 5),
        // To a cluster with its lists in PostgreSQL an open run ends at the end of time.
        (
            &format!("CloseTime > '{between}' AND ExecutionStatus != 'Running'"),
            0,
        ),
        (&format!("NOT CloseTime > '{between}'"), 5),
        ("CloseTime IS NULL", 1),
        ("CloseTime IS NOT NULL", 5),
    ] {
        assert_eq!(list(&bench, Some(query)).await.len(), expected, "{query}");
    }
    let mut seen = BTreeSet::new();
    let mut token = None;
    loop {
        let page: RunPage = bench.engine().list(&request(None, 2, token)).await.unwrap();
        // The last one is full too, and nothing follows it.
        assert_eq!(page.runs.len(), 2);
        for run in page.runs {
            assert_eq!(run.version.as_ref().unwrap().to_string(), "0.1.0");
            let is_open = run.workflow_id == "open";
            assert_eq!(run.status == ExecutionStatus::Running, is_open);
            assert!(seen.insert(run.run_id), "{} came twice", run.workflow_id);
        }
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 6);
    bench.engine().terminate(&open, "done").await.unwrap();
}

async fn a_bad_list_is_refused(bench: Bench) {
    for bad in [
        request(Some("Nonsense = 'x'"), 10, None),
        request(Some("WorkflowType ="), 10, None),
        request(None, 10, Some("no token".to_owned())),
    ] {
        let refused = bench.engine().list(&bad).await;
        assert!(
            matches!(refused, Err(EngineError::Invalid(_))),
            "{bad:?}: {refused:?}"
        );
    }
}
