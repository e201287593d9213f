//! WAL files: the reader accepts what SQLite's recovery would ("WAL file format" in SQLite's file-format page).
#![allow(clippy::unwrap_used, reason = "a panic is how a target says no")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arbitrary::{Result, Unstructured};
use bottomless_engine::wal::WalReader;
use bottomless_ltx::PageNumber;
use rustix::fs::{MemfdFlags, memfd_create};

thread_local! {
    /// One file for all runs, in memory: a file on a disk would be most of the work.
    static FILE: File = memfd_create("wal", MemfdFlags::empty()).unwrap().into();
}

/// What recovery finds: the pages of the last committed transaction and before, and the size of the database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) page_size: usize,
    pub(super) size_in_pages: u32,
    pub(super) pages: BTreeMap<u32, Vec<u8>>,
}

/// Compares what the reader finds in these bytes with what the walk does.
pub(super) fn check(bytes: &[u8]) {
    let expected = recover(bytes);
    FILE.with(|file| {
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let read = WalReader::open(Path::new(&path)).unwrap();
        let Some(expected) = expected else {
            assert!(read.is_none(), "the reader takes {read:?}, recovery takes nothing");
            return;
        };
        let read = read.unwrap();
        assert_eq!(read.page_size().bytes(), expected.page_size);
        assert_eq!(read.size_in_pages(), expected.size_in_pages);
        let mut content = vec![0; expected.page_size];
        for (page, page_content) in &expected.pages {
            assert!(read.read_page(PageNumber::new(*page).unwrap(), &mut content).unwrap());
            assert!(content == *page_content, "page {page}");
        }
        let other = (1..).find(|page| !expected.pages.contains_key(page)).unwrap();
        assert!(!read.read_page(PageNumber::new(other).unwrap(), &mut content).unwrap());
    });
}

/// The walk over the checksums; nothing in it is shared with the reader.
pub(super) fn recover(bytes: &[u8]) -> Option<Recovered> {
    let header = bytes.get(..32)?;
    let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let big_endian = match word(0)? {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return None,
    };
    let page_size = match word(8)? {
        size @ (512 | 1024 | 2048 | 4096 | 8192 | 16_384 | 32_768 | 65_536) => size as usize,
        _ => return None,
    };
    let mut sum = sum_of(big_endian, (0, 0), &header[..24]);
    if (word(24)?, word(28)?) != sum {
        return None;
    }
    let mut found = Recovered { page_size, ..Recovered::default() };
    let mut open = BTreeMap::new();
    for frame in bytes[32..].chunks_exact(24 + page_size) {
        let at = |at: usize| u32::from_be_bytes(*frame[at..].first_chunk().unwrap());
        sum = sum_of(big_endian, sum, &frame[..8]);
        sum = sum_of(big_endian, sum, &frame[24..]);
        if at(0) == 0 || frame[8..16] != header[16..24] || (at(16), at(20)) != sum {
            break;
        }
        open.insert(at(0), frame[24..].to_vec());
        if at(4) != 0 {
            found.size_in_pages = at(4);
            found.pages.append(&mut open);
        }
    }
    (found.size_in_pages != 0).then_some(found)
}

/// SQLite's checksum of a run of bytes that continues another.
pub(super) fn sum_of(big_endian: bool, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let mut words = bytes.chunks_exact(4).map(|word| match big_endian {
        true => u32::from_be_bytes(word.try_into().unwrap()),
        false => u32::from_le_bytes(word.try_into().unwrap()),
    });
    while let (Some(first), Some(second)) = (words.next(), words.next()) {
        a = a.wrapping_add(first.wrapping_add(b));
        b = b.wrapping_add(second.wrapping_add(a));
    }
    (a, b)
}

/// A valid header.
pub(super) fn header(big_endian: bool, page_size: u32, salts: [u32; 2]) -> Vec<u8> {
    let magic = 0x377f_0682 | u32::from(big_endian);
    let mut bytes: Vec<u8> =
        [magic, 3_007_000, page_size, 0, salts[0], salts[1]].into_iter().flat_map(u32::to_be_bytes).collect();
    let (a, b) = sum_of(big_endian, (0, 0), &bytes);
    bytes.extend([a, b].into_iter().flat_map(u32::to_be_bytes));
    bytes
}

/// A valid file of some frames.
pub(super) fn build(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let big_endian = input.arbitrary()?;
    let page_size: u32 = *input.choose(&[512, 512, 1024, 4096, 65_536, 0, 1, 256, 768, 131_072])?;
    let salts: [u32; 2] = input.arbitrary()?;
    let mut bytes = header(big_endian, page_size, salts);
    let mut sum = sum_of(big_endian, (0, 0), &bytes[..24]);
    for _ in 0..input.int_in_range(0..=12)? {
        let page: u32 = input.int_in_range(0..=9)?;
        let size: u32 = input.int_in_range(0..=2)?;
        // In the database's header 1 stands for 65536; in a WAL it does not.
        let length = if page_size == 1 { 65_536 } else { page_size as usize };
        let content = vec![input.arbitrary()?; length];
        let head: Vec<u8> = [page, size].into_iter().flat_map(u32::to_be_bytes).collect();
        sum = sum_of(big_endian, sum_of(big_endian, sum, &head), &content);
        bytes.extend(head);
        bytes.extend([salts[0], salts[1], sum.0, sum.1].into_iter().flat_map(u32::to_be_bytes));
        bytes.extend(content);
    }
    Ok(bytes)
}
