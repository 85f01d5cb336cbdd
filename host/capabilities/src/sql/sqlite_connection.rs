//! What one connection to SQLite does, on its thread, which it blocks.
//!
//! A statement is looked at before it first runs (`sqlite_guard::inspect`): it is the only
//! one of its text, its parameters are numbered, and the authorizer was asked. What does
//! not change the schema and has no PRAGMA is kept prepared, with what was found. That
//! holds for as long as the connection: the authorizer's answers depend on nothing but the
//! statement and the connection's access, and where the schema changed SQLite prepares
//! again by itself and asks the authorizer again. Columns may be others then, and so are
//! read from the statement after its first step. Limits are of each run. Kept statements
//! hold no locks and no values between two runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, Row, Statement};
use tokio::sync::{mpsc, oneshot};

use super::cursor::{BATCH_BYTES, BATCH_ROWS, Batch, FIRST_ROWS};
use super::sqlite_error::{closed, too_large, translate};
use super::sqlite_guard::{self, Control, Inspection, Refusal, Watch};
use super::sqlite_value::{self, Declared};
use super::{Access, Column, RowSet, SqlCode, SqlError, SqlLimits, Value, beyond, row_bytes};
use crate::sqlite_file::Opening;
use crate::sqlite_threads::Connected;

/// Statements that one connection keeps prepared, and bytes of the longest.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 16 << 10;

/// A connection that plugins' statements run on.
pub(super) struct Guarded {
    connection: Connection,
    watch: Arc<Watch>,
    /// What was found by looking at statements that are kept.
    known: HashMap<String, Inspection>,
    limits: SqlLimits,
}

impl Connected for Guarded {
    fn clean(&mut self) -> bool {
        self.connection.is_autocommit() || self.host(Control::Rollback).is_ok()
    }
}

/// A statement that was looked at, ready to run.
enum Ready<'a> {
    Kept(CachedStatement<'a>),
    Once(Statement<'a>),
}

impl<'a> Ready<'a> {
    fn get(&mut self) -> &mut Statement<'a> {
        match self {
            Self::Kept(statement) => statement,
            Self::Once(statement) => statement,
        }
    }
}

/// Its columns, once it has made its first step.
struct Shape {
    columns: Vec<Column>,
    declared: Vec<Declared>,
}

impl Shape {
    fn of(statement: &Statement<'_>) -> Self {
        let columns = sqlite_value::columns(statement);
        let declared = sqlite_value::all_declared(&columns);
        Self { columns, declared }
    }
}

impl Guarded {
    pub(super) fn open(
        opening: &Opening,
        access: Access,
        limits: &SqlLimits,
    ) -> rusqlite::Result<Self> {
        let connection = opening.open()?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.set_prepared_statement_cache_capacity(KEPT);
        let watch = sqlite_guard::install(&connection, access, limits)?;
        Ok(Self {
            connection,
            watch,
            known: HashMap::new(),
            limits: limits.clone(),
        })
    }

    /// How long one statement may run.
    fn limit(&self) -> Duration {
        Duration::from_millis(self.limits.statement_timeout_ms)
    }

    /// Begins an operation that `stop` ends.
    pub(super) fn begin(&self, stop: &Arc<AtomicBool>) {
        self.watch.begin(Arc::clone(stop), self.limit());
    }

    fn host(&self, control: Control) -> Result<(), sqlite_guard::RawError> {
        sqlite_guard::control(&self.connection, &self.watch, control)
    }

    pub(super) fn control(&self, control: Control) -> Result<(), SqlError> {
        let done = self.host(control);
        done.map_err(|error| translate(&error, Some(&self.watch)))
    }

    /// # Errors
    /// `transaction-closed` where SQLite has none open: it rolls back by itself on some
    /// faults, and what follows must not run outside the transaction that its author
    /// believes in.
    pub(super) fn within(&self) -> Result<(), SqlError> {
        if self.connection.is_autocommit() {
            return Err(closed());
        }
        Ok(())
    }

