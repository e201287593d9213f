//! Two pages that change alike: the XOR of their CRCs stays as it was, since a CRC is linear. Handing a flag from one row to
//! another is such a change. The checksum of a database must show it, or an open takes one state for another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::sync::Arc;

use common::session::PATIENT;
use common::*;

fn start() -> Session {
    let mut session = Session::new(&FaultStore::new(Plan::Never, Conduct::Honest), PATIENT, 7);
    session.open().unwrap();
    let first = Image::first(&mut Random::new(3), 6);
    assert!(matches!(session.write(first, End::Commit), Told::Committed));
    session
}

fn alike(image: &Image) -> Image {
    let mut next = image.clone();
    for page in [2, 3] {
        next.0[page * 512 + 100] ^= 1;
    }
    next
}

#[test]
fn a_change_by_another_program_is_published() {
    let mut session = start();
    session.close();
    let next = alike(&session.local);
    session.foreign(&next);
    session.local = next.clone();
    session.open().unwrap();
    assert_eq!(session.oracle.newest(), next);
}

#[test]
fn a_file_at_an_older_position_is_caught_up() {
    let mut session = start();
    let old = session.local.clone();
    let next = alike(&old);
    assert!(matches!(session.write(next.clone(), End::Commit), Told::Committed));
    session.close();
    let store = FaultStore::over(Arc::clone(&session.store.inner), Plan::Never, Conduct::Honest);
    let mut other = Session::new(&store, PATIENT, 9);
    other.foreign(&old);
    other.local = old;
    other.open_anew().unwrap();
    assert_eq!(other.txid(), 2);
    assert_eq!(other.file(), next, "the acknowledged transaction is here");
}

#[test]
fn a_crash_between_landing_and_committing_is_settled() {
    let mut session = start();
    let next = alike(&session.local);
    let _ = session.write(next, End::Crash { committed: false });
    drop(session.database.take());
    session.open_anew().unwrap();
    assert!(session.unsettled() || session.file() == session.oracle.newest());
}
