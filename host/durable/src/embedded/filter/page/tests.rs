//! Filters and pages over a real database.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{list, select};
use crate::embedded::filter::{Filter, Param};
use crate::embedded::options::EmbeddedOptions;
use crate::embedded::store::{Store, status_number};
use crate::engine::{EngineError, ExecutionStatus, ListRuns};
use crate::search::SearchTypes;

/// One row of the table.
struct Row<'a> {
    namespace: &'a str,
    workflow_id: &'a str,
    workflow_type: &'a str,
    status: ExecutionStatus,
    started_us: i64,
    closed_us: Option<i64>,
}

impl Row<'_> {
    const fn new() -> Self {
        Row {
            namespace: "default",
            workflow_id: "w",
            workflow_type: "t",
            status: ExecutionStatus::Completed,
            started_us: 0,
            closed_us: Some(1),
        }
    }
}

/// Run ids ascend with their numbers.
fn id(number: usize) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number as u128)
}

struct Fixture {
    store: Store,
    connection: SqliteConnection,
    rows: usize,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = EmbeddedOptions::new(folder.path().join("history.db"), BTreeMap::new());
        let store = Store::open(&options).await.expect("opens");
        let connection = store.connect().await.expect("connects");
        Self {
            store,
            connection,
            rows: 0,
            _folder: folder,
        }
    }

    /// The run with the next number.
    async fn insert(&mut self, row: Row<'_>) {
        sqlx::query(
            "INSERT INTO runs (run_id, namespace, workflow_id, workflow_type, version, digest,
                 status, started_us, closed_us) VALUES (?, ?, ?, ?, '1.0.0', ?, ?, ?, ?)",
        )
        .bind(id(self.rows).as_bytes().to_vec())
        .bind(row.namespace)
        .bind(row.workflow_id)
        .bind(row.workflow_type)
        .bind(vec![7_u8; 32])
        .bind(status_number(row.status))
        .bind(row.started_us)
        .bind(row.closed_us)
        .execute(&mut self.connection)
        .await
        .expect("inserts");
        self.rows += 1;
    }

    /// Numbers of the runs that match, ascending.
    async fn matching(&self, query: &str) -> Vec<usize> {
        let page = list(&self.store, &request(Some(query), 0, None))
            .await
            .expect(query);
        assert_eq!(page.next_page_token, None);
        let mut numbers: Vec<usize> = page
            .runs
            .iter()
            .map(|run| (run.run_id.as_u128() - id(0).as_u128()) as usize)
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a > b), "newest first");
        numbers.reverse();
        numbers
    }
}

fn request(query: Option<&str>, page_size: usize, page_token: Option<String>) -> ListRuns {
    ListRuns {
        namespace: "default".to_owned(),
        query: query.map(str::to_owned),
        page_size,
        page_token,
    }
}

