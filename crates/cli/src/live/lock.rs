//! SQLite's locks, as its VFS for Unix takes them: POSIX locks on single bytes of the main file and of the `-shm` file.
//!
//! They go away with the first descriptor of the file that this process closes: so each file is opened once, and closing it
//! gives them up.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, flock};

/// Bytes in the main file (`os.h`: PENDING_BYTE and what follows it).
const PENDING: Range<i64> = 0x4000_0000..0x4000_0001;
const RESERVED: Range<i64> = 0x4000_0001..0x4000_0002;
const SHARED: Range<i64> = 0x4000_0002..0x4000_0002 + 510;

/// Bytes in the `-shm` file (`wal.c`: WALINDEX_LOCK_OFFSET; `os_unix.c`: UNIX_SHM_DMS).
const READ_MARKS: i64 = 123;
const DEAD_MAN_SWITCH: Range<i64> = 128..129;

fn description(kind: i32, bytes: &Range<i64>) -> flock {
    // The constants of the kinds are small.
    let short = |value: i32| i16::try_from(value).unwrap_or_default();
    let length = bytes.end - bytes.start;
    flock { l_type: short(kind), l_whence: short(SEEK_SET), l_start: bytes.start, l_len: length, l_pid: 0 }
}

/// Takes or gives up a lock at once; false when another process has one that excludes it.
fn set(file: &File, kind: i32, bytes: &Range<i64>) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&description(kind, bytes))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether another process has any lock there.
fn is_locked(file: &File, bytes: &Range<i64>) -> io::Result<bool> {
    let mut found = description(F_WRLCK, bytes);
    fcntl(file, FcntlArg::F_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != F_UNLCK)
}

/// SHARED: nobody writes to the main file in rollback mode, changes the journal mode, or removes a WAL as the last who
/// closes.
pub(super) fn share(main: &File) -> io::Result<bool> {
    if !set(main, F_RDLCK, &PENDING)? {
        return Ok(false);
    }
    let shared = set(main, F_RDLCK, &SHARED);
    set(main, F_UNLCK, &PENDING)?;
    shared
}

/// Whether a process has begun to write, in rollback mode: then a journal is its, and in use.
pub(super) fn is_reserved(main: &File) -> io::Result<bool> {
    is_locked(main, &RESERVED)
}

/// Whether another process has the WAL index open.
pub(super) fn is_attached(index: &File) -> io::Result<bool> {
    is_locked(index, &DEAD_MAN_SWITCH)
}

/// As everybody who has the WAL index open.
pub(super) fn attach(index: &File) -> io::Result<bool> {
    set(index, F_RDLCK, &DEAD_MAN_SWITCH)
}

/// Nobody else can open the WAL index.
pub(super) fn attach_alone(index: &File) -> io::Result<bool> {
    set(index, F_WRLCK, &DEAD_MAN_SWITCH)
}

/// The lock of a read mark: from 1 on, what lies in the WAL stays there, and only what lies before the mark is copied into
/// the main file. With 0, nothing is copied into it.
pub(super) fn mark(index: &File, number: usize) -> io::Result<bool> {
    let at = READ_MARKS + i64::try_from(number).unwrap_or_default();
    set(index, F_RDLCK, &(at..at + 1))
}
