//! What must hold of a database after whatever happened to it.

use std::path::Path;

use bottomless_ltx::{Checksum, HEADER_LENGTH, Header, PageNumber, PageSize};

use crate::session::{Session, SqlError};
use crate::{World, compare};

/// The database checksum of a database file without a WAL, and its size in pages.
///
/// # Panics
/// If it is no database.
#[track_caller]
pub fn checksum_of(path: &Path) -> (Checksum, u32) {
    let content = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    // SQLite's file format: bytes 16 and 17 are the page size, big-endian, where 1 stands for 65536.
    let page_size = match u16::from_be_bytes([content[16], content[17]]) {
        1 => 65536,
        bytes => u32::from(bytes),
    };
    let page_size = PageSize::new(page_size).expect("a page size");
    // A process that died before it could cut the file off leaves pages behind the last one: SQLite goes by bytes 28 to 31.
    let size = u32::from_be_bytes(content[28..32].try_into().expect("four bytes"));
    let pages = content.chunks(page_size.bytes()).take(size as usize);
    let numbered = (1..).filter_map(PageNumber::new).zip(pages).filter(|(page, _)| *page != page_size.lock_page());
    let total =
        numbered.fold(Checksum::EMPTY, |total, (page, content)| total.toggle_page(Checksum::of_page(page, content)));
    (total, size)
}

/// The header of an object that ends with a transaction; of the log's, if there is one.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn header_of(world: &World, txid: u64) -> Header {
    let ending = world.history().into_iter().find(|(_, _, max)| *max == txid);
    let name = ending.unwrap_or_else(|| panic!("transaction {txid}: no object ends with it"));
    let object = world.bucket.get(&world.key_of(name));
    Header::decode(&object[..HEADER_LENGTH]).unwrap_or_else(|e| panic!("transaction {txid}: {e}"))
}

/// Every transaction from the first to the last is merged or in the log; gives the last of all. Of the log, any part of what
/// is merged may be left: it is deleted in parallel.
///
/// # Panics
/// If it hasn't.
#[track_caller]
pub fn assert_no_gap(world: &World, what: &str) -> u64 {
    let history = world.history();
    let mut log: Vec<_> = history.iter().filter(|(level, _, _)| *level == 0).map(|(_, _, max)| *max).collect();
    let last = log.last().copied().unwrap_or(0);
    // The first transaction stays in the log until there is a snapshot.
    let mut merged = if log.first() == Some(&1) { log.remove(0) } else { 0 };
    let goes_on = |upto: u64| move |(level, min, max): &&(u8, u64, u64)| *level > 0 && *min <= upto + 1 && *max > upto;
    while let Some((_, _, max)) = history.iter().find(goes_on(merged)) {
        merged = *max;
    }
    log.retain(|txid| *txid > merged);
    assert!(log.iter().copied().eq(merged + 1..=last.max(merged)), "{what}: a gap: {history:?}");
    last.max(merged)
}

/// The rows of all tables but one that is left out, and the schema: the same text for the same content.
///
/// # Errors
/// What SQLite said.
pub fn content(session: &mut Session, connection: u32, without: &str) -> Result<String, SqlError> {
    let of_schema = "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name <> '";
    let schema = session.exec(connection, &format!("{of_schema}{without}' ORDER BY name"))?;
    let mut text = String::new();
    for entry in schema {
        text.push_str(&format!("{entry:?}\n"));
        if entry[0] == "table" {
            let name = entry[1].as_str().expect("a name");
            for row in session.exec(connection, &format!("SELECT * FROM \"{name}\""))? {
                text.push_str(&format!("{row:?}\n"));
            }
        }
    }
    Ok(text)
}

/// The local file, the local state, the bucket's end and what is restored from it are one and the same, and so are the page
/// objects, where they are the layout. `session` has the database open, and nobody else writes. Gives the path of the restored
/// file.
///
/// # Panics
/// If they aren't.
#[track_caller]
pub fn assert_whole(world: &World, session: &mut Session, what: &str) -> std::path::PathBuf {
    assert_eq!(session.value("PRAGMA integrity_check"), "ok", "{what}");
    session.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let last = assert_no_gap(world, what);
    let header = header_of(world, last);
    let status = session.status();
    let (checksum, size) = checksum_of(&world.db());
    assert_eq!(status["txid"], last, "{what}: the position");
    let after = header.database.expect("our own checksums").after;
    assert_eq!(after, checksum, "{what}: the bucket's checksum and that of the local file");
    assert_eq!(status["database_checksum"], checksum.to_string(), "{what}: the local state's");
    assert_eq!((status["size_in_pages"].as_u64(), header.size_in_pages), (Some(size.into()), size), "{what}");
    assert_eq!(status["unsettled"], false, "{what}");
    let restored = world.restore_elsewhere();
    let page_size = header.page_size.bytes() as u64;
    let used = world.folder().join("used.db");
    std::fs::copy(world.db(), &used).expect("a copy");
    let file = std::fs::File::options().write(true).open(&used).expect("the copy");
    file.set_len(u64::from(size) * page_size).expect("the used part of it");
    compare::assert_same_pages(&used, &restored);
    assert_eq!(world.end(), last, "{what}: a restore adds nothing to the history");
    world.assert_pages_are(&used, session, what);
    restored
}
