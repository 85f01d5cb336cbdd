//! What a plugin's statements may not do on a SQLite connection, and what stops them.
//!
//! It calls SQLite's C interface on rusqlite's raw handle; beside it only the vectors'
//! `sqlite_vec.rs` and `sqlite_bm25.rs` do so (`sqlite_memory` needs no handle). [`install`]
//! runs once per connection, after it was configured. It gives the connection a [`Watch`] that
//! lives exactly as long as the connection does (as SQLite client data, with a destructor) and
//! three callbacks that read it:
//!
//! - the authorizer, asked while a statement is prepared: an allow-list of actions
//!   ([`actions`]), so that what a later SQLite adds is denied;
//! - the progress handler, asked every [`PROGRESS_STEPS`] steps of the virtual machine:
//!   ends a statement whose caller is gone, whose time is over, or that takes too much
//!   memory;
//! - the busy handler: waits for a lock only as long as the statement may run.
//!
//! What a statement takes is what its connection's thread has taken since it began
//! ([`sqlite_memory`]), so that no statement ends by what its neighbours take.

mod actions;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::catch_unwind;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libsqlite3_sys as ffi;
use rusqlite::Connection;

use super::{Access, SqlLimits};
use crate::sqlite_memory;

/// Steps of the virtual machine between two looks at the clock: some 10 to 50 us.
const PROGRESS_STEPS: c_int = 1_000;
const CLIENT_DATA: &CStr = c"heyday-watch";
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// SQL text longer than this is refused, in bytes.
const STATEMENT_BYTES: c_int = 1 << 20;

/// Read by all connections' clocks, so that an instant fits an atomic.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now_us() -> u64 {
    u64::try_from(EPOCH.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Why a statement was ended by the progress or the busy handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its caller is gone.
    Stopped,
    /// Its time is over.
    TimedOut,
    /// It took too much memory.
    Memory,
}

/// What the callbacks of one connection read and write.
#[derive(Debug)]
pub(super) struct Watch {
    read_only: bool,
    busy_us: u64,
    busy_since_us: AtomicU64,
    memory_bytes: i64,
    /// Set where nobody waits for the statement any more; each operation has its own.
    stop: Mutex<Arc<AtomicBool>>,
    deadline_us: AtomicU64,
    memory_floor: AtomicI64,
    ended: AtomicU8,
    host: AtomicBool,
    schema_change: AtomicBool,
    /// Whether the statement has a PRAGMA, some of which act while they are prepared.
    pragma: AtomicBool,
    denied: Mutex<Option<String>>,
}

impl Watch {
    fn new(access: Access, limits: &SqlLimits) -> Self {
        Self {
            read_only: access == Access::Read,
            busy_us: limits.busy_timeout_ms.saturating_mul(1_000),
            busy_since_us: AtomicU64::new(0),
            memory_bytes: i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX),
            stop: Mutex::default(),
            deadline_us: AtomicU64::new(u64::MAX),
            memory_floor: AtomicI64::new(0),
            ended: AtomicU8::new(0),
            host: AtomicBool::new(false),
            schema_change: AtomicBool::new(false),
            pragma: AtomicBool::new(false),
            denied: Mutex::new(None),
        }
    }

    /// Begins an operation that `stop` ends, with a statement that may run for `limit`. As
    /// all that follows, on the connection's thread.
    pub(super) fn begin(&self, stop: Arc<AtomicBool>, limit: Duration) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop;
        self.take_denied();
        self.extend(limit);
    }

    /// Gives the next statement of the same operation its time; a stop stays one.
    pub(super) fn extend(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        self.deadline_us
            .store(now_us().saturating_add(limit), Ordering::Release);
        self.memory_floor
            .store(sqlite_memory::used(), Ordering::Release);
        self.ended.store(0, Ordering::Release);
    }

    /// Whether a statement may begin: the progress handler is not asked by short ones.
    pub(super) fn check(&self) -> Result<(), RawError> {
        let Some(ended) = self.verdict() else {
            return Ok(());
        };
        self.end(ended);
        Err(RawError {
            code: ffi::SQLITE_INTERRUPT,
            message: "interrupted".into(),
        })
    }

    /// Why the last statement was ended, if a handler ended it.
    pub(super) fn ended(&self) -> Option<Ended> {
        match self.ended.load(Ordering::Acquire) {
            1 => Some(Ended::Stopped),
            2 => Some(Ended::TimedOut),
            3 => Some(Ended::Memory),
            _ => None,
        }
    }

    /// What the authorizer refused last; forgotten by asking.
    pub(super) fn take_denied(&self) -> Option<String> {
        self.denied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn verdict(&self) -> Option<Ended> {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.load(Ordering::Acquire) {
            return Some(Ended::Stopped);
        }
        drop(stop);
        if now_us() >= self.deadline_us.load(Ordering::Acquire) {
            return Some(Ended::TimedOut);
        }
        let taken = sqlite_memory::used() - self.memory_floor.load(Ordering::Acquire);
        (taken > self.memory_bytes).then_some(Ended::Memory)
    }

    fn end(&self, ended: Ended) {
        let number = match ended {
            Ended::Stopped => 1,
            Ended::TimedOut => 2,
            Ended::Memory => 3,
        };
        self.ended.store(number, Ordering::Release);
    }

    /// Whether to go on with the statement.
    fn goes_on(&self) -> bool {
        let Some(ended) = self.verdict() else {
            return true;
        };
        // What the host itself runs (BEGIN, COMMIT, ROLLBACK) is never ended half-way.
        if self.host.load(Ordering::Acquire) {
            return true;
        }
        self.end(ended);
        false
    }
}

