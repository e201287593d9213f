//! The functions of the SQLite that loaded us, from the table that it passes to an extension.
//!
//! `libsqlite3-sys` has wrappers for them, which refuse a host that is older than the bindings; the few functions that
//! the shim needs have been there since 3.32.0, so it takes them from the table itself.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libsqlite3_sys as ffi;

/// The oldest SQLite with all that the shim needs (`sqlite3_database_file_object`).
pub(crate) const OLDEST: c_int = 3_032_000;

static API: AtomicPtr<ffi::sqlite3_api_routines> = AtomicPtr::new(ptr::null_mut());

/// A function of the table; it is there in every version from [`OLDEST`] on.
macro_rules! call {
    ($field:ident ( $($argument:expr),* )) => {{
        // SAFETY: `install` stored a table that lives as long as the host's SQLite, and nobody writes to it.
        let function = unsafe { (*API.load(Ordering::Acquire)).$field };
        // SAFETY: the signature is that of the field; the caller of the wrapper answers for the arguments.
        function.map(|function| unsafe { function($($argument),*) })
    }};
}

/// Keeps the table of the host.
///
/// # Safety
/// `api` is the table that SQLite passed to the entry point.
pub(crate) unsafe fn install(api: *mut ffi::sqlite3_api_routines) -> Result<(), String> {
    match API.compare_exchange(ptr::null_mut(), api, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(before) if before == api => Ok(()),
        // The VFS that is registered calls the functions of the first.
        Err(_) => {
            Err("bottomless is loaded already by another copy of SQLite in this process, and can serve one".into())
        }
    }
}

/// The host's version, such as 3040001.
pub(crate) fn version() -> c_int {
    call!(libversion_number()).unwrap_or_default()
}

/// Whether other threads than the program's may use this SQLite's functions and VFS.
pub(crate) fn serves_threads() -> bool {
    if call!(xthreadsafe()).unwrap_or_default() == 0 {
        return false;
    }
    // A program that has asked for one thread only (`SQLITE_CONFIG_SINGLETHREAD`) has mutexes that are none, and all the
    // same one.
    let allocate = || call!(mutex_alloc(ffi::SQLITE_MUTEX_FAST)).unwrap_or(ptr::null_mut());
    let mutexes = [allocate(), allocate()];
    let differ = mutexes[0] != mutexes[1];
    for mutex in mutexes.into_iter().filter(|mutex| differ && !mutex.is_null()) {
        call!(mutex_free(mutex));
    }
    differ && mutexes.into_iter().all(|mutex| !mutex.is_null())
}

/// # Safety
/// `name` is null or a string.
pub(crate) unsafe fn vfs_find(name: *const c_char) -> *mut ffi::sqlite3_vfs {
    call!(vfs_find(name)).unwrap_or(ptr::null_mut())
}

/// # Safety
/// `vfs` lives as long as the process.
pub(crate) unsafe fn vfs_register(vfs: *mut ffi::sqlite3_vfs, default: bool) -> c_int {
    call!(vfs_register(vfs, c_int::from(default))).unwrap_or(ffi::SQLITE_ERROR)
}

/// # Safety
/// `name` is a file name that SQLite passed to `xOpen`.
pub(crate) unsafe fn uri_parameter(name: *const c_char, key: &str) -> Option<String> {
    let key = CString::new(key).ok()?;
    let value = call!(uri_parameter(name, key.as_ptr())).unwrap_or(ptr::null());
    if value.is_null() {
        return None;
    }
    // SAFETY: SQLite returns a string within `name`, which lives as long as the file.
    Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
}

/// The names of all URI parameters.
///
/// # Safety
/// As [`uri_parameter`].
pub(crate) unsafe fn uri_keys(name: *const c_char) -> Vec<String> {
    let mut keys = Vec::new();
    for index in 0.. {
        let key = call!(uri_key(name, index)).unwrap_or(ptr::null());
        if key.is_null() {
            break;
        }
        // SAFETY: as in `uri_parameter`.
        keys.push(unsafe { CStr::from_ptr(key) }.to_string_lossy().into_owned());
    }
    keys
}

