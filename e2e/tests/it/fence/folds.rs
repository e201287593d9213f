//! A machine that is frozen at the worst moments of a fold, while another commits, waits for the fence window to pass, folds and
//! deletes the log; then it goes on.

use std::time::{Duration, SystemTime};

use bottomless_e2e::freezer::wait_until_passed;
use bottomless_e2e::{Host, Layout, Machine, World, compare};

/// `W`. Half of it is the time that a fold has for its pages: on a busy machine it must not be short.
const WINDOW: Duration = Duration::from_secs(10);

/// Where the machine is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At a point, the so-manieth time.
    At(&'static str, u32),
    /// Requests with this method for page objects are sent, and reach the store when the other machine is done.
    Sent(&'static str),
    /// The store has executed the first of them, and its reply is under way.
    Replied(&'static str),
}

use Place::{At, Replied, Sent};

/// What a page object's key has in it, and no other key.
const OF_A_PAGE: &str = "-00000000";

struct Scene {
    world: World,
    a: Machine,
    b: Machine,
    what: String,
}

impl Scene {
    /// Two machines with the same database of some forty pages, which is folded.
    fn new(place: Place, what: String) -> Self {
        let mut world = World::new("folds").laid_out(Layout::Pages);
        // No try is given up while it is held.
        world.set("LIBSQL_BOTTOMLESS_TIMEOUT", 600);
        world.set_window(WINDOW);
        let mut first = world.open(Host::Newest);
        first.sql(
            "PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
             INSERT INTO t(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
             SELECT hex(randomblob(450)) FROM n",
        );
        world.fold(&mut first, &what);
        first.close(0).unwrap();
        let [mut a, b] = ["a", "b"].map(|name| Machine::new(&world, name));
        a.session.close(0).unwrap();
        let point = match place {
            At(point, time) => Some(("BOTTOMLESS_TEST_POINT", format!("{point}=stop@{time}"))),
            Sent(_) | Replied(_) => None,
        };
        a.restart(&world, point);
        Self { world, a, b, what }
    }

    /// `a` commits, and is frozen while it folds.
    fn freeze(&mut self, place: Place) -> SystemTime {
        self.a.session.sql("UPDATE t SET v = v || 'a' WHERE id % 2; DELETE FROM t WHERE id > 90; VACUUM");
        let (session, gate) = (&mut self.a.session, self.a.proxy.gate());
        if let Sent(method) | Replied(method) = place {
            gate.hold(method, OF_A_PAGE);
        }
        session.send_sql(0, "PRAGMA bottomless_flush");
        match place {
            At(..) => session.wait_until_frozen(),
            Sent(_) => {
                gate.wait_for_request();
                session.freeze();
            }
            Replied(_) => {
                gate.let_request();
                session.freeze();
            }
        }
        SystemTime::now()
    }

    /// `b` commits, and the database grows and shrinks and grows.
    fn b_commits(&mut self) {
        self.b.reopen();
        self.b.session.sql("UPDATE t SET v = v || 'b' WHERE id % 3");
        self.b.session.sql(
            "INSERT INTO t(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 90)
             SELECT hex(randomblob(450)) FROM n",
        );
    }

    /// The page objects are what `b` has, and the marker says so.
    #[track_caller]
    fn assert_folded_by_b(&mut self) {
        self.b.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        let file = self.b.db().clone();
        self.world.assert_pages_are(&file, &mut self.b.session, &self.what);
    }

    /// What is restored from the bucket as it is now is what `b` has.
    #[track_caller]
    fn assert_restores(&mut self) {
        self.b.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        let restored = self.world.restore_elsewhere();
        compare::assert_same_pages(self.b.db(), &restored);
        std::fs::remove_dir_all(restored.parent().unwrap()).unwrap();
    }

    fn thaw(&mut self) {
        self.a.session.thaw();
        self.a.proxy.gate().open();
        // It may have come to its end, or have found out that another goes on.
        let _ = self.a.session.answer();
    }

    /// Both go on, and fold in turns.
    fn settle(&mut self) {
        for round in 0..2 {
            let (one, other) = if round == 0 { (&mut self.a, &mut self.b) } else { (&mut self.b, &mut self.a) };
            one.reopen();
            one.session.sql(&format!("UPDATE t SET v = v || 'round {round}' WHERE id % 5 = 1"));
            one.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            let file = one.db().clone();
            self.world.assert_pages_are(&file, &mut one.session, &self.what);
            other.reopen();
            other.session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            compare::assert_same_pages(one.db(), other.db());
        }
        self.assert_restores();
    }
}

/// Frozen for longer than the fence window, in which the other machine folds, waits and folds again, so that nothing of what the
/// frozen one builds on is in the log any more.
fn taken_over(place: Place) {
    let mut scene = Scene::new(place, format!("{place:?}, taken over"));
    let since = scene.freeze(place);
    let last = scene.world.last();
    scene.b_commits();
    // This waits until the claim of the other counts for nothing.
    scene.assert_folded_by_b();
    assert_eq!(scene.world.marker(), scene.world.end(), "{}: the marker has moved on", scene.what);
    wait_until_passed(since.max(SystemTime::now()), WINDOW + Duration::from_secs(1));
    scene.b_commits();
    scene.assert_folded_by_b();
    let left = scene.world.log();
    assert!(left.first().is_none_or(|first| *first > last), "{}: what is folded is deleted: {left:?}", scene.what);
    let before = scene.world.concatenated();
    scene.thaw();
    assert!(scene.world.concatenated() == before, "{}: no page has changed", scene.what);
    scene.assert_restores();
    scene.settle();
}

/// Frozen for a moment, in which the other machine commits and finds somebody folding.
fn held_up(place: Place) {
    let mut scene = Scene::new(place, format!("{place:?}, held up"));
    scene.freeze(place);
    scene.b_commits();
    scene.assert_restores();
    if let Err(error) = scene.b.session.exec(0, "PRAGMA bottomless_flush") {
        assert!(error.message.contains("another machine is folding"), "{}: {error:?}", scene.what);
    }
    scene.assert_restores();
    scene.thaw();
    scene.assert_restores();
    scene.settle();
}

/// A course of things, with the place where one is frozen.
type Play = (fn(Place), Place);

fn in_parallel(plays: &[Play]) {
    // Most of their time they wait.
    std::thread::scope(|scope| {
        for (number, (play, place)) in plays.iter().enumerate() {
            // So that a failure says which.
            let name = format!("{number}, {place:?}");
            std::thread::Builder::new().name(name).spawn_scoped(scope, || play(*place)).unwrap();
        }
    });
}

#[test]
fn a_fold_that_is_frozen_while_it_puts_pages() {
    in_parallel(&[
        (taken_over, At("fold.claimed", 1)),
        (taken_over, At("fold.page", 3)),
        (taken_over, At("fold.pages", 1)),
        (taken_over, Sent("PUT")),
        (taken_over, Replied("PUT")),
        (held_up, At("fold.claimed", 1)),
        (held_up, At("fold.page", 2)),
        (held_up, Sent("PUT")),
        (held_up, Replied("PUT")),
    ]);
}

/// A page that is there again is not deleted by a request that comes late.
#[test]
fn a_fold_that_is_frozen_while_it_removes_pages_or_at_its_end() {
    in_parallel(&[
        (taken_over, At("fold.removed", 1)),
        (taken_over, Sent("DELETE")),
        (taken_over, Replied("DELETE")),
        (taken_over, At("fold.unclaimed", 1)),
        (taken_over, At("fold.marked", 1)),
        (held_up, At("fold.removed", 2)),
        (held_up, Sent("DELETE")),
        (held_up, At("fold.unclaimed", 1)),
        (held_up, At("fold.marked", 1)),
    ]);
}
