//! One connection of the engine: a thread that reads, and one that does what it is told.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kglite::api::cypher::{MutationStats, parse_with_mutation_check};
use kglite::api::session::{
    CancelToken, CommitOutcome, ExecuteOptions, Transaction, execute_mut, execute_read,
    execute_read_cursor,
};
use kglite::api::{KgError, Value as Kg};

use super::turns::{NoTurn, Turn};
use super::values::{from_bolt, to_bolt};
use super::{Engine, KGLITE, STACK_BYTES, Stream};
use crate::graph::bolt::Value;
use crate::graph::bolt::frame::{self, Frames};
use crate::graph::bolt::message::{
    BEGIN, COMMIT, FAILURE, GOODBYE, HELLO, IGNORED, LOGON, PREAMBLE, PULL, RECORD, RESET,
    ROLLBACK, RUN, SUCCESS, VERSION, map, text,
};
use crate::graph::check::changes_schema;

/// Bytes that are sent at once.
const SEND_BYTES: usize = 64 << 10;
/// Rows that are taken from a cursor at once.
const ROWS: usize = 256;

/// What the two threads share.
struct Shared {
    engine: Arc<Engine>,
    /// RESETs that were read and not yet done.
    resets: AtomicU32,
    running: Mutex<CancelToken>,
}

impl Shared {
    fn stop(&self) {
        self.resets.fetch_add(1, Ordering::AcqRel);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.cancel();
    }

    fn is_stopped(&self) -> bool {
        self.resets.load(Ordering::Acquire) > 0
    }

    /// A token of a statement that begins, cancelled where a RESET was read before.
    fn token(&self) -> CancelToken {
        let token = CancelToken::new();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = token.clone();
        drop(running);
        if self.is_stopped() {
            token.cancel();
        }
        token
    }
}

/// Reads messages until the host closes the connection.
pub(super) fn serve(mut stream: Stream, engine: Arc<Engine>) -> std::io::Result<()> {
    let mut preamble = [0; PREAMBLE.len()];
    stream.read_exact(&mut preamble)?;
    stream.write_all(&VERSION)?;
    let limit = usize::try_from(engine.order.message_bytes).unwrap_or(usize::MAX);
    let shared = Arc::new(Shared {
        engine,
        resets: AtomicU32::new(0),
        running: Mutex::new(CancelToken::new()),
    });
    let (sender, messages) = sync_channel(64);
    let worker = Worker {
        stream: stream.try_clone()?,
        output: Vec::new(),
        shared: Arc::clone(&shared),
        known: false,
        failed: false,
        open: None,
        result: None,
    };
    std::thread::Builder::new()
        .name("graph-run".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || worker.work(&messages))?;
    let mut frames = Frames::new(limit);
    let mut buffer = vec![0; SEND_BYTES];
    let outcome = 'reading: loop {
        match stream.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => frames.input.extend_from_slice(&buffer[..count]),
            Err(error) => break Err(error),
        }
        loop {
            match frames.next() {
                Ok(Some(Value::Struct(tag, fields))) => {
                    if tag == RESET {
                        shared.stop();
                    }
                    if sender.send((tag, fields)).is_err() {
                        break 'reading Ok(());
                    }
                }
                Ok(None) => break,
                // The host speaks otherwise.
                Ok(Some(_)) | Err(_) => break 'reading Ok(()),
            }
        }
    };
    shared.stop();
    let _ = stream.shutdown(std::net::Shutdown::Both);
    outcome
}

