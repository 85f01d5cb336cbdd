//! Rows of receipts and log lines.

use std::collections::HashMap;
use std::sync::Arc;

use heyday_durable::activity::{LogLevel, LogLine};
use jiff::Timestamp;
use uuid::Uuid;

use super::audit::insert_denied;
use super::backend::{Row, Tx, Value, placeholders, values};
use super::shared::{LINES_LOCK, in_order};
use super::{HostDb, StateError, json, limit, micros, signed, timestamp, unsigned};
use crate::recorder::{AttemptName, ReceiptRow};
use crate::registry::types::{LogRecord, ReceiptPlace, ReceiptRecord};

/// Rows of one statement: a driver takes a statement to another thread and back.
const ROWS: usize = 100;

/// What becomes of a receipt that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Replaced,
    Kept,
}

/// Writes receipts; answers how many were.
async fn insert_receipts(
    tx: &mut Tx,
    known: Known,
    rows: &[ReceiptRow],
) -> Result<u64, StateError> {
    // The last one of each attempt: one statement may not change a row twice.
    let mut last: HashMap<(Uuid, &str, u32), usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let attempt = &row.attempt;
        last.insert(
            (attempt.run_id, &attempt.activity_id, attempt.attempt),
            index,
        );
    }
    let mut indices: Vec<usize> = last.into_values().collect();
    indices.sort_unstable();
    let mut written = 0;
    for indices in indices.chunks(ROWS) {
        let mut values = Vec::with_capacity(indices.len() * 10);
        for row in indices.iter().map(|index| &rows[*index]) {
            let counters = serde_json::to_string(&row.receipt)
                .map_err(|error| StateError::Damaged(error.to_string()))?;
            values.extend([
                Value::from(&row.attempt.run_id),
                Value::from(&row.attempt.activity_id),
                Value::from(i64::from(row.attempt.attempt)),
                Value::from(&row.attempt.namespace),
                Value::from(&row.attempt.activity_type),
                Value::from(&row.attempt.queue),
                Value::from(micros(row.started_at)),
                Value::from(micros(row.ended_at)),
                Value::from(&row.outcome),
                Value::from(counters),
            ]);
        }
        let text = format!(
            "INSERT INTO receipts (run_id, activity_id, attempt, namespace, activity_type, queue, \
             started_us, ended_us, outcome, counters) VALUES {} \
             ON CONFLICT (run_id, activity_id, attempt) {}",
            placeholders(indices.len(), 10),
            match known {
                Known::Kept => "DO NOTHING",
                Known::Replaced => {
                    "DO UPDATE SET namespace = excluded.namespace, \
                     activity_type = excluded.activity_type, queue = excluded.queue, \
                     started_us = excluded.started_us, ended_us = excluded.ended_us, \
                     outcome = excluded.outcome, counters = excluded.counters"
                }
            }
        );
        written += tx.execute_once(text, &values).await?;
    }
    Ok(written)
}

/// Writes log lines, in their order.
async fn insert_lines(
    tx: &mut Tx,
    lines: &[(Arc<AttemptName>, LogLine)],
) -> Result<(), StateError> {
    if lines.is_empty() {
        return Ok(());
    }
    in_order(tx, LINES_LOCK).await?;
    for lines in lines.chunks(ROWS) {
        let mut values = Vec::with_capacity(lines.len() * 9);
        for (attempt, line) in lines {
            values.extend([
                Value::from(&attempt.run_id),
                Value::from(&attempt.activity_id),
                Value::from(&attempt.activity_type),
                Value::from(i64::from(attempt.attempt)),
                Value::from(micros(line.at)),
                Value::from(level(line.level)),
                Value::from(&line.message),
                Value::from(serde_json::Value::Object(line.fields.clone()).to_string()),
                Value::from(&attempt.namespace),
            ]);
        }
        let text = format!(
            "INSERT INTO log_lines (run_id, activity_id, activity_type, attempt, at_us, level, \
             message, fields, namespace) VALUES {}",
            placeholders(lines.len(), 9)
        );
        tx.execute_once(text, &values).await?;
    }
    Ok(())
}

impl HostDb {
    /// Writes a batch behind: log lines in their order, receipts over older ones, and what
    /// their attempts were refused into the audit.
    ///
    /// # Errors
    /// As [`StateError`] says; nothing was written then. So for all functions here.
    pub async fn write_records(
        &self,
        lines: &[(Arc<AttemptName>, LogLine)],
        receipts: &[ReceiptRow],
    ) -> Result<(), StateError> {
        let mut tx = self.backend.begin_behind().await?;
        insert_lines(&mut tx, lines).await?;
        insert_receipts(&mut tx, Known::Replaced, receipts).await?;
        insert_denied(&mut tx, receipts).await?;
        self.tell_records(&mut tx).await?;
        tx.commit().await
    }

