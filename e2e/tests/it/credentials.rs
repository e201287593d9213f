//! Credentials that are rotated while the database is open, and requests that a policy or a clock forbids.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bottomless_e2e::proxy::{Answer, Fault};
use bottomless_e2e::seaweed::{ACCESS_KEY, SECOND_ACCESS_KEY, SECOND_SECRET_KEY, SECRET_KEY};
use bottomless_e2e::{Host, World};

use crate::commit::commits_once;

const EXPIRED: Fault = Fault::Answer(Answer::new(403, "ExpiredToken"));
const FIRST: (&str, &str) = (ACCESS_KEY, SECRET_KEY);
const SECOND: (&str, &str) = (SECOND_ACCESS_KEY, SECOND_SECRET_KEY);

/// A world whose processes find their keys in `~/.aws` and nowhere else; the folder.
fn with_files() -> (World, PathBuf) {
    let mut world = World::new("credentials");
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
    world.unset("AWS_ACCESS_KEY_ID");
    world.unset("AWS_SECRET_ACCESS_KEY");
    let folder = PathBuf::from(&world.environment["HOME"]).join(".aws");
    std::fs::create_dir_all(&folder).unwrap();
    (world, folder)
}

/// In one step, as a tool that rotates keys does it.
fn replace(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn write_keys(folder: &std::path::Path, (key, secret): (&str, &str)) {
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    replace(&folder.join("credentials"), &text);
}

/// What a `credential_process` prints.
fn write_output(folder: &std::path::Path, (key, secret): (&str, &str), expiration: &str) {
    let text = format!(
        r#"{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "{secret}", "Expiration": "{expiration}"}}"#
    );
    replace(&folder.join("output"), &text);
}

/// The keys are rotated again and again while processes commit, and the old pair is refused at once: no commit fails.
#[test]
fn no_commit_fails_while_keys_are_rotated() {
    let (world, folder) = with_files();
    let program = folder.join("keys.sh");
    std::fs::write(&program, format!("#!/bin/sh\nexec /bin/cat {}\n", folder.join("output").display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.join("config"), format!("[default]\ncredential_process = {}\n", program.display())).unwrap();
    // Far away: that the pair is no longer valid shows only when it is refused.
    let far = "2099-01-01T00:00:00Z";
    write_output(&folder, FIRST, far);
    let mut sessions = vec![world.open(Host::Newest)];
    sessions[0].sql("PRAGMA journal_mode = WAL; CREATE TABLE t(v)");
    sessions.extend((0..3).map(|_| world.open(Host::Newest)));
    let mut rows = 0;
    for (round, (new, old)) in [(SECOND, FIRST), (FIRST, SECOND), (SECOND, FIRST)].into_iter().enumerate() {
        for (number, session) in sessions.iter_mut().enumerate() {
            for n in 0..5 {
                session.send_sql(0, &format!("INSERT INTO t VALUES('{round} {number} {n}')"));
                rows += 1;
            }
        }
        // In the middle of it.
        write_output(&folder, new, far);
        world.proxy.heal();
        world.proxy.fail_signed_with(old.0, EXPIRED);
        for session in &mut sessions {
            for _ in 0..5 {
                session.answer().unwrap_or_else(|e| panic!("round {round}: {e:?}\n{}", session.stderr()));
            }
        }
        // The commits may have been quicker than the rotation; these come after it.
        for (number, session) in sessions.iter_mut().enumerate() {
            let last = world.last();
            session.sql(&format!("INSERT INTO t VALUES('{round} {number} after')"));
            assert_eq!(world.last(), last + 1);
            rows += 1;
        }
        assert!(world.proxy.hits() >= 1, "round {round}: the old pair was refused");
        let signed = world.proxy.requests().iter().any(|r| r.is_signed_with(new.0) && r.status == Some(200));
        assert!(signed, "round {round}: the new pair was used");
        world.proxy.clear();
    }
    assert_eq!(sessions[0].number("SELECT count(*) FROM t"), rows);
    let mut first = sessions.swap_remove(0);
    drop(sessions);
    world.assert_restores_equal(&mut first);
}

/// A pair that is about to expire is replaced before it does: no request is refused.
#[test]
fn a_pair_is_replaced_before_it_expires() {
    let (world, folder) = with_files();
    let command = format!("/bin/cat {}", folder.join("output").display());
    std::fs::write(folder.join("config"), format!("[default]\ncredential_process = {command}\n")).unwrap();
    // Over already: it is asked for before each request, and a program that still gives it fails no commit.
    write_output(&folder, FIRST, "2020-01-01T00:00:00Z");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    write_output(&folder, SECOND, "2099-01-01T00:00:00Z");
    world.proxy.clear();
    commits_once(&world, &mut session, "INSERT INTO t VALUES(1)");
    assert!(world.proxy.requests().iter().all(|r| r.is_signed_with(SECOND_ACCESS_KEY)));
}

/// `~/.aws/credentials` is edited while the program runs: the next commit takes the new keys, without opening anew.
#[test]
fn an_edited_file_is_read_again_after_a_refusal() {
    for mode in ["DELETE", "WAL"] {
        let (world, folder) = with_files();
        write_keys(&folder, FIRST);
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        world.proxy.fail_signed_with(ACCESS_KEY, EXPIRED);
        session.sql_fails("INSERT INTO t VALUES('lost')");
        assert!(session.stderr().contains("ExpiredToken"), "{mode}: {}", session.stderr());
        write_keys(&folder, SECOND);
        commits_once(&world, &mut session, "INSERT INTO t VALUES('after')");
        assert_eq!(session.sql("SELECT v FROM t"), [["after"]], "{mode}");

        // The other way round: the file is new before the old pair is refused, which no commit notices, and no read.
        write_keys(&folder, FIRST);
        world.proxy.heal();
        world.proxy.fail_signed_with(SECOND_ACCESS_KEY, EXPIRED);
        session.sql("INSERT INTO t VALUES('and on')");
        assert!(world.proxy.hits() >= 1, "{mode}: the old pair was refused");

        // A commit that begins with a read: what became of the one before it?
        world.proxy.heal();
        session.close(0).unwrap();
        session.open(0, &format!("{}&timeout=2", world.uri())).unwrap();
        session.sql("SELECT * FROM t");
        world.proxy.fail(Fault::LoseReply);
        session.sql_fails("INSERT INTO t VALUES('not known')");
        write_keys(&folder, SECOND);
        world.proxy.heal();
        world.proxy.clear();
        world.proxy.fail_signed_with(ACCESS_KEY, EXPIRED);
        session.sql("INSERT INTO t VALUES(randomblob(1500000))");
        let requests = world.proxy.requests();
        assert_eq!((requests[0].method.as_str(), requests[0].status), ("GET", Some(403)), "{mode}: {requests:#?}");
        world.assert_restores_equal(&mut session);
    }
}

/// A clock that is wrong by more than 15 minutes is named as what it is, at a commit and at open.
#[test]
fn a_wrong_clock_is_named() {
    let world = World::new("clock");
    let mut session = world.open(Host::Newest);
    session.sql("CREATE TABLE t(v)");
    world.proxy.fail(Fault::Answer(Answer::new(403, "RequestTimeTooSkewed")));
    session.sql_fails("INSERT INTO t VALUES('lost')");
    for word in ["RequestTimeTooSkewed", "the clock of this machine is wrong"] {
        assert!(session.stderr().contains(word), "{word}: {}", session.stderr());
    }
    session.close(0).unwrap();
    let Err((_, other)) = world.try_open(Host::Newest) else { panic!("must not open") };
    assert!(other.stderr().contains("the clock of this machine is wrong"), "{}", other.stderr());
    world.proxy.heal();
    let mut session = world.open(Host::Newest);
    session.sql("INSERT INTO t VALUES('after')");
    world.assert_restores_equal(&mut session);
}

/// A policy without DeleteObject: the proof before the first commit leaves its object, with a warning, and all goes on.
#[test]
fn commits_go_on_where_nothing_may_be_deleted() {
    let denied = Answer::new(403, "AccessDenied");
    // Forbidden, out of order, or never answered: the commit does not wait for it beyond its time.
    for fault in [Fault::Answer(denied), Fault::Answer(Answer::new(500, "InternalError")), Fault::Hang] {
        let mut world = World::new("nodelete");
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 12);
        world.proxy.fail_only(Some("DELETE"), "", fault);
        let mut session = world.open(Host::Newest);
        session.sql("PRAGMA journal_mode = WAL; CREATE TABLE t(v)");
        session.sql("INSERT INTO t VALUES(1)");
        assert!(world.proxy.hits() >= 1, "{fault:?}: the proof has tried to clean up");
        assert!(session.stderr().contains("could not be removed"), "{fault:?}: {}", session.stderr());
        session.close(0).unwrap();
        session.open(0, &world.uri()).unwrap();
        commits_once(&world, &mut session, "INSERT INTO t VALUES(2)");
        world.assert_restores_equal(&mut session);
    }
}
