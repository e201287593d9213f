//! The fuzz target of the local state: whatever bytes the file has, reading it gives what was written or nothing.
#![allow(clippy::unwrap_used, reason = "a panic is how a target says no")]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use arbitrary::{Result, Unstructured};
use bottomless_ltx::{Checksum, PageNumber, PageSize, Position, Txid, WriterId};
use rustix::fs::{MemfdFlags, memfd_create};

use super::record::{LONGEST_E_TAG, MAGIC, VERSION};
use super::{BLOCK, Block, Intent, MARK_OFFSET, Mark, PAGES_OFFSET, Record, StateFile, WalEnd, seal};

thread_local! {
    /// One file for all runs, in memory: a file on a disk would be most of the work.
    static STATE: StateFile = {
        let file = File::from(memfd_create("state", MemfdFlags::empty()).unwrap());
        let inode = file.metadata().unwrap().ino();
        StateFile { file, path: PathBuf::new(), inode }
    };
}

/// Where the inode is in the record.
const INODE: std::ops::Range<usize> = 16..24;

/// The first byte says what the rest is: a file as it stands; one that gets the version of the day, its inode and its
/// checksums; or how to make a record and how to damage it.
pub fn local_state(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    STATE.with(|state| match kind % 3 {
        0 => check(state, rest),
        1 => {
            let mut bytes = rest.to_vec();
            for (place, value) in
                [(0..8, &MAGIC[..]), (8..12, &VERSION.to_le_bytes()), (INODE, &state.inode.to_le_bytes())]
            {
                if let Some(place) = bytes.get_mut(place) {
                    place.copy_from_slice(value);
                }
            }
            for block in bytes.chunks_exact_mut(BLOCK).take(2) {
                let Some(block) = block.first_chunk_mut::<BLOCK>() else { break };
                seal(block);
            }
            check(state, &bytes);
        }
        // The input has ended: nothing is left to be tried.
        _ => written(state, &mut Unstructured::new(rest)).unwrap_or_default(),
    });
}

/// Makes the file be these bytes.
fn fill(file: &File, bytes: &[u8]) {
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// What must hold of any bytes.
fn check(state: &StateFile, bytes: &[u8]) {
    fill(&state.file, bytes);
    let whole = |at: usize| bytes.get(at..)?.first_chunk::<BLOCK>().filter(|block| has_checksum(block));
    let record = state.read().unwrap();
    if let Some(record) = record {
        let block = whole(0).unwrap();
        assert_eq!(block[INODE], state.inode.to_le_bytes());
        let again = record.encode(state.inode);
        assert_eq!(Record::decode(&again), Some(record));
    }
    let mark = state.read_mark().unwrap();
    assert_eq!(mark.is_some(), whole(usize::try_from(MARK_OFFSET).unwrap()).is_some());
    if let Some(mark) = mark {
        assert_eq!(Mark::decode(&mark.encode()), mark);
    }
    check_pages(state, bytes);
}

/// Each page checksum is the eight bytes at its place.
fn check_pages(state: &StateFile, bytes: &[u8]) {
    let start = usize::try_from(PAGES_OFFSET).unwrap();
    let stored = bytes.get(start..).unwrap_or_default();
    let mut pages = state.pages();
    let numbers = (1..=u32::try_from(stored.len() / 8).unwrap() + 2).chain([511, 512, 513, 1 << 31, u32::MAX]);
    for number in numbers {
        let at = (number as usize - 1) * 8;
        let expected = stored.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u64::from_le_bytes);
        let read = pages.get(PageNumber::new(number).unwrap()).unwrap();
        assert_eq!(read, Checksum::new(expected), "page {number}");
    }
}

