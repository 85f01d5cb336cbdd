//! Search attributes: given at the start, found by lists, and counted.

use std::collections::{BTreeMap, BTreeSet};

use heyday_durable::engine::{EngineError, ListRuns, StartWorkflow};
use heyday_durable::payload::Payload;
use heyday_durable::search::{GivenAttribute, SearchType};
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::{Bench, NAMESPACE, run};

on_both!(
    runs_are_found_by_their_search_attributes,
    a_name_keeps_the_type_with_which_it_was_used_first,
    runs_are_counted,
    filters_that_do_not_fit_a_type_are_refused,
    a_flow_sets_its_own,
    what_a_flow_cannot_set_is_an_error_of_its_task,
    what_a_flow_set_is_there_after_a_restart,
);

/// A start with these attributes; a pair of a type and a value names the type.
fn request(
    bench: &Bench,
    id: &str,
    attributes: &[(&str, Option<SearchType>, Value)],
) -> StartWorkflow {
    let given = attributes.iter().map(|(name, search_type, value)| {
        let given = GivenAttribute {
            search_type: *search_type,
            value: value.clone(),
        };
        ((*name).to_owned(), given)
    });
    StartWorkflow {
        search_attributes: given.collect(),
        ..bench.request("set", id, json!({}))
    }
}

async fn start(bench: &Bench, id: &str, attributes: &[(&str, Option<SearchType>, Value)]) {
    let request = request(bench, id, attributes);
    bench.engine().start(request).await.unwrap();
}

async fn list(bench: &Bench, query: &str) -> Result<BTreeSet<String>, EngineError> {
    let request = ListRuns {
        namespace: NAMESPACE.to_owned(),
        query: Some(query.to_owned()),
        page_size: 100,
        page_token: None,
    };
    let page = bench.engine().list(&request).await?;
    Ok(page.runs.into_iter().map(|run| run.workflow_id).collect())
}

async fn count(bench: &Bench, query: Option<&str>) -> Result<u64, EngineError> {
    bench.engine().count(NAMESPACE, query).await
}

/// Three ended runs: `a` and `b` with attributes of each type, `c` without any.
async fn three_runs(bench: &Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let datetime = Some(SearchType::Datetime);
    let (text, double) = (Some(SearchType::Text), Some(SearchType::Double));
    start(
        bench,
        "a",
        &[
            ("CustomerId", None, json!("x")),
            ("Tags", None, json!(["red", "blue"])),
            ("Note", text, json!("The quick fox")),
            ("Amount", None, json!(5)),
            ("Rate", None, json!(1.5)),
            ("Urgent", None, json!(true)),
            ("Due", datetime, json!("2026-01-31T12:00:00Z")),
        ],
    )
    .await;
    // The names are known by now, and need no type.
    start(
        bench,
        "b",
        &[
            ("CustomerId", None, json!("y")),
            ("Tags", None, json!(["red"])),
            ("Note", None, json!("A slow fox")),
            ("Amount", None, json!(-3)),
            ("Rate", double, json!(2)),
            ("Urgent", None, json!(false)),
            ("Due", None, json!("2026-02-01T12:00:00+01:00")),
        ],
    )
    .await;
    start(bench, "c", &[]).await;
    for id in ["a", "b", "c"] {
        bench.end(&run(id)).await;
    }
    // Temporal's lists follow its histories within a moment.
    let listed = async || {
        count(bench, Some("ExecutionStatus = 'Completed'"))
            .await
            .unwrap()
            == 3
    };
    bench.until("all are listed", listed).await;
}

