//! Merges a history and deletes what is merged, as any program may do that keeps to the format.

use std::path::Path;

use bottomless_ltx::{
    Checksum, DatabaseChecksums, Encoder, HEADER_LENGTH, Header, PageNumber, PageSize, Txid, WriterId,
};

use crate::World;

/// Stores a snapshot of everything up to this transaction: the content of a database file without a WAL.
///
/// # Panics
/// If the log does not have the transaction, or the file is no database.
#[track_caller]
pub fn snapshot(world: &World, file: &Path, last: u64) {
    let content = std::fs::read(file).expect("the database file");
    // SQLite's file format: bytes 16 and 17 are the page size, big-endian, where 1 stands for 65536.
    let page_size = match u16::from_be_bytes([content[16], content[17]]) {
        1 => 65536,
        bytes => u32::from(bytes),
    };
    let page_size = PageSize::new(page_size).expect("a page size");
    let pages = || (1..).filter_map(PageNumber::new).zip(content.chunks(page_size.bytes()));
    let after = pages().fold(Checksum::EMPTY, |total, (page, content)| total.toggle(Checksum::of_page(page, content)));
    let size_in_pages = u32::try_from(pages().count()).expect("a number of pages");
    let header = Header::new(
        page_size,
        size_in_pages,
        (Txid::FIRST, Txid::new(last)),
        0,
        writer_of(world, last, after),
        DatabaseChecksums { before: Checksum::EMPTY, after },
    );
    let mut encoder = Encoder::new(page_size);
    let mut bytes = vec![0; HEADER_LENGTH];
    for (page, content) in pages() {
        encoder.encode_page(page, content, &mut bytes).expect("a page");
    }
    let finished = encoder.finish(&header, &mut bytes).expect("all pages");
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    world.bucket.put(&format!("{}/0009/{:016x}-{last:016x}.ltx", world.id(), 1), &bytes);
}

/// A merged object bears the writer of its last transaction.
#[track_caller]
fn writer_of(world: &World, txid: u64, checksum: Checksum) -> WriterId {
    let object = world.bucket.get(&world.log_key(txid));
    let header = Header::decode(&object).expect("a header");
    assert_eq!(header.database.map(|database| database.after), Some(checksum), "the file is at transaction {txid}");
    header.writer
}

/// Deletes the log up to this transaction.
pub fn delete_log(world: &World, up_to: u64) {
    for txid in world.log().into_iter().filter(|txid| *txid <= up_to) {
        world.bucket.delete(&world.log_key(txid));
    }
}
