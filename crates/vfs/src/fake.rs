//! A host for tests of the edge to C: the functions of SQLite and a default VFS with files in memory, all in Rust, so that
//! Miri can run what the shim does with their pointers.
//!
//! Names are laid out as SQLite does: the path, then keys and values, each ended by a zero, and one more zero.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the functions are called by the shim only, with what the tests below give it"
)]

use std::alloc::{Layout, alloc, dealloc};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libsqlite3_sys as ffi;

thread_local! {
    /// What was called, in order.
    static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Files that were closed.
    static CLOSED: RefCell<u64> = const { RefCell::new(0) };
    /// Allocations of `malloc64` that were not freed.
    static ALLOCATED: RefCell<i64> = const { RefCell::new(0) };
}

static REGISTERED: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

fn note(call: impl Into<String>) {
    CALLS.with_borrow_mut(|calls| calls.push(call.into()));
}

/// What was called since the last time.
pub(crate) fn calls() -> Vec<String> {
    CALLS.take()
}

pub(crate) fn allocated() -> i64 {
    ALLOCATED.with_borrow(|n| *n)
}

pub(crate) fn closed() -> u64 {
    CLOSED.with_borrow(|n| *n)
}

/// A file name with URI parameters, as SQLite passes it to `xOpen`.
pub(crate) fn name(path: &str, parameters: &[(&str, &str)]) -> CString {
    let mut text = path.to_owned();
    for (key, value) in parameters {
        text = format!("{text}\u{1}{key}\u{1}{value}");
    }
    // The zeros within: a CString has one at its end, and the list ends with an empty key.
    let bytes: Vec<u8> = format!("{text}\u{1}\u{1}").bytes().map(|b| if b == 1 { 0 } else { b }).collect();
    unsafe { CString::from_vec_unchecked(bytes) }
}

/// The keys and values behind the path; an empty key ends them.
unsafe fn parameters<'a>(name: *const c_char) -> Vec<(&'a CStr, &'a CStr)> {
    let mut at = name;
    let mut next = || unsafe {
        let string = CStr::from_ptr(at);
        at = at.add(string.count_bytes() + 1);
        string
    };
    next();
    let mut found = Vec::new();
    loop {
        let key = next();
        if key.is_empty() {
            return found;
        }
        found.push((key, next()));
    }
}

unsafe extern "C" fn uri_parameter(name: *const c_char, key: *const c_char) -> *const c_char {
    let (parameters, wanted) = unsafe { (parameters(name), CStr::from_ptr(key)) };
    parameters.iter().find(|(key, _)| *key == wanted).map_or(ptr::null(), |(_, value)| value.as_ptr())
}

unsafe extern "C" fn uri_key(name: *const c_char, index: c_int) -> *const c_char {
    let parameters = unsafe { parameters(name) };
    usize::try_from(index).ok().and_then(|i| parameters.get(i)).map_or(ptr::null(), |(key, _)| key.as_ptr())
}

/// The main file of every WAL: one that is not ours.
unsafe extern "C" fn database_file_object(_: *const c_char) -> *mut ffi::sqlite3_file {
    static FOREIGN: AtomicPtr<ffi::sqlite3_file> = AtomicPtr::new(ptr::null_mut());
    kept(&FOREIGN, || ffi::sqlite3_file { pMethods: &raw const METHODS })
}

/// A value that lives as long as the process, as Miri's search for leaks can see.
fn kept<T>(place: &AtomicPtr<T>, make: impl FnOnce() -> T) -> *mut T {
    let known = place.load(Ordering::SeqCst);
    if known.is_null() {
        place.store(Box::into_raw(Box::new(make())), Ordering::SeqCst);
    }
    place.load(Ordering::SeqCst)
}

unsafe extern "C" fn libversion_number() -> c_int {
    3_051_003
}

unsafe extern "C" fn malloc64(bytes: u64) -> *mut c_void {
    let bytes = usize::try_from(bytes).unwrap();
    let memory = unsafe { alloc(Layout::from_size_align(bytes + 16, 16).unwrap()) };
    ALLOCATED.with_borrow_mut(|n| *n += 1);
    unsafe { memory.cast::<usize>().write(bytes) };
    unsafe { memory.add(16) }.cast()
}

