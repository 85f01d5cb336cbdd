//! The filter's language.

use super::{Filter, Param};
use crate::search::SearchTypes;

fn text(value: &str) -> Param {
    Param::Text(value.to_owned())
}

fn refused(filter: &str) -> (usize, String) {
    let error = Filter::parse(filter, &SearchTypes::new()).expect_err(filter);
    (error.position, error.message)
}

#[test]
fn a_filter_becomes_a_condition_with_parameters() {
    let filter = Filter::parse(
        "WorkflowType = 'a.b' AND ExecutionStatus = \"Running\"",
        &SearchTypes::new(),
    )
    .expect("valid");
    assert_eq!(filter.sql, "((workflow_type = ?) AND (status = ?))");
    assert_eq!(filter.params, [text("a.b"), Param::Int(1)]);
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let sql = |filter: &str| {
        Filter::parse(filter, &SearchTypes::new())
            .expect("valid")
            .sql
    };
    let (t, i, s) = ("(workflow_type = ?)", "(workflow_id = ?)", "(status = ?)");
    let (ft, fi, fs) = (
        "WorkflowType = 'a'",
        "WorkflowId = 'b'",
        "ExecutionStatus = 'Failed'",
    );
    assert_eq!(
        sql(&format!("{ft} or {fi} AND {fs}")),
        format!("({t} OR ({i} AND {s}))")
    );
    assert_eq!(
        sql(&format!("({ft} OR {fi}) and {fs}")),
        format!("(({t} OR {i}) AND {s})")
    );
    assert_eq!(
        sql(&format!("NOT {ft} AND NOT ({fi} OR {fs})")),
        format!("((NOT {t}) AND (NOT ({i} OR {s})))")
    );
}

