//! [`Disk`] as a VFS of SQLite: the calls of C, translated and nothing else.
//!
//! [`mount`] registers a VFS under a name of its own, for the power that is on: after a
//! loss it refuses everything, also to connections that a pool of the dead engine opens
//! only then, and the disk is mounted again under another name. A VFS is never taken
//! away, since connections may point to it to the end; a mount leaks some bytes.
//!
//! No method holds the disk's lock while it calls back, and none panics: a panic would
//! have to unwind through C.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use libsqlite3_sys as ffi;

use super::disk::{Disk, DiskError, Handle, Power};
use super::locks::{Busy, Level, Region};
use super::settle::SECTOR;

/// What a VFS's `pAppData` points to.
struct Mounted {
    disk: Disk,
    power: Power,
}

/// An open file, as SQLite allocates it (`szOsFile` bytes).
#[repr(C)]
struct File {
    /// SQLite's part; it must be the first.
    base: ffi::sqlite3_file,
    /// From `Box::into_raw` in `open` until `close` takes it back.
    state: *mut Open,
}

struct Open {
    disk: Disk,
    handle: Handle,
    /// Keeps memory that SQLite has pointers to, also after a loss.
    regions: Vec<Region>,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Registers the disk, as long as its power stays on, and answers the VFS's name.
pub fn mount(disk: &Disk) -> String {
    static MOUNTS: AtomicU64 = AtomicU64::new(0);
    let name = format!("power-loss-{}", MOUNTS.fetch_add(1, Ordering::Relaxed));
    let c_name = CString::new(name.clone()).expect("no NUL is in it");
    let mounted = Box::new(Mounted {
        disk: disk.clone(),
        power: disk.power(),
    });
    // SAFETY: SQLite initializes itself here, and answers its default VFS, which lives
    // as long as the process.
    let default = unsafe { ffi::sqlite3_vfs_find(ptr::null()).as_ref() };
    // Loading, randomness and time are those of the default VFS; its functions for them
    // do not look at the VFS they are called with.
    let vfs = Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: size_of::<File>() as c_int,
        pNext: ptr::null_mut(),
        zName: c_name.into_raw(),
        pAppData: Box::into_raw(mounted).cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        ..*default.expect("SQLite has a default VFS")
    });
    // SAFETY: the structure and all it points to are leaked, and thus stay valid.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(vfs), 0) };
    assert_eq!(code, ffi::SQLITE_OK, "the VFS cannot be registered");
    name
}

/// SQLite's code for what the disk answered; `code` where the power has failed.
fn code(result: Result<(), DiskError>, code: c_int) -> c_int {
    match result {
        Ok(()) => ffi::SQLITE_OK,
        Err(DiskError::Full) => ffi::SQLITE_FULL,
        Err(DiskError::Dead | DiskError::NotFound) => code,
    }
}

/// A lock's answer.
fn lock_code(result: Result<Result<(), Busy>, DiskError>, dead: c_int) -> c_int {
    match result {
        Ok(Ok(())) => ffi::SQLITE_OK,
        Ok(Err(Busy)) => ffi::SQLITE_BUSY,
        Err(_) => dead,
    }
}

/// # Safety
/// `vfs` is one that [`mount`] registered.
unsafe fn mounted<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Mounted {
    // SAFETY: `pAppData` was set to a leaked `Mounted`, of which only `&` are made.
    unsafe { &*(*vfs).pAppData.cast::<Mounted>() }
}

/// # Safety
/// `file` was opened by [`open`] and not closed; SQLite uses a file in one thread at a
/// time.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Open {
    // SAFETY: `open` left a `File` there whose state is a living box.
    unsafe { &mut *(*file.cast::<File>()).state }
}

