//! A result that is read in batches: a task of the host's runtime, or the connection's
//! thread, reads rows and stays one batch ahead of the guest, so that memory is bounded
//! whatever the result's size.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::sqlite_connection::Stop;
use super::{Column, Cursor, Rows, SqlError, Value, row_bytes};

/// Bytes and rows of one batch between who reads the database and the cursor's reader, and
/// rows of the first one. The SDK asks for as many.
pub(super) const BATCH_BYTES: u64 = 256 << 10;
pub(super) const BATCH_ROWS: usize = 1_000;
pub(super) const FIRST_ROWS: usize = 64;
/// The most bytes of one answer of a cursor, unless a single row has more.
pub(super) const ANSWER_BYTES: u64 = 1 << 20;

pub(super) type Batch = Result<Rows, SqlError>;

/// Dropping it closes the channel, at which the statement is ended.
pub(super) struct BatchCursor {
    columns: Vec<Column>,
    batches: mpsc::Receiver<Batch>,
    rest: std::vec::IntoIter<Vec<Value>>,
    failed: Option<SqlError>,
    /// Ends a statement that is in the middle of a step.
    _stop: Option<Stop>,
}

#[async_trait]
impl Cursor for BatchCursor {
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

impl BatchCursor {
    pub(super) fn new(columns: Vec<Column>, batches: mpsc::Receiver<Batch>) -> Self {
        Self {
            columns,
            batches,
            rest: Vec::new().into_iter(),
            failed: None,
            _stop: None,
        }
    }

    pub(super) fn stopping(self, stop: Stop) -> Self {
        Self {
            _stop: Some(stop),
            ..self
        }
    }
}
