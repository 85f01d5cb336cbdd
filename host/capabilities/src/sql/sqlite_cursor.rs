//! Reads a result of SQLite for a cursor.

use std::sync::Arc;

use futures::StreamExt;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::mpsc;

use super::cursor::{BATCH_BYTES, BATCH_ROWS, Batch};
use super::sqlite::Lease;
use super::sqlite_error::translate;
use super::sqlite_value::{self, Declared};
use super::{SqlError, row_bytes};

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