pub(crate) unsafe extern "C" fn free(memory: *mut c_void) {
    if memory.is_null() {
        return;
    }
    ALLOCATED.with_borrow_mut(|n| *n -= 1);
    let start = unsafe { memory.cast::<u8>().sub(16) };
    let bytes = unsafe { start.cast::<usize>().read() };
    unsafe { dealloc(start, Layout::from_size_align(bytes + 16, 16).unwrap()) };
}

unsafe extern "C" fn vfs_find(name: *const c_char) -> *mut ffi::sqlite3_vfs {
    if name.is_null() { default_vfs() } else { REGISTERED.load(Ordering::SeqCst) }
}

unsafe extern "C" fn vfs_register(vfs: *mut ffi::sqlite3_vfs, _default: c_int) -> c_int {
    REGISTERED.store(vfs, Ordering::SeqCst);
    ffi::SQLITE_OK
}

/// A copy of the path, with what follows it in a name of SQLite's.
unsafe extern "C" fn create_filename(
    database: *const c_char,
    _: *const c_char,
    _: *const c_char,
    _: c_int,
    _: *mut *const c_char,
) -> ffi::sqlite3_filename {
    ALLOCATED.with_borrow_mut(|n| *n += 1);
    name(unsafe { CStr::from_ptr(database) }.to_str().unwrap(), &[]).into_raw()
}

unsafe extern "C" fn free_filename(name: ffi::sqlite3_filename) {
    ALLOCATED.with_borrow_mut(|n| *n -= 1);
    // As long as it was allocated: the zeros within are part of it.
    let length = unsafe { CStr::from_ptr(name) }.count_bytes() + 3;
    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(name.cast_mut().cast::<u8>(), length)) });
}

thread_local! {
    /// The mutexes: none as without threads, all the same as with one thread, or each another.
    pub(crate) static MUTEXES: RefCell<[usize; 2]> = const { RefCell::new([0; 2]) };
}

unsafe extern "C" fn mutex_alloc(_: c_int) -> *mut ffi::sqlite3_mutex {
    let next = MUTEXES.with_borrow_mut(|mutexes| {
        mutexes.swap(0, 1);
        mutexes[1]
    });
    ptr::without_provenance_mut(next)
}

unsafe extern "C" fn mutex_free(mutex: *mut ffi::sqlite3_mutex) {
    note(format!("free mutex {}", mutex.addr()));
}

unsafe extern "C" fn threadsafe() -> c_int {
    1
}

/// The table of functions; what the tests do not reach is not in it.
pub(crate) fn routines() -> Box<ffi::sqlite3_api_routines> {
    let mut table: ffi::sqlite3_api_routines = unsafe { MaybeUninit::zeroed().assume_init() };
    table.libversion_number = Some(libversion_number);
    table.malloc64 = Some(malloc64);
    table.free = Some(free);
    table.uri_parameter = Some(uri_parameter);
    table.uri_key = Some(uri_key);
    table.database_file_object = Some(database_file_object);
    table.create_filename = Some(create_filename);
    table.free_filename = Some(free_filename);
    table.mutex_alloc = Some(mutex_alloc);
    table.mutex_free = Some(mutex_free);
    table.xthreadsafe = Some(threadsafe);
    table.vfs_find = Some(vfs_find);
    table.vfs_register = Some(vfs_register);
    Box::new(table)
}

/// The VFS that the shim has registered.
pub(crate) fn shim() -> *mut ffi::sqlite3_vfs {
    REGISTERED.load(Ordering::SeqCst)
}

/// A file in memory.
#[repr(C)]
pub(crate) struct FakeFile {
    base: ffi::sqlite3_file,
    content: *mut Vec<u8>,
    region: *mut [u32; 8192],
}

impl FakeFile {
    /// An open file with this content and this WAL index.
    pub(crate) fn open(content: &mut Vec<u8>, region: &mut [u32; 8192]) -> Self {
        Self { base: ffi::sqlite3_file { pMethods: &raw const METHODS }, content, region }
    }

