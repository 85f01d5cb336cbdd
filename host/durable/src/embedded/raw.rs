//! The writer's statements, on SQLite's own handle: the one unsafe module of the engine.
//!
//! sqlx runs each statement by a message to the connection's thread and back. Inserting
//! one row of 200 bytes took 144 microseconds that way and 7 this way, side by side, and
//! the writer's whole work is such statements. sqlx therefore opens the connection (path,
//! pragmas, VFS), and gives its handle, which is closed with the connection, after the
//! last statement that is kept here. sqlx's own thread uses the handle only where it is
//! asked to, and nobody asks.

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libsqlite3_sys as ffi;
use sqlx::SqliteConnection;

use super::statements::Statements;

/// What SQLite answered instead of success.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct SqlError {
    /// SQLite's extended result code.
    pub code: c_int,
    /// Its message.
    pub message: String,
}

impl SqlError {
    /// Whether the storage is at fault (full, failing, locked), so that the same
    /// statements may succeed later. Otherwise it is the statement or its data.
    pub fn is_storage(&self) -> bool {
        matches!(
            self.code & 0xff,
            ffi::SQLITE_FULL
                | ffi::SQLITE_IOERR
                | ffi::SQLITE_NOMEM
                | ffi::SQLITE_BUSY
                | ffi::SQLITE_LOCKED
                | ffi::SQLITE_CANTOPEN
                | ffi::SQLITE_READONLY
                | ffi::SQLITE_PROTOCOL
                | ffi::SQLITE_CORRUPT
                | ffi::SQLITE_NOTADB
                | ffi::SQLITE_INTERRUPT
                | ffi::SQLITE_ABORT
        )
    }

    /// What to tell a person to do about it.
    pub fn advice(&self) -> &'static str {
        match self.code & 0xff {
            ffi::SQLITE_FULL => "the disk is full; free some space and try again",
            ffi::SQLITE_READONLY => "the database is read-only; check its permissions",
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => {
                "the database is damaged; restore it from a backup"
            }
            _ => "the storage failed; check the disk and try again",
        }
    }
}

/// A value of a parameter.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// A connection with all of its statements, which one thread after another may use.
pub struct Prepared {
    /// The statements.
    pub statements: Statements,
    /// The connection.
    pub connection: Connection,
}

// SAFETY: SQLite lets one thread after another use a connection with its statements, in
// every threading mode. All that there are of this one are here, and go together: neither
// they nor the connection are `Send` alone.
unsafe impl Send for Prepared {}

impl Prepared {
    /// Takes a connection's handle and prepares the statements. Blocking.
    pub fn new(mut connection: SqliteConnection) -> Result<Self, SqlError> {
        let locked = futures::executor::block_on(connection.lock_handle());
        let handle = locked
            .map_err(|error| SqlError {
                code: ffi::SQLITE_CANTOPEN,
                message: error.to_string(),
            })?
            .as_raw_handle();
        let opening = Opening(Connection {
            handle,
            open: Arc::new(connection),
        });
        Ok(Self {
            statements: Statements::prepare(&opening)?,
            connection: opening.0,
        })
    }
}

/// A connection whose statements are being prepared: later there are no more.
pub struct Opening(Connection);

/// A connection, by its handle.
pub struct Connection {
    handle: NonNull<ffi::sqlite3>,
    /// Closes the handle when nobody has it any more.
    open: Arc<SqliteConnection>,
}

fn error(handle: NonNull<ffi::sqlite3>, code: c_int) -> SqlError {
    // SAFETY: the handle is open while a connection or a statement has it; `errmsg`
    // answers a NUL-terminated text that is valid until the next call on the handle, and
    // is copied before one.
    let message = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(handle.as_ptr())) };
    SqlError {
        code,
        message: message.to_string_lossy().into_owned(),
    }
}

impl Connection {
    fn error(&self, code: c_int) -> SqlError {
        error(self.handle, code)
    }

    /// Runs one statement without parameters; its rows are ignored.
    pub fn execute(&self, sql: &CStr) -> Result<(), SqlError> {
        // SAFETY: the handle is open; `sql` is NUL-terminated; no callback is given.
        let code = unsafe {
            ffi::sqlite3_exec(
                self.handle.as_ptr(),
                sql.as_ptr(),
                None,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(self.error(code))
        }
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_get_autocommit(self.handle.as_ptr()) == 0 }
    }

    /// Makes the write-ahead log at least this long, with zeros: a sync of a file that
    /// grew also writes the file system's journal, and takes about twice as long.
    ///
    /// SQLite reads the log only as far as it wrote it, and after a crash as far as the
    /// frames carry the log's salt, which zeros do not; so what is added is never read.
    /// Needs the write lock, and a statement that ran on this connection before.
    pub fn grow_log(&self, bytes: i64) -> Result<(), SqlError> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: the handle is open; this control writes one pointer.
        let code = unsafe {
            ffi::sqlite3_file_control(
                self.handle.as_ptr(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_JOURNAL_POINTER,
                (&raw mut file).cast(),
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(self.error(code));
        }
        let failed = |code| SqlError {
            code,
            message: "the write-ahead log cannot grow".to_owned(),
        };
        // SAFETY: the pointer is null or the log's file, which lives as long as the
        // connection; its methods are null while it is not open.
        let methods = unsafe { file.as_ref().and_then(|file| file.pMethods.as_ref()) };
        let Some(methods) = methods else {
            return Err(failed(ffi::SQLITE_CANTOPEN));
        };
        let (Some(size), Some(write), Some(sync)) =
            (methods.xFileSize, methods.xWrite, methods.xSync)
        else {
            return Err(failed(ffi::SQLITE_IOERR));
        };
        let zeros = [0_u8; 64 << 10];
        let mut end = 0;
        // SAFETY: the file is open, and nobody else writes it: the caller has the lock.
        let mut code = unsafe { size(file, &raw mut end) };
        while code == ffi::SQLITE_OK && end < bytes {
            // SAFETY: as above; the buffer is as long as is said.
            code = unsafe { write(file, zeros.as_ptr().cast(), zeros.len() as c_int, end) };
            end += zeros.len() as i64;
        }
        if code == ffi::SQLITE_OK {
            // SAFETY: as above.
            code = unsafe { sync(file, ffi::SQLITE_SYNC_NORMAL) };
        }
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(failed(code))
        }
    }
}

