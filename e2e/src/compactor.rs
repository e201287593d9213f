//! Merges a history and deletes what is merged, as any program may do that keeps to the format.

use std::path::Path;

use bottomless_ltx::{Checksum, DatabaseChecksums, Encoder, HEADER_LENGTH, Header, PageNumber, PageSize, Txid};

use crate::World;

/// The metadata from which `litestream restore -timestamp` takes the time of an object.
const TIMESTAMP: &str = "litestream-timestamp";

/// Stores a snapshot of everything up to this transaction: the content of a database file without a WAL.
///
/// # Panics
/// If the log does not have the transaction, or the file is no database.
#[track_caller]
pub fn snapshot(world: &World, file: &Path, last: u64) {
    merge(world, 9, (1, last), None, file);
}

/// Stores an object that merges a run of transactions, from the database files before and after it.
///
/// # Panics
/// If the log does not have the last transaction, or a file is no database.
#[track_caller]
pub fn merge(world: &World, level: u8, (first, last): (u64, u64), before: Option<&Path>, after: &Path) {
    let before = before.map(|file| std::fs::read(file).expect("the database file")).unwrap_or_default();
    let after = std::fs::read(after).expect("the database file");
    // SQLite's file format: bytes 16 and 17 are the page size, big-endian, where 1 stands for 65536.
    let page_size = match u16::from_be_bytes([after[16], after[17]]) {
        1 => 65536,
        bytes => u32::from(bytes),
    };
    let page_size = PageSize::new(page_size).expect("a page size");
    let pages = |content: &[u8]| -> Vec<(PageNumber, Vec<u8>)> {
        (1..).filter_map(PageNumber::new).zip(content.chunks(page_size.bytes()).map(<[u8]>::to_vec)).collect()
    };
    let (old, new) = (pages(&before), pages(&after));
    let checksum = |pages: &[(PageNumber, Vec<u8>)]| {
        pages
            .iter()
            .fold(Checksum::EMPTY, |total, (page, content)| total.toggle_page(Checksum::of_page(*page, content)))
    };
    // A merged object bears the writer and the time of its last transaction.
    let key = world.log_key(last);
    let of_last = Header::decode(&world.bucket.get(&key)).expect("a header");
    let database = DatabaseChecksums { before: checksum(&old), after: checksum(&new) };
    assert_eq!(of_last.database.map(|d| d.after), Some(database.after), "the file is at transaction {last}");
    let size_in_pages = u32::try_from(new.len()).expect("a number of pages");
    let txids = (Txid::new(first), Txid::new(last));
    let header = Header::new(page_size, size_in_pages, txids, of_last.timestamp_ms, of_last.writer, database);
    let mut encoder = Encoder::new(page_size);
    let mut bytes = vec![0; HEADER_LENGTH];
    for (number, content) in new.iter().filter(|page| !old.contains(page)) {
        encoder.encode_page(*number, content, &mut bytes).expect("a page");
    }
    let finished = encoder.finish(&header, &mut bytes).expect("all pages");
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    let time = world.bucket.metadata(&key, TIMESTAMP);
    let name = format!("{}/{level:04}/{first:016x}-{last:016x}.ltx", world.id());
    world.bucket.put_with(&name, &bytes, TIMESTAMP, &time.unwrap_or_default());
}

/// Deletes the log up to this transaction.
pub fn delete_log(world: &World, up_to: u64) {
    for txid in world.log().into_iter().filter(|txid| *txid <= up_to) {
        world.bucket.delete(&world.log_key(txid));
    }
}