/// A failure, as Neo4j names and words it.
struct Failed(&'static str, String);

impl From<KgError> for Failed {
    fn from(error: KgError) -> Self {
        let code = match &error {
            KgError::CypherExecution { message, .. }
                if message.starts_with("duplicate id")
                    || message.starts_with("duplicate primary") =>
            {
                "Neo.ClientError.Schema.ConstraintValidationFailed"
            }
            KgError::CypherExecution { message, .. }
                if message.starts_with("Missing parameter") =>
            {
                "Neo.ClientError.Statement.ParameterMissing"
            }
            KgError::Schema { .. } => "Neo.ClientError.Statement.SemanticError",
            KgError::ReadOnly { .. } => "Neo.ClientError.Statement.AccessMode",
            KgError::MissingArgument(_) => "Neo.ClientError.Statement.ParameterMissing",
            KgError::TransactionConflict { .. } => "Neo.TransientError.Transaction.Outdated",
            KgError::DurabilityFailed { .. } | KgError::FileIo(_) => {
                "Neo.TransientError.General.DatabaseUnavailable"
            }
            KgError::WriteBudgetExceeded(_) | KgError::LoadMemoryLimit(_) => {
                "Neo.TransientError.General.MemoryPoolOutOfMemoryError"
            }
            error => error.code().neo4j_status_code(),
        };
        Self(code, error.to_string())
    }
}

/// A transaction, and the turn that it has from its first write on.
struct Open {
    transaction: Transaction,
    /// Whether a statement ran in it.
    used: bool,
    /// Whether its schema changed, which the log does not have.
    schema: bool,
    /// Whether it is one statement's alone, and ends when its rows were taken.
    alone: bool,
    turn: Option<Turn>,
}

/// Rows that were asked for.
struct Answer {
    rows: Rows,
    /// What was changed.
    stats: Option<MutationStats>,
}

enum Rows {
    Made(std::vec::IntoIter<Vec<Kg>>),
    Read(kglite::api::session::Cursor),
}

impl Rows {
    fn next(&mut self) -> Result<Vec<Vec<Kg>>, Failed> {
        match self {
            Self::Made(rows) => Ok(rows.take(ROWS).collect()),
            Self::Read(cursor) => cursor.next_batch(ROWS).map_err(Failed::from),
        }
    }
}

struct Worker {
    stream: Stream,
    output: Vec<u8>,
    shared: Arc<Shared>,
    known: bool,
    failed: bool,
    open: Option<Open>,
    result: Option<(Answer, std::collections::VecDeque<Vec<Kg>>)>,
}

impl Worker {
    fn work(mut self, messages: &Receiver<(u8, Vec<Value>)>) {
        let mut next = messages.recv().ok();
        while let Some((tag, fields)) = next {
            if tag == GOODBYE || self.message(tag, fields).is_err() {
                break;
            }
            // To what the host said together it is answered together: it wakes once.
            next = match messages.try_recv() {
                Ok(message) => Some(message),
                Err(_) if self.flush().is_err() => break,
                Err(_) => messages.recv().ok(),
            };
        }
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn send(&mut self, tag: u8, field: Value) -> std::io::Result<()> {
        frame::write(&Value::Struct(tag, vec![field]), &mut self.output);
        if self.output.len() > SEND_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    fn message(&mut self, tag: u8, fields: Vec<Value>) -> std::io::Result<()> {
        if tag == RESET {
            self.result = None;
            self.open = None;
            self.failed = false;
            self.shared.resets.fetch_sub(1, Ordering::AcqRel);
            return self.send(SUCCESS, map([]));
        }
        if self.failed || self.shared.is_stopped() {
            self.failed = true;
            return self.send(IGNORED, map([]));
        }
        // A panic of the engine is a failure of this statement; what it held is dropped.
        let done = catch_unwind(AssertUnwindSafe(|| self.step(tag, fields)));
        match done {
            Ok(Ok(answer)) => self.send(SUCCESS, answer),
            Ok(Err(Problem::Socket(error))) => Err(error),
            Ok(Err(Problem::Failed(Failed(code, message)))) => self.fail(code, message),
            Err(_) => self.fail(
                "Neo.DatabaseError.General.UnknownError",
                "the engine panicked".to_owned(),
            ),
        }
    }

    fn fail(&mut self, code: &str, message: String) -> std::io::Result<()> {
        self.failed = true;
        self.result = None;
        self.open = None;
        self.send(
            FAILURE,
            map([("code", text(code)), ("message", text(message))]),
        )
    }

    fn step(&mut self, tag: u8, fields: Vec<Value>) -> Result<Value, Problem> {
        let mut fields = fields.into_iter();
        let mut field = || fields.next().unwrap_or(Value::Null);
        match tag {
            HELLO => {
                return Ok(map([("server", text(format!("kglite/{KGLITE}")))]));
            }
            LOGON => {
                let credentials = field();
                let secret = credentials.get("credentials").and_then(Value::as_str);
                self.known = secret == Some(self.shared.engine.order.secret.as_str());
                if self.known {
                    return Ok(map([]));
                }
            }
            _ => {}
        }
        if !self.known {
            let message = "the sign-in failed".to_owned();
            return Err(Failed("Neo.ClientError.Security.Unauthorized", message).into());
        }
        match tag {
            BEGIN => {
                self.begin(&field());
                Ok(map([]))
            }
            RUN => {
                let (statement, params, extra) = (field(), field(), field());
                let Value::String(statement) = statement else {
                    return Err(malformed().into());
                };
                self.run(&statement, params, &extra)
            }
            PULL => self.pull(&field()),
            COMMIT => self.commit().map(|()| map([])),
            ROLLBACK => {
                self.open = None;
                Ok(map([]))
            }
            _ => Err(malformed().into()),
        }
    }

    fn turn(&self) -> Result<Turn, Failed> {
        let engine = &self.shared.engine;
        let patience = Duration::from_millis(engine.order.busy_timeout_ms);
        let turn = engine.turns.take(patience, || self.shared.is_stopped());
        turn.map_err(|why| match why {
            NoTurn::Busy => Failed(
                "Neo.TransientError.Transaction.LockAcquisitionTimeout",
                "others wrote for too long".to_owned(),
            ),
            NoTurn::Stopped => stopped(),
        })
    }

    fn begin(&mut self, extra: &Value) {
        let session = &self.shared.engine.session;
        let transaction = if is_reader(extra) {
            session.begin_read()
        } else {
            session.begin()
        };
        self.open = Some(Open {
            transaction,
            used: false,
            schema: false,
            alone: false,
            turn: None,
        });
    }

    fn commit(&mut self) -> Result<(), Problem> {
        let open = self.open.take().ok_or_else(malformed)?;
        let engine = &self.shared.engine;
        match engine.session.commit(open.transaction, true) {
            CommitOutcome::NoWritesNoOp | CommitOutcome::Committed { .. } => {}
            CommitOutcome::ConflictDetected { .. } => {
                return Err(Failed(
                    "Neo.TransientError.Transaction.Outdated",
                    "another transaction was faster".to_owned(),
                )
                .into());
            }
            CommitOutcome::DurabilityFailed { error } => {
                return Err(Failed("Neo.TransientError.General.DatabaseUnavailable", error).into());
            }
            CommitOutcome::OntologyViolated { error } => return Err(Failed::from(*error).into()),
            _ => {
                let message = "the commit ended in no known way".to_owned();
                return Err(Failed("Neo.DatabaseError.General.UnknownError", message).into());
            }
        }
        self.committed(open.schema)
    }

    /// Keeps what the log does not have, and the log short.
    fn committed(&self, schema: bool) -> Result<(), Problem> {
        let engine = &self.shared.engine;
        if schema {
            engine
                .session
                .checkpoint_online()
                .map_err(|error| Failed("Neo.TransientError.General.DatabaseUnavailable", error))?;
        } else {
            engine.fold();
        }
        Ok(())
    }

    fn run(&mut self, statement: &str, params: Value, extra: &Value) -> Result<Value, Problem> {
        let Value::Map(params) = params else {
            return Err(malformed().into());
        };
        let mut named = HashMap::with_capacity(params.len());
        for (name, value) in params {
            let value = from_bolt(value).map_err(|what| {
                Failed(
                    // Of ours: Neo4j has a value for each.
                    "Neo.ClientError.Statement.ParameterUnsupported",
                    format!("the parameter {name}: {what}"),
                )
            })?;
            named.insert(name, value);
        }
        let (_, writes) = parse_with_mutation_check(statement).map_err(Failed::from)?;
        let mut options = ExecuteOptions::eager(&named).with_hidden_structural_keys(true);
        options.cancel = Some(self.shared.token());
        let timeout = extra.get("tx_timeout").and_then(Value::as_i64);
        options.set_timeout_ms(timeout.and_then(|timeout| u64::try_from(timeout).ok()));
        let engine = Arc::clone(&self.shared.engine);
        let schema = writes && changes_schema(statement);
        let denied = || {
            Failed(
                "Neo.ClientError.Statement.AccessMode",
                "it writes, and may only read".to_owned(),
            )
        };
        if writes && self.open.is_none() && !is_reader(extra) {
            self.begin(extra);
            if let Some(open) = &mut self.open {
                open.alone = true;
            }
        }
        // One that fails is rolled back.
        let outcome = if let Some(mut open) = self.open.take() {
            let outcome = if !writes {
                let graph = open.transaction.current().ok_or_else(malformed)?;
                execute_read(graph, statement, &options).map_err(Failed::from)?
            } else if open.transaction.is_read_only() {
                return Err(denied().into());
            } else {
                if open.turn.is_none() {
                    if open.used {
                        open.turn = Some(self.turn()?);
                    } else {
                        // It has seen nothing yet, and so may see what others do meanwhile. Until
                        // then it holds no graph: a commit goes into the graph itself only where
                        // nobody has the one before, and else is kept beside it, until that is
                        // so much that all is copied.
                        drop(open.transaction);
                        open.turn = Some(self.turn()?);
                        open.transaction = engine.session.begin();
                    }
                }
                open.schema |= schema;
                let graph = open.transaction.working_mut().map_err(Failed::from)?;
                execute_mut(graph, statement, &options).map_err(Failed::from)?
            };
            open.used = true;
            self.open = Some(open);
            outcome
        } else if writes {
            return Err(denied().into());
        } else {
            let graph = engine.session.snapshot();
            let cursor = execute_read_cursor(graph, statement, &options).map_err(Failed::from)?;
            let fields = names(cursor.columns());
            let rows = Rows::Read(cursor);
            self.result = Some((
                Answer { rows, stats: None },
                std::collections::VecDeque::new(),
            ));
            return Ok(fields);
        };
        let fields = names(&outcome.result.columns);
        let answer = Answer {
            rows: Rows::Made(outcome.result.rows.into_iter()),
            stats: outcome.result.stats,
        };
        self.result = Some((answer, std::collections::VecDeque::new()));
        Ok(fields)
    }

    fn pull(&mut self, extra: &Value) -> Result<Value, Problem> {
        let asked = extra.get("n").and_then(Value::as_i64).unwrap_or(-1);
        let mut left = usize::try_from(asked).unwrap_or(usize::MAX);
        let (mut answer, mut ready) = self.result.take().ok_or_else(malformed)?;
        loop {
            while left > 0 {
                let Some(row) = ready.pop_front() else { break };
                let row = row.iter().map(to_bolt).collect();
                self.send(RECORD, Value::List(row))
                    .map_err(Problem::Socket)?;
                left -= 1;
            }
            if self.shared.is_stopped() {
                return Err(stopped().into());
            }
            if !ready.is_empty() {
                self.result = Some((answer, ready));
                return Ok(map([("has_more", Value::Boolean(true))]));
            }
            ready = answer.rows.next()?.into();
            if ready.is_empty() {
                if self.open.as_ref().is_some_and(|open| open.alone) {
                    self.commit()?;
                }
                return Ok(map([("stats", counted(answer.stats.as_ref()))]));
            }
        }
    }
}

/// Why a message was not done.
enum Problem {
    Failed(Failed),
    Socket(std::io::Error),
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

fn malformed() -> Failed {
    Failed(
        "Neo.ClientError.Request.Invalid",
        "an unexpected message".to_owned(),
    )
}

fn stopped() -> Failed {
    Failed(
        "Neo.TransientError.Transaction.Terminated",
        "it was told to stop".to_owned(),
    )
}

fn is_reader(extra: &Value) -> bool {
    extra.get("mode").and_then(Value::as_str) == Some("r")
}

fn names(columns: &[String]) -> Value {
    let names = columns.iter().cloned().map(Value::String);
    map([("fields", Value::List(names.collect()))])
}

fn counted(stats: Option<&MutationStats>) -> Value {
    let Some(stats) = stats else { return map([]) };
    let count = |count: usize| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
    map([
        ("nodes-created", count(stats.nodes_created)),
        ("nodes-deleted", count(stats.nodes_deleted)),
        ("relationships-created", count(stats.relationships_created)),
        ("relationships-deleted", count(stats.relationships_deleted)),
        (
            "properties-set",
            count(stats.properties_set + stats.properties_removed),
        ),
    ])
}