    /// What SQLite's refusal is in the words of `heyday:sql`.
    fn error(&self, error: rusqlite::Error) -> SqlError {
        translate(&error.into(), Some(&self.watch))
    }

    /// Looks at a statement, unless it is known.
    fn inspect(&mut self, sql: &str) -> Result<Inspection, SqlError> {
        if let Some(known) = self.known.get(sql) {
            return Ok(*known);
        }
        let inspected = sqlite_guard::inspect(&self.connection, &self.watch, sql);
        let inspection = inspected.map_err(|refusal| match refusal {
            Refusal::Statement(message) => SqlError::new(SqlCode::InvalidStatement, message),
            Refusal::Sqlite(error) => translate(&error, Some(&self.watch)),
        })?;
        if inspection.kept && sql.len() <= KEPT_BYTES {
            if self.known.len() >= KEPT {
                self.known.clear();
            }
            self.known.insert(sql.to_owned(), inspection);
        }
        Ok(inspection)
    }

    /// A statement with its parameters' number checked.
    fn ready(&mut self, sql: &str, given: usize) -> Result<(Ready<'_>, Inspection), SqlError> {
        let inspection = self.inspect(sql)?;
        if inspection.parameters != given {
            return Err(SqlError::new(
                SqlCode::InvalidParameter,
                format!(
                    "the statement takes {} parameters and was given {given}",
                    inspection.parameters
                ),
            ));
        }
        // A short one is never asked by the progress handler.
        let checked = self.watch.check();
        checked.map_err(|error| translate(&error, Some(&self.watch)))?;
        let ready = if self.known.contains_key(sql) {
            self.connection.prepare_cached(sql).map(Ready::Kept)
        } else {
            self.connection.prepare(sql).map(Ready::Once)
        };
        let ready = ready.map_err(|error| self.error(error))?;
        Ok((ready, inspection))
    }

    /// Runs one query and answers all its rows.
    pub(super) fn query(&mut self, sql: &str, params: &[Value]) -> Result<RowSet, SqlError> {
        let most = (self.limits.result_rows, self.limits.result_bytes);
        let watch = Arc::clone(&self.watch);
        let mut rows = Vec::new();
        let mut bytes = 0_u64;
        let (mut ready, _) = self.ready(sql, params.len())?;
        let columns = each_row(
            ready.get(),
            params,
            &watch,
            |_| true,
            |row| {
                bytes = bytes.saturating_add(row_bytes(&row));
                if let Some(over) = beyond(rows.len(), bytes, most) {
                    return Err(too_large(over));
                }
                rows.push(row);
                Ok(true)
            },
        )?;
        Ok(RowSet { columns, rows })
    }

    /// Runs one query and passes its rows on, one batch ahead of their reader.
    pub(super) fn stream(
        &mut self,
        sql: &str,
        params: &[Value],
        columns: oneshot::Sender<Result<Vec<Column>, SqlError>>,
        batches: &mpsc::Sender<Batch>,
    ) {
        let mut begun = Some(columns);
        let outcome = self.forward(sql, params, &mut begun, batches);
        if let Err(error) = outcome {
            // The reader may be gone, which is an answer too.
            match begun {
                Some(columns) => drop(columns.send(Err(error))),
                None => drop(batches.blocking_send(Err(error))),
            }
        }
    }