    pub(crate) fn as_file(&mut self) -> *mut ffi::sqlite3_file {
        ptr::from_mut(self).cast()
    }
}

unsafe fn content<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Vec<u8> {
    unsafe { &mut *(*file.cast::<FakeFile>()).content }
}

unsafe extern "C" fn close(_: *mut ffi::sqlite3_file) -> c_int {
    CLOSED.with_borrow_mut(|n| *n += 1);
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, length: c_int, offset: i64) -> c_int {
    let (length, offset) = (usize::try_from(length).unwrap(), usize::try_from(offset).unwrap());
    let content = unsafe { content(file) };
    let there = content.get(offset..).unwrap_or_default();
    let there = &there[..there.len().min(length)];
    unsafe { ptr::write_bytes(to.cast::<u8>(), 0, length) };
    unsafe { ptr::copy_nonoverlapping(there.as_ptr(), to.cast(), there.len()) };
    if there.len() == length { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, length: c_int, offset: i64) -> c_int {
    let (length, offset) = (usize::try_from(length).unwrap(), usize::try_from(offset).unwrap());
    let content = unsafe { content(file) };
    content.resize(content.len().max(offset + length), 0);
    unsafe { ptr::copy_nonoverlapping(from.cast(), content[offset..].as_mut_ptr(), length) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    unsafe { content(file) }.truncate(usize::try_from(size).unwrap());
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    unsafe { *size = i64::try_from(content(file).len()).unwrap() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn level(_: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    note(format!("lock {level}"));
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    if operation != ffi::SQLITE_FCNTL_HAS_MOVED {
        return ffi::SQLITE_NOTFOUND;
    }
    unsafe { *argument.cast::<c_int>() = 1 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    _: c_int,
    _: c_int,
    _: c_int,
    out: *mut *mut c_void,
) -> c_int {
    unsafe { *out = (*file.cast::<FakeFile>()).region.cast() };
    ffi::SQLITE_OK
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(level),
    xFileSize: Some(file_size),
    xLock: Some(level),
    xUnlock: Some(level),
    xCheckReservedLock: None,
    xFileControl: Some(file_control),
    xSectorSize: None,
    xDeviceCharacteristics: None,
    xShmMap: Some(shm_map),
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Opens what is not called `missing`.
unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    _: *mut c_int,
) -> c_int {
    let path = if name.is_null() { "no name" } else { unsafe { CStr::from_ptr(name) }.to_str().unwrap() };
    note(format!("open {path} {flags:#x}"));
    if path.contains("missing") {
        return ffi::SQLITE_CANTOPEN;
    }
    let (content, region) = (ptr::null_mut(), ptr::null_mut());
    let opened = FakeFile { base: ffi::sqlite3_file { pMethods: &raw const METHODS }, content, region };
    unsafe { file.cast::<FakeFile>().write(opened) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    note(format!("delete {} {sync}", unsafe { CStr::from_ptr(name) }.to_str().unwrap()));
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, _: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    unsafe { *out = flags + 1 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(_: *mut ffi::sqlite3_vfs, name: *const c_char, n: c_int, out: *mut c_char) -> c_int {
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    assert!(name.len() <= usize::try_from(n).unwrap());
    unsafe { ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    unsafe { ptr::write_bytes(out, 7, usize::try_from(n).unwrap()) };
    n
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    unsafe { *out = 42 };
    ffi::SQLITE_OK
}

/// The default VFS, without the methods for loading extensions.
fn default_vfs() -> *mut ffi::sqlite3_vfs {
    static DEFAULT: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());
    kept(&DEFAULT, || {
        let mut vfs: ffi::sqlite3_vfs = unsafe { MaybeUninit::zeroed().assume_init() };
        vfs.iVersion = 3;
        vfs.szOsFile = c_int::try_from(size_of::<FakeFile>()).unwrap();
        vfs.mxPathname = 512;
        vfs.zName = c"fake".as_ptr();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        vfs.xRandomness = Some(randomness);
        vfs.xSleep = Some(sleep);
        vfs.xCurrentTimeInt64 = Some(current_time);
        vfs
    })
}
