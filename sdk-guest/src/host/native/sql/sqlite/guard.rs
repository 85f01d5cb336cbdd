//! A connection that allows what the host's connections allow, and says what fails in the
//! words of `heyday:sql`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, Statement, ffi};

use super::{
    CapabilityError, Column, RESULT_BYTES, Result, Value, closed, conflict, passing, value,
};

/// How long a statement may run, as of a binding that says nothing else.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
const STATEMENT_BYTES: i32 = 1 << 20;
/// Steps of SQLite's machine between two looks at the clock.
const PROGRESS_STEPS: i32 = 1_000;

/// What the callbacks of a connection read and write.
pub(super) struct Watch {
    /// Nobody waits for the statement any more.
    stopped: AtomicBool,
    deadline: Mutex<Instant>,
    /// The statement is one of the stand-in's own.
    own: AtomicBool,
    schema_change: AtomicBool,
    denied: Mutex<Option<String>>,
}

impl Watch {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Gives the statement its time.
    pub(super) fn extend(&self) {
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        *deadline = Instant::now() + STATEMENT_TIMEOUT;
    }

    fn is_over(&self) -> bool {
        let deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.load(Ordering::Acquire) || Instant::now() >= *deadline
    }

    fn denied(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authorize(&self, action: AuthAction<'_>) -> Authorization {
        if self.own.load(Ordering::Acquire) {
            return Authorization::Allow;
        }
        let refused = match action {
            AuthAction::Select
            | AuthAction::Read { .. }
            | AuthAction::Recursive
            | AuthAction::Insert { .. }
            | AuthAction::Update { .. }
            | AuthAction::Delete { .. } => return Authorization::Allow,
            AuthAction::Function { function_name } => {
                let name = function_name.to_ascii_lowercase();
                if !matches!(name.as_str(), "load_extension" | "fts3_tokenizer") {
                    return Authorization::Allow;
                }
                format!("the function {name}")
            }
            AuthAction::Pragma {
                pragma_name,
                pragma_value,
            } => {
                let name = pragma_name.to_ascii_lowercase();
                if is_pragma(&name, pragma_value.is_some_and(|value| !value.is_empty())) {
                    return Authorization::Allow;
                }
                format!("PRAGMA {name}")
            }
            AuthAction::CreateVtable { module_name, .. } => {
                let module = module_name.to_ascii_lowercase();
                if matches!(
                    module.as_str(),
                    "fts5" | "fts5vocab" | "rtree" | "rtree_i32"
                ) {
                    return self.changes_schema();
                }
                format!("virtual tables of {module} (fts5, fts5vocab and rtree are allowed)")
            }
            AuthAction::CreateIndex { .. }
            | AuthAction::CreateTable { .. }
            | AuthAction::CreateTrigger { .. }
            | AuthAction::CreateView { .. }
            | AuthAction::DropIndex { .. }
            | AuthAction::DropTable { .. }
            | AuthAction::DropTrigger { .. }
            | AuthAction::DropView { .. }
            | AuthAction::DropVtable { .. }
            | AuthAction::AlterTable { .. }
            | AuthAction::Reindex { .. }
            | AuthAction::Analyze { .. } => return self.changes_schema(),
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
                "BEGIN, COMMIT, ROLLBACK and SAVEPOINT as statements (use `begin`)".to_owned()
            }
            AuthAction::Attach { .. } => "ATTACH and VACUUM".to_owned(),
            AuthAction::Detach { .. } => "DETACH".to_owned(),
            AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. }
            | AuthAction::DropTempIndex { .. }
            | AuthAction::DropTempTable { .. }
            | AuthAction::DropTempTrigger { .. }
            | AuthAction::DropTempView { .. } => "temporary objects".to_owned(),
            _ => "this action".to_owned(),
        };
        *self.denied() = Some(refused);
        Authorization::Deny
    }

    fn changes_schema(&self) -> Authorization {
        self.schema_change.store(true, Ordering::Release);
        Authorization::Allow
    }

    /// What SQLite's refusal is in the words of `heyday:sql`.
    fn error(&self, error: rusqlite::Error) -> CapabilityError {
        let (code, message) = match error {
            rusqlite::Error::SqliteFailure(error, message) => {
                let message = message.unwrap_or_else(|| error.to_string());
                (error.extended_code, message)
            }
            rusqlite::Error::SqlInputError { error, msg, .. } => (error.extended_code, msg),
            rusqlite::Error::MultipleStatement => {
                let message = "one call runs one statement: there is text after the first one";
                (ffi::SQLITE_ERROR, message.to_owned())
            }
            other => (ffi::SQLITE_INTERNAL, other.to_string()),
        };
        let class = code & 0xff;
        let denied = self.denied().take();
        if matches!(class, ffi::SQLITE_AUTH | ffi::SQLITE_READONLY)
            || (class == ffi::SQLITE_ERROR && denied.is_some())
        {
            let what = denied.unwrap_or_else(|| "what this statement does".to_owned());
            let message = format!("not allowed for plugins: {what}");
            return CapabilityError::new("capability-denied", message);
        }
        match class {
            ffi::SQLITE_CONSTRAINT => constraint(code, message),
            ffi::SQLITE_INTERRUPT => passing(
                "timeout",
                "the statement ran past the binding's limit on time",
            ),
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_SCHEMA => conflict(),
            ffi::SQLITE_TOOBIG | ffi::SQLITE_NOMEM => CapabilityError::new(
                "limit-exceeded",
                format!("a value or the statement is too large: {message}"),
            ),
            ffi::SQLITE_MISMATCH | ffi::SQLITE_RANGE => {
                CapabilityError::new("invalid-parameter", message)
            }
            ffi::SQLITE_ERROR => CapabilityError::new("invalid-statement", message),
            _ => CapabilityError::new("internal", format!("SQLite {code}: {message}")),
        }
    }
}