    fn forward(
        &mut self,
        sql: &str,
        params: &[Value],
        begun: &mut Option<oneshot::Sender<Result<Vec<Column>, SqlError>>>,
        batches: &mpsc::Sender<Batch>,
    ) -> Result<(), SqlError> {
        let limit = self.limit();
        let watch = Arc::clone(&self.watch);
        let (mut ready, _) = self.ready(sql, params.len())?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        // The first rows are answered soon, and the others with few changes of threads.
        let mut most = FIRST_ROWS;
        let first = |shape: &Shape| {
            let columns = shape.columns.clone();
            begun.take().is_some_and(|it| it.send(Ok(columns)).is_ok())
        };
        each_row(ready.get(), params, &watch, first, |row| {
            bytes += row_bytes(&row);
            batch.push(row);
            if bytes < BATCH_BYTES && batch.len() < most {
                return Ok(true);
            }
            (bytes, most) = (0, BATCH_ROWS);
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ROWS));
            let read = batches.blocking_send(Ok(full)).is_ok();
            // The limit counts while the database works, not while the guest does.
            watch.extend(limit);
            Ok(read)
        })?;
        if !batch.is_empty() {
            let _ = batches.blocking_send(Ok(batch));
        }
        Ok(())
    }

    /// Runs one statement and answers how many rows it changed.
    pub(super) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, SqlError> {
        let (mut ready, inspection) = self.ready(sql, params.len())?;
        let ran = run_to_end(ready.get(), params);
        drop(ready);
        ran.map_err(|error| self.error(error))?;
        // SQLite counts the rows of the last statement that changed any, which is an
        // earlier one where this one changes none by its nature.
        Ok(if inspection.schema_change || inspection.read_only {
            0
        } else {
            self.connection.changes()
        })
    }

    /// Runs one statement once per list of parameters, each within the limit on time; all
    /// or nothing of this call alone, within a transaction.
    pub(super) fn each(&mut self, sql: &str, lists: &[Vec<Value>]) -> Result<u64, SqlError> {
        self.within()?;
        self.control(Control::Savepoint)?;
        let outcome = self.each_of(sql, lists);
        match outcome {
            Ok(changed) => {
                self.control(Control::Release)?;
                Ok(changed)
            }
            Err(error) => {
                // Where SQLite ended the transaction by itself there is nothing to undo.
                if self.within().is_ok() {
                    self.control(Control::RollbackTo)?;
                    self.control(Control::Release)?;
                }
                Err(error)
            }
        }
    }

    fn each_of(&mut self, sql: &str, lists: &[Vec<Value>]) -> Result<u64, SqlError> {
        let inspection = self.inspect(sql)?;
        let counted = !inspection.schema_change && !inspection.read_only;
        let limit = self.limit();
        let watch = Arc::clone(&self.watch);
        let mut changed = 0;
        for params in lists {
            watch.extend(limit);
            let (mut ready, _) = self.ready(sql, params.len())?;
            let ran = run_to_end(ready.get(), params);
            drop(ready);
            ran.map_err(|error| self.error(error))?;
            if counted {
                changed += self.connection.changes();
            }
        }
        Ok(changed)
    }
}

/// Runs a statement and hands over what `first` makes of its columns and then each row, as
/// long as both answer that they want more; answers the columns.
fn each_row(
    statement: &mut Statement<'_>,
    params: &[Value],
    watch: &Watch,
    first: impl FnOnce(&Shape) -> bool,
    mut each: impl FnMut(Vec<Value>) -> Result<bool, SqlError>,
) -> Result<Vec<Column>, SqlError> {
    let failed = |error: rusqlite::Error| translate(&error.into(), Some(watch));
    sqlite_value::bind(statement, params).map_err(failed)?;
    let mut rows = statement.raw_query();
    let Some(row) = rows.next().map_err(failed)? else {
        drop(rows);
        let shape = Shape::of(statement);
        first(&shape);
        return Ok(shape.columns);
    };
    let shape = Shape::of(row.as_ref());
    if !first(&shape) {
        return Ok(shape.columns);
    }
    let read = |row: &Row<'_>| sqlite_value::row(row, &shape.declared).map_err(failed);
    let mut more = each(read(row)?)?;
    while more {
        let Some(row) = rows.next().map_err(failed)? else {
            break;
        };
        more = each(read(row)?)?;
    }
    drop(rows);
    Ok(shape.columns)
}

fn run_to_end(statement: &mut Statement<'_>, params: &[Value]) -> rusqlite::Result<()> {
    sqlite_value::bind(statement, params)?;
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

/// Ends what an operation runs when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
