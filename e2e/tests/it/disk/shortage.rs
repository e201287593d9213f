//! A folder that can't be written, a process without file descriptors: by what the system really does where the tests
//! may, and by injected errors.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bottomless_e2e::faults::{Call, Errno, Faults, Plan, Target};
use bottomless_e2e::{Host, Session, World};

/// Calls that a read-only folder refuses.
const WRITING: [Call; 4] = [Call::Open, Call::Rename, Call::Unlink, Call::Truncate];
/// Files that SQLite and the extension make, beside the main file.
const MADE: [Target; 7] =
    [Target::Wal, Target::Shm, Target::Journal, Target::State, Target::Fill, Target::Nameless, Target::Lost];

fn filled(world: &World, mode: &str) -> Session {
    let mut session = world.open(Host::Newest);
    session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES('before')"));
    session
}

#[track_caller]
fn says(session: &Session, what: &[&str]) {
    let stderr = session.stderr();
    for part in what {
        assert!(stderr.contains(part), "{part:?} must be in:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Opening needs the local state, which is written: a folder that can't be written is refused in clear words, with
/// nothing changed, and can be read without the extension.
#[test]
fn a_read_only_folder_is_refused_in_clear_words() {
    for errno in [Errno::EACCES, Errno::EROFS] {
        let mut world = World::new("read-only");
        let faults = Faults::under(&mut world);
        filled(&world, "DELETE").close(0).unwrap();
        let (objects, content) = (world.objects(), std::fs::read(world.db()).unwrap());
        faults.arm(&Plan::all(&WRITING, &MADE, errno));
        let (error, session) = world.try_open(Host::Newest).err().expect("can't be opened");
        assert_eq!(error.primary(), 14, "{error:?}");
        says(&session, &[&world.beside("bottomless").display().to_string(), "must be writable"]);
        drop(session);
        // An empty folder, to be filled from the bucket.
        faults.heal();
        let kept = world.folder().join("kept");
        std::fs::rename(world.db(), &kept).unwrap();
        faults.arm(&Plan::all(&WRITING, &[Target::Fill], errno));
        let (error, session) = world.try_open(Host::Newest).err().expect("can't be opened");
        assert_eq!(error.primary(), 14, "{error:?}");
        says(&session, &[&world.folder().display().to_string(), "must be writable"]);
        assert!(!world.db().exists(), "no program may see an empty database");
        drop(session);
        std::fs::rename(&kept, world.db()).unwrap();
        assert_eq!(std::fs::read(world.db()).unwrap(), content);
        assert_eq!(world.objects(), objects);
        faults.heal();
        let mut session = world.open(Host::Newest);
        session.sql("INSERT INTO t VALUES('after')");
        world.assert_restores_equal(&mut session);
    }
}

/// The folder becomes read-only while the database is open: reading goes on, a commit fails, nothing is lost.
#[test]
fn a_folder_that_becomes_read_only_fails_commits_and_not_reads() {
    for mode in ["DELETE", "MEMORY"] {
        let mut world = World::new("becomes-read-only");
        let faults = Faults::under(&mut world);
        let mut session = filled(&world, mode);
        let last = world.last();
        faults.arm(&Plan::all(&[Call::Open, Call::Write, Call::Truncate, Call::Unlink], &[], Errno::EROFS));
        let error = session.sql_fails("INSERT INTO t VALUES('lost')");
        assert!([8, 10, 14].contains(&error.primary()), "{mode}: {error:?}");
        assert_eq!(session.sql("SELECT v FROM t"), [["before"]], "{mode}");
        assert_eq!(world.last(), last, "{mode}: nothing was uploaded");
        faults.heal();
        session.sql("INSERT INTO t VALUES('after')");
        assert_eq!(session.sql("SELECT v FROM t"), [["before"], ["after"]], "{mode}");
        world.assert_restores_equal(&mut session);
    }
}

/// The same by permission bits, which bind everybody but root.
#[test]
fn a_folder_without_write_permission_is_refused() {
    let world = World::new("chmod");
    filled(&world, "DELETE").close(0).unwrap();
    let local = world.folder().join("local");
    std::fs::create_dir(&local).unwrap();
    let path = local.join(world.id());
    std::fs::copy(world.db(), &path).unwrap();
    std::fs::set_permissions(&local, std::fs::Permissions::from_mode(0o555)).unwrap();
    let binds = std::fs::write(local.join("probe"), "").is_err();
    let mut session = world.host(Host::Newest);
    let opened = session.open(0, &format!("file:{}?vfs=bottomless", path.display()));
    std::fs::set_permissions(&local, std::fs::Permissions::from_mode(0o755)).unwrap();
    if !binds {
        println!("permission bits do not bind this user: nothing is shown here");
        return;
    }
    assert_eq!(opened.unwrap_err().primary(), 14);
    says(&session, &["must be writable", &local.display().to_string()]);
    session.open(0, &format!("file:{}?vfs=bottomless", path.display())).unwrap();
    assert_eq!(session.sql("SELECT v FROM t"), [["before"]]);
}

/// Sets how many files the process may open from now on.
pub fn limit_descriptors(session: &Session, most: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &session.id().to_string(), &format!("--nofile={most}:4096")])
        .status()
        .expect("run prlimit");
    assert!(status.success());
}

fn descriptors(session: &Session) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", session.id())).unwrap().count()
}