#[tokio::test]
async fn each_operator_finds_its_runs() {
    let mut runs = Fixture::new().await;
    runs.insert(Row {
        workflow_id: "a",
        workflow_type: "docs.index",
        ..Row::new()
    })
    .await;
    runs.insert(Row {
        workflow_id: "ab",
        status: ExecutionStatus::Running,
        started_us: 1_000_000,
        closed_us: None,
        ..Row::new()
    })
    .await;
    runs.insert(Row {
        workflow_id: "b%",
        status: ExecutionStatus::Failed,
        started_us: 2_000_000,
        closed_us: Some(3_000_000),
        ..Row::new()
    })
    .await;
    runs.insert(Row {
        workflow_id: "\u{e9}\u{0}x",
        status: ExecutionStatus::TimedOut,
        started_us: 3_000_000,
        closed_us: Some(4_000_000),
        ..Row::new()
    })
    .await;
    runs.insert(Row {
        namespace: "other",
        workflow_id: "a",
        ..Row::new()
    })
    .await;

    let by_run = format!("RunId = '{}'", id(2).to_string().to_uppercase());
    let by_runs = format!("RunId IN ('{}', '{}')", id(0), id(4));
    let by_order = format!("RunId > '{}'", id(1));
    let by_prefix = format!(
        "RunId STARTS_WITH '{}'",
        &id(0).to_string()[..20].to_uppercase()
    );
    let by_whole = format!("RunId STARTS_WITH '{}'", id(3));
    let nul = "WorkflowId STARTS_WITH '\u{e9}\u{0}x'";
    let not_nul = "WorkflowId STARTS_WITH '\u{e9}\u{0}y'";
    for (query, found) in [
        ("  ", &[0, 1, 2, 3][..]),
        ("WorkflowId = 'a'", &[0]),
        ("WorkflowId != 'a'", &[1, 2, 3]),
        ("WorkflowId <> 'a' AND WorkflowId < 'b'", &[1]),
        ("WorkflowId >= 'b%'", &[2, 3]),
        ("WorkflowId BETWEEN 'a' AND 'b'", &[0, 1]),
        ("WorkflowId NOT BETWEEN 'a' AND 'b'", &[2, 3]),
        ("WorkflowId STARTS_WITH 'a'", &[0, 1]),
        ("WorkflowId NOT STARTS_WITH 'a'", &[2, 3]),
        ("WorkflowId STARTS_WITH ''", &[0, 1, 2, 3]),
        ("WorkflowId STARTS_WITH '%'", &[]),
        ("WorkflowId STARTS_WITH '_'", &[]),
        ("WorkflowId STARTS_WITH 'b%'", &[2]),
        (nul, &[3]),
        (not_nul, &[]),
        ("WorkflowType = 'docs.index'", &[0]),
        ("WorkflowType IN ('docs.index', 'none')", &[0]),
        ("ExecutionStatus = 'Running'", &[1]),
        ("ExecutionStatus IN ('Failed', 'TimedOut')", &[2, 3]),
        ("ExecutionStatus NOT IN ('Failed', 'TimedOut')", &[0, 1]),
        ("ExecutionStatus = 'ContinuedAsNew'", &[]),
        ("StartTime > '1970-01-01T00:00:01Z'", &[2, 3]),
        ("StartTime >= '1970-01-01T00:00:01Z'", &[1, 2, 3]),
        (
            "StartTime BETWEEN '1970-01-01T00:00:01Z' AND '1970-01-01T00:00:02Z'",
            &[1, 2],
        ),
        ("StartTime = '1970-01-01T01:00:01+01:00'", &[1]),
        ("StartTime = '1970-01-01T00:00:01.0000001Z'", &[]),
        (
            "NOT StartTime = '1970-01-01T00:00:01.0000001Z'",
            &[0, 1, 2, 3],
        ),
        ("CloseTime IS NULL", &[1]),
        ("CloseTime IS NOT NULL", &[0, 2, 3]),
        // An open run has none to compare with.
        ("CloseTime < '1970-01-01T00:00:03Z'", &[0]),
        ("NOT CloseTime < '1970-01-01T00:00:03Z'", &[2, 3]),
        (
            "NOT (WorkflowId = 'a' OR ExecutionStatus = 'Failed')",
            &[1, 3],
        ),
        (by_run.as_str(), &[2]),
        (by_runs.as_str(), &[0]),
        (by_order.as_str(), &[2, 3]),
        (by_prefix.as_str(), &[0, 1, 2, 3]),
        (by_whole.as_str(), &[3]),
        ("RunId STARTS_WITH '0191'", &[]),
    ] {
        assert_eq!(runs.matching(query).await, found, "{query}");
    }
}

