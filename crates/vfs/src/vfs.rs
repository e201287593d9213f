//! The methods of the VFS. Only opening and deleting are ours; the rest is the default VFS's.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use bottomless_engine::config::Config;
use bottomless_engine::{AsOf, Database, LONG_LOG, Past, Untouched};
use bottomless_points::{Point, reach};
use libsqlite3_sys as ffi;

use crate::api::FileName;
use crate::connection::Connection;
use crate::guard::{guard, guard_or};
use crate::host::SqliteHost;
use crate::methods::{self, ShimFile};
use crate::params::NameAndEnvironment;
use crate::read_main::ReadMain;
use crate::{api, past_file, report};

/// The name under which programs ask for it.
const NAME: &CStr = c"bottomless";

/// Registers the VFS, unless it is registered.
pub(crate) fn register(default: bool) -> Result<(), String> {
    // SAFETY: the name is a string.
    let found = unsafe { api::vfs_find(NAME.as_ptr()) };
    if !found.is_null() {
        if default {
            // SAFETY: a registered VFS lives as long as the process.
            unsafe { api::vfs_register(found, true) };
        }
        return Ok(());
    }
    // SAFETY: null asks for the default VFS.
    let real = unsafe { api::vfs_find(ptr::null()) };
    if real.is_null() {
        return Err("this SQLite has no default VFS".to_owned());
    }
    // SAFETY: a registered VFS stays at its place.
    let real_vfs = unsafe { &*real };
    let size = ShimFile::SIZE + usize::try_from(real_vfs.szOsFile).unwrap_or_default();
    let mut vfs = *real_vfs;
    vfs.zName = NAME.as_ptr();
    vfs.pNext = ptr::null_mut();
    vfs.pAppData = real.cast::<c_void>();
    vfs.szOsFile = c_int::try_from(size).map_err(|e| e.to_string())?;
    vfs.xOpen = Some(open);
    vfs.xDelete = Some(delete);
    vfs.xAccess = Some(access);
    vfs.xFullPathname = Some(full_pathname);
    vfs.xDlOpen = real_vfs.xDlOpen.map(|_| dl_open as _);
    vfs.xDlError = real_vfs.xDlError.map(|_| dl_error as _);
    vfs.xDlSym = real_vfs.xDlSym.map(|_| dl_sym as _);
    vfs.xDlClose = real_vfs.xDlClose.map(|_| dl_close as _);
    vfs.xRandomness = Some(randomness);
    vfs.xSleep = Some(sleep);
    vfs.xCurrentTime = real_vfs.xCurrentTime.map(|_| current_time as _);
    vfs.xGetLastError = real_vfs.xGetLastError.map(|_| get_last_error as _);
    vfs.xCurrentTimeInt64 = real_vfs.xCurrentTimeInt64.map(|_| current_time_int64 as _);
    vfs.xSetSystemCall = real_vfs.xSetSystemCall.map(|_| set_system_call as _);
    vfs.xGetSystemCall = real_vfs.xGetSystemCall.map(|_| get_system_call as _);
    vfs.xNextSystemCall = real_vfs.xNextSystemCall.map(|_| next_system_call as _);
    // SAFETY: leaked, so that it lives as long as the process.
    match unsafe { api::vfs_register(Box::into_raw(Box::new(vfs)), default) } {
        ffi::SQLITE_OK => Ok(()),
        code => Err(format!("the VFS could not be registered (SQLite error {code})")),
    }
}

/// The VFS below ours.
///
/// # Safety
/// `vfs` is ours.
unsafe fn real_of(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: `register` put it there.
    unsafe { (*vfs).pAppData }.cast()
}

