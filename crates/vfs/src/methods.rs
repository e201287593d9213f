//! The methods of our files, as SQLite calls them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::api;
use crate::connection::{self, Connection};
use crate::guard::guard;
use crate::pragma::{self, Answer, Pragma};
use crate::real::RealFile;

/// A connection as its files share it.
pub(crate) type Shared = Arc<Mutex<Connection>>;

/// What a file of ours is.
#[derive(Debug)]
enum Role {
    Main(Shared),
    Wal(Shared),
}

impl Role {
    fn shared(&self) -> &Shared {
        match self {
            Self::Main(shared) | Self::Wal(shared) => shared,
        }
    }
}

/// A file of ours, in memory that SQLite gave; the file of the default VFS follows it.
#[repr(C)]
pub(crate) struct ShimFile {
    /// First, so that SQLite can take the one for the other.
    base: ffi::sqlite3_file,
    role: *mut Role,
}

/// A file of ours in its memory, with no role yet.
pub(crate) struct Placed(*mut ShimFile);

impl ShimFile {
    /// Bytes before the file of the default VFS, which needs the alignment of a pointer.
    pub(crate) const SIZE: usize = size_of::<Self>();

    /// Lays a file out.
    ///
    /// # Safety
    /// `file` has room for it and for a file of the default VFS, and nothing in it is used.
    pub(crate) unsafe fn place(file: *mut ffi::sqlite3_file) -> Placed {
        let shim = file.cast::<Self>();
        // SAFETY: there is room, and SQLite aligns to 8 bytes, as pointers want it.
        unsafe { (*shim).base.pMethods = ptr::null() };
        // SAFETY: as above.
        unsafe { (*shim).role = ptr::null_mut() };
        let placed = Placed(shim);
        // A VFS whose xOpen fails may leave it as it was.
        // SAFETY: there is room for the real file behind ours.
        unsafe { (*placed.real_ptr()).pMethods = ptr::null() };
        placed
    }
}

impl Placed {
    pub(crate) fn real_ptr(&self) -> *mut ffi::sqlite3_file {
        // SAFETY: the memory goes on behind our part.
        unsafe { self.0.cast::<u8>().add(ShimFile::SIZE) }.cast()
    }

    pub(crate) fn real(&self) -> RealFile {
        // SAFETY: it is open, since its xOpen succeeded, and stays so until our xClose.
        unsafe { RealFile::new(self.real_ptr()) }
    }

    pub(crate) fn become_main(&self, connection: Connection) {
        self.set(Role::Main(Arc::new(Mutex::new(connection))));
    }

    /// The memory, for a file of another kind.
    pub(crate) fn as_ptr(&self) -> *mut ffi::sqlite3_file {
        self.0.cast()
    }

    pub(crate) fn become_wal(&self, connection: Shared) {
        lock(&connection).wal_opened();
        self.set(Role::Wal(connection));
    }

    fn set(&self, role: Role) {
        // SAFETY: the real file is open.
        let real_methods = unsafe { (*self.real_ptr()).pMethods };
        // SAFETY: its methods live as long as the process.
        let version = unsafe { (*real_methods).iVersion };
        let methods: &'static ffi::sqlite3_io_methods = match version {
            1 => &METHODS_1,
            2 => &METHODS_2,
            _ => &METHODS_3,
        };
        // SAFETY: the memory is ours.
        unsafe { (*self.0).role = Box::into_raw(Box::new(role)) };
        // SAFETY: as above.
        unsafe { (*self.0).base.pMethods = methods };
    }
}

/// The connection of a main file, if the file is ours.
///
/// # Safety
/// `file` is null or open.
pub(crate) unsafe fn connection_of(file: *mut ffi::sqlite3_file) -> Option<Shared> {
    if file.is_null() {
        return None;
    }
    // SAFETY: it is open.
    let methods = unsafe { (*file).pMethods };
    let ours = [&raw const METHODS_1, &raw const METHODS_2, &raw const METHODS_3].contains(&methods);
    // SAFETY: a file with our methods is ours.
    ours.then(|| unsafe { role_of(file) }.shared().clone())
}