#[tokio::test]
async fn what_a_filter_says_is_never_sql() {
    let mut runs = Fixture::new().await;
    let hostile = "x' OR 1=1; DROP TABLE runs; --";
    runs.insert(Row::new()).await;
    runs.insert(Row {
        workflow_id: hostile,
        ..Row::new()
    })
    .await;
    runs.insert(Row {
        namespace: "other",
        ..Row::new()
    })
    .await;

    let quoted = format!("WorkflowId = \"{hostile}\"");
    let filter = Filter::parse(&quoted, &SearchTypes::new()).expect("valid");
    assert_eq!(
        (filter.sql.as_str(), &filter.params[..]),
        ("(workflow_id = ?)", &[Param::Text(hostile.to_owned())][..])
    );
    assert_eq!(runs.matching(&quoted).await, [1]);
    let doubled = format!("WorkflowId STARTS_WITH '{}'", hostile.replace('\'', "''"));
    assert_eq!(runs.matching(&doubled).await, [1]);
    // No OR reaches beyond the namespace.
    assert_eq!(
        runs.matching("WorkflowId = 'w' OR WorkflowId != 'w'").await,
        [0, 1]
    );

    for query in [
        "WorkflowId = 'x' OR 1=1",
        "WorkflowId = 'x'; DROP TABLE runs",
        "WorkflowId = 'x' -- comment",
        "WorkflowId = 'x' /* comment */",
        "WorkflowId = 'x' UNION SELECT * FROM runs",
        "WorkflowId = (SELECT run_id FROM runs)",
        "namespace = 'other'",
        "`workflow_id = workflow_id OR 1` = 'x'",
        "WorkflowId = ?",
        "WorkflowId = x'00'",
        "held IS NULL",
    ] {
        let error = list(&runs.store, &request(Some(query), 0, None))
            .await
            .expect_err(query);
        assert!(
            matches!(&error, EngineError::Invalid(message) if message.contains("at character ")),
            "{query}: {error}"
        );
    }
    assert_eq!(runs.matching("").await, [0, 1]);
}

/// A chain of operators is as deep for SQLite as it is long, and it refuses 1,000.
#[tokio::test]
async fn sqlite_takes_the_longest_filters() {
    let mut runs = Fixture::new().await;
    runs.insert(Row::new()).await;
    let chain = format!("{}WorkflowId='w'", "WorkflowId=''OR ".repeat(620));
    let nested = format!("{}{chain}{}", "NOT(".repeat(16), ")".repeat(16));
    let values = format!("WorkflowId IN ({}'w')", "'',".repeat(3_400));
    for query in [chain, nested, values] {
        assert!(
            (9_900..=10 * 1024).contains(&query.len()),
            "{}",
            query.len()
        );
        assert_eq!(runs.matching(&query).await, [0]);
    }
}

/// All pages, as numbers of runs.
async fn pages(runs: &Fixture, query: Option<&str>, size: usize) -> Vec<Vec<usize>> {
    let mut pages = Vec::new();
    let mut token = None;
    loop {
        let page = list(&runs.store, &request(query, size, token))
            .await
            .expect("a page");
        let numbers = page
            .runs
            .iter()
            .map(|run| run.run_id.as_u128() - id(0).as_u128());
        pages.push(numbers.map(|number| number as usize).collect());
        token = page.next_page_token;
        if token.is_none() {
            return pages;
        }
    }
}

#[tokio::test]
async fn pages_follow_one_another() {
    let mut runs = Fixture::new().await;
    assert_eq!(
        pages(&runs, None, 2).await,
        [[0; 0]],
        "nothing, and no further page"
    );
    for number in 0..7 {
        let (workflow_type, namespace) = (
            ["even", "odd"][number % 2],
            ["default", "other"][number / 6],
        );
        runs.insert(Row {
            workflow_type,
            namespace,
            ..Row::new()
        })
        .await;
    }
    assert_eq!(pages(&runs, None, 4).await, [vec![5, 4, 3, 2], vec![1, 0]]);
    assert_eq!(
        pages(&runs, None, 3).await,
        [[5, 4, 3], [2, 1, 0]],
        "no empty last page"
    );
    assert_eq!(pages(&runs, None, 0).await, [[5, 4, 3, 2, 1, 0]]);
    assert_eq!(pages(&runs, None, 1_000).await.len(), 1);
    let odd = Some("WorkflowType = 'odd' OR WorkflowType = 'none'");
    assert_eq!(pages(&runs, odd, 2).await, [vec![5, 3], vec![1]]);
}

#[tokio::test]
async fn runs_that_start_meanwhile_shift_no_page() {
    let mut runs = Fixture::new().await;
    for _ in 0..3 {
        runs.insert(Row::new()).await;
    }
    let first = list(&runs.store, &request(None, 2, None))
        .await
        .expect("a page");
    runs.insert(Row::new()).await;
    let second = list(&runs.store, &request(None, 2, first.next_page_token))
        .await
        .expect("a page");
    let found: Vec<Uuid> = second.runs.iter().map(|run| run.run_id).collect();
    assert_eq!((found, second.next_page_token), (vec![id(0)], None));
}

