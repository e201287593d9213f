//! Two machines, the same base, the same statements: what tells their objects apart is the writer id.

use bottomless_e2e::proxy::{Fault, Proxy, When};
use bottomless_e2e::seaweed::Seaweed;
use bottomless_e2e::{Host, Layout, Session, World};
use bottomless_ltx::Header;

const SAME: &str = "INSERT INTO t VALUES('the same')";

/// Two machines at one position, each with a way of its own to the store, and the key of the next transaction.
struct Machines {
    world: World,
    a: Session,
    b: Session,
    next: u64,
}

fn machines(mode: &str) -> Machines {
    let mut world = World::new("writers").laid_out(Layout::of_mode(mode));
    world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 60);
    let mut a = world.open(Host::Newest);
    a.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v); INSERT INTO t VALUES('before')"));
    let folder = world.folder().join("b");
    std::fs::create_dir(&folder).unwrap();
    let own_way = Proxy::start(Seaweed::shared().address());
    let uri = format!("file:{}?vfs=bottomless&endpoint={}", folder.join(world.id()).display(), own_way.endpoint());
    let mut b = world.host(Host::Newest);
    b.open(0, &uri).unwrap();
    // The proof before its first commit is behind it; then A catches up, and both are at one position.
    b.sql("INSERT INTO t VALUES('proven')");
    a.close(0).unwrap();
    a.open(0, &world.uri()).unwrap();
    assert_eq!(a.number("SELECT count(*) FROM t"), 2);
    let next = world.last() + 1;
    world.proxy.clear();
    Machines { world, a, b, next }
}

impl Machines {
    fn key(&self) -> String {
        self.world.log_key(self.next)
    }

    /// One line, the winner's: the loser is told so, catches up, and then both hold the same.
    fn settle(mut self, a_wins: bool) {
        let (winner, loser) = if a_wins { (&mut self.a, &mut self.b) } else { (&mut self.b, &mut self.a) };
        assert!(loser.stderr().contains("another writer has taken over"), "{}", loser.stderr());
        assert_eq!(loser.sql("SELECT v FROM t"), [["before"], ["proven"], ["the same"]], "the winner's row, once");
        winner.sql("INSERT INTO t VALUES('and on')");
        assert_eq!(self.world.log(), (1..=self.next + 1).collect::<Vec<_>>());
        self.a.close(0).unwrap();
        self.a.open(0, &self.world.uri()).unwrap();
        let rows = [["before"], ["proven"], ["the same"], ["and on"]];
        assert_eq!(self.a.sql("SELECT v FROM t"), rows);
        assert_eq!(self.b.sql("SELECT count(*) FROM t WHERE v = 'the same'").len(), 1);
        self.a.sql("INSERT INTO t VALUES('caught up')");
        self.world.assert_restores_equal(&mut self.a);
    }
}

/// A's request is kept, B commits the same content at the same position, then A's arrives: A is told that it lost.
#[test]
fn a_late_delivery_after_another_machine_of_the_same_content_has_lost() {
    for mode in ["DELETE", "WAL"] {
        let mut m = machines(mode);
        m.world.proxy.fail_once(Some("PUT"), &m.key(), Fault::Late(When::Told));
        m.world.proxy.fail(Fault::Gather(usize::MAX));
        m.a.send_sql(0, SAME);
        m.world.proxy.wait_for(|r| r.method == "PUT");
        let tries = |m: &Machines| m.world.proxy.requests().iter().filter(|r| r.method == "PUT").count();
        // The second try is held by the proxy until the rules change.
        m.world.proxy.wait_until(|requests| requests.iter().filter(|r| r.method == "PUT").count() == 2);
        m.b.sql(SAME);
        let (mine, theirs) = (m.world.proxy.kept().remove(0), m.world.bucket.get(&m.key()));
        same_content(&mine, &theirs);
        assert_eq!(m.world.proxy.deliver(), [412], "{mode}");
        assert_eq!(m.world.bucket.get(&m.key()), theirs, "{mode}: what is there stays");
        m.world.proxy.heal();
        m.a.answer().unwrap_err();
        assert!(tries(&m) >= 2);
        let statuses: Vec<_> =
            m.world.proxy.requests().into_iter().filter(|r| r.method == "PUT").map(|r| r.status).collect();
        assert!(statuses.iter().all(|status| *status == Some(412)), "{mode}: {statuses:?}");
        m.settle(false);
    }
}

/// A's request arrives, A does not know it, and B tries the same content: B has lost, and A finds its own.
#[test]
fn a_machine_finds_its_own_and_not_the_same_content_of_another() {
    for mode in ["DELETE", "WAL"] {
        let mut m = machines(mode);
        m.world.proxy.fail_once(Some("PUT"), &m.key(), Fault::LoseReply);
        m.world.proxy.fail(Fault::Gather(usize::MAX));
        m.a.send_sql(0, SAME);
        m.world.proxy.wait_until(|requests| requests.iter().filter(|r| r.method == "PUT").count() == 2);
        let mine = m.world.bucket.get(&m.key());
        m.b.sql_fails(SAME);
        assert_eq!(m.world.bucket.get(&m.key()), mine, "{mode}");
        m.world.proxy.heal();
        m.a.answer().unwrap_or_else(|e| panic!("{mode}: {e:?}\n{}", m.a.stderr()));
        m.settle(true);
    }
}

/// The same pages on the same base; other is only who wrote them, and when.
#[track_caller]
fn same_content(mine: &[u8], theirs: &[u8]) {
    let (a, b) = (Header::decode(mine).unwrap(), Header::decode(theirs).unwrap());
    assert_ne!(a.writer, b.writer);
    assert_eq!((a.max_txid, a.database), (b.max_txid, b.database));
    // The last 8 bytes are the file's checksum, in which the header is.
    assert_eq!(mine[100..mine.len() - 8], theirs[100..theirs.len() - 8]);
}