impl Opening {
    /// Prepares a statement that is kept.
    pub fn prepare(&self, sql: &str) -> Result<Statement, SqlError> {
        let text = CString::new(sql).map_err(|_| SqlError {
            code: ffi::SQLITE_MISUSE,
            message: "a statement with a NUL".to_owned(),
        })?;
        let mut statement = ptr::null_mut();
        // SAFETY: the handle is open; `text` is NUL-terminated and outlives the call;
        // `statement` is written before it is read.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                self.0.handle.as_ptr(),
                text.as_ptr(),
                -1,
                ffi::SQLITE_PREPARE_PERSISTENT as _,
                &raw mut statement,
                ptr::null_mut(),
            )
        };
        match NonNull::new(statement) {
            Some(statement) if code == ffi::SQLITE_OK => Ok(Statement {
                statement,
                handle: self.0.handle,
                _open: Arc::clone(&self.0.open),
            }),
            _ => Err(self.0.error(code)),
        }
    }
}

/// A prepared statement.
pub struct Statement {
    statement: NonNull<ffi::sqlite3_stmt>,
    handle: NonNull<ffi::sqlite3>,
    _open: Arc<SqliteConnection>,
}

impl Statement {
    /// Runs it to its end.
    pub fn run(&mut self, values: &[Value<'_>]) -> Result<(), SqlError> {
        self.query(values, |_| ()).map(|_| ())
    }

    /// Runs it and reads its first row, if there is one.
    pub fn query<T>(
        &mut self,
        values: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> T,
    ) -> Result<Option<T>, SqlError> {
        let result = self.bind(values).and_then(|()| {
            // SAFETY: the statement is prepared and its parameters are bound to memory
            // that `values` keeps alive until the reset below.
            match unsafe { ffi::sqlite3_step(self.statement.as_ptr()) } {
                ffi::SQLITE_ROW => Ok(Some(read(&Row { statement: self }))),
                ffi::SQLITE_DONE => Ok(None),
                code => Err(error(self.handle, code)),
            }
        });
        // SAFETY: the statement is prepared. After these nothing points to `values`.
        unsafe {
            ffi::sqlite3_reset(self.statement.as_ptr());
            ffi::sqlite3_clear_bindings(self.statement.as_ptr());
        }
        result
    }

    fn bind(&self, values: &[Value<'_>]) -> Result<(), SqlError> {
        let statement = self.statement.as_ptr();
        for (index, value) in (1..).zip(values) {
            // SAFETY: the statement is prepared and not running; pointers and lengths
            // are those of living slices, which SQLite does not copy (no destructor)
            // and which outlive the step, after which the bindings are cleared.
            let code = unsafe {
                match value {
                    Value::Null => ffi::sqlite3_bind_null(statement, index),
                    Value::Integer(integer) => ffi::sqlite3_bind_int64(statement, index, *integer),
                    Value::Real(number) => ffi::sqlite3_bind_double(statement, index, *number),
                    Value::Text(text) => ffi::sqlite3_bind_text64(
                        statement,
                        index,
                        text.as_ptr().cast(),
                        text.len() as u64,
                        ffi::SQLITE_STATIC(),
                        ffi::SQLITE_UTF8 as _,
                    ),
                    Value::Blob(bytes) => ffi::sqlite3_bind_blob64(
                        statement,
                        index,
                        bytes.as_ptr().cast(),
                        bytes.len() as u64,
                        ffi::SQLITE_STATIC(),
                    ),
                }
            };
            if code != ffi::SQLITE_OK {
                return Err(error(self.handle, code));
            }
        }
        Ok(())
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: prepared once, finalized once, before its connection is closed.
        unsafe {
            ffi::sqlite3_finalize(self.statement.as_ptr());
        }
    }
}

/// The row a statement stands on.
pub struct Row<'s> {
    statement: &'s Statement,
}

impl Row<'_> {
    /// An integer column; 0 where it is NULL.
    pub fn integer(&self, column: c_int) -> i64 {
        // SAFETY: the statement stands on a row; a column that does not exist reads as 0.
        unsafe { ffi::sqlite3_column_int64(self.statement.statement.as_ptr(), column) }
    }

    /// A column's bytes; empty where it is NULL.
    pub fn blob(&self, column: c_int) -> Vec<u8> {
        let statement = self.statement.statement.as_ptr();
        // SAFETY: the statement stands on a row; the pointer is valid for that many
        // bytes until the next call on the statement, and copied before one.
        unsafe {
            let data = ffi::sqlite3_column_blob(statement, column).cast::<u8>();
            let length = ffi::sqlite3_column_bytes(statement, column);
            match (NonNull::new(data.cast_mut()), usize::try_from(length)) {
                (Some(data), Ok(length)) => {
                    std::slice::from_raw_parts(data.as_ptr(), length).to_vec()
                }
                _ => Vec::new(),
            }
        }
    }
}