async fn runs_are_found_by_their_search_attributes(bench: Bench) {
    three_runs(&bench).await;
    for (query, expected) in [
        ("CustomerId = 'x'", "a"),
        ("CustomerId != 'x'", "b"),
        ("CustomerId > 'x'", "b"),
        ("CustomerId IN ('x', 'y')", "ab"),
        ("CustomerId NOT IN ('x')", "b"),
        ("CustomerId STARTS_WITH 'x'", "a"),
        ("CustomerId NOT STARTS_WITH 'x'", "b"),
        ("CustomerId <= 'x'", "a"),
        ("CustomerId BETWEEN 'x' AND 'y'", "ab"),
        ("CustomerId IS NULL", "c"),
        ("CustomerId IS NOT NULL", "ab"),
        ("`CustomerId` = 'x' AND ExecutionStatus = 'Completed'", "a"),
        ("CustomerId = 'x' AND ExecutionStatus = 'Failed'", ""),
        ("CustomerId = 'x' OR WorkflowId = 'c'", "ac"),
        ("CustomerId = 'nobody'", ""),
        ("Tags = 'blue'", "a"),
        ("Tags = 'red'", "ab"),
        ("Tags IN ('blue', 'green')", "a"),
        ("Tags IS NULL", "c"),
        ("Tags != 'blue'", "bc"),
        ("NOT Tags = 'blue'", "bc"),
        ("Tags NOT IN ('blue', 'green')", "bc"),
        ("NOT Tags IN ('blue', 'green')", "bc"),
        ("NOT Tags NOT IN ('blue', 'green')", "a"),
        ("Note != 'quick'", "bc"),
        ("NOT Note = 'quick'", "bc"),
        ("NOT CustomerId = 'x'", "b"),
        ("NOT (Amount > 0 OR CustomerId = 'nobody')", "b"),
        ("Note = 'quick'", "a"),
        ("Note = 'fox'", "ab"),
        ("Amount > 0", "a"),
        ("Amount = -3", "b"),
        ("Amount != 5", "b"),
        ("Amount BETWEEN -3 AND 5", "ab"),
        ("Amount IN (5, 6)", "a"),
        ("Rate >= 1.5", "ab"),
        ("Rate < 2.0", "a"),
        ("Rate BETWEEN 1.0 AND 1.75", "a"),
        ("Rate NOT IN (1.5)", "b"),
        ("Urgent = true", "a"),
        ("Urgent = false", "b"),
        ("Urgent != true", "b"),
        ("Urgent IS NULL", "c"),
        ("Due = '2026-01-31T12:00:00Z'", "a"),
        ("Due = '2026-01-31T13:00:00+01:00'", "a"),
        ("Due = '2026-01-31T12:00:00.001Z'", ""),
        ("Due != '2026-01-31T12:00:00Z'", "b"),
        ("NOT Due = '2026-01-31T12:00:00Z'", "b"),
        (
            "Due IN ('2026-01-31T12:00:00Z', '2027-01-01T00:00:00Z')",
            "a",
        ),
        ("Due NOT IN ('2026-01-31T12:00:00Z')", "b"),
        ("Due > '2026-01-31T12:00:00Z'", "b"),
        ("Due >= '2026-01-31T12:00:00Z'", "ab"),
        ("Due < '2026-02-01T11:00:00Z'", "a"),
        ("Due <= '2026-01-31T12:00:00Z' OR Tags IS NULL", "ac"),
        (
            "Due BETWEEN '2026-01-31T12:00:00Z' AND '2026-02-01T11:00:00Z'",
            "ab",
        ),
        (
            "Due NOT BETWEEN '2026-01-31T12:00:00Z' AND '2026-02-01T10:59:59Z'",
            "b",
        ),
    ] {
        let expected: BTreeSet<String> = expected.chars().map(String::from).collect();
        assert_eq!(list(&bench, query).await.unwrap(), expected, "{query}");
        let counted = count(&bench, Some(query)).await.unwrap();
        assert_eq!(counted, expected.len() as u64, "{query}");
    }
    let described = bench.engine().describe(&run("b")).await.unwrap();
    let shown: BTreeMap<_, _> = described
        .search_attributes
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                (value.search_type().as_str(), value.to_json()),
            )
        })
        .collect();
    assert_eq!(shown.len(), 7, "{shown:?}");
    assert_eq!(shown["CustomerId"], ("Keyword", json!("y")));
    assert_eq!(shown["Tags"], ("KeywordList", json!(["red"])));
    assert_eq!(shown["Note"], ("Text", json!("A slow fox")));
    assert_eq!(shown["Amount"], ("Int", json!(-3)));
    assert_eq!(shown["Rate"], ("Double", json!(2.0)));
    assert_eq!(shown["Urgent"], ("Bool", json!(false)));
    assert_eq!(shown["Due"], ("Datetime", json!("2026-02-01T11:00:00Z")));
}

async fn a_name_keeps_the_type_with_which_it_was_used_first(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    start(&bench, "first", &[("Amount", None, json!(5))]).await;
    for (search_type, value) in [
        (None, json!("x")),
        (None, json!(1.5)),
        (Some(SearchType::Keyword), json!("x")),
    ] {
        let request = request(&bench, "other", &[("Amount", search_type, value.clone())]);
        let refused = bench.engine().start(request).await;
        assert!(
            matches!(refused, Err(EngineError::Invalid(_))),
            "{value}: {refused:?}"
        );
    }
    start(&bench, "second", &[("Amount", None, json!(6))]).await;
    for name in ["WorkflowId", "HeydayDigests", "no name"] {
        let refused = bench
            .engine()
            .start(request(&bench, "other", &[(name, None, json!("x"))]))
            .await;
        assert!(
            matches!(refused, Err(EngineError::Invalid(_))),
            "{name}: {refused:?}"
        );
    }
}

async fn runs_are_counted(bench: Bench) {
    three_runs(&bench).await;
    assert_eq!(count(&bench, None).await.unwrap(), 3);
    assert_eq!(count(&bench, Some("  ")).await.unwrap(), 3);
    let of_one = count(&bench, Some("WorkflowId = 'b'")).await;
    assert_eq!(of_one.unwrap(), 1);
    let bad = count(&bench, Some("WorkflowId =")).await;
    assert!(matches!(bad, Err(EngineError::Invalid(_))), "{bad:?}");
}