/// The system itself refuses: no file and no socket can be opened, then one more, two more, up to enough.
#[test]
fn a_process_without_file_descriptors_fails_and_goes_on_later() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("descriptors");
        filled(&world, mode).close(0).unwrap();
        let mut refused = 0;
        for more in 0..12 {
            let mut session = world.host(Host::Newest);
            limit_descriptors(&session, descriptors(&session) + usize::try_from(more).unwrap());
            let opened = session.open(0, &world.uri());
            let committed = opened.is_ok() && session.exec(0, "INSERT INTO t VALUES('more')").is_ok();
            refused += u32::from(!committed);
            let told = session.stderr();
            limit_descriptors(&session, 1024);
            if let Err(error) = &opened {
                assert!([10, 14].contains(&error.primary()), "{mode}, {more}: {error:?}\n{told}");
                // With more, it is SQLite itself that can't open the main file.
                let clear = more > 5 || (told.contains("oo many open files") && told.contains("ulimit"));
                assert!(clear, "{mode}, {more}: {error:?}: the log says why: {told}");
                session.open(0, &world.uri()).unwrap_or_else(|e| panic!("{mode}, {more}: {e:?}\n{}", session.stderr()));
            }
            session.sql("INSERT INTO t VALUES('more')");
            if committed {
                session.sql("DELETE FROM t WHERE rowid = (SELECT max(rowid) FROM t)");
            }
            assert_eq!(session.number("SELECT count(*) FROM t"), 2 + more, "{mode}, {more}");
            says(&session, &[]);
            session.close(0).unwrap();
        }
        assert!((3..12).contains(&refused), "{mode}: both must have happened: {refused}");
        let mut session = world.open(Host::Newest);
        world.assert_restores_equal(&mut session);
    }
}

/// No socket for a new connection, whether at open or at a commit.
#[test]
fn no_socket_is_a_clear_error_and_heals() {
    for errno in [Errno::EMFILE, Errno::ENFILE] {
        let mut world = World::new("sockets");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
        let faults = Faults::under(&mut world);
        let mut session = filled(&world, "WAL");
        session.close(0).unwrap();
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 3);
        let mut session = world.host(Host::Newest);
        faults.arm(&Plan::all(&[Call::Socket], &[], errno));
        let error = session.open(0, &world.uri()).unwrap_err();
        assert_eq!(error.primary(), 14, "{error:?}");
        assert_eq!(faults.failed(), Some((Call::Socket, Target::Sockets)));
        says(&session, &["oo many open files", &world.id()[..8]]);
        faults.heal();
        session.open(0, &world.uri()).unwrap();
        // The pool's connection is gone, and no other can be made.
        world.proxy.refuse();
        faults.arm(&Plan::all(&[Call::Socket], &[], errno));
        let error = session.sql_fails("INSERT INTO t VALUES('lost')");
        assert_eq!(error.primary(), 10, "{error:?}");
        assert_eq!(session.sql("SELECT v FROM t"), [["before"]]);
        world.proxy.heal();
        faults.heal();
        session.sql("INSERT INTO t VALUES('after')");
        assert_eq!(session.sql("SELECT v FROM t"), [["before"], ["after"]]);
        world.assert_restores_equal(&mut session);
    }
}

/// What the rounds allow for: with these journal modes it is SQLite itself that keeps a transaction whose COMMIT failed,
/// when the sync of the journal behind its commit point does. Ours keeps it too, in the bucket as well.
#[test]
fn sqlite_keeps_a_transaction_whose_journal_could_not_be_synced_after_its_end() {
    for mode in ["PERSIST", "TRUNCATE"] {
        let mut world = World::new("after-the-end");
        let faults = Faults::under(&mut world);
        for ours in [false, true] {
            let uri = if ours { world.uri() } else { world.folder().join("stock.db").display().to_string() };
            let path = if ours { world.db() } else { Path::new(&uri).to_owned() };
            let mut session = world.host(Host::Newest);
            session.open(0, &uri).unwrap();
            session.sql(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = FULL; CREATE TABLE t(v)"));
            faults.watch(&path);
            let only =
                |first| Plan { first, onwards: false, ..Plan::all(&[Call::Sync], &[Target::Journal], Errno::EIO) };
            faults.arm(&only(0));
            session.sql("INSERT INTO t VALUES('counted')");
            let syncs = faults.seen();
            faults.arm(&only(syncs));
            let error = session.sql_fails("INSERT INTO t VALUES('kept')");
            faults.heal();
            assert_eq!(error.primary(), 10, "{error:?}");
            assert_eq!(session.sql("SELECT v FROM t"), [["counted"], ["kept"]], "{mode}, ours: {ours}");
            if ours {
                session.sql("INSERT INTO t VALUES('next')");
                assert_eq!(session.number("SELECT count(*) FROM t"), 3);
                world.assert_restores_equal(&mut session);
            }
        }
    }
}
