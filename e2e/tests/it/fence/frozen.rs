//! A writer that is frozen at the worst moments, while another goes on, compacts and deletes: the fence window, with a
//! window of a second.

mod scene;

use std::time::{Duration, SystemTime};

use bottomless_e2e::freezer::wait_until_passed;
use bottomless_e2e::proxy::{Answer, Fault, Request};
use bottomless_e2e::{Host, World};

use crate::commit::commits_once;
use scene::Meanwhile::{self, Commits, Compacts, GoesOn, Merges, Nothing};
use scene::Place::{self, Drafted, Idle, Intended, Landed, Sent, Stored, Unsettled};
use scene::{Scene, WINDOW, set_window};

/// A writer that is frozen at this place, with each of the other's doings; some of them in both journal modes, with
/// the place of the transaction in what is merged exchanged.
fn frozen(place: Place) {
    let courses: [(&str, &[Meanwhile]); 2] =
        [("DELETE", &[Nothing, Commits(2), Merges(1), GoesOn(2)]), ("WAL", &[Merges(2), GoesOn(1)])];
    std::thread::scope(|scope| {
        for (mode, courses) in courses {
            scope.spawn(move || Scene::new(mode).play_all(place, courses));
        }
    });
}

#[test]
fn a_writer_frozen_between_two_commits() {
    frozen(Idle);
}

/// It may build on its own transaction only if nobody has gone on from there, also where that one is merged by now.
#[test]
fn a_writer_frozen_with_an_unknown_outcome() {
    let courses = [("DELETE", false, [Nothing, Merges(1)]), ("WAL", false, [Merges(0), GoesOn(2)])];
    let landed = [("WAL", true, [Nothing, Merges(1)]), ("DELETE", true, [Merges(0), GoesOn(2)])];
    std::thread::scope(|scope| {
        for (mode, landed, courses) in courses.into_iter().chain(landed) {
            scope.spawn(move || Scene::new(mode).play_all(Unsettled { landed }, &courses));
        }
    });
}

#[test]
fn a_writer_frozen_before_it_looks_at_its_clock() {
    frozen(Drafted);
}

#[test]
fn a_writer_frozen_before_it_sends() {
    frozen(Intended);
}

#[test]
fn a_writer_frozen_when_it_has_sent() {
    frozen(Sent);
}

#[test]
fn a_writer_frozen_when_its_object_is_stored() {
    frozen(Stored);
}

#[test]
fn a_writer_frozen_when_it_has_the_reply() {
    frozen(Landed);
}

/// As the other machine's own compaction does it: what the frozen one holds on to is merged, read back and deleted.
#[test]
fn a_writer_frozen_while_the_log_is_really_compacted_and_deleted() {
    let places = [("DELETE", Idle), ("WAL", Sent), ("DELETE", Stored), ("WAL", Intended)];
    std::thread::scope(|scope| {
        for (mode, place) in places {
            scope.spawn(move || Scene::new(mode).play_all(place, &[Compacts]));
        }
    });
}

/// The orphan stays there: it must be passed over by everybody who restores.
#[test]
fn where_nothing_may_be_deleted_the_orphan_stays_and_does_no_harm() {
    let courses = [("DELETE", Merges(1)), ("WAL", GoesOn(1)), ("DELETE", GoesOn(2)), ("WAL", Merges(2))];
    in_parallel(&courses, |scene, meanwhile| {
        let what = &format!("{meanwhile:?}");
        let (row, _) = scene.freeze(Sent, what);
        let orphan = scene.last() + 1;
        let third = scene.third();
        scene.happens(meanwhile, what);
        let denied = Answer::new(403, "AccessDenied");
        scene.a.proxy.fail_only(Some("DELETE"), "", Fault::Answer(denied));
        let told = scene.thaw(Sent, &row);
        scene.assert_fenced(&told.expect_err(what), what);
        let warning = |scene: &Scene| {
            let stderr = scene.a.session.stderr();
            let of_key = |line: &&str| line.contains("can't be removed") && line.contains(&scene.world.log_key(orphan));
            stderr.lines().filter(of_key).count()
        };
        assert_eq!(warning(scene), 1, "{what}: {}", scene.a.session.stderr());
        assert!(scene.world.log().contains(&orphan), "{what}: it is still there");
        scene.assert_restores();
        scene.assert_catches_up(third, what);
        scene.settle(what);
        assert_eq!(warning(scene), 2, "{what}: it is tried once more: {}", scene.a.session.stderr());
        assert!(scene.world.log().contains(&orphan), "{what}: it is still there");
        scene.assert_restores();
    });
}

/// It has no chance to remove its orphan.
#[test]
fn the_orphan_of_a_writer_that_died_is_removed_when_it_opens_anew() {
    let courses = [("DELETE", Merges(1)), ("WAL", GoesOn(1)), ("DELETE", GoesOn(2)), ("WAL", Merges(2))];
    in_parallel(&courses, |scene, meanwhile| {
        let what = &format!("{meanwhile:?}");
        scene.freeze(Sent, what);
        let orphan = scene.last() + 1;
        let third = scene.third();
        scene.happens(meanwhile, what);
        let before = scene.world.objects();
        scene.a.proxy.gate().let_request();
        scene.a.session.kill();
        scene.a.proxy.gate().open();
        assert!(scene.world.log().contains(&orphan), "{what}: it was created");
        scene.assert_restores();
        scene.assert_catches_up(third, what);
        scene.a.restart(&scene.world, None);
        assert_eq!(scene.world.objects(), before, "{what}: nothing of it is there");
        scene.settle(what);
        scene.assert_restores();
    });
}

fn in_parallel(courses: &[(&str, Meanwhile)], play: impl Fn(&mut Scene, Meanwhile) + Sync) {
    std::thread::scope(|scope| {
        for (mode, meanwhile) in courses {
            scope.spawn(|| play(&mut Scene::new(mode), *meanwhile));
        }
    });
}

/// On the wire: one PUT while the writer knows where the bucket is, and at most a listing before and after it when it
/// does not.
#[test]
fn a_commit_costs_one_put_within_the_window_and_two_listings_more_behind_it() {
    for mode in ["DELETE", "WAL"] {
        let world = World::new("window");
        let mut session = world.open(Host::Newest);
        session.sql(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(v)"));
        for _ in 0..3 {
            commits_once(&world, &mut session, "INSERT INTO t VALUES('within')");
        }
        let kind = |request: Request| if request.is_list() { "LIST".to_owned() } else { request.method };
        set_window(&world, Duration::from_nanos(1));
        session.close(0).unwrap();
        session.open(0, &world.uri()).unwrap();
        session.sql("SELECT count(*) FROM t");
        for _ in 0..3 {
            world.proxy.clear();
            session.sql("INSERT INTO t VALUES('behind')");
            let requests: Vec<_> = world.proxy.requests().into_iter().map(kind).collect();
            assert_eq!(requests, ["LIST", "PUT", "LIST"], "{mode}");
        }
        set_window(&world, WINDOW);
        session.close(0).unwrap();
        session.open(0, &world.uri()).unwrap();
        session.sql("INSERT INTO t VALUES('again')");
        wait_until_passed(SystemTime::now(), WINDOW / 2);
        world.proxy.clear();
        session.sql("INSERT INTO t VALUES('a little later')");
        let requests: Vec<_> = world.proxy.requests().into_iter().map(kind).collect();
        let least = &["LIST", "PUT", "LIST"][..requests.len().clamp(2, 3)];
        assert_eq!(requests, least, "{mode}");
        world.assert_restores_equal(&mut session);
    }
}
