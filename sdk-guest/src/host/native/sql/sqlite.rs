//! A SQLite in memory that does what a binding of the host's does.
//!
//! On the host what runs outside a transaction sees what was committed, a result that is
//! being read stays as it was, and a second writer waits and then gets `conflict`. A database
//! in memory has one connection, so the others are copies: one is made where a transaction
//! begins, which is asked until it ends, and one for each result that is read piece by piece,
//! on a thread of its own. A second writer is refused at once: a test has one thread, so that
//! the first one's end would never come.

mod guard;
mod text;
mod value;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use self::guard::{Guarded, Watch};
use super::{CapabilityError, Column, Database, Result, RowSet, Stream, Value};

/// As of a binding that says nothing else.
const RESULT_ROWS: usize = 100_000;
const RESULT_BYTES: usize = 16 << 20;
/// Cursors and transactions that an attempt may hold open.
const OPEN_HANDLES: usize = 8;
/// Rows that a thread hands over at once.
const BATCH: usize = 64;

type Batch = Result<Vec<Vec<Value>>>;

/// An error that another try may not meet.
fn passing(code: &str, message: &str) -> CapabilityError {
    CapabilityError {
        retryable: true,
        ..CapabilityError::new(code, message)
    }
}

fn conflict() -> CapabilityError {
    passing(
        "conflict",
        "another transaction holds the database; try again",
    )
}

fn closed() -> CapabilityError {
    CapabilityError::new(
        "transaction-closed",
        "the transaction was already committed or rolled back",
    )
}

/// A database.
pub(crate) struct Sqlite {
    main: Guarded,
    /// What others see, while a transaction is open.
    committed: RefCell<Option<Guarded>>,
    /// Held by each cursor that is open.
    places: Rc<()>,
}

impl Sqlite {
    /// A database in which these statements ran.
    pub(crate) fn new<'a>(statements: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let database = Self {
            main: Guarded::open()?,
            committed: RefCell::new(None),
            places: Rc::new(()),
        };
        for statement in statements {
            database.execute(false, statement, &[])?;
        }
        Ok(database)
    }

    fn place(&self) -> Result<Rc<()>> {
        let open = Rc::strong_count(&self.places) - 1 + usize::from(self.is_open());
        if open >= OPEN_HANDLES {
            return Err(CapabilityError::new(
                "limit-exceeded",
                format!("an attempt may hold {OPEN_HANDLES} cursors and transactions open"),
            ));
        }
        Ok(Rc::clone(&self.places))
    }

    fn is_open(&self) -> bool {
        self.committed.borrow().is_some()
    }

    /// The connection for a statement that writes, or may.
    fn writer(&self, within: bool) -> Result<&Guarded> {
        match within {
            // SQLite rolls back by itself on some faults; what follows must not run outside
            // the transaction that its author believes in.
            true if !self.main.in_transaction() => Err(closed()),
            false if self.is_open() => Err(conflict()),
            _ => Ok(&self.main),
        }
    }

    /// Does something with what those see who are in no transaction.
    fn reader<T>(&self, f: impl FnOnce(&Guarded) -> Result<T>) -> Result<T> {
        match &*self.committed.borrow() {
            Some(committed) => f(committed),
            None => f(&self.main),
        }
    }

    /// Whether a statement outside a transaction only reads, and its columns.
    fn look(&self, statement: &str, params: &[Value]) -> Result<(bool, Vec<Column>)> {
        self.reader(|connection| connection.look(statement, params.len()))
    }

    fn end(&self, how: &str) -> Result<()> {
        let committed = self.committed.take();
        if committed.is_none() || !self.main.in_transaction() {
            return Err(closed());
        }
        let ended = self.main.control(how);
        if self.main.in_transaction() {
            self.main.control("ROLLBACK")?;
        }
        ended
    }
}

/// All rows of a statement, where they are not too many.
fn whole(connection: &Guarded, statement: &str, params: &[Value]) -> Result<RowSet> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let columns = connection.each_row(statement, params, |row| {
        bytes += value::row_bytes(&row);
        let over = if rows.len() >= RESULT_ROWS {
            format!("{RESULT_ROWS} rows")
        } else if bytes > RESULT_BYTES {
            format!("{RESULT_BYTES} bytes")
        } else {
            rows.push(row);
            return Ok(true);
        };
        Err(CapabilityError::new(
            "limit-exceeded",
            format!("the result has more than {over}: read it with `query-stream`"),
        ))
    })?;
    Ok((columns, rows))
}

