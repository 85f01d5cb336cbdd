//! Gives a connection the distance functions of sqlite-vec, which is linked with the one
//! SQLite of this process. Only these connections have them, not those of `sql` bindings.

use std::ffi::{c_char, c_int};
use std::ptr;

use libsqlite3_sys as ffi;
use sqlx::sqlite::LockedSqliteHandle;

/// As SQLite calls the entry point of an extension.
type EntryPoint = unsafe extern "C" fn(
    *mut ffi::sqlite3,
    *mut *mut c_char,
    *const ffi::sqlite3_api_routines,
) -> c_int;

/// Registers the functions on a fresh connection.
pub(super) fn install(locked: &mut LockedSqliteHandle<'_>) -> Result<(), sqlx::Error> {
    // SAFETY: the crate declares the entry point without its parameters; this is the
    // signature of its C source, as of every extension of SQLite.
    let entry = unsafe {
        std::mem::transmute::<*const (), EntryPoint>(sqlite_vec::sqlite3_vec_init as *const ())
    };
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: the connection is open and locked, so that its worker does not use it; the
    // extension was compiled into this process and takes no table of routines then.
    let code = unsafe {
        entry(
            locked.as_raw_handle().as_ptr(),
            &raw mut message,
            ptr::null(),
        )
    };
    // SAFETY: null, or what SQLite's allocator gave.
    unsafe { ffi::sqlite3_free(message.cast()) };
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    Err(sqlx::Error::Protocol(format!(
        "sqlite-vec could not be registered: {code}"
    )))
}
