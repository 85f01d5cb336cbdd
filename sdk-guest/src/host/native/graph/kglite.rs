//! A graph in memory that does what an embedded one of the host's does: the same engine, with
//! the same checks, limits, values and errors around it.
//!
//! The host's engine runs in a process of its own, whose memory is limited; here a statement
//! that takes too much takes it from the tests. A second writer waits there, and then gets
//! `conflict`; here it is refused at once: a test has one thread, so that the first one's end
//! would never come.

mod check;
mod error;
mod params;
mod run;
mod times;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use ::kglite::api::cypher::{
    MutationStats, QueryWarningSink, parse_with_mutation_check, set_query_warning_sink,
};
use ::kglite::api::durable::wrap_for_durability;
use ::kglite::api::session::{
    CancelToken, CommitOutcome, Cursor, ExecuteOptions, ExecuteOutcome, Session, Transaction,
    execute_mut, execute_read, execute_read_cursor,
};
use ::kglite::api::{DirGraph, Value as Kg};

use self::run::run;
use super::{CapabilityError, Changes, Graph, Open, Params, Result, RowSet, Stream, Value};
use crate::graph::{decode, encode};

/// As of a binding that says nothing else.
const RESULT_ROWS: usize = 100_000;
const RESULT_BYTES: usize = 16 << 20;
/// Cursors and transactions that an attempt may hold open.
const OPEN_HANDLES: usize = 8;
/// Rows that are taken from a cursor at once.
const BATCH: usize = 256;

/// A graph.
pub(crate) struct Kglite(Rc<Shared>);

struct Shared {
    session: Session,
    /// Whether a transaction that wrote is open.
    writing: Cell<bool>,
    /// Held by each cursor and transaction that is open.
    places: Rc<()>,
}

impl Kglite {
    /// A graph in which these statements ran.
    pub(crate) fn new<'a>(statements: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        set_query_warning_sink(QueryWarningSink::Silent);
        let mut graph = DirGraph::new();
        // The host's is logged, and takes an id within a label only once.
        wrap_for_durability(&mut graph)
            .map_err(|error| CapabilityError::new("internal", error.to_string()))?;
        let graph = Self(Rc::new(Shared {
            session: Session::new(graph),
            writing: Cell::new(false),
            places: Rc::new(()),
        }));
        for statement in statements {
            graph.execute(statement, &[])?;
        }
        Ok(graph)
    }
}

impl Shared {
    fn place(&self) -> Result<Rc<()>> {
        let open = Rc::strong_count(&self.places) - 1;
        if open >= OPEN_HANDLES {
            return Err(error::new(
                "limit-exceeded",
                format!("an attempt may hold {OPEN_HANDLES} cursors and transactions open"),
            ));
        }
        Ok(Rc::clone(&self.places))
    }
}

/// A statement that may be run.
struct Asked<'a> {
    statement: &'a str,
    params: HashMap<String, Kg>,
    writes: bool,
}

impl<'a> Asked<'a> {
    fn new(statement: &'a str, params: Params<'_>) -> Result<Self> {
        let params = encode(params);
        if params.len() > RESULT_BYTES {
            return Err(error::new(
                "limit-exceeded",
                format!("the parameters have more than {RESULT_BYTES} bytes"),
            ));
        }
        check::check(statement)?;
        let params = params::read(&params)?;
        let parsed = run(&CancelToken::new(), || {
            let parsed = parse_with_mutation_check(statement);
            parsed.map(|(_, writes)| writes).map_err(error::failed)
        });
        Ok(Self {
            statement,
            params,
            writes: parsed?,
        })
    }

    fn options(&self, stop: &CancelToken) -> ExecuteOptions<'_> {
        let mut options = ExecuteOptions::eager(&self.params).with_hidden_structural_keys(true);
        options.cancel = Some(stop.clone());
        options
    }
}

/// What a statement answered.
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Kg>>,
    changes: Changes,
}

impl From<ExecuteOutcome> for Answer {
    fn from(outcome: ExecuteOutcome) -> Self {
        let result = outcome.result;
        Self {
            columns: result.columns,
            rows: result.rows,
            changes: result.stats.as_ref().map(changes).unwrap_or_default(),
        }
    }
}

fn changes(stats: &MutationStats) -> Changes {
    Changes {
        nodes_created: stats.nodes_created as u64,
        nodes_deleted: stats.nodes_deleted as u64,
        relationships_created: stats.relationships_created as u64,
        relationships_deleted: stats.relationships_deleted as u64,
        properties_set: (stats.properties_set + stats.properties_removed) as u64,
    }
}

impl Answer {
    /// All rows, where they are not too many.
    fn into_rows(self) -> Result<RowSet> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in &self.rows {
            let row = value::row(row)?;
            bytes += row.len();
            let over = if rows.len() >= RESULT_ROWS {
                format!("{RESULT_ROWS} rows")
            } else if bytes > RESULT_BYTES {
                format!("{RESULT_BYTES} bytes")
            } else {
                rows.push(decode(&row)?);
                continue;
            };
            return Err(error::new(
                "limit-exceeded",
                format!("the result has more than {over}; ask for less, or use `query-stream`"),
            ));
        }
        Ok((self.columns, rows))
    }
}

/// The turn of a transaction that writes; it ends when it is dropped.
struct Turn(Rc<Shared>);