/// Forwards a method to the VFS below; `$otherwise` where it has none.
macro_rules! forward {
    ($vfs:ident . $method:ident ( $($argument:expr),* ), $otherwise:expr) => {{
        // SAFETY: SQLite calls our method with our VFS.
        let real = unsafe { real_of($vfs) };
        // SAFETY: a registered VFS lives as long as the process.
        let method = unsafe { (*real).$method };
        match method {
            // SAFETY: the arguments are SQLite's own.
            Some(method) => unsafe { method(real, $($argument),*) },
            None => $otherwise,
        }
    }};
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SQLite calls xClose only when pMethods is set, so that nothing is to be closed after a failure.
    // SAFETY: SQLite gives memory for a file.
    unsafe { (*file).pMethods = ptr::null() };
    guard(|| {
        if !name.is_null() && flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            // SAFETY: the arguments are SQLite's own, and the name is not null.
            return unsafe { open_main(vfs, name, file, flags, out_flags) };
        }
        if !name.is_null() && flags & ffi::SQLITE_OPEN_WAL != 0 {
            // SAFETY: the name is that of a WAL.
            let main = unsafe { api::database_file_object(name) };
            // SAFETY: SQLite returns the open main file of the same connection, which may be another VFS's.
            if let Some(connection) = unsafe { methods::connection_of(main) } {
                // SAFETY: the memory has the size that `register` asked for.
                let shim = unsafe { ShimFile::place(file) };
                let code = forward!(vfs.xOpen(name, shim.real_ptr(), flags, out_flags), ffi::SQLITE_CANTOPEN);
                if code == ffi::SQLITE_OK {
                    shim.become_wal(connection);
                }
                return code;
            }
        }
        forward!(vfs.xOpen(name, file, flags, out_flags), ffi::SQLITE_CANTOPEN)
    })
}

/// Opens a main file: first the database comes together with the bucket, then SQLite gets the file.
///
/// # Safety
/// The arguments are those of `xOpen`, and the name is not null.
unsafe fn open_main(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: a name is a string.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    // SAFETY: the name is a main file's, and this value does not outlive the call.
    let source = unsafe { NameAndEnvironment::new(name) };
    // Before all else, so that nobody who asks for the past is given the present.
    match AsOf::read(&source, path) {
        Ok(None) => {}
        Ok(Some(as_of)) => {
            source.warn_of_unknown();
            let opened = Config::read(&source, path).and_then(|config| Past::open(path, config, as_of));
            // SAFETY: as the caller says.
            return unsafe { open_past(vfs, opened, file, flags, out_flags) };
        }
        Err(error) => return report::open_failed(&error),
    }
    if source.is_immutable() {
        return forward!(vfs.xOpen(name, file, flags, out_flags), ffi::SQLITE_CANTOPEN);
    }
    source.warn_of_unknown();
    // SAFETY: `vfs` is ours.
    let real_vfs = unsafe { real_of(vfs) };
    // SAFETY: it is the VFS below ours.
    let host = unsafe { SqliteHost::new(path, real_vfs) };
    let opened = Config::read(&source, path).and_then(|config| Database::open(path, config, &host));
    let database = match opened {
        Ok(database) => database,
        Err(error) => return report::open_failed(&error),
    };
    // SAFETY: the memory has the size that `register` asked for.
    let shim = unsafe { ShimFile::place(file) };
    let code = forward!(vfs.xOpen(name, shim.real_ptr(), flags, out_flags), ffi::SQLITE_CANTOPEN);
    if code == ffi::SQLITE_OK {
        // SQLite falls back to reading where it may not write, and says so.
        // SAFETY: SQLite gives a place for the flags, or null.
        let opened = if out_flags.is_null() { flags } else { unsafe { *out_flags } };
        if (flags | opened) & ffi::SQLITE_OPEN_READONLY == 0 {
            // SAFETY: it is the VFS below ours.
            let main = unsafe { ReadMain::new(path, real_vfs) };
            database.compact_in_background(LONG_LOG, main.map(|main| Arc::new(main) as _));
        }
        let real = shim.real();
        shim.become_main(Connection::new(database, real, host.impatient()));
    }
    code
}