/// Writes a record, a mark's block and page checksums; reads them; damages them, and reads them again.
fn written(state: &StateFile, input: &mut Unstructured<'_>) -> Result<()> {
    fill(&state.file, &[]);
    let record = record(input)?;
    state.write(&record).unwrap();
    let expected = Record { inode: state.inode, ..record };
    assert_eq!(state.read().unwrap().as_ref(), Some(&expected));
    update_pages(state, input)?;
    assert_eq!(state.read().unwrap().as_ref(), Some(&expected));

    let mut bytes = vec![0; BLOCK];
    state.file.read_exact_at(&mut bytes, 0).unwrap();
    let before = bytes.clone();
    for _ in 0..input.int_in_range(1..=4)? {
        let at = input.choose_index(BLOCK)?;
        bytes[at] ^= 1 << input.int_in_range(0..=7)?;
    }
    state.file.write_all_at(&bytes, 0).unwrap();
    let read = state.read().unwrap();
    let is_same = bytes == before;
    let block: &Block = bytes.first_chunk().unwrap();
    assert!(is_same || has_checksum(block) || read.is_none(), "a damaged record counts: {read:?}");
    Ok(())
}

fn update_pages(state: &StateFile, input: &mut Unstructured<'_>) -> Result<()> {
    let mut expected = std::collections::BTreeMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let start = input.int_in_range(1..=9000)?;
        let count = *input.choose(&[1, 2, 2, 2, 600, 8193])?;
        let checksum = Checksum::from_crc(input.arbitrary()?);
        let updates: Vec<_> = (start..start + count).map(|n| (PageNumber::new(n).unwrap(), checksum)).collect();
        state.pages().update(&updates).unwrap();
        expected.extend(updates);
        if input.ratio(1, 4)? {
            let size = input.int_in_range(0..=18_000)?;
            state.pages().truncate(size).unwrap();
            expected.retain(|page, _| page.get() <= size);
        }
    }
    let mut pages = state.pages();
    for (&page, &checksum) in &expected {
        assert_eq!(pages.get(page).unwrap(), Some(checksum));
    }
    for number in [1, 512, 513, 9000, 17_999] {
        let page = PageNumber::new(number).unwrap();
        assert_eq!(pages.get(page).unwrap(), expected.get(&page).copied());
    }
    Ok(())
}

fn record(input: &mut Unstructured<'_>) -> Result<Record> {
    let checksum = |input: &mut Unstructured<'_>| input.arbitrary().map(Checksum::from_crc);
    let position = Position { txid: Txid::new(input.arbitrary()?), checksum: checksum(input)? };
    let page_size = match input.int_in_range(0..=8)? {
        8 => None,
        power => PageSize::new(512 << power).ok(),
    };
    let e_tag = input.arbitrary::<Option<&str>>()?.map(|tag| tag.chars().take(LONGEST_E_TAG / 4).collect::<String>());
    let intent = if input.arbitrary()? {
        let (txid, writer) = (Txid::new(input.arbitrary()?), WriterId(input.arbitrary()?));
        let (file_checksum, after) = (checksum(input)?, checksum(input)?);
        Some(Intent { txid, writer, file_checksum, after, refused: input.arbitrary()? })
    } else {
        None
    };
    let wal = input.arbitrary::<Option<([u32; 2], u32)>>()?.map(|(salts, frames)| WalEnd { salts, frames });
    Ok(Record {
        inode: 0,
        identity: input.arbitrary()?,
        main_inode: input.arbitrary()?,
        position,
        page_size,
        size_in_pages: input.arbitrary()?,
        change_counter: input.arbitrary()?,
        e_tag: e_tag.filter(|tag| !tag.is_empty()),
        proven: input.arbitrary()?,
        owes_all: input.arbitrary()?,
        foreign: input.arbitrary()?,
        writing: input.arbitrary()?,
        unjournaled: input.arbitrary()?,
        wal,
        intent,
    })
}

/// CRC-64/GO-ISO bit by bit, with bit 63 set.
fn has_checksum(block: &Block) -> bool {
    let (content, stored) = block.split_at(BLOCK - 8);
    let mut crc = u64::MAX;
    for byte in content {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xd800_0000_0000_0000 } else { crc >> 1 };
        }
    }
    stored == (!crc | 1 << 63).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every file of the corpus: what the fuzzer has found once stays found.
    #[test]
    fn corpus() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/local_state");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let result = std::panic::catch_unwind(|| super::local_state(&input));
            assert!(result.is_ok(), "{} fails", path.display());
            files += 1;
        }
        assert!(files >= 10, "the corpus of local_state is gone: {files} files");
    }
}
