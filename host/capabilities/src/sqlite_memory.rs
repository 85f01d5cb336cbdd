//! What each thread has taken of SQLite's memory.
//!
//! SQLite itself counts for the whole process only (`sqlite3_memory_used`), and of one
//! connection it knows its caches and not what a statement sorts, joins or makes of texts. By
//! the process's count one plugin's statement that takes much would end the statements of all
//! others. So its allocator is wrapped, and each thread counts what it takes and gives back: a
//! connection of `sqlite_threads` lives on a thread of its own, which alone works for it.
//!
//! Pages of caches are the exception: all connections share one list of those that nobody
//! uses, and a thread may give back what another one took. So a thread's count is wrong by as
//! much as the caches have, 2 MB for each connection; limits are far above that.
//!
//! SQLite takes another allocator only before its first use in a process. Where it was used
//! before [`count`], the process's count is all that there is.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{LazyLock, OnceLock};

use libsqlite3_sys as ffi;

/// SQLite's own allocator, which does the work.
struct Methods {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

static METHODS: OnceLock<Methods> = OnceLock::new();
static COUNTED: LazyLock<bool> = LazyLock::new(install);

thread_local! {
    static TAKEN: Cell<i64> = const { Cell::new(0) };
}

/// Lets threads count from now on; answers whether they do. Everything here that opens a
/// database calls it before; a program that opens some by itself calls it at its start.
pub fn count() -> bool {
    *COUNTED
}

/// Bytes of SQLite's that this thread has; of the whole process where threads do not count.
pub(crate) fn used() -> i64 {
    if count() {
        return TAKEN.with(Cell::get);
    }
    // SAFETY: reads a counter of the library; needs no connection.
    unsafe { ffi::sqlite3_memory_used() }
}

fn install() -> bool {
    let mut own = ffi::sqlite3_mem_methods {
        xMalloc: None,
        xFree: None,
        xRealloc: None,
        xSize: None,
        xRoundup: None,
        xInit: None,
        xShutdown: None,
        pAppData: ptr::null_mut(),
    };
    // SAFETY: the option takes a pointer to such a struct and fills it. Another thread that
    // begins to use SQLite now gets its own allocator or ours, whose memory is the same.
    let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut own) };
    let (ffi::SQLITE_OK, Some(own_malloc), Some(own_free), Some(own_realloc), Some(size)) =
        (code, own.xMalloc, own.xFree, own.xRealloc, own.xSize)
    else {
        return false;
    };
    // It is set here alone, once.
    let _ = METHODS.set(Methods {
        malloc: own_malloc,
        free: own_free,
        realloc: own_realloc,
        size,
    });
    let mut ours = ffi::sqlite3_mem_methods {
        xMalloc: Some(malloc),
        xFree: Some(free),
        xRealloc: Some(realloc),
        ..own
    };
    // SAFETY: the option takes a pointer to such a struct, which is copied; what it points to
    // lives as long as the process. Ours do as SQLite's own, and count.
    let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut ours) };
    code == ffi::SQLITE_OK
}

/// Counts what this thread took, or gave back.
fn add(bytes: i64) {
    // A thread that is just ending may have no counter any more, and no statement.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + bytes));
}

/// # Safety
/// The memory is this allocator's, or null.
unsafe fn size_of(methods: &Methods, memory: *mut c_void) -> i64 {
    if memory.is_null() {
        return 0;
    }
    // SAFETY: as the caller promises.
    i64::from(unsafe { (methods.size)(memory) })
}

unsafe extern "C" fn malloc(bytes: c_int) -> *mut c_void {
    let Some(methods) = METHODS.get() else {
        return ptr::null_mut();
    };
    // SAFETY: passes on what SQLite asks for, and asks about what it got.
    unsafe {
        let memory = (methods.malloc)(bytes);
        add(size_of(methods, memory));
        memory
    }
}

unsafe extern "C" fn free(memory: *mut c_void) {
    let Some(methods) = METHODS.get() else {
        return;
    };
    // SAFETY: SQLite gives back what it got here, and does not use it any more.
    unsafe {
        add(-size_of(methods, memory));
        (methods.free)(memory);
    }
}

unsafe extern "C" fn realloc(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(methods) = METHODS.get() else {
        return ptr::null_mut();
    };
    // SAFETY: as in `free`; where there is no more memory, the old is still there.
    unsafe {
        let before = size_of(methods, memory);
        let moved = (methods.realloc)(memory, bytes);
        if !moved.is_null() {
            add(size_of(methods, moved) - before);
        }
        moved
    }
}