#[tokio::test]
async fn a_hundred_runs_where_the_request_does_not_say() {
    let mut runs = Fixture::new().await;
    for _ in 0..101 {
        runs.insert(Row::new()).await;
    }
    let sizes: Vec<usize> = pages(&runs, None, 0).await.iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 1]);
    let error = list(&runs.store, &request(None, 1_001, None))
        .await
        .expect_err("too many");
    assert!(
        matches!(&error, EngineError::Invalid(message) if message.contains("1 to 1000")),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_is_good_for_its_own_request_only() {
    let mut runs = Fixture::new().await;
    for _ in 0..3 {
        runs.insert(Row::new()).await;
    }
    let query = Some("WorkflowType = 't'");
    let page = list(&runs.store, &request(query, 1, None))
        .await
        .expect("a page");
    let token = page.next_page_token.expect("another page");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    assert!(token.chars().all(plain), "{token} stands in a URL as it is");
    // The size may change from page to page.
    assert!(
        list(&runs.store, &request(query, 2, Some(token.clone())))
            .await
            .is_ok()
    );

    let refusal = async |request: ListRuns| match list(&runs.store, &request).await {
        Err(EngineError::Invalid(message)) => message,
        other => panic!("{other:?}"),
    };
    let other_query = request(Some("WorkflowType = 'u'"), 1, Some(token.clone()));
    assert!(
        refusal(other_query)
            .await
            .contains("another namespace or query")
    );
    assert!(
        refusal(request(None, 1, Some(token.clone())))
            .await
            .contains("another")
    );
    let other_namespace = ListRuns {
        namespace: "other".to_owned(),
        ..request(query, 1, Some(token.clone()))
    };
    assert!(
        refusal(other_namespace)
            .await
            .contains("another namespace or query")
    );

    let cut = token[..token.len() - 4].to_owned();
    for token in [
        String::new(),
        "!".to_owned(),
        format!("{token}AAAA"),
        cut,
        "A".repeat(100_000),
    ] {
        assert!(
            refusal(request(query, 1, Some(token)))
                .await
                .contains("malformed")
        );
    }
}

/// How SQLite finds the runs of a page.
async fn plan(runs: &mut Fixture, query: &str) -> String {
    let filter = Filter::parse(query, &SearchTypes::new()).ok();
    let sql = format!("EXPLAIN QUERY PLAN {}", select(filter.as_ref(), true));
    let mut statement = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind("default");
    for param in filter.into_iter().flat_map(|filter| filter.params) {
        statement = match param {
            Param::Text(text) => statement.bind(text),
            Param::Int(number) => statement.bind(number),
            Param::Real(number) => statement.bind(number),
            Param::Blob(bytes) => statement.bind(bytes),
        };
    }
    let steps: Vec<(i64, i64, i64, String)> = statement
        .bind(id(0).as_bytes().to_vec())
        .bind(10)
        .fetch_all(&mut runs.connection)
        .await
        .expect("a plan");
    let steps: Vec<String> = steps.into_iter().map(|(.., step)| step).collect();
    steps.join("; ")
}

#[tokio::test]
async fn no_page_sorts_all_runs() {
    let mut runs = Fixture::new().await;
    for (query, index) in [
        ("", "SEARCH runs USING PRIMARY KEY"),
        (
            "StartTime > '2026-01-01T00:00:00Z'",
            "SEARCH runs USING PRIMARY KEY",
        ),
        (
            "WorkflowId = 'a' OR ExecutionStatus = 'Failed'",
            "SEARCH runs USING PRIMARY KEY",
        ),
        ("NOT (WorkflowId = 'a')", "SEARCH runs USING PRIMARY KEY"),
        (
            "ExecutionStatus = 'Running'",
            "SEARCH runs USING INDEX runs_open",
        ),
        (
            "WorkflowId = 'a'",
            "SEARCH runs USING INDEX runs_by_workflow",
        ),
        (
            "WorkflowType = 'a' AND ExecutionStatus != 'Failed'",
            "SEARCH runs USING INDEX runs_by_type",
        ),
    ] {
        let plan = plan(&mut runs, query).await;
        assert!(plan.starts_with(index), "{query}: {plan}");
        assert!(!plan.contains("TEMP B-TREE FOR ORDER"), "{query}: {plan}");
    }
}