/// Opens a main file that shows the past: the file that holds it, whatever SQLite thinks of its name.
///
/// # Safety
/// The arguments are those of `xOpen`.
unsafe fn open_past(
    vfs: *mut ffi::sqlite3_vfs,
    opened: bottomless_engine::Result<Past>,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let past = match opened {
        Ok(past) => past,
        Err(error) => return report::open_failed(&error),
    };
    let Some(name) = FileName::new(past.file()) else {
        return ffi::SQLITE_NOMEM;
    };
    report::opened_past(&past);
    // The name has no parameters, and nothing is to be made.
    let not_ours =
        ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE | ffi::SQLITE_OPEN_EXCLUSIVE | ffi::SQLITE_OPEN_URI;
    let flags = (flags & !not_ours) | ffi::SQLITE_OPEN_READONLY;
    // SAFETY: the memory has the size that `register` asked for.
    let shim = unsafe { ShimFile::place(file) };
    let code = forward!(vfs.xOpen(name.as_ptr(), shim.real_ptr(), flags, out_flags), ffi::SQLITE_CANTOPEN);
    if code == ffi::SQLITE_OK {
        past_file::become_past(&shim, past, name);
    }
    code
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a string.
        let wal = OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes());
        // The last connection removes a WAL that it has copied into the main file: no change of the database.
        let main = wal.as_bytes().strip_suffix(b"-wal").map(OsStr::from_bytes);
        let Some(database) = main.and_then(|main| Database::find(Path::new(main))) else {
            reach(Point::JournalDeleting);
            let code = forward!(vfs.xDelete(name, sync_dir), ffi::SQLITE_IOERR_DELETE);
            reach(Point::JournalDeleted);
            return code;
        };
        let untouched = database.begin_change().unwrap_or(Untouched::UNKNOWN);
        reach(Point::WalDeleting);
        let code = forward!(vfs.xDelete(name, sync_dir), ffi::SQLITE_IOERR_DELETE);
        reach(Point::WalDeleted);
        database.end_change(untouched);
        if code == ffi::SQLITE_OK {
            database.note_no_wal(untouched);
        }
        code
    })
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    forward!(vfs.xAccess(name, flags, result), ffi::SQLITE_IOERR_ACCESS)
}

unsafe extern "C" fn full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    forward!(vfs.xFullPathname(name, length, out), ffi::SQLITE_CANTOPEN)
}

unsafe extern "C" fn dl_open(vfs: *mut ffi::sqlite3_vfs, name: *const c_char) -> *mut c_void {
    forward!(vfs.xDlOpen(name), ptr::null_mut())
}

unsafe extern "C" fn dl_error(vfs: *mut ffi::sqlite3_vfs, length: c_int, out: *mut c_char) {
    forward!(vfs.xDlError(length, out), ());
}

/// The type of a symbol, as `sqlite3_vfs` declares it.
type Symbol = Option<unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *mut c_void, *const c_char)>;

unsafe extern "C" fn dl_sym(vfs: *mut ffi::sqlite3_vfs, handle: *mut c_void, symbol: *const c_char) -> Symbol {
    forward!(vfs.xDlSym(handle, symbol), None)
}

unsafe extern "C" fn dl_close(vfs: *mut ffi::sqlite3_vfs, handle: *mut c_void) {
    forward!(vfs.xDlClose(handle), ());
}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, length: c_int, out: *mut c_char) -> c_int {
    forward!(vfs.xRandomness(length, out), 0)
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    forward!(vfs.xSleep(microseconds), 0)
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    forward!(vfs.xCurrentTime(out), ffi::SQLITE_ERROR)
}

unsafe extern "C" fn get_last_error(vfs: *mut ffi::sqlite3_vfs, length: c_int, out: *mut c_char) -> c_int {
    guard_or(0, || forward!(vfs.xGetLastError(length, out), 0))
}

unsafe extern "C" fn current_time_int64(vfs: *mut ffi::sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    forward!(vfs.xCurrentTimeInt64(out), ffi::SQLITE_ERROR)
}

unsafe extern "C" fn set_system_call(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    call: ffi::sqlite3_syscall_ptr,
) -> c_int {
    forward!(vfs.xSetSystemCall(name, call), ffi::SQLITE_NOTFOUND)
}

unsafe extern "C" fn get_system_call(vfs: *mut ffi::sqlite3_vfs, name: *const c_char) -> ffi::sqlite3_syscall_ptr {
    forward!(vfs.xGetSystemCall(name), None)
}

unsafe extern "C" fn next_system_call(vfs: *mut ffi::sqlite3_vfs, name: *const c_char) -> *const c_char {
    forward!(vfs.xNextSystemCall(name), ptr::null())
}
