//! Lists, filters and pages.

use super::*;

fn list(query: &str) -> ListRuns {
    ListRuns {
        namespace: "default".to_owned(),
        query: (!query.is_empty()).then(|| query.to_owned()),
        page_size: 100,
        page_token: None,
    }
}

async fn ids(bench: &Bench, query: &str) -> Vec<String> {
    let page = bench.engine().list(&list(query)).await.unwrap();
    page.runs.into_iter().map(|run| run.workflow_id).collect()
}

async fn some_runs() -> Bench {
    let bench = Bench::new().await;
    bench.define("good", "  - a: {set: {x: 1}}\n");
    bench.define("bad", "  - a: {call: t.fail}\n");
    bench.define("waits", "  - a: {wait: PT1H}\n");
    for (name, id) in [("good", "a-1"), ("bad", "a-2"), ("waits", "b-1")] {
        let run = bench.start_as(name, id, json!({})).await;
        if name != "waits" {
            bench.end(&run).await;
        }
        bench.clock.advance(Duration::from_secs(60));
    }
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_select_runs_newest_first() {
    let bench = some_runs().await;
    let start = "2027-01-15T08:01:00Z";
    assert_eq!(
        bench
            .engine()
            .describe(&run("a-2"))
            .await
            .unwrap()
            .info
            .started_at,
        start.parse().unwrap()
    );
    let cases = [
        ("", vec!["b-1", "a-2", "a-1"]),
        ("WorkflowType = 'test.good'", vec!["a-1"]),
        ("WorkflowType != 'test.good'", vec!["b-1", "a-2"]),
        ("ExecutionStatus = 'Running'", vec!["b-1"]),
        (
            "ExecutionStatus IN ('Failed', \"Completed\")",
            vec!["a-2", "a-1"],
        ),
        ("ExecutionStatus NOT IN ('Failed')", vec!["b-1", "a-1"]),
        ("WorkflowId STARTS_WITH 'a-'", vec!["a-2", "a-1"]),
        ("WorkflowId STARTS_WITH '%'", vec![]),
        (
            "WorkflowId = 'a-1' OR WorkflowId = 'b-1' AND ExecutionStatus = 'Failed'",
            vec!["a-1"],
        ),
        (
            "(WorkflowId = 'a-1' OR WorkflowId = 'b-1') AND ExecutionStatus != 'Failed'",
            vec!["b-1", "a-1"],
        ),
        (&format!("StartTime >= '{start}'"), vec!["b-1", "a-2"]),
        (&format!("StartTime < '{start}'"), vec!["a-1"]),
        (
            &format!("StartTime BETWEEN '{start}' AND '{start}'"),
            vec!["a-2"],
        ),
        (
            "CloseTime > '2000-01-01T00:00:00+02:00'",
            vec!["a-2", "a-1"],
        ),
        ("CloseTime IS NULL", vec!["b-1"]),
        ("WorkflowId = 'x'' OR 1=1 --'", vec![]),
    ];
    for (query, expected) in cases {
        assert_eq!(ids(&bench, query).await, expected, "{query}");
    }
    let run_id = bench
        .engine()
        .describe(&run("a-1"))
        .await
        .unwrap()
        .info
        .run_id;
    assert_eq!(ids(&bench, &format!("RunId = '{run_id}'")).await, ["a-1"]);
    let error = bench.engine().list(&list("Foo = 'x'")).await.unwrap_err();
    assert!(error.to_string().contains("at character 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_and_miss_nothing() {
    let bench = some_runs().await;
    let mut request = ListRuns {
        page_size: 2,
        ..list("WorkflowId STARTS_WITH ''")
    };
    let first = bench.engine().list(&request).await.unwrap();
    assert_eq!(first.runs.len(), 2);
    // A run that comes between two pages is on neither.
    bench.start_as("good", "c-1", json!({})).await;
    request.page_token = first.next_page_token.clone();
    let second = bench.engine().list(&request).await.unwrap();
    assert_eq!(second.runs[0].workflow_id, "a-1");
    assert_eq!(second.runs[0].history_length, 3);
    assert_eq!(second.next_page_token, None);

    request.query = Some("WorkflowId = 'a-1'".to_owned());
    let error = bench.engine().list(&request).await.unwrap_err();
    assert!(
        error.to_string().contains("another namespace or query"),
        "{error}"
    );
    request.page_token = Some("?".to_owned());
    let error = bench.engine().list(&request).await.unwrap_err();
    assert!(error.to_string().contains("malformed"), "{error}");
    request.page_size = 1_001;
    assert!(bench.engine().list(&request).await.is_err());
}