#[test]
fn quotes_within_quotes() {
    for (filter, value) in [
        ("WorkflowId = 'it''s'", "it's"),
        (r"WorkflowId = 'it\'s'", "it's"),
        (r#"WorkflowId = "say ""hi""""#, "say \"hi\""),
        (r"WorkflowId = 'a\\b\n'", "a\\b\n"),
        ("`WorkflowId` = ''", ""),
        (
            "WorkflowId='\u{e9}\u{4e2d}\u{1f600}'",
            "\u{e9}\u{4e2d}\u{1f600}",
        ),
    ] {
        assert_eq!(
            Filter::parse(filter, &SearchTypes::new())
                .expect(filter)
                .params,
            [text(value)],
            "{filter}"
        );
    }
}

#[test]
fn times_finer_than_a_microsecond_compare_as_written() {
    let bound = |filter: &str| {
        Filter::parse(filter, &SearchTypes::new())
            .expect(filter)
            .params
    };
    let fine = "'1970-01-01T00:00:00.0000015Z'";
    assert_eq!(bound(&format!("StartTime < {fine}")), [Param::Int(2)]);
    assert_eq!(bound(&format!("StartTime >= {fine}")), [Param::Int(2)]);
    assert_eq!(bound(&format!("StartTime > {fine}")), [Param::Int(1)]);
    assert_eq!(bound(&format!("StartTime <= {fine}")), [Param::Int(1)]);
    assert_eq!(
        bound(&format!("StartTime = {fine}")),
        [Param::Int(i64::MIN)]
    );
    assert_eq!(
        bound(&format!("CloseTime BETWEEN {fine} AND {fine}")),
        [Param::Int(2), Param::Int(1)]
    );
    let before = "'1969-12-31T23:59:59.9999995Z'";
    assert_eq!(bound(&format!("StartTime < {before}")), [Param::Int(0)]);
    assert_eq!(bound(&format!("StartTime > {before}")), [Param::Int(-1)]);
    assert_eq!(
        bound("StartTime = '1970-01-01T01:00:00+01:00'"),
        [Param::Int(0)]
    );
}

#[test]
fn a_refusal_says_where_and_what_was_expected() {
    for (filter, position, part) in [
        ("", 1, "expected a field, NOT or \"(\", found the end"),
        ("  ", 3, "found the end"),
        ("workflowtype = 'a'", 1, "expected a field: WorkflowType, "),
        ("TaskQueue = 'a'", 1, "found \"TaskQueue\""),
        ("'a' = WorkflowId", 1, "expected a field"),
        ("WorkflowId", 11, "expected =, !=, <, >"),
        (
            "WorkflowId == 'a'",
            13,
            "expected a value for WorkflowId in quotes",
        ),
        ("WorkflowId = 5", 14, "found \"5\""),
        ("WorkflowId = RunId", 14, "expected a value"),
        ("WorkflowId = 'a", 14, "this ' is never closed"),
        (r"WorkflowId = 'a\x'", 16, "after a backslash"),
        (
            "WorkflowId = 'a' 'b'",
            18,
            "expected AND, OR or the end, found the text \"b\"",
        ),
        (
            "WorkflowId = '\u{1f600}\u{e9}' ;",
            19,
            "no ';' outside of quotes",
        ),
        (
            "(WorkflowId = 'a'",
            18,
            "expected AND, OR or \")\", found the end",
        ),
        ("WorkflowId = 'a')", 17, "expected AND, OR or the end"),
        ("WorkflowId = 'a' AND", 21, "found the end"),
        ("WorkflowId LIKE 'a%'", 12, "use STARTS_WITH"),
        ("WorkflowId IN 'a'", 15, "expected \"(\" and a list"),
        ("WorkflowId IN ()", 16, "expected a value"),
        ("WorkflowId IN ('a',)", 20, "expected a value"),
        ("WorkflowId IN ('a' 'b')", 20, "expected \",\" or \")\""),
        ("WorkflowId NOT = 'a'", 16, "expected =, !="),
        ("WorkflowId IS NULL", 12, "expected =, !="),
        ("WorkflowId STARTS_WITH", 23, "expected a value"),
        (
            "ExecutionStatus = 'running'",
            19,
            "expected one of 'Running', ",
        ),
        ("ExecutionStatus = 1", 19, "expected a value"),
        (
            "ExecutionStatus > 'Running'",
            17,
            "expected =, !=, IN or NOT IN",
        ),
        (
            "ExecutionStatus STARTS_WITH 'R'",
            17,
            "expected =, !=, IN or NOT IN",
        ),
        (
            "ExecutionStatus BETWEEN 'Running' AND 'Failed'",
            17,
            "IN or NOT IN",
        ),
        ("RunId = 'x'", 9, "expected a run id (a UUID)"),
        ("RunId STARTS_WITH '0-'", 19, "the beginning of a run id"),
        ("StartTime > 'yesterday'", 13, "RFC 3339"),
        ("StartTime > '2026-01-01T00:00:00'", 13, "RFC 3339"),
        ("StartTime STARTS_WITH '2026'", 11, "expected =, !="),
        ("StartTime IS NULL", 11, "expected =, !="),
        ("CloseTime IS", 13, "expected NULL or NOT NULL"),
        ("CloseTime IS NOT 'a'", 18, "expected NULL,"),
        (
            "CloseTime BETWEEN '2026-01-01T00:00:00Z' OR",
            42,
            "expected AND",
        ),
        ("ORDER BY StartTime", 1, "runs are listed newest first"),
        (
            "WorkflowId = 'a' ORDER BY StartTime",
            18,
            "ORDER BY is not supported",
        ),
        (
            "WorkflowId = 'a' LIMIT 5",
            18,
            "expected AND, OR or the end",
        ),
    ] {
        let (at, message) = refused(filter);
        assert_eq!(at, position, "{filter}: {message}");
        assert!(message.contains(part), "{filter}: {message}");
    }
}

#[test]
fn length_and_nesting_are_limited() {
    let long = format!("WorkflowId = '{}'", "x".repeat(10 * 1024));
    assert_eq!(
        refused(&long),
        (
            1,
            format!("it has {} bytes, more than the 10240 allowed", long.len())
        )
    );

    let deep = |depth: usize| format!("{}WorkflowId = 'a'{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&deep(32), &SearchTypes::new()).is_ok());
    let (position, message) = refused(&deep(33));
    assert_eq!(position, 33);
    assert!(message.contains("at most 32 deep"), "{message}");
    let (position, _) = refused(&format!("{}WorkflowId = 'a'", "NOT ".repeat(2_000)));
    assert_eq!(position, 32 * 4 + 1);
}