/// An error as SQLite gave it.
#[derive(Debug, Clone)]
pub(super) struct RawError {
    /// The extended result code.
    pub(super) code: c_int,
    /// SQLite's words.
    pub(super) message: String,
}

/// What is known of a statement before it runs, and is so whatever becomes of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inspection {
    /// How many parameters it takes.
    pub(super) parameters: usize,
    /// Whether it changes the schema: then SQLite's count of changed rows is the one of
    /// an earlier statement.
    pub(super) schema_change: bool,
    /// Whether it only reads: the same holds for the count.
    pub(super) read_only: bool,
    /// Whether it may be kept prepared, to be run again: neither changes the schema nor
    /// has a PRAGMA.
    pub(super) kept: bool,
}

impl From<rusqlite::Error> for RawError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(error, message) => Self {
                code: error.extended_code,
                message: message.unwrap_or_else(|| error.to_string()),
            },
            // Not from SQLite: a fault of ours.
            other => Self {
                code: ffi::SQLITE_INTERNAL,
                message: other.to_string(),
            },
        }
    }
}

/// Why a statement is not run.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// SQLite refuses it.
    Sqlite(RawError),
    /// There is none, or more than one, or its parameters are not numbered.
    Statement(&'static str),
}

/// The host's own statements.
#[derive(Debug, Clone, Copy)]
pub(super) enum Control {
    /// Takes the write lock at once, so that a transaction waits for its turn at its
    /// begin, and not with work to lose.
    BeginWrite,
    /// Takes no lock before it reads.
    BeginRead,
    Commit,
    Rollback,
    /// Marks where one call of many statements began, within a transaction.
    Savepoint,
    RollbackTo,
    Release,
}