/// Whether plugins may say this PRAGMA.
fn is_pragma(name: &str, has_argument: bool) -> bool {
    match name {
        "table_info" | "table_xinfo" | "table_list" | "index_list" | "index_info"
        | "index_xinfo" | "foreign_key_list" | "foreign_key_check" | "integrity_check"
        | "quick_check" | "user_version" | "application_id" | "defer_foreign_keys" => true,
        "data_version" | "page_count" | "page_size" | "freelist_count" | "encoding"
        | "foreign_keys" | "collation_list" | "function_list" | "schema_version"
        | "compile_options" => !has_argument,
        _ => false,
    }
}

fn constraint(code: i32, message: String) -> CapabilityError {
    let kind = match code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_ROWID => "unique",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "primary-key",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "foreign-key",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "not-null",
        ffi::SQLITE_CONSTRAINT_CHECK => "check",
        _ => "other",
    };
    let mut details = serde_json::json!({ "kind": kind });
    // "UNIQUE constraint failed: users.email"
    if let Some((_, name)) = message.split_once(": ") {
        details["constraint"] = name.into();
    }
    CapabilityError {
        details: Some(details),
        ..CapabilityError::new("constraint", message)
    }
}

/// One connection, to a database in memory of its own.
pub(super) struct Guarded {
    connection: Connection,
    watch: Arc<Watch>,
}

impl Guarded {
    pub(super) fn open() -> Result<Self> {
        Self::new(|_| Ok(()))
    }

    /// A database with what this one has, which is in no transaction.
    pub(super) fn copy(&self) -> Result<Self> {
        Self::new(|connection| {
            let backup = Backup::new(&self.connection, connection)?;
            match backup.step(-1)? {
                StepResult::Done => Ok(()),
                other => Err(rusqlite::Error::SqliteFailure(
                    ffi::Error::new(ffi::SQLITE_BUSY),
                    Some(format!("{other:?}")),
                )),
            }
        })
    }

    fn new(fill: impl FnOnce(&mut Connection) -> rusqlite::Result<()>) -> Result<Self> {
        let watch = Arc::new(Watch {
            stopped: AtomicBool::new(false),
            deadline: Mutex::new(Instant::now() + STATEMENT_TIMEOUT),
            own: AtomicBool::new(false),
            schema_change: AtomicBool::new(false),
            denied: Mutex::new(None),
        });
        let connection = open(&watch, fill).map_err(|error| watch.error(error))?;
        Ok(Self { connection, watch })
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    pub(super) fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    fn error(&self, error: rusqlite::Error) -> CapabilityError {
        self.watch.error(error)
    }

    /// Runs one of the stand-in's own statements.
    pub(super) fn control(&self, statement: &str) -> Result<()> {
        self.watch.extend();
        self.watch.own.store(true, Ordering::Release);
        let ran = self.connection.execute_batch(statement);
        self.watch.own.store(false, Ordering::Release);
        ran.map_err(|error| self.error(error))
    }

    /// A statement that was looked at, which takes so many parameters.
    fn ready(&self, sql: &str, given: usize) -> Result<Statement<'_>> {
        let invalid = |why| Err(CapabilityError::new("invalid-statement", why));
        if sql.contains('\0') {
            return invalid("a statement holds no NUL character");
        }
        self.watch.extend();
        self.watch.denied().take();
        self.watch.schema_change.store(false, Ordering::Release);
        let prepared = self.connection.prepare(sql);
        let statement = prepared.map_err(|error| self.error(error))?;
        if statement.expanded_sql().is_none() {
            return invalid("there is no statement in this text");
        }
        let taken = statement.parameter_count();
        let names = (1..=taken).filter_map(|index| statement.parameter_name(index));
        let names: Vec<&str> = names.collect();
        if !names.iter().all(|name| name.starts_with('?')) {
            return invalid("write parameters as ?1, ?2, ... (names are not supported)");
        }
        if !names.is_empty() && names.len() != taken {
            return invalid("number all parameters, without gaps: ?1, ?2, ...");
        }
        if taken != given {
            return Err(CapabilityError::new(
                "invalid-parameter",
                format!("the statement takes {taken} parameters and was given {given}"),
            ));
        }
        Ok(statement)
    }

