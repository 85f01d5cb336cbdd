//! Search attributes: given at the start, found by lists, and counted.

use std::collections::{BTreeMap, BTreeSet};

use heyday_durable::engine::{EngineError, ListRuns, StartWorkflow};
use heyday_durable::search::{GivenAttribute, SearchType};
use serde_json::{Value, json};

use super::bench::{Bench, NAMESPACE, run};

on_both!(
    runs_are_found_by_their_search_attributes,
    a_name_keeps_the_type_with_which_it_was_used_first,
    runs_are_counted,
    filters_that_do_not_fit_a_type_are_refused,
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
    // PostgreSQL's answer for a run that lacks the attribute is neither yes nor no.
    let others = if bench.is_on_postgres() { "b" } else { "bc" };
    for (query, expected) in [
        ("CustomerId = 'x'", "a"),
        ("CustomerId != 'x'", "b"),
        ("CustomerId > 'x'", "b"),
        ("CustomerId IN ('x', 'y')", "ab"),
        ("CustomerId NOT IN ('x')", "b"),
        ("CustomerId STARTS_WITH 'x'", "a"),
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
        ("Tags != 'blue'", others),
        ("NOT Tags = 'blue'", others),
        ("Tags NOT IN ('blue', 'green')", others),
        ("Note != 'quick'", others),
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
        ("Urgent = true", "a"),
        ("Urgent = false", "b"),
        // Not with the very times: Temporal's SQLite store takes them for later ones.
        ("Due > '2026-01-31T12:00:01Z'", "b"),
        ("Due <= '2026-01-31T12:00:01Z'", "a"),
        (
            "Due BETWEEN '2026-02-01T10:00:00Z' AND '2026-02-01T12:00:00Z'",
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