    /// Writes a batch of a worker, unless it was taken before: what one server says it
    /// took, neither it nor another takes again. It is synced: the worker deletes what it
    /// had.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn take_batch(
        &self,
        worker: Uuid,
        sequence: u64,
        lines: &[(Arc<AttemptName>, LogLine)],
        receipts: &[ReceiptRow],
    ) -> Result<(), StateError> {
        let mut tx = self.backend.begin().await?;
        let new = tx
            .execute(
                "INSERT INTO batches (worker, sequence, at_us) VALUES ($1,$2,$3) \
                 ON CONFLICT (worker) DO UPDATE SET sequence = excluded.sequence, \
                 at_us = excluded.at_us WHERE batches.sequence < excluded.sequence",
                values![&worker, signed(sequence), micros(Timestamp::now())],
            )
            .await?;
        if new == 0 {
            return Ok(());
        }
        insert_lines(&mut tx, lines).await?;
        insert_receipts(&mut tx, Known::Replaced, receipts).await?;
        insert_denied(&mut tx, receipts).await?;
        self.tell_records(&mut tx).await?;
        tx.commit().await
    }

    /// Writes receipts where they are missing; answers how many were.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn restore_receipts(&self, receipts: &[ReceiptRow]) -> Result<u64, StateError> {
        let mut tx = self.backend.begin_behind().await?;
        let missing = insert_receipts(&mut tx, Known::Kept, receipts).await?;
        tx.commit().await?;
        Ok(missing)
    }

    /// When the last attempt ended that has a receipt, of those that ended before `now`: a
    /// clock that was set back since leaves some in the future.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn last_receipt(&self, now: Timestamp) -> Result<Option<i64>, StateError> {
        let row = self
            .row(
                "SELECT MAX(ended_us) AS ended_us FROM receipts WHERE ended_us <= $1",
                values![micros(now)],
            )
            .await;
        match row? {
            Some(row) => row.int_or_none("ended_us"),
            None => Ok(None),
        }
    }

    /// Sets a marker, or leaves it where it is earlier; answers where it is.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn mark_earliest(&self, name: &str, at_us: i64) -> Result<i64, StateError> {
        let row = self
            .row(
                "INSERT INTO markers (name, at_us) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET at_us = \
             CASE WHEN markers.at_us < excluded.at_us THEN markers.at_us ELSE excluded.at_us END \
             RETURNING at_us",
                values![name, at_us],
            )
            .await;
        match row? {
            Some(row) => row.int("at_us"),
            None => Ok(at_us),
        }
    }

    /// Removes a marker.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn unmark(&self, name: &str) -> Result<(), StateError> {
        self.execute("DELETE FROM markers WHERE name = $1", values![name])
            .await?;
        Ok(())
    }

    /// Log lines of a run after that id, ascending.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn logs(
        &self,
        namespace: &str,
        run_id: Uuid,
        after: u64,
        lines: usize,
    ) -> Result<Vec<LogRecord>, StateError> {
        let rows = self
            .rows(
                "SELECT id, activity_id, activity_type, attempt, at_us, level, message, fields \
             FROM log_lines WHERE run_id = $1 AND id > $2 AND namespace = $3 ORDER BY id LIMIT $4",
                values![&run_id, signed(after), namespace, limit(lines)],
            )
            .await;
        rows?.iter().map(log_record).collect()
    }

    /// The receipts of a run after that one, by start.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn receipts(
        &self,
        namespace: &str,
        run_id: Uuid,
        after: Option<&ReceiptPlace>,
        receipts: usize,
    ) -> Result<Vec<ReceiptRecord>, StateError> {
        let (started_us, activity_id, attempt) = match after {
            Some(place) => (place.started_us, place.activity_id.as_str(), place.attempt),
            None => (i64::MIN, "", 0),
        };
        let rows = self
            .rows(
                "SELECT * FROM receipts WHERE run_id = $1 AND namespace = $2 \
             AND (started_us, activity_id, attempt) > ($3, $4, $5) \
             ORDER BY started_us, activity_id, attempt LIMIT $6",
                values![
                    &run_id,
                    namespace,
                    started_us,
                    activity_id,
                    i64::from(attempt),
                    limit(receipts)
                ],
            )
            .await;
        rows?.iter().map(receipt_record).collect()
    }

    /// Removes records that are older; a few at a time, so that nothing waits long.
    ///
    /// # Errors
    /// As [`write_records`](Self::write_records).
    pub async fn prune_records(&self, before: Timestamp) -> Result<(), StateError> {
        for statement in [
            "DELETE FROM log_lines WHERE id IN \
             (SELECT id FROM log_lines WHERE at_us < $1 LIMIT 5000)",
            "DELETE FROM receipts WHERE (run_id, activity_id, attempt) IN \
             (SELECT run_id, activity_id, attempt FROM receipts WHERE ended_us < $1 LIMIT 5000)",
            // What operators did is kept.
            "DELETE FROM audit WHERE id IN \
             (SELECT id FROM audit WHERE action = 'capability.deny' AND at_us < $1 LIMIT 5000)",
        ] {
            loop {
                let mut tx = self.backend.begin_behind().await?;
                let removed = tx.execute(statement, values![micros(before)]).await?;
                tx.commit().await?;
                if removed == 0 {
                    break;
                }
            }
        }
        // Of workers that ended long ago.
        self.execute(
            "DELETE FROM batches WHERE at_us < $1",
            values![micros(before)],
        )
        .await?;
        Ok(())
    }
}

fn attempt(row: &Row) -> Result<u32, StateError> {
    let attempt = row.int("attempt")?;
    u32::try_from(attempt).map_err(|_| StateError::Damaged(format!("attempt {attempt}")))
}

fn log_record(row: &Row) -> Result<LogRecord, StateError> {
    Ok(LogRecord {
        id: unsigned(row.int("id")?),
        at: timestamp(row.int("at_us")?)?,
        level: row.string("level")?,
        message: row.string("message")?,
        fields: json(row.text("fields")?)?,
        activity_id: row.string("activity_id")?,
        activity_type: row.string("activity_type")?,
        attempt: attempt(row)?,
    })
}

fn receipt_record(row: &Row) -> Result<ReceiptRecord, StateError> {
    Ok(ReceiptRecord {
        activity_id: row.string("activity_id")?,
        activity_type: row.string("activity_type")?,
        queue: row.string("queue")?,
        attempt: attempt(row)?,
        started_at: timestamp(row.int("started_us")?)?,
        ended_at: timestamp(row.int("ended_us")?)?,
        outcome: row.string("outcome")?,
        counters: json(row.text("counters")?)?,
    })
}

const fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}