/// Prepares a fresh connection for plugins.
pub(super) fn install(
    connection: &Connection,
    access: Access,
    limits: &SqlLimits,
) -> rusqlite::Result<Arc<Watch>> {
    let watch = Arc::new(Watch::new(access, limits));
    let db = handle(connection);
    let value_bytes = c_int::try_from(limits.result_bytes).unwrap_or(c_int::MAX);
    let data = Arc::into_raw(Arc::clone(&watch))
        .cast_mut()
        .cast::<c_void>();
    // SAFETY: `db` is an open connection that only this thread uses. `data` is a strong reference; SQLite calls `release` on it exactly once,
    // when the connection is closed (or here, when it fails), after which none of the
    // callbacks that read it is called any more.
    let codes = unsafe {
        let mut codes = vec![ffi::sqlite3_set_clientdata(
            db,
            CLIENT_DATA.as_ptr(),
            data,
            Some(release),
        )];
        if codes[0] == ffi::SQLITE_OK {
            codes.push(ffi::sqlite3_busy_handler(db, Some(busy), data));
            codes.push(ffi::sqlite3_set_authorizer(db, Some(authorize), data));
            let mut on: c_int = 0;
            for option in [
                ffi::SQLITE_DBCONFIG_DEFENSIVE,
                ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION,
                ffi::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
            ] {
                let wanted = c_int::from(option == ffi::SQLITE_DBCONFIG_DEFENSIVE);
                codes.push(ffi::sqlite3_db_config(
                    db,
                    option,
                    wanted,
                    ptr::from_mut(&mut on),
                ));
            }
            for (limit, value) in [
                (ffi::SQLITE_LIMIT_LENGTH, value_bytes.max(STATEMENT_BYTES)),
                (ffi::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES),
                (ffi::SQLITE_LIMIT_ATTACHED, 0),
                (ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
                (ffi::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
                (ffi::SQLITE_LIMIT_WORKER_THREADS, 0),
            ] {
                ffi::sqlite3_limit(db, limit, value);
            }
        }
        codes
    };
    if let Some(code) = codes.into_iter().find(|code| *code != ffi::SQLITE_OK) {
        return Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(code),
            Some("the connection could not be guarded".into()),
        ));
    }
    let asked = Arc::clone(&watch);
    connection.progress_handler(PROGRESS_STEPS, Some(move || !asked.goes_on()))?;
    Ok(watch)
}

/// SQLite's own pointer to a connection.
fn handle(connection: &Connection) -> *mut ffi::sqlite3 {
    // SAFETY: it is used only while the connection is borrowed, and never closed.
    unsafe { connection.handle() }
}

/// Prepares a statement and forgets it again: says what it is, or why it is refused.
pub(super) fn inspect(
    connection: &Connection,
    watch: &Watch,
    sql: &str,
) -> Result<Inspection, Refusal> {
    if sql.contains('\0') {
        return Err(Refusal::Statement("a statement holds no NUL character"));
    }
    watch.take_denied();
    watch.schema_change.store(false, Ordering::Release);
    watch.pragma.store(false, Ordering::Release);
    let db = handle(connection);
    let (statement, rest) = prepare(db, sql).map_err(Refusal::Sqlite)?;
    let Some(statement) = statement else {
        return Err(Refusal::Statement("there is no statement in this text"));
    };
    let schema_change = watch.schema_change.load(Ordering::Acquire);
    let pragma = watch.pragma.load(Ordering::Acquire);
    if !rest.trim().is_empty() {
        // A comment or a semicolon may follow; anything else is a second statement,
        // also where it cannot be parsed.
        match prepare(db, rest) {
            Ok((None, _)) => {}
            Ok((Some(_), _)) | Err(_) => {
                return Err(Refusal::Statement(
                    "one call runs one statement: there is text after the first one",
                ));
            }
        }
    }
    // SAFETY: `statement` is a live prepared statement; the texts that SQLite answers
    // are NUL-terminated and valid until it is finalized, and are copied at once.
    unsafe {
        let raw = statement.0;
        let parameters = ffi::sqlite3_bind_parameter_count(raw);
        let mut named = 0;
        for index in 1..=parameters {
            let name = ffi::sqlite3_bind_parameter_name(raw, index);
            if name.is_null() {
                continue;
            }
            if !text(name).starts_with('?') {
                return Err(Refusal::Statement(
                    "write parameters as ?1, ?2, ... (names are not supported)",
                ));
            }
            named += 1;
        }
        if named != 0 && named != parameters {
            return Err(Refusal::Statement(
                "number all parameters, without gaps: ?1, ?2, ...",
            ));
        }
        Ok(Inspection {
            parameters: usize::try_from(parameters).unwrap_or_default(),
            schema_change,
            read_only: ffi::sqlite3_stmt_readonly(raw) != 0,
            kept: !schema_change && !pragma,
        })
    }
}