impl Turn {
    fn take(shared: &Rc<Shared>) -> Result<Self> {
        if shared.writing.replace(true) {
            return Err(error::new(
                "conflict",
                "another transaction writes; try again",
            ));
        }
        Ok(Self(Rc::clone(shared)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.writing.set(false);
    }
}

/// A transaction, and the turn that it has from its first write on.
struct Working {
    shared: Rc<Shared>,
    transaction: Transaction,
    /// Whether a statement ran in it.
    used: bool,
    turn: Option<Turn>,
}

impl Working {
    fn begin(shared: &Rc<Shared>) -> Self {
        Self {
            shared: Rc::clone(shared),
            transaction: shared.session.begin(),
            used: false,
            turn: None,
        }
    }

    fn run(&mut self, asked: &Asked<'_>) -> Result<Answer> {
        if asked.writes && self.turn.is_none() {
            self.turn = Some(Turn::take(&self.shared)?);
            // It has seen nothing yet, and so may see what others did meanwhile.
            if !self.used {
                self.transaction = self.shared.session.begin();
            }
        }
        let transaction = &mut self.transaction;
        let stop = CancelToken::new();
        let answer = run(&stop, || {
            let options = asked.options(&stop);
            let ran = if asked.writes {
                let graph = transaction.working_mut().map_err(error::failed)?;
                execute_mut(graph, asked.statement, &options)
            } else {
                let graph = transaction.current().ok_or_else(error::closed)?;
                execute_read(graph, asked.statement, &options)
            };
            ran.map(Answer::from).map_err(error::failed)
        })?;
        self.used = true;
        Ok(answer)
    }

    fn commit(self) -> Result<()> {
        match self.shared.session.commit(self.transaction, true) {
            CommitOutcome::NoWritesNoOp | CommitOutcome::Committed { .. } => Ok(()),
            CommitOutcome::ConflictDetected { .. } => Err(error::new(
                "conflict",
                "another transaction was faster; try again",
            )),
            CommitOutcome::OntologyViolated { error } => Err(error::failed(*error)),
            other => Err(error::new("internal", format!("{other:?}"))),
        }
    }
}

impl Graph for Kglite {
    fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        let asked = Asked::new(statement, params)?;
        let mut working = Working::begin(&self.0);
        let rows = working.run(&asked)?.into_rows()?;
        // What it wrote stays only if its rows were not too many.
        working.commit()?;
        Ok(rows)
    }

    fn stream(&self, statement: &str, params: Params<'_>) -> Result<(Vec<String>, Stream)> {
        let place = self.0.place()?;
        let asked = Asked::new(statement, params)?;
        if asked.writes {
            return Err(error::denied("it writes, and may only read"));
        }
        let snapshot = self.0.session.snapshot();
        let stop = CancelToken::new();
        let cursor = run(&stop, || {
            let cursor = execute_read_cursor(snapshot, asked.statement, &asked.options(&stop));
            cursor.map_err(error::failed)
        })?;
        let columns = cursor.columns().to_vec();
        let rows = Streamed {
            rows: Vec::new().into_iter(),
            cursor,
            stop,
            _place: place,
        };
        Ok((columns, Box::new(rows)))
    }

    fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        let asked = Asked::new(statement, params)?;
        let mut working = Working::begin(&self.0);
        let changes = working.run(&asked)?.changes;
        working.commit()?;
        Ok(changes)
    }

    fn begin(&self) -> Result<Box<dyn Open>> {
        let place = self.0.place()?;
        Ok(Box::new(Begun {
            working: RefCell::new(Some(Working::begin(&self.0))),
            _place: place,
        }))
    }
}

/// A transaction of the test's.
struct Begun {
    /// None after its end, and after a statement that failed.
    working: RefCell<Option<Working>>,
    _place: Rc<()>,
}

impl Begun {
    fn step<T>(&self, step: impl FnOnce(&mut Working) -> Result<T>) -> Result<T> {
        let mut working = self.working.take().ok_or_else(error::closed)?;
        // A failure ends the transaction.
        let outcome = step(&mut working)?;
        self.working.replace(Some(working));
        Ok(outcome)
    }
}

impl Open for Begun {
    fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        self.step(|working| {
            let asked = Asked::new(statement, params)?;
            working.run(&asked)?.into_rows()
        })
    }

    fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        self.step(|working| {
            let asked = Asked::new(statement, params)?;
            Ok(working.run(&asked)?.changes)
        })
    }

    fn commit(&self) -> Result<()> {
        let working = self.working.take().ok_or_else(error::closed)?;
        working.commit()
    }

    fn rollback(&self) -> Result<()> {
        let working = self.working.take().ok_or_else(error::closed)?;
        drop(working);
        Ok(())
    }
}

/// Rows of a cursor. Dropping it ends the statement.
struct Streamed {
    rows: std::vec::IntoIter<Vec<Kg>>,
    cursor: Cursor,
    stop: CancelToken,
    _place: Rc<()>,
}

impl Iterator for Streamed {
    type Item = Result<Vec<Value>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rows.len() == 0 {
            let cursor = &mut self.cursor;
            let batch = run(&self.stop, || {
                cursor.next_batch(BATCH).map_err(error::failed)
            });
            match batch {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        let row = value::row(&self.rows.next()?);
        Some(row.and_then(|row| {
            if row.len() > RESULT_BYTES {
                return Err(error::too_large());
            }
            decode(&row)
        }))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // The cursor waits for its end.
        self.stop.cancel();
    }
}
