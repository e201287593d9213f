//! A main file that shows the past, as SQLite reads it.
//!
//! The name that SQLite has for it is that of the present database, and so are the names of the journal and the WAL.
//! Since the file says that it is immutable, SQLite looks for neither, takes no lock, and refuses every write.

use std::ffi::{c_int, c_void};
use std::ptr;

use bottomless_engine::{Error, ErrorKind, Past};
use libsqlite3_sys as ffi;

use crate::api::FileName;
use crate::guard::guard;
use crate::methods::{Placed, ShimFile, answer_pragma, forward, prefix_name, real_of};
use crate::pragma::Pragma;

/// What the file needs as long as it is open.
struct Opened {
    past: Past,
    /// Behind the file's own, which points to it.
    _name: FileName,
}

/// A file of this kind, in memory that SQLite gave; the file of the default VFS follows it.
#[repr(C)]
struct PastFile {
    /// First, so that SQLite can take the one for the other.
    base: ffi::sqlite3_file,
    opened: *mut Opened,
}

const _: () = assert!(size_of::<PastFile>() == ShimFile::SIZE, "the real file is found at the same place");

/// Makes a placed file, whose real file is open, one of this kind.
pub(crate) fn become_past(placed: &Placed, past: Past, name: FileName) {
    let file = placed.as_ptr().cast::<PastFile>();
    // SAFETY: the memory is ours.
    unsafe { (*file).opened = Box::into_raw(Box::new(Opened { past, _name: name })) };
    // SAFETY: as above.
    unsafe { (*file).base.pMethods = &raw const METHODS };
}

/// # Safety
/// `file` is of this kind and open.
unsafe fn past_of<'a>(file: *mut ffi::sqlite3_file) -> &'a Past {
    // SAFETY: a file of this kind begins so.
    let opened = unsafe { (*file.cast::<PastFile>()).opened };
    // SAFETY: `become_past` put it there, and only `close` takes it away.
    &unsafe { &*opened }.past
}

/// What a connection that shows the past answers to a pragma.
fn run(pragma: Pragma, past: &Past) -> bottomless_engine::Result<String> {
    match pragma {
        Pragma::Status => Ok(past.status()),
        Pragma::Flush => Err(Error::new(ErrorKind::Configuration, past.advice())),
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    guard(|| {
        let result = forward!(file.xClose(), ffi::SQLITE_OK);
        // SAFETY: a file of this kind begins so.
        let opened = unsafe { (*file.cast::<PastFile>()).opened };
        // SAFETY: `become_past` made it with a box, and SQLite closes a file once.
        drop(unsafe { Box::from_raw(opened) });
        // SAFETY: the memory is still there.
        unsafe { (*file).pMethods = ptr::null() };
        result
    })
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, length: c_int, offset: i64) -> c_int {
    forward!(file.xRead(to, length, offset), ffi::SQLITE_IOERR_READ)
}

unsafe extern "C" fn write(_: *mut ffi::sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_: *mut ffi::sqlite3_file, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    forward!(file.xFileSize(size), ffi::SQLITE_IOERR_FSTAT)
}

unsafe extern "C" fn lock_file(_: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    if level > ffi::SQLITE_LOCK_SHARED { ffi::SQLITE_READONLY } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn unlock_file(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, result: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *result = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    guard(|| {
        if operation == ffi::SQLITE_FCNTL_PRAGMA {
            // SAFETY: the file is of this kind and open.
            let past = unsafe { past_of(file) };
            // SAFETY: SQLite passes an array of strings.
            if let Some(code) = unsafe { answer_pragma(argument.cast(), |pragma| run(pragma, past)) } {
                return code;
            }
        }
        // These write.
        if matches!(operation, ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE) {
            return ffi::SQLITE_OK;
        }
        let result = forward!(file.xFileControl(operation, argument), ffi::SQLITE_NOTFOUND);
        if operation == ffi::SQLITE_FCNTL_VFSNAME && result == ffi::SQLITE_OK {
            // SAFETY: SQLite passes a place for a string, which the real file has filled.
            unsafe { prefix_name(argument.cast()) };
        }
        result
    })
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file.xSectorSize(), 4096)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file.xDeviceCharacteristics(), 0) | ffi::SQLITE_IOCAP_IMMUTABLE
}

/// Whether the real file can map pages into memory; one that can't has no room for the methods.
///
/// # Safety
/// `file` is of this kind and open.
unsafe fn maps(file: *mut ffi::sqlite3_file) -> bool {
    // SAFETY: as the caller says.
    let real = unsafe { real_of(file) }.as_ptr();
    // SAFETY: it is open.
    let methods = unsafe { (*real).pMethods };
    // SAFETY: they live as long as the VFS.
    unsafe { (*methods).iVersion >= 3 }
}

unsafe extern "C" fn fetch(file: *mut ffi::sqlite3_file, offset: i64, length: c_int, out: *mut *mut c_void) -> c_int {
    // SAFETY: SQLite passes a place for the answer, where null says that nothing is mapped.
    unsafe { *out = ptr::null_mut() };
    // SAFETY: SQLite calls our methods with our open files.
    if unsafe { maps(file) } { forward!(file.xFetch(offset, length, out), ffi::SQLITE_OK) } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn unfetch(file: *mut ffi::sqlite3_file, offset: i64, page: *mut c_void) -> c_int {
    // SAFETY: SQLite calls our methods with our open files.
    if unsafe { maps(file) } { forward!(file.xUnfetch(offset, page), ffi::SQLITE_OK) } else { ffi::SQLITE_OK }
}

/// Without shared memory, which a file without a WAL has no need of.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_file),
    xUnlock: Some(unlock_file),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};
