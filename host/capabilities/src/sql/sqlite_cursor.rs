//! A result that is read in batches: a task of the host's runtime reads rows and stays
//! one batch ahead of the guest, so that memory is bounded whatever the result's size.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::mpsc;

use super::sqlite::{Lease, row_bytes};
use super::sqlite_error::translate;
use super::sqlite_value::{self, Declared};
use super::{Column, Cursor, Rows, SqlError, Value};

/// Bytes and rows of one batch between a cursor's task and its reader.
const BATCH_BYTES: u64 = 256 << 10;
const BATCH_ROWS: usize = 256;
/// The most bytes of one answer of a cursor, unless a single row has more.
pub(super) const ANSWER_BYTES: u64 = 1 << 20;

pub(super) type Batch = Result<Rows, SqlError>;

/// Reads a result in the background, one batch ahead of its reader.
pub(super) async fn forward(
    lease: &mut Lease,
    statement: String,
    arguments: sqlx::sqlite::SqliteArguments,
    declared: &[Declared],
    sender: &mpsc::Sender<Batch>,
) -> Result<(), SqlError> {
    let watch = Arc::clone(&lease.watch);
    let limit = lease.limit();
    let connection = lease.connection()?;
    let query = sqlx::query_with(AssertSqlSafe(statement), arguments);
    let mut stream = connection.fetch(query);
    let mut batch = Vec::new();
    let mut bytes = 0;
    loop {
        let row = tokio::select! {
            row = stream.next() => row,
            () = sender.closed() => return Ok(()),
        };
        let Some(row) = row else { break };
        let row = row.map_err(|error| translate(&error, Some(&watch)))?;
        let row = sqlite_value::row(&row, declared)?;
        bytes += row_bytes(&row);
        batch.push(row);
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_ROWS {
            bytes = 0;
            if sender.send(Ok(std::mem::take(&mut batch))).await.is_err() {
                return Ok(());
            }
            // The limit counts while the database works, not while the guest does.
            watch.begin(limit);
        }
    }
    if !batch.is_empty() {
        let _ = sender.send(Ok(batch)).await;
    }
    Ok(())
}

/// Dropping it closes the channel, at which its task ends the statement.
pub(super) struct SqliteCursor {
    columns: Vec<Column>,
    batches: mpsc::Receiver<Batch>,
    rest: std::vec::IntoIter<Vec<Value>>,
    failed: Option<SqlError>,
}

#[async_trait]
impl Cursor for SqliteCursor {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    async fn next(&mut self, max: u32) -> Result<Rows, SqlError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let max = usize::try_from(max.max(1)).unwrap_or(usize::MAX);
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < max {
            if let Some(row) = self.rest.next() {
                bytes += row_bytes(&row);
                rows.push(row);
                let following = self.rest.as_slice().first().map_or(0, |row| row_bytes(row));
                if bytes + following > ANSWER_BYTES {
                    break;
                }
                continue;
            }
            // Rows at hand are answered rather than kept until more have come.
            if !rows.is_empty() && self.batches.is_empty() {
                break;
            }
            match self.batches.recv().await {
                Some(Ok(batch)) => {
                    let next = batch.first().map_or(0, |row| row_bytes(row));
                    self.rest = batch.into_iter();
                    if !rows.is_empty() && bytes + next > ANSWER_BYTES {
                        break;
                    }
                }
                Some(Err(error)) => {
                    self.failed = Some(error.clone());
                    if rows.is_empty() {
                        return Err(error);
                    }
                    break;
                }
                None => break,
            }
        }
        Ok(rows)
    }
}

impl SqliteCursor {
    pub(super) fn new(columns: Vec<Column>, batches: mpsc::Receiver<Batch>) -> Self {
        Self {
            columns,
            batches,
            rest: Vec::new().into_iter(),
            failed: None,
        }
    }
}
