//! Pages of runs.
//!
//! Pages are found by key, not by offset: a page token names the last run of its page
//! and the request it belongs to, so that runs that start meanwhile shift nothing. Run
//! ids grow, so the order of starts is theirs, and a page ends its search early.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite};
use uuid::Uuid;

use super::{Filter, Param};
use crate::embedded::store::{RUN_COLUMNS, Store, info_of, unreadable};
use crate::engine::{EngineError, ListRuns, RunInfo, RunPage};
use crate::payload::Digest;

/// Runs of a page where the request does not say.
const DEFAULT_PAGE: usize = 100;

/// Runs of a page at most.
const MAX_PAGE: usize = 1_000;

/// Runs that match a request, newest first.
///
/// # Errors
/// [`EngineError::Invalid`] for a filter that cannot be read, a page token of another
/// request, or a page size over 1,000; [`EngineError::Unavailable`] where the database
/// cannot be read.
pub async fn list(store: &Store, request: &ListRuns) -> Result<RunPage, EngineError> {
    let size = match request.page_size {
        0 => DEFAULT_PAGE,
        size @ 1..=MAX_PAGE => size,
        size => {
            return Err(EngineError::Invalid(format!(
                "a page has 1 to {MAX_PAGE} runs, not {size}"
            )));
        }
    };
    let query = given(request.query.as_deref());
    let filter = read_filter(store, &request.namespace, query).await?;
    let binding = binding(&request.namespace, query);
    let after = request
        .page_token
        .as_deref()
        .map(|token| read_token(token, binding))
        .transpose()?;

    let sql = select(filter.as_ref(), after.is_some());
    let mut statement = sqlx::query(sqlx::AssertSqlSafe(sql))
        // Filters differ; they must not displace the statements that are always used.
        .persistent(filter.is_none())
        .bind(request.namespace.as_str());
    statement = bound(statement, filter);
    if let Some(run_id) = after {
        statement = statement.bind(run_id.as_bytes().to_vec());
    }
    // One more than asked for tells whether another page follows.
    let rows = statement
        .bind(i64::try_from(size + 1).unwrap_or(i64::MAX))
        .fetch_all(store.readers())
        .await
        .map_err(unreadable)?;
    let runs = rows
        .iter()
        .take(size)
        .map(info_of)
        .collect::<Result<Vec<RunInfo>, _>>()
        .map_err(unreadable)?;
    let more = rows.len() > size;
    let next_page_token = runs
        .last()
        .filter(|_| more)
        .map(|last| token(binding, last));
    Ok(RunPage {
        runs,
        next_page_token,
    })
}

/// How many runs of a namespace match a filter.
///
/// # Errors
/// As those of [`list`], for the filter and the database.
pub async fn count(
    store: &Store,
    namespace: &str,
    query: Option<&str>,
) -> Result<u64, EngineError> {
    let filter = read_filter(store, namespace, given(query)).await?;
    let mut sql = "SELECT count(*) FROM runs WHERE namespace = ?".to_owned();
    if let Some(filter) = &filter {
        sql.push_str(" AND ");
        sql.push_str(&filter.sql);
    }
    let statement = sqlx::query(sqlx::AssertSqlSafe(sql))
        .persistent(filter.is_none())
        .bind(namespace);
    let counted = bound(statement, filter).fetch_one(store.readers()).await;
    let count: i64 = counted.and_then(|row| row.try_get(0)).map_err(unreadable)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// A statement with the parameters of a filter.
fn bound<'q>(
    statement: Query<'q, Sqlite, SqliteArguments>,
    filter: Option<Filter>,
) -> Query<'q, Sqlite, SqliteArguments> {
    let params = filter.into_iter().flat_map(|filter| filter.params);
    params.fold(statement, |statement, param| match param {
        Param::Text(text) => statement.bind(text),
        Param::Int(number) => statement.bind(number),
        Param::Real(number) => statement.bind(number),
        Param::Blob(bytes) => statement.bind(bytes),
    })
}

/// The filter of a request, if it has one.
fn given(query: Option<&str>) -> Option<&str> {
    query.filter(|query| !query.trim().is_empty())
}

async fn read_filter(
    store: &Store,
    namespace: &str,
    query: Option<&str>,
) -> Result<Option<Filter>, EngineError> {
    let Some(query) = query else {
        return Ok(None);
    };
    let types = store.search_types(namespace).await.map_err(unreadable)?;
    let filter = Filter::parse(query, &types);
    filter
        .map(Some)
        .map_err(|error| EngineError::Invalid(error.to_string()))
}

/// The statement for a page. Its parameters: the namespace, those of the filter, the last
/// run of the page before where there is one, and how many runs.
fn select(filter: Option<&Filter>, after: bool) -> String {
    // The plus keeps SQLite from taking an index on the namespace and then sorting all of
    // its runs: the table is in the order of the pages.
    let plus = if filter.is_some_and(|filter| filter.selective) {
        ""
    } else {
        "+"
    };
    let mut sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE {plus}namespace = ?");
    if let Some(filter) = filter {
        sql.push_str(" AND ");
        sql.push_str(&filter.sql);
    }
    if after {
        sql.push_str(" AND run_id < ?");
    }
    sql.push_str(" ORDER BY run_id DESC LIMIT ?");
    sql
}

/// Bytes of a page token: what it is bound to, and a run id.
const TOKEN: usize = BINDING + 16;

/// Bytes that tell requests apart.
const BINDING: usize = 16;

/// What a token is bound to. It keeps clients from mixing their lists up; the namespace
/// is guarded by the query itself.
fn binding(namespace: &str, query: Option<&str>) -> [u8; BINDING] {
    let text = format!(
        "{}:{namespace}{}",
        namespace.len(),
        query.unwrap_or_default()
    );
    let digest = Digest::of(text.as_bytes());
    let mut bytes = [0; BINDING];
    bytes.copy_from_slice(&digest.as_bytes()[..BINDING]);
    bytes
}

fn token(binding: [u8; BINDING], last: &RunInfo) -> String {
    let mut bytes = Vec::with_capacity(TOKEN);
    bytes.extend_from_slice(&binding);
    bytes.extend_from_slice(last.run_id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_token(token: &str, expected: [u8; BINDING]) -> Result<Uuid, EngineError> {
    let malformed = || {
        EngineError::Invalid(
            "the page token is malformed; pass the one of the last page unchanged, or none for the first page"
                .to_owned(),
        )
    };
    // Before decoding: a token may be as long as a request.
    if token.len() > 2 * TOKEN {
        return Err(malformed());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| malformed())?;
    let (bound, rest) = bytes.split_first_chunk::<BINDING>().ok_or_else(malformed)?;
    let run_id = Uuid::from_slice(rest).map_err(|_| malformed())?;
    if *bound != expected {
        return Err(EngineError::Invalid(
            "the page token belongs to another namespace or query; leave it out to begin with the first page"
                .to_owned(),
        ));
    }
    Ok(run_id)
}