/// # Safety
/// `file` is ours and open.
unsafe fn role_of<'a>(file: *mut ffi::sqlite3_file) -> &'a Role {
    // SAFETY: a file of ours begins so.
    let role = unsafe { (*file.cast::<ShimFile>()).role };
    // SAFETY: `Placed::set` put it there, and only `close` takes it away.
    unsafe { &*role }
}

/// # Safety
/// `file` was placed by us and is open.
pub(crate) unsafe fn real_of(file: *mut ffi::sqlite3_file) -> RealFile {
    // SAFETY: the real file follows ours.
    let real = unsafe { file.cast::<u8>().add(ShimFile::SIZE) };
    // SAFETY: it is open as long as ours is.
    unsafe { RealFile::new(real.cast()) }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Connection> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code(result: Result<(), c_int>) -> c_int {
    result.err().unwrap_or(ffi::SQLITE_OK)
}

/// Forwards a method to the real file.
macro_rules! forward {
    ($file:ident . $method:ident ( $($argument:expr),* ), $otherwise:expr) => {{
        // SAFETY: SQLite calls our methods with our open files.
        let real = unsafe { real_of($file) }.as_ptr();
        // SAFETY: it is open.
        let method = unsafe { (*(*real).pMethods).$method };
        match method {
            // SAFETY: the arguments are SQLite's own.
            Some(method) => unsafe { method(real, $($argument),*) },
            None => $otherwise,
        }
    }};
}
pub(crate) use forward;

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    guard(|| {
        // SAFETY: the file is ours and open.
        if let Role::Main(shared) = unsafe { role_of(file) } {
            lock(shared).close();
        }
        let result = forward!(file.xClose(), ffi::SQLITE_OK);
        // After the real file, so that the local state is closed last.
        // SAFETY: a file of ours begins so.
        let role = unsafe { (*file.cast::<ShimFile>()).role };
        // SAFETY: `Placed::set` made it with a box, and SQLite closes a file once.
        drop(unsafe { Box::from_raw(role) });
        // SAFETY: the memory is still there.
        unsafe { (*file).pMethods = ptr::null() };
        result
    })
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, length: c_int, offset: i64) -> c_int {
    let result = forward!(file.xRead(to, length, offset), ffi::SQLITE_IOERR_READ);
    if (length, offset) != connection::VERSION_CHECK || result != ffi::SQLITE_OK {
        return result;
    }
    guard(|| {
        // SAFETY: the file is ours and open.
        if let Role::Main(shared) = unsafe { role_of(file) } {
            // SAFETY: SQLite has room for that many bytes, and they are read.
            let bytes =
                unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), usize::try_from(length).unwrap_or_default()) };
            lock(shared).checked_version(bytes);
        }
        result
    })
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, length: c_int, offset: i64) -> c_int {
    guard(|| {
        let (Ok(length), Ok(offset)) = (usize::try_from(length), u64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        // SAFETY: SQLite passes that many bytes.
        let data = unsafe { slice::from_raw_parts(from.cast::<u8>(), length) };
        // SAFETY: the file is ours and open.
        code(match unsafe { role_of(file) } {
            Role::Main(shared) => lock(shared).write_main(data, offset),
            // SAFETY: as above.
            Role::Wal(shared) => lock(shared).write_wal(unsafe { real_of(file) }, data, offset),
        })
    })
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    guard(|| {
        let Ok(size) = u64::try_from(size) else {
            return ffi::SQLITE_IOERR_TRUNCATE;
        };
        // SAFETY: the file is ours and open.
        code(match unsafe { role_of(file) } {
            Role::Main(shared) => lock(shared).truncate_main(size),
            // SAFETY: as above.
            Role::Wal(shared) => lock(shared).truncate_wal(unsafe { real_of(file) }, size),
        })
    })
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    guard(|| {
        let result = forward!(file.xSync(flags), ffi::SQLITE_IOERR_FSYNC);
        // SAFETY: the file is ours and open.
        match unsafe { role_of(file) } {
            Role::Wal(shared) if result != ffi::SQLITE_OK => lock(shared).wal_failed(),
            Role::Main(shared) => lock(shared).synced_main(),
            Role::Wal(_) => {}
        }
        result
    })
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    forward!(file.xFileSize(size), ffi::SQLITE_IOERR_FSTAT)
}

unsafe extern "C" fn lock_file(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    guard(|| {
        // SAFETY: the file is ours and open.
        if let (ffi::SQLITE_LOCK_SHARED, Role::Main(shared)) = (level, unsafe { role_of(file) })
            && let Err(code) = lock(shared).begin_transaction()
        {
            return code;
        }
        let result = forward!(file.xLock(level), ffi::SQLITE_IOERR_LOCK);
        // SAFETY: the file is ours and open.
        if let (ffi::SQLITE_OK, Role::Main(shared)) = (result, unsafe { role_of(file) }) {
            lock(shared).locked_main(level);
        }
        result
    })
}

unsafe extern "C" fn unlock_file(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    guard(|| {
        // SAFETY: the file is ours and open.
        match unsafe { role_of(file) } {
            Role::Main(shared) => code(lock(shared).unlock_main(level)),
            Role::Wal(_) => forward!(file.xUnlock(level), ffi::SQLITE_IOERR_UNLOCK),
        }
    })
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, result: *mut c_int) -> c_int {
    forward!(file.xCheckReservedLock(result), ffi::SQLITE_IOERR_CHECKRESERVEDLOCK)
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    guard(|| {
        // SAFETY: the file is ours and open.
        let role = unsafe { role_of(file) };
        if let Role::Main(shared) = role {
            let ours = match operation {
                ffi::SQLITE_FCNTL_SYNC => lock(shared).sync_main(),
                ffi::SQLITE_FCNTL_COMMIT_PHASETWO => {
                    lock(shared).committed();
                    Ok(())
                }
                ffi::SQLITE_FCNTL_CKPT_START => {
                    lock(shared).begin_checkpoint();
                    Ok(())
                }
                ffi::SQLITE_FCNTL_CKPT_DONE => {
                    lock(shared).end_checkpoint();
                    Ok(())
                }
                ffi::SQLITE_FCNTL_SIZE_HINT => lock(shared).hint_size(),
                ffi::SQLITE_FCNTL_PRAGMA => {
                    // SAFETY: SQLite passes an array of strings.
                    if let Some(code) = unsafe { answer_pragma(argument.cast(), |pragma| run(pragma, shared)) } {
                        return code;
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(code) = ours {
                return code;
            }
        }
        let result = forward!(file.xFileControl(operation, argument), ffi::SQLITE_NOTFOUND);
        if operation == ffi::SQLITE_FCNTL_VFSNAME && result == ffi::SQLITE_OK {
            // SAFETY: SQLite passes a place for a string, which the real file has filled.
            unsafe { prefix_name(argument.cast()) };
        }
        result
    })
}

/// What a connection answers to a pragma.
fn run(pragma: Pragma, shared: &Shared) -> bottomless_engine::Result<String> {
    let database = lock(shared).database();
    match pragma {
        Pragma::Status => database.status(),
        Pragma::Flush => database.flush().map(|()| "ok".to_owned()),
    }
}

/// Answers `PRAGMA bottomless_…`; None for another pragma.
///
/// # Safety
/// `strings` is the array of `SQLITE_FCNTL_PRAGMA`: a place for the answer, the name, the argument.
pub(crate) unsafe fn answer_pragma(
    strings: *mut *mut c_char,
    run: impl FnOnce(Pragma) -> bottomless_engine::Result<String>,
) -> Option<c_int> {
    // SAFETY: the name is the second string.
    let place = unsafe { strings.add(1) };
    // SAFETY: as above.
    let name = unsafe { *place };
    if name.is_null() {
        return None;
    }
    // SAFETY: it is a string.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    let (code, text) = match pragma::answer(name, run) {
        Answer::NotOurs => return None,
        Answer::Row(text) => (ffi::SQLITE_OK, text),
        Answer::Error(text) => (ffi::SQLITE_ERROR, text),
    };
    // SAFETY: the first is the place for an answer, which SQLite frees.
    unsafe { *strings = api::allocate_text(&text) };
    Some(code)
}

/// Puts our name before that of the real VFS, as shims do.
///
/// # Safety
/// `place` holds null or a string of SQLite's allocator.
pub(crate) unsafe fn prefix_name(place: *mut *mut c_char) {
    // SAFETY: as the caller says.
    let name = unsafe { *place };
    if name.is_null() {
        return;
    }
    // SAFETY: it is a string.
    let text = format!("bottomless/{}", unsafe { CStr::from_ptr(name) }.to_string_lossy());
    // SAFETY: nobody else has it.
    unsafe { api::free(name) };
    // SAFETY: as the caller says.
    unsafe { *place = api::allocate_text(&text) };
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file.xSectorSize(), 4096)
}

/// With atomic writes SQLite may commit without asking (`SQLITE_FCNTL_SYNC`).
const HIDDEN: c_int = ffi::SQLITE_IOCAP_BATCH_ATOMIC
    | ffi::SQLITE_IOCAP_ATOMIC
    | ffi::SQLITE_IOCAP_ATOMIC512
    | ffi::SQLITE_IOCAP_ATOMIC1K
    | ffi::SQLITE_IOCAP_ATOMIC2K
    | ffi::SQLITE_IOCAP_ATOMIC4K
    | ffi::SQLITE_IOCAP_ATOMIC8K
    | ffi::SQLITE_IOCAP_ATOMIC16K
    | ffi::SQLITE_IOCAP_ATOMIC32K
    | ffi::SQLITE_IOCAP_ATOMIC64K;

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    forward!(file.xDeviceCharacteristics(), 0) & !HIDDEN
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    forward!(file.xShmMap(region, size, extend, out), ffi::SQLITE_IOERR_SHMMAP)
}

/// The lock of the WAL's writer (`WAL_WRITE_LOCK`) is the first.
pub(crate) const WRITE_LOCK: c_int = 0;
/// Those of readers (`WAL_READ_LOCK`) come behind the locks of checkpoints and of recovery.
const READ_LOCKS: c_int = 3;

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    guard(|| {
        let writer = offset == WRITE_LOCK && flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
        // SAFETY: the file is ours and open.
        let shared = unsafe { role_of(file) }.shared();
        if writer && flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            lock(shared).wal_unlocking();
        }
        if offset >= READ_LOCKS
            && flags == ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_SHARED
            && let Err(code) = lock(shared).begin_wal_transaction()
        {
            return code;
        }
        let result = forward!(file.xShmLock(offset, count, flags), ffi::SQLITE_IOERR_SHMLOCK);
        if writer && flags & ffi::SQLITE_SHM_LOCK != 0 && result == ffi::SQLITE_OK {
            lock(shared).wal_locked();
        }
        if result == ffi::SQLITE_OK {
            lock(shared).locked_shm(offset, count, flags & ffi::SQLITE_SHM_LOCK != 0);
        }
        result
    })
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    forward!(file.xShmBarrier(), ());
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    forward!(file.xShmUnmap(delete), ffi::SQLITE_OK)
}

unsafe extern "C" fn fetch(file: *mut ffi::sqlite3_file, offset: i64, length: c_int, out: *mut *mut c_void) -> c_int {
    forward!(file.xFetch(offset, length, out), ffi::SQLITE_IOERR_MMAP)
}

unsafe extern "C" fn unfetch(file: *mut ffi::sqlite3_file, offset: i64, page: *mut c_void) -> c_int {
    forward!(file.xUnfetch(offset, page), ffi::SQLITE_IOERR_MMAP)
}

const fn methods(version: c_int) -> ffi::sqlite3_io_methods {
    ffi::sqlite3_io_methods {
        iVersion: version,
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
        xShmMap: Some(shm_map),
        xShmLock: Some(shm_lock),
        xShmBarrier: Some(shm_barrier),
        xShmUnmap: Some(shm_unmap),
        xFetch: Some(fetch),
        xUnfetch: Some(unfetch),
    }
}

/// One table for each version of the interface that a real file may have.
static METHODS_1: ffi::sqlite3_io_methods = methods(1);
static METHODS_2: ffi::sqlite3_io_methods = methods(2);
static METHODS_3: ffi::sqlite3_io_methods = methods(3);