    /// Whether a statement only reads, and its columns.
    pub(super) fn look(&self, sql: &str, given: usize) -> Result<(bool, Vec<Column>)> {
        let statement = self.ready(sql, given)?;
        Ok((statement.readonly(), value::columns(&statement)))
    }

    /// Runs a statement and hands over each row, as long as more are wanted; answers the
    /// columns.
    pub(super) fn each_row(
        &self,
        sql: &str,
        params: &[Value],
        mut each: impl FnMut(Vec<Value>) -> Result<bool>,
    ) -> Result<Vec<Column>> {
        let failed = |error| self.error(error);
        let mut statement = self.ready(sql, params.len())?;
        value::bind(&mut statement, params).map_err(failed)?;
        let columns = value::columns(&statement);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            if !each(value::row(row, &columns).map_err(failed)?)? {
                break;
            }
        }
        Ok(columns)
    }

    /// Runs a statement and answers how many rows it changed.
    pub(super) fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        self.each_of(sql, std::slice::from_ref(&params))
    }

    /// Runs a statement once per list of parameters, within a transaction: all or nothing.
    pub(super) fn each(&self, sql: &str, lists: &[Vec<Value>]) -> Result<u64> {
        self.control("SAVEPOINT heyday")?;
        let changed = self.each_of(sql, lists);
        // Where SQLite ended the transaction by itself there is nothing to undo.
        if !self.in_transaction() {
            return changed.and_then(|_| Err(closed()));
        }
        if changed.is_err() {
            self.control("ROLLBACK TO heyday")?;
        }
        self.control("RELEASE heyday")?;
        changed
    }

    fn each_of<L: AsRef<[Value]>>(&self, sql: &str, lists: &[L]) -> Result<u64> {
        let failed = |error| self.error(error);
        let mut changed = 0;
        let Some(first) = lists.first() else {
            return Ok(0);
        };
        let mut statement = self.ready(sql, first.as_ref().len())?;
        // SQLite counts the rows of the last statement that changed any, which is an earlier
        // one where this one changes none by its nature.
        let counted = !statement.readonly() && !self.watch.schema_change.load(Ordering::Acquire);
        for params in lists {
            let params = params.as_ref();
            let taken = statement.parameter_count();
            if params.len() != taken {
                return Err(CapabilityError::new(
                    "invalid-parameter",
                    format!(
                        "the statement takes {taken} parameters and was given {}",
                        params.len()
                    ),
                ));
            }
            self.watch.extend();
            value::bind(&mut statement, params).map_err(failed)?;
            let mut rows = statement.raw_query();
            while rows.next().map_err(failed)?.is_some() {}
            drop(rows);
            if counted {
                changed += self.connection.changes();
            }
        }
        Ok(changed)
    }
}

fn open(
    watch: &Arc<Watch>,
    fill: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    fill(&mut connection)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    let value_bytes = i32::try_from(RESULT_BYTES).unwrap_or(i32::MAX);
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, value_bytes),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    ] {
        connection.set_limit(limit, value)?;
    }
    let asked = Arc::clone(watch);
    connection.progress_handler(PROGRESS_STEPS, Some(move || asked.is_over()))?;
    let asked = Arc::clone(watch);
    let authorize = move |context: AuthContext<'_>| asked.authorize(context.action);
    connection.authorizer(Some(authorize))?;
    Ok(connection)
}