/// The main file that belongs to a journal or WAL name.
///
/// # Safety
/// `name` is a journal or WAL name that SQLite passed to `xOpen`.
pub(crate) unsafe fn database_file_object(name: *const c_char) -> *mut ffi::sqlite3_file {
    call!(database_file_object(name)).unwrap_or(ptr::null_mut())
}

/// A file name as SQLite passes it to `xOpen`, without URI parameters.
#[derive(Debug)]
pub(crate) struct FileName(*const c_char);

// SAFETY: nobody writes to it.
unsafe impl Send for FileName {}
// SAFETY: as above.
unsafe impl Sync for FileName {}

impl FileName {
    /// None where there is no memory left, and for a path that holds a zero.
    pub(crate) fn new(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let none = c"".as_ptr();
        let name = call!(create_filename(path.as_ptr(), none, none, 0, ptr::null_mut()))?;
        if name.is_null() { None } else { Some(Self(name)) }
    }

    /// Valid as long as this value.
    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.0
    }
}

impl Drop for FileName {
    fn drop(&mut self) {
        call!(free_filename(self.0));
    }
}

/// Writes to SQLite's error log.
pub(crate) fn log(code: c_int, message: &str) {
    let Ok(message) = CString::new(message.replace('\0', " ")) else {
        return;
    };
    call!(log(code, c"%s".as_ptr(), message.as_ptr()));
}

/// A string in memory of SQLite's, which SQLite frees; null when there is none left.
pub(crate) fn allocate_text(text: &str) -> *mut c_char {
    let bytes = text.as_bytes();
    let memory = call!(malloc64(bytes.len() as u64 + 1)).unwrap_or(ptr::null_mut()).cast::<u8>();
    if memory.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the memory has room for the text and the zero behind it.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len()) };
    // SAFETY: as above.
    let end = unsafe { memory.add(bytes.len()) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    memory.cast()
}

/// # Safety
/// `memory` is null or comes from SQLite's allocator, and nobody uses it any more.
pub(crate) unsafe fn free(memory: *mut c_char) {
    call!(free(memory.cast::<c_void>()));
}

/// A connection of the host's SQLite to a database, past the extension.
#[derive(Debug)]
pub(crate) struct PlainConnection(*mut ffi::sqlite3);

impl PlainConnection {
    /// Opens an existing database with the VFS of this name.
    pub(crate) fn open(path: &CStr, vfs: &CStr, busy_timeout_ms: c_int) -> Result<Self, (c_int, String)> {
        // A private cache: the shared one would wait for a mutex that our caller holds.
        let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_PRIVATECACHE;
        let mut db = ptr::null_mut();
        let code = call!(open_v2(path.as_ptr(), &raw mut db, flags, vfs.as_ptr())).unwrap_or(ffi::SQLITE_ERROR);
        let connection = Self(db);
        if code != ffi::SQLITE_OK {
            return Err(connection.error(code));
        }
        call!(busy_timeout(db, busy_timeout_ms));
        Ok(connection)
    }

    /// Runs statements whose rows do not matter.
    pub(crate) fn execute(&self, sql: &CStr) -> Result<(), (c_int, String)> {
        let null = ptr::null_mut();
        let code = call!(exec(self.0, sql.as_ptr(), None, null, ptr::null_mut())).unwrap_or(ffi::SQLITE_ERROR);
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code)) }
    }

    /// The main file of the connection; valid as long as it is open.
    pub(crate) fn file(&self) -> *mut ffi::sqlite3_file {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let main = c"main".as_ptr();
        call!(file_control(self.0, main, ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast::<c_void>()));
        file
    }

    fn error(&self, code: c_int) -> (c_int, String) {
        let message = call!(errmsg(self.0)).unwrap_or(ptr::null());
        if message.is_null() {
            return (code, format!("SQLite error {code}"));
        }
        // SAFETY: SQLite returns a string that lives until the next call on this connection.
        (code, unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned())
    }
}

impl Drop for PlainConnection {
    fn drop(&mut self) {
        call!(close(self.0));
    }
}