/// The last part of a path, where there is one.
///
/// # Safety
/// `path` is null, or NUL-terminated and valid for as long as the answer is used.
unsafe fn file_name<'a>(path: *const c_char) -> Option<std::borrow::Cow<'a, str>> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as promised.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    Some(String::from_utf8_lossy(name))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    const SYNC_DIRECTORY: c_int =
        ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    // SAFETY: SQLite gives room for `szOsFile` bytes, a path or null, and a place for
    // the flags or null. Without methods it does not close the file after an error.
    unsafe {
        (*file).pMethods = ptr::null();
        let Mounted { disk, power } = mounted(vfs);
        let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
        let handle = match disk.open(
            *power,
            file_name(path).as_deref(),
            create,
            create && flags & SYNC_DIRECTORY != 0,
            flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
        ) {
            Ok(handle) => handle,
            Err(DiskError::Dead) => return ffi::SQLITE_IOERR,
            Err(DiskError::NotFound | DiskError::Full) => return ffi::SQLITE_CANTOPEN,
        };
        let state = Open {
            disk: disk.clone(),
            handle,
            regions: Vec::new(),
        };
        file.cast::<File>().write(File {
            base: ffi::sqlite3_file {
                pMethods: &raw const METHODS,
            },
            state: Box::into_raw(Box::new(state)),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(
    vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: SQLite gives a VFS of ours and a path.
    let (Mounted { disk, power }, name) = unsafe { (mounted(vfs), file_name(path)) };
    let name = name.unwrap_or_default();
    match disk.delete(*power, &name, sync_directory != 0) {
        Err(DiskError::NotFound) => ffi::SQLITE_IOERR_DELETE_NOENT,
        result => code(result, ffi::SQLITE_IOERR_DELETE),
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    flags: c_int,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives a VFS of ours, a path and a place for the answer.
    unsafe {
        let Mounted { disk, power } = mounted(vfs);
        let Ok(size) = disk.size_of(*power, &file_name(path).unwrap_or_default()) else {
            return ffi::SQLITE_IOERR_ACCESS;
        };
        // To SQLite's own VFS, too, an empty file does not exist.
        let least = usize::from(flags == ffi::SQLITE_ACCESS_EXISTS);
        *answer = c_int::from(size.is_some_and(|size| size >= least));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite gives a path, and a buffer of that size.
    unsafe {
        let name = file_name(path).unwrap_or_default();
        if name.len() >= usize::try_from(size).unwrap_or(0) {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(name.as_ptr(), out.cast(), name.len());
        *out.add(name.len()) = 0;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes once, and does not use the file afterwards.
    let open = unsafe { Box::from_raw((*file.cast::<File>()).state) };
    open.disk.close(&open.handle);
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), usize::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: the buffer has `amount` bytes; they may be uninitialized, so they are set
    // before a slice of them is made.
    let (open, buffer) = unsafe {
        let buffer = buffer.cast::<MaybeUninit<u8>>();
        buffer.write_bytes(0, amount);
        (
            opened(file),
            std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount),
        )
    };
    match open.disk.read(&open.handle, offset, buffer) {
        Ok(length) if length == amount => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), usize::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: the buffer has `amount` bytes.
    let (open, bytes) = unsafe {
        (
            opened(file),
            std::slice::from_raw_parts(buffer.cast::<u8>(), amount),
        )
    };
    code(
        open.disk.write(&open.handle, offset, bytes),
        ffi::SQLITE_IOERR_WRITE,
    )
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let size = usize::try_from(size).unwrap_or(0);
    code(
        open.disk.truncate(&open.handle, size),
        ffi::SQLITE_IOERR_TRUNCATE,
    )
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    code(open.disk.sync(&mut open.handle), ffi::SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: the file is open, and there is a place for the answer.
    unsafe {
        let open = opened(file);
        match open.disk.size(&open.handle) {
            Ok(bytes) => {
                *size = bytes as i64;
                ffi::SQLITE_OK
            }
            Err(_) => ffi::SQLITE_IOERR_FSTAT,
        }
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let level = Level::from_number(level);
    let result = open
        .disk
        .with(&open.handle, |id, locks, _| locks.lock(id, level));
    lock_code(result, ffi::SQLITE_IOERR_LOCK)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let level = Level::from_number(level);
    // A lock of before a loss is gone, and so is given back.
    let _ = open
        .disk
        .with(&open.handle, |id, locks, _| locks.unlock(id, level));
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(
    file: *mut ffi::sqlite3_file,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: the file is open, and there is a place for the answer.
    unsafe {
        let open = opened(file);
        match open.disk.with(&open.handle, |_, locks, _| locks.reserved()) {
            Ok(reserved) => {
                *answer = c_int::from(reserved);
                ffi::SQLITE_OK
            }
            Err(_) => ffi::SQLITE_IOERR_CHECKRESERVEDLOCK,
        }
    }
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR as c_int
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    index: c_int,
    size: c_int,
    extend: c_int,
    answer: *mut *mut c_void,
) -> c_int {
    // SAFETY: the file is open, and there is a place for the answer.
    unsafe {
        *answer = ptr::null_mut();
        let (Ok(index), Ok(size)) = (usize::try_from(index), usize::try_from(size)) else {
            return ffi::SQLITE_IOERR_SHMMAP;
        };
        let open = opened(file);
        let Ok(region) = open.disk.with(&open.handle, |id, _, memory| {
            memory.map(id, index, size, extend != 0)
        }) else {
            return ffi::SQLITE_IOERR_SHMMAP;
        };
        if let Some(region) = region {
            *answer = region.as_ptr().cast_mut().cast();
            open.regions.push(region);
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { opened(file) };
    let (first, count) = (first.unsigned_abs(), count.unsigned_abs());
    let result = open.disk.with(&open.handle, |id, _, memory| {
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            memory.unlock(id, first, count);
            Ok(())
        } else {
            memory.lock(id, first, count, flags & ffi::SQLITE_SHM_EXCLUSIVE != 0)
        }
    });
    lock_code(result, ffi::SQLITE_IOERR_SHMLOCK)
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open. SQLite uses no pointer to a region after this.
    let open = unsafe { opened(file) };
    let _ = open
        .disk
        .with(&open.handle, |id, _, memory| memory.unmap(id));
    open.regions.clear();
    ffi::SQLITE_OK
}
