//! The objects of a level, together.

use std::io::{self, Write};

use bottomless_history::Entry;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::kind;
use crate::output::Table;

#[derive(Debug, Serialize)]
pub(super) struct Shelf {
    level: u8,
    kind: &'static str,
    objects: usize,
    bytes: u64,
    first_txid: String,
    last_txid: String,
}

impl Shelf {
    /// One for each level; the entries are in order.
    pub(super) fn of_all(entries: &[Entry]) -> Vec<Self> {
        entries.chunk_by(|a, b| a.name.level == b.name.level).filter_map(Self::new).collect()
    }

    /// Of entries of one level, in order.
    fn new(entries: &[Entry]) -> Option<Self> {
        let first = entries.first()?;
        Some(Self {
            level: first.name.level.get(),
            kind: kind(first.name.level),
            objects: entries.len(),
            bytes: entries.iter().map(|entry| entry.size).sum(),
            first_txid: first.name.min.to_string(),
            last_txid: entries.iter().map(|entry| entry.name.max).max().unwrap_or_default().to_string(),
        })
    }

    pub(super) fn write_all(shelves: &[Self], to: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(["LEVEL", "KIND", "OBJECTS", "SIZE", "FIRST TXID", "LAST TXID"]);
        for shelf in shelves {
            table.line([
                shelf.level.to_string(),
                shelf.kind.to_owned(),
                shelf.objects.to_string(),
                BinaryBytes(shelf.bytes).to_string(),
                shelf.first_txid.clone(),
                shelf.last_txid.clone(),
            ]);
        }
        table.write(to)
    }
}