/// Runs one of the host's own statements.
pub(super) fn control(
    connection: &Connection,
    watch: &Watch,
    control: Control,
) -> Result<(), RawError> {
    let sql = match control {
        Control::BeginWrite => c"BEGIN IMMEDIATE",
        Control::BeginRead => c"BEGIN",
        Control::Commit => c"COMMIT",
        Control::Rollback => c"ROLLBACK",
        Control::Savepoint => c"SAVEPOINT heyday",
        Control::RollbackTo => c"ROLLBACK TO heyday",
        Control::Release => c"RELEASE heyday",
    };
    let db = handle(connection);
    watch.host.store(true, Ordering::Release);
    // SAFETY: `db` is open and this thread's; the text is NUL-terminated.
    let code =
        unsafe { ffi::sqlite3_exec(db, sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut()) };
    watch.host.store(false, Ordering::Release);
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(last_error(db))
    }
}

/// A prepared statement, finalized when dropped.
struct Statement(*mut ffi::sqlite3_stmt);

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: made by `prepare` and finalized only here.
        unsafe {
            ffi::sqlite3_finalize(self.0);
        }
    }
}

/// The first statement of a text, if there is one, and what follows it.
fn prepare(db: *mut ffi::sqlite3, sql: &str) -> Result<(Option<Statement>, &str), RawError> {
    let Ok(length) = c_int::try_from(sql.len()) else {
        return Err(RawError {
            code: ffi::SQLITE_TOOBIG,
            message: "the statement is too long".into(),
        });
    };
    let mut raw = ptr::null_mut();
    let mut tail = ptr::null();
    let begin = sql.as_ptr().cast::<c_char>();
    // SAFETY: `sql` is `length` bytes long; both out-pointers are valid; SQLite sets
    // the tail to a place within the text.
    let (code, used) = unsafe {
        let code = ffi::sqlite3_prepare_v2(db, begin, length, &raw mut raw, &raw mut tail);
        let used = if tail.is_null() {
            sql.len()
        } else {
            usize::try_from(tail.offset_from(begin)).unwrap_or(sql.len())
        };
        (code, used)
    };
    let statement = (!raw.is_null()).then_some(Statement(raw));
    if code != ffi::SQLITE_OK {
        return Err(last_error(db));
    }
    Ok((statement, sql.get(used..).unwrap_or("")))
}

/// What went wrong with the last call on a connection.
fn last_error(db: *mut ffi::sqlite3) -> RawError {
    // SAFETY: the connection is open and used by this thread alone; the message is
    // valid until its next use and copied at once.
    unsafe {
        RawError {
            code: ffi::sqlite3_extended_errcode(db),
            message: text(ffi::sqlite3_errmsg(db)),
        }
    }
}

/// # Safety
/// Null, or NUL-terminated and valid during the call.
unsafe fn text(raw: *const c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(raw) }
        .to_string_lossy()
        .into_owned()
}

unsafe extern "C" fn release(data: *mut c_void) {
    // SAFETY: the strong reference that `install` gave to SQLite.
    drop(unsafe { Arc::from_raw(data.cast::<Watch>().cast_const()) });
}

unsafe extern "C" fn busy(data: *mut c_void, tries: c_int) -> c_int {
    // SAFETY: SQLite passes the data that `install` registered, which lives while the
    // connection does.
    let watch = unsafe { &*data.cast::<Watch>() };
    let outcome = catch_unwind(|| watch.waits_for_lock(tries == 0));
    c_int::from(outcome.unwrap_or(false))
}

impl Watch {
    /// Pauses, and says whether to try for the lock again.
    fn waits_for_lock(&self, first: bool) -> bool {
        if first {
            self.busy_since_us.store(now_us(), Ordering::Release);
        }
        if let Some(ended) = self.verdict() {
            self.end(ended);
            return false;
        }
        if now_us().saturating_sub(self.busy_since_us.load(Ordering::Acquire)) >= self.busy_us {
            return false;
        }
        std::thread::sleep(BUSY_PAUSE);
        true
    }
}

unsafe extern "C" fn authorize(
    data: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    // SAFETY: as in `busy`; the texts are null or NUL-terminated and outlive the call.
    let outcome = catch_unwind(|| unsafe {
        let watch = &*data.cast::<Watch>();
        watch.authorize(action, &text(first), &text(second))
    });
    outcome.unwrap_or(ffi::SQLITE_DENY)
}

#[cfg(test)]
#[path = "sqlite_guard_tests.rs"]
mod tests;
