//! The edge to C, in a host that Miri can run (`make miri`).
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the host is `fake`, and each call is as SQLite makes it"
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr;

use bottomless_engine::OpenMain;
use libsqlite3_sys as ffi;

use crate::dirty::Dirty;
use crate::fake::{self, FakeFile};
use crate::load::sqlite3_bottomless_init;
use crate::methods::ShimFile;
use crate::params::NameAndEnvironment;
use crate::read_main::ReadMain;
use crate::real::RealFile;
use crate::undo::Undo;

/// Memory for a file of the shim, as SQLite allocates it.
fn memory(vfs: *mut ffi::sqlite3_vfs) -> Vec<u64> {
    let bytes = usize::try_from(unsafe { (*vfs).szOsFile }).unwrap();
    // Not zeros: SQLite does not promise them.
    vec![0xa5a5_a5a5_a5a5_a5a5; bytes.div_ceil(8)]
}

/// Opens a file through the shim; the code, and whether SQLite would call `xClose`.
fn open(name: Option<&CStr>, flags: c_int) -> (c_int, bool) {
    let vfs = fake::shim();
    let mut memory = memory(vfs);
    let file = memory.as_mut_ptr().cast::<ffi::sqlite3_file>();
    let name = name.map_or(ptr::null(), CStr::as_ptr);
    let code = unsafe { (*vfs).xOpen.unwrap()(vfs, name, file, flags, ptr::null_mut()) };
    let methods = unsafe { (*file).pMethods };
    if !methods.is_null() {
        assert_eq!(unsafe { (*methods).xClose.unwrap()(file) }, ffi::SQLITE_OK);
    }
    (code, !methods.is_null())
}

fn loads_once() {
    // The shim keeps a pointer to it.
    let table: *mut _ = Box::leak(fake::routines());
    let mut message: *mut c_char = ptr::null_mut();
    let mut load = |table| unsafe { sqlite3_bottomless_init(ptr::null_mut(), &raw mut message, table) };
    assert_eq!(load(table), ffi::SQLITE_OK_LOAD_PERMANENTLY);
    let first = fake::shim();
    assert_eq!(load(table), ffi::SQLITE_OK_LOAD_PERMANENTLY);
    assert_eq!(fake::shim(), first);

    // Another SQLite in the same process.
    assert_eq!(load(&raw mut *fake::routines()), ffi::SQLITE_ERROR);
    let text = unsafe { CStr::from_ptr(message) }.to_str().unwrap();
    assert!(text.contains("another copy of SQLite"), "{text}");
    assert_eq!(fake::allocated(), 1);
    unsafe { fake::free(message.cast()) };
    fake::calls();
}

fn other_files_are_the_default_vfs_s() {
    let name = |path| fake::name(path, &[]);
    let (journal, temporary) = (ffi::SQLITE_OPEN_MAIN_JOURNAL, ffi::SQLITE_OPEN_TEMP_DB);
    assert_eq!(open(Some(&name("/a.db-journal")), journal), (ffi::SQLITE_OK, true));
    assert_eq!(open(None, temporary), (ffi::SQLITE_OK, true));
    assert_eq!(open(None, ffi::SQLITE_OPEN_MAIN_DB), (ffi::SQLITE_OK, true));
    // The WAL of a database that was opened with another VFS.
    assert_eq!(open(Some(&name("/a.db-wal")), ffi::SQLITE_OPEN_WAL), (ffi::SQLITE_OK, true));
    assert_eq!(open(Some(&name("/missing")), journal), (ffi::SQLITE_CANTOPEN, false));
    let immutable = fake::name("/a.db", &[("immutable", "1")]);
    assert_eq!(open(Some(&immutable), ffi::SQLITE_OPEN_MAIN_DB), (ffi::SQLITE_OK, true));
    let expected = [
        format!("open /a.db-journal {journal:#x}"),
        format!("open no name {temporary:#x}"),
        format!("open no name {:#x}", ffi::SQLITE_OPEN_MAIN_DB),
        format!("open /a.db-wal {:#x}", ffi::SQLITE_OPEN_WAL),
        format!("open /missing {journal:#x}"),
        format!("open /a.db {:#x}", ffi::SQLITE_OPEN_MAIN_DB),
    ];
    assert_eq!(fake::calls(), expected);
}