async fn filters_that_do_not_fit_a_type_are_refused(bench: Bench) {
    three_runs(&bench).await;
    for query in [
        "Nobody = 'x'",
        "Amount = 'many'",
        "Amount STARTS_WITH '1'",
        "Urgent = 'perhaps'",
        "Due > 'yesterday'",
        "CustomerId = 'x' ORDER BY StartTime",
        "CustomerId = 'x' GROUP BY ExecutionStatus",
        "WorkflowId = 'a') OR (WorkflowId = 'b'",
        "CustomerId",
    ] {
        for refused in [
            list(&bench, query).await.map(|_| ()),
            count(&bench, Some(query)).await.map(|_| ()),
        ] {
            assert!(
                matches!(refused, Err(EngineError::Invalid(_))),
                "{query}: {refused:?}"
            );
        }
    }
}

/// A task that sets these.
fn set(name: &str, attributes: &str) -> String {
    format!(
        "  - {name}:\n      set: ${{ . }}\n      metadata: {{heyday: {{search_attributes: {attributes}}}}}\n"
    )
}

/// Waits until a list has found these runs.
async fn until_listed(bench: &Bench, query: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|id| (*id).to_owned()).collect();
    let what = format!("{query} finds {expected:?}");
    bench
        .until(&what, async || {
            list(bench, query).await.unwrap() == expected
        })
        .await;
}

async fn a_flow_sets_its_own(bench: Bench) {
    let tasks = set(
        "first",
        "{CustomerId: '${ .customer }', Amount: 5, Due: {type: Datetime, value: '2026-01-31T12:00:00Z'}, Nobodys: null}",
    ) + &set(
        "second",
        "{Amount: '${ .amount }', CustomerId: null, Tags: [red, blue]}",
    );
    bench.define("sets", &tasks);
    let input = json!({"customer": "x", "amount": -3});
    let stage = GivenAttribute {
        search_type: None,
        value: json!("new"),
    };
    let staged = StartWorkflow {
        search_attributes: [("Stage".to_owned(), stage)].into(),
        ..bench.request("sets", "sets", input.clone())
    };
    bench.engine().start(staged).await.unwrap();
    assert_eq!(bench.result(&run("sets")).await, input);
    until_listed(&bench, "Amount = -3", &["sets"]).await;
    until_listed(&bench, "Amount = 5", &[]).await;
    until_listed(&bench, "Tags = 'blue' AND Stage = 'new'", &["sets"]).await;
    until_listed(&bench, "CustomerId IS NULL AND Amount < 0", &["sets"]).await;
    until_listed(&bench, "Due < '2026-02-01T00:00:00Z'", &["sets"]).await;
    let described = bench.engine().describe(&run("sets")).await.unwrap();
    let shown: Vec<_> = described
        .search_attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.search_type().as_str(), value.to_json()))
        .collect();
    assert_eq!(
        shown,
        [
            ("Amount", "Int", json!(-3)),
            ("Due", "Datetime", json!("2026-01-31T12:00:00Z")),
            ("Stage", "Keyword", json!("new")),
            ("Tags", "KeywordList", json!(["red", "blue"])),
        ]
    );
    // The types are the namespace's from then on.
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let other = request(&bench, "other", &[("Amount", None, json!("x"))]);
    let refused = bench.engine().start(other).await;
    assert!(
        matches!(refused, Err(EngineError::Invalid(_))),
        "{refused:?}"
    );
}

async fn what_a_flow_cannot_set_is_an_error_of_its_task(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    start(&bench, "first", &[("Amount", None, json!(5))]).await;
    bench.define("wrong", &set("mark", "{Amount: many}"));
    let run = bench.start("wrong", json!({})).await;
    let failure = bench.failure(&run).await;
    let fault = failure.details.unwrap();
    assert_eq!(fault["instance"], "/do/0/mark", "{fault}");
    assert_eq!(fault["failure"]["kind"], "invalid-input", "{fault}");
    assert!(
        fault["detail"]
            .as_str()
            .unwrap()
            .contains("\"Amount\" is Int"),
        "{fault}"
    );
}

async fn what_a_flow_set_is_there_after_a_restart(mut bench: Bench) {
    let tasks = set("mark", "{Stage: waiting}")
        + "  - rest: {listen: {to: {one: {with: {type: go}}}}}\n"
        + &set("again", "{Stage: over}");
    bench.define("resumes", &tasks);
    let run = bench.start("resumes", json!({})).await;
    bench.until_listening(&run).await;
    until_listed(&bench, "Stage = 'waiting'", &[&run.workflow_id]).await;
    bench.restart().await;
    // It is replayed, with what was set.
    let go = Signal::new("go", "go", Payload::null());
    bench.engine().signal(&run, go).await.unwrap();
    bench.result(&run).await;
    until_listed(&bench, "Stage = 'over'", &[&run.workflow_id]).await;
    until_listed(&bench, "Stage = 'waiting'", &[]).await;
    let described = bench.engine().describe(&run).await.unwrap();
    assert_eq!(
        described.search_attributes["Stage"].to_json(),
        json!("over")
    );
}
