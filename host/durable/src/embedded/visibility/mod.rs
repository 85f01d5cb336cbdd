//! Lists of runs: Temporal's filter language, and pages by key.

pub mod filter;
mod parse;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::core::Core;
use super::store::{RUN_COLUMNS, info_of, unreadable};
use crate::engine::{EngineError, ListRuns, RunPage};

/// Runs on one page, at most.
const LARGEST_PAGE: usize = 1_000;

/// A page of runs, newest first.
pub async fn list(core: &Core, request: &ListRuns) -> Result<RunPage, EngineError> {
    if request.page_size == 0 || request.page_size > LARGEST_PAGE {
        return Err(EngineError::Invalid(format!(
            "a page has 1 to {LARGEST_PAGE} runs, not {}",
            request.page_size
        )));
    }
    let query = request.query.as_deref().unwrap_or("").trim();
    let filter = if query.is_empty() {
        None
    } else {
        let parsed = parse::parse(query)
            .map_err(|error| EngineError::Invalid(format!("the list filter: {error}")))?;
        Some(parsed)
    };
    let mut sql = QueryBuilder::new("SELECT ");
    sql.push(RUN_COLUMNS);
    sql.push(" FROM runs WHERE namespace = ");
    sql.push_bind(&request.namespace);
    if let Some(token) = &request.page_token {
        sql.push(" AND run_id < ");
        sql.push_bind(read_token(token, query)?.as_bytes().to_vec());
    }
    if let Some(filter) = &filter {
        sql.push(" AND ");
        filter.push(&mut sql);
    }
    sql.push(" ORDER BY run_id DESC LIMIT ");
    // One more says whether there is another page.
    sql.push_bind(i64::try_from(request.page_size + 1).unwrap_or(i64::MAX));
    let rows = sql
        .build()
        .fetch_all(core.store.readers())
        .await
        .map_err(unreadable)?;
    let mut runs = rows
        .iter()
        .map(info_of)
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    let more = runs.len() > request.page_size;
    runs.truncate(request.page_size);
    let next_page_token = runs
        .last()
        .filter(|_| more)
        .map(|run| token(run.run_id, query));
    Ok(RunPage {
        runs,
        next_page_token,
    })
}

/// What a filter adds to a token, so that it serves no other filter.
fn mark(query: &str) -> [u8; 4] {
    let digest = crate::payload::Digest::of(query.as_bytes());
    let bytes = digest.as_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

fn token(last: Uuid, query: &str) -> String {
    let mut bytes = last.as_bytes().to_vec();
    bytes.extend(mark(query));
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_token(token: &str, query: &str) -> Result<Uuid, EngineError> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let parts = bytes
        .as_deref()
        .filter(|bytes| bytes.len() == 20)
        .map(|bytes| bytes.split_at(16));
    match parts {
        Some((id, marked)) if marked == mark(query) => {
            Uuid::from_slice(id).map_err(|error| EngineError::Invalid(error.to_string()))
        }
        Some(_) => Err(EngineError::Invalid(
            "the page token belongs to another filter; begin at the first page".to_owned(),
        )),
        None => Err(EngineError::Invalid(
            "the page token is none of ours; begin at the first page".to_owned(),
        )),
    }
}