fn a_main_file_that_is_configured_wrongly_is_not_opened() {
    let wrong = fake::name("/a.db", &[("vfs", "bottomless"), ("initial_replication", "perhaps")]);
    assert_eq!(open(Some(&wrong), ffi::SQLITE_OPEN_MAIN_DB), (ffi::SQLITE_CANTOPEN, false));
    assert_eq!(fake::calls(), [""; 0]);
}

fn methods_are_forwarded() {
    let vfs = fake::shim();
    let methods = unsafe { *vfs };
    unsafe {
        assert_eq!(methods.xDelete.unwrap()(vfs, c"/a.db-journal".as_ptr(), 1), ffi::SQLITE_OK);
        assert_eq!(methods.xDelete.unwrap()(vfs, c"-wal".as_ptr(), 0), ffi::SQLITE_OK);
        let mut found = 0;
        assert_eq!(methods.xAccess.unwrap()(vfs, c"a".as_ptr(), 2, &raw mut found), ffi::SQLITE_OK);
        assert_eq!(found, 3);
        let mut path: [c_char; 8] = [1; 8];
        assert_eq!(methods.xFullPathname.unwrap()(vfs, c"a.db".as_ptr(), 8, path.as_mut_ptr()), ffi::SQLITE_OK);
        assert_eq!(CStr::from_ptr(path.as_ptr()), c"a.db");
        let mut random: [c_char; 4] = [0; 4];
        assert_eq!(methods.xRandomness.unwrap()(vfs, 4, random.as_mut_ptr()), 4);
        assert_eq!(random, [7; 4]);
        assert_eq!(methods.xSleep.unwrap()(vfs, 9), 9);
        let mut now = 0;
        assert_eq!(methods.xCurrentTimeInt64.unwrap()(vfs, &raw mut now), ffi::SQLITE_OK);
        assert_eq!(now, 42);
        // What the VFS below has not, ours has not; or it has an answer.
        assert!(methods.xDlOpen.is_none() && methods.xSetSystemCall.is_none());
        assert!(methods.xGetLastError.is_none() && methods.xCurrentTime.is_none());
    }
    assert_eq!(fake::calls(), ["delete /a.db-journal 1", "delete -wal 0"]);
}

fn the_main_file_is_opened_once_more_where_threads_are_served() {
    let real_vfs = unsafe { (*fake::shim()).pAppData }.cast::<ffi::sqlite3_vfs>();
    let opener = |path| unsafe { ReadMain::new(Path::new(path), real_vfs) };
    assert!(opener("/a.db").is_none(), "no mutexes");
    fake::MUTEXES.set([8, 8]);
    assert!(opener("/a.db").is_none(), "one thread");
    fake::MUTEXES.set([16, 32]);
    let (main, missing) = (opener("/a.db").unwrap(), opener("/missing").unwrap());
    assert_eq!(fake::calls(), ["free mutex 16", "free mutex 32", "free mutex 16", "free mutex 32"]);
    let before = fake::closed();
    assert!(missing.open().is_err());
    assert_eq!(fake::closed(), before, "what was not opened is not closed");
    // It moves before it is closed.
    let files = [main.open().unwrap(), main.open().unwrap()];
    assert_eq!(fake::allocated(), 2);
    drop(files);
    assert_eq!(fake::closed(), before + 2);
    let flags = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_READONLY;
    let opened = |path| format!("open {path} {flags:#x}");
    assert_eq!(fake::calls(), [opened("/missing"), opened("/a.db"), opened("/a.db")]);
}

/// One test: the table of functions is the process's, and so is the VFS.
#[test]
fn the_vfs_in_a_host_of_our_own() {
    loads_once();
    other_files_are_the_default_vfs_s();
    a_main_file_that_is_configured_wrongly_is_not_opened();
    methods_are_forwarded();
    parameters_are_read();
    the_main_file_is_opened_once_more_where_threads_are_served();
    assert_eq!(fake::allocated(), 0);
}