impl Database for Sqlite {
    fn query(&self, within: bool, statement: &str, params: &[Value]) -> Result<RowSet> {
        text::check(params)?;
        if within || !self.look(statement, params)?.0 {
            return whole(self.writer(within)?, statement, params);
        }
        self.reader(|connection| whole(connection, statement, params))
    }

    fn stream(&self, statement: &str, params: &[Value]) -> Result<(Vec<Column>, Stream)> {
        text::check(params)?;
        let place = self.place()?;
        let (reads, columns) = self.look(statement, params)?;
        if !reads {
            let (columns, rows) = whole(self.writer(false)?, statement, params)?;
            return Ok((columns, Box::new(rows.into_iter().map(Ok))));
        }
        let copy = self.reader(Guarded::copy)?;
        let mut rows = Streamed::begin(copy, statement.to_owned(), params.to_vec(), place)?;
        // What fails at once is told at once.
        rows.refill()?;
        Ok((columns, Box::new(rows)))
    }

    fn execute(&self, within: bool, statement: &str, params: &[Value]) -> Result<u64> {
        text::check(params)?;
        self.writer(within)?.execute(statement, params)
    }

    fn execute_many(&self, within: bool, statement: &str, lists: &[Vec<Value>]) -> Result<u64> {
        lists.iter().try_for_each(|params| text::check(params))?;
        let connection = self.writer(within)?;
        if within {
            return connection.each(statement, lists);
        }
        connection.control("BEGIN IMMEDIATE")?;
        let changed = connection.each(statement, lists);
        let ended = match changed {
            Ok(_) => connection.control("COMMIT"),
            Err(_) => Ok(()),
        };
        if connection.in_transaction() {
            connection.control("ROLLBACK")?;
        }
        ended.and(changed)
    }

    fn begin(&self) -> Result<()> {
        let connection = self.writer(false)?;
        self.place()?;
        let committed = connection.copy()?;
        connection.control("BEGIN IMMEDIATE")?;
        self.committed.replace(Some(committed));
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        self.end("COMMIT")
    }

    fn rollback(&self) -> Result<()> {
        self.end("ROLLBACK")
    }
}

/// Rows that a thread reads, one batch ahead. Dropping it ends the statement and the thread.
struct Streamed {
    rows: std::vec::IntoIter<Vec<Value>>,
    /// None after the end.
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
    watch: Arc<Watch>,
    _place: Rc<()>,
}

impl Streamed {
    fn begin(copy: Guarded, statement: String, params: Vec<Value>, place: Rc<()>) -> Result<Self> {
        let (sender, batches) = sync_channel::<Batch>(1);
        let watch = copy.watch();
        let read = move || {
            // The first row alone, as it may be the only one for long.
            let (mut batch, mut most) = (Vec::new(), 1);
            let outcome = copy.each_row(&statement, &params, |row| {
                batch.push(row);
                if batch.len() < most {
                    return Ok(true);
                }
                most = BATCH;
                let read = sender.send(Ok(std::mem::take(&mut batch))).is_ok();
                // The limit counts while the database works, not while the test does.
                copy.watch().extend();
                Ok(read)
            });
            // The reader may be gone, which is an answer too.
            if !batch.is_empty() {
                let _ = sender.send(Ok(batch));
            }
            if let Err(error) = outcome {
                let _ = sender.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("sqlite-rows".to_owned());
        let thread = thread
            .spawn(read)
            .map_err(|error| CapabilityError::new("internal", error.to_string()))?;
        Ok(Self {
            rows: Vec::new().into_iter(),
            batches: Some(batches),
            thread: Some(thread),
            watch,
            _place: place,
        })
    }

    /// Waits for the next batch.
    fn refill(&mut self) -> Result<()> {
        let next = self
            .batches
            .as_ref()
            .and_then(|batches| batches.recv().ok());
        match next.transpose() {
            Ok(Some(rows)) => {
                self.rows = rows.into_iter();
                Ok(())
            }
            Ok(None) => {
                self.batches = None;
                Ok(())
            }
            Err(error) => {
                self.batches = None;
                Err(error)
            }
        }
    }
}

impl Iterator for Streamed {
    type Item = Result<Vec<Value>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rows.len() == 0
            && let Err(error) = self.refill()
        {
            return Some(Err(error));
        }
        self.rows.next().map(Ok)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.watch.stop();
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