fn parameters_are_read() {
    use bottomless_engine::config::Source;
    let name = fake::name("/größe.db", &[("bucket", "b c"), ("timeout", ""), ("_pragma", "x"), ("tiemout", "3")]);
    let source = unsafe { NameAndEnvironment::new(name.as_ptr()) };
    let value = |key| source.parameter(key);
    assert_eq!(value("bucket").as_deref(), Some("b c"));
    assert_eq!(value("timeout").as_deref(), Some(""));
    assert_eq!(value("endpoint"), None);
    assert!(!source.is_immutable());
    source.warn_of_unknown();
}

#[test]
fn a_file_of_ours_is_laid_out_before_the_real_one() {
    let bytes = ShimFile::SIZE + size_of::<FakeFile>();
    let mut memory = vec![0xa5a5_a5a5_a5a5_a5a5_u64; bytes.div_ceil(8)];
    let file = memory.as_mut_ptr().cast::<ffi::sqlite3_file>();
    let placed = unsafe { ShimFile::place(file) };
    assert!(unsafe { (*file).pMethods }.is_null());
    assert!(unsafe { (*placed.real_ptr()).pMethods }.is_null());
    assert!(placed.real_ptr().cast::<FakeFile>().is_aligned());
    let (mut content, mut region) = (b"abc".to_vec(), [0; 8192]);
    unsafe { placed.real_ptr().cast::<FakeFile>().write(FakeFile::open(&mut content, &mut region)) };
    assert_eq!(placed.real().file_size(), Ok(3));
}

#[test]
fn a_real_file_is_read_and_written() {
    let (mut content, mut region) = (b"0123456789".to_vec(), [0; 8192]);
    (region[4], region[8], region[9]) = (17, 1, 2);
    let mut fake = FakeFile::open(&mut content, &mut region);
    let file = unsafe { RealFile::new(fake.as_file()) };
    let mut bytes = [9; 4];
    assert_eq!(file.read(&mut bytes, 2), ffi::SQLITE_OK);
    assert_eq!(&bytes, b"2345");
    assert_eq!(file.read(&mut bytes, 8), ffi::SQLITE_IOERR_SHORT_READ);
    assert_eq!(&bytes, b"89\0\0");
    assert_eq!(file.write(b"xy", 11), ffi::SQLITE_OK);
    assert_eq!(file.file_size(), Ok(13));
    assert_eq!(file.read(&mut bytes, u64::MAX), ffi::SQLITE_IOERR_READ);
    assert_eq!(file.write(b"x", u64::MAX), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(file.truncate(4), ffi::SQLITE_OK);
    assert!(file.has_moved());
    let end = file.wal_end().unwrap();
    assert_eq!((end.frames, end.salts), (17, [1, 2]));
    assert_eq!((file.lock(2), file.unlock(0), file.sync(0)), (0, 0, 0));
    assert_eq!(fake::calls(), ["lock 2", "lock 0", "lock 0"]);
}

#[test]
fn what_was_overwritten_is_put_back() {
    let before: Vec<u8> = (0..5000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (mut content, mut region) = (before.clone(), [0; 8192]);
    let mut fake = FakeFile::open(&mut content, &mut region);
    let file = unsafe { RealFile::new(fake.as_file()) };
    let mut undo = Undo::begin(file, Path::new("/nowhere")).unwrap();
    let mut dirty = Dirty::default();
    for (offset, length) in [(512, 1024), (1024, 1024), (4608, 1024), (8192, 512)] {
        undo.keep(file, &dirty, offset, length).unwrap();
        dirty.add(offset, usize::try_from(length).unwrap());
        assert_eq!(file.write(&vec![0xff; usize::try_from(length).unwrap()], offset), ffi::SQLITE_OK);
    }
    undo.restore(file).unwrap();
    assert!(content == before);
}

#[test]
fn a_name_is_laid_out_as_sqlite_does() {
    let name: CString = fake::name("/a", &[("k", "v")]);
    assert_eq!(name.as_bytes_with_nul(), b"/a\0k\0v\0\0\0");
}
