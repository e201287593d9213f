//! LTX files: what was written is read, what is read can be written, and nothing else is.
#![allow(clippy::unwrap_used, reason = "a panic is how a target says no")]

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use bottomless_ltx::{
    Checksum, DatabaseChecksums, DecodeError, DecodedFile, Encoder, FileChecksum, HEADER_LENGTH, Header, PageNumber,
    PageSize, RunningChecksum, Tail, TailProgress, Trailer, Txid, WriterId, decode_file, decode_frames,
};

use crate::mutate;

type Pages = Vec<(PageNumber, Vec<u8>)>;

/// The first byte says what the rest is: a file as it stands, or how to make one and how to damage it.
pub fn ltx_decode(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => check(rest),
        1 => {
            let mut bytes = rest.to_vec();
            seal(&mut bytes);
            check(&bytes);
        }
        // The input has ended: nothing is left to be tried.
        _ => built(&mut Unstructured::new(rest)).unwrap_or_default(),
    }
}

/// Writes a file, reads it, damages it, and reads that.
fn built(input: &mut Unstructured<'_>) -> Result<()> {
    let (header, pages) = file(input)?;
    let mut bytes = encode(&header, &pages);
    let (decoded, read) = decode(&bytes).unwrap();
    assert_eq!(decoded.header, header);
    assert_eq!(read, pages);
    check(&bytes);

    mutate(input, &mut bytes)?;
    let sealed = input.arbitrary()?;
    if sealed {
        seal(&mut bytes);
    } else if let Ok((_, read)) = decode(&bytes) {
        // The checksum covers all but how a page is compressed.
        assert_eq!(read, pages, "other pages under the old checksum");
    }
    check(&bytes);
    Ok(())
}

fn file(input: &mut Unstructured<'_>) -> Result<(Header, Pages)> {
    let page_size = PageSize::new(*input.choose(&[512, 512, 512, 512, 1024, 4096, 65_536])?).unwrap();
    let is_snapshot = input.arbitrary()?;
    let lock_page = page_size.lock_page().get();
    let numbers: BTreeSet<u32> = if is_snapshot {
        (1..=input.int_in_range(0..=5)?).collect()
    } else {
        let mut numbers = BTreeSet::new();
        for _ in 0..input.int_in_range(0..=5)? {
            let around = *input.choose(&[1, 128, 16_384, lock_page - 2, u32::MAX - 200])?;
            numbers.insert(around + input.int_in_range(0..=200)?);
        }
        numbers.remove(&lock_page);
        numbers
    };
    let last = numbers.last().copied().unwrap_or(0);
    let mut pages = Pages::new();
    for number in numbers {
        let piece = match input.int_in_range(0..=2)? {
            0 => vec![input.arbitrary()?],
            1 => input.bytes(input.len().min(40))?.to_vec(),
            _ => input.bytes(input.len().min(page_size.bytes()))?.to_vec(),
        };
        let content: Vec<u8> = piece.iter().copied().cycle().take(page_size.bytes()).collect();
        pages.push((PageNumber::new(number).unwrap(), [content, vec![0; page_size.bytes()]].concat()));
    }
    for (_, content) in &mut pages {
        content.truncate(page_size.bytes());
    }
    let more = if is_snapshot { 0 } else { input.int_in_range(0..=3)? };
    let min = if is_snapshot { Txid::FIRST } else { Txid::new(input.arbitrary::<u64>()?.max(2)) };
    let max = Txid::new(input.arbitrary::<u64>()?).max(min);
    let database = DatabaseChecksums {
        before: Checksum::from_crc(input.arbitrary()?),
        after: Checksum::from_crc(input.arbitrary()?),
    };
    let writer = WriterId(input.arbitrary()?);
    let header = Header::new(page_size, last.saturating_add(more), (min, max), input.arbitrary()?, writer, database);
    Ok((header, pages))
}

fn encode(header: &Header, pages: &Pages) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LENGTH];
    let mut encoder = Encoder::new(header.page_size);
    for (page, content) in pages {
        encoder.encode_page(*page, content, &mut bytes).unwrap();
    }
    let finished = encoder.finish(header, &mut bytes).unwrap();
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    assert_eq!(finished.length, bytes.len() as u64);
    bytes
}

fn decode(bytes: &[u8]) -> std::result::Result<(DecodedFile, Pages), DecodeError> {
    let mut pages = Pages::new();
    let mut scratch = Vec::new();
    let decoded = decode_file(bytes, &mut scratch, |_, page, content| {
        // A small input must not be able to take much memory, however many pages it names: these are ours.
        pages.push((page, content.to_vec()));
        Ok::<_, DecodeError>(())
    });
    assert!(scratch.capacity() <= PageSize::MAX.bytes());
    Ok((decoded?, pages))
}

/// What must hold of any bytes.
fn check(bytes: &[u8]) {
    let whole = decode(bytes);
    let header = Header::decode(bytes);
    let _ = Trailer::decode(bytes.len() as u64, bytes);
    if let Ok(header) = &header {
        check_header(header, bytes);
    }
    // A caller may be wrong about the length, too.
    if let Some(length) = bytes.first_chunk() {
        let _ = Tail::parse(u64::from_be_bytes(*length), bytes);
    }
    assert_eq!(whole.is_ok(), in_pieces(bytes).is_ok(), "{whole:?} or {:?}", in_pieces(bytes));
    let Ok((decoded, pages)) = whole else { return };
    assert_eq!(in_pieces(bytes), Ok(pages.clone()));
    check_pages(&decoded, &pages);

    if decoded.header.no_checksum {
        let (again, same) = decode(&encode(&decoded.header, &pages)).unwrap();
        assert_eq!(again.header, decoded.header);
        assert_eq!(same, pages);
    }
}

fn check_header(header: &Header, bytes: &[u8]) {
    let again = header.encode();
    assert_eq!(Header::decode(&again).as_ref(), Ok(header));
    // The reserved bytes are others' unless they carry our tag.
    let known = if header.database.is_some() { HEADER_LENGTH } else { 80 };
    assert_eq!(again[..known], bytes[..known]);
}

fn check_pages(decoded: &DecodedFile, pages: &Pages) {
    let header = &decoded.header;
    assert_eq!(decoded.pages, pages.len());
    assert!(pages.is_sorted_by(|a, b| a.0 < b.0));
    assert!(pages.iter().all(|(page, content)| {
        page.get() <= header.size_in_pages
            && *page != header.page_size.lock_page()
            && content.len() == header.page_size.bytes()
    }));
    if header.is_snapshot() {
        assert_eq!(pages.len(), header.page_size.stored_pages(header.size_in_pages) as usize);
    }
}

/// Reads a file as a restore does: the tail in steps, the frames in runs.
fn in_pieces(bytes: &[u8]) -> std::result::Result<Pages, DecodeError> {
    let header = Header::decode(bytes)?;
    let mut have = 40.min(bytes.len());
    let tail = loop {
        match Tail::parse(bytes.len() as u64, &bytes[bytes.len() - have..])? {
            TailProgress::Complete(tail) => break tail,
            TailProgress::NeedMore { bytes: more } => {
                assert!(more > 0);
                // Never more than the file has.
                have += usize::try_from(more).unwrap();
                assert!(have <= bytes.len());
            }
        }
    };
    // An entry of the index takes three bytes at least.
    assert!(tail.frames.capacity() <= bytes.len());
    tail.check(&header)?;
    let mut checksum = FileChecksum::new(bytes.first_chunk().unwrap());
    let mut pages = Pages::new();
    for run in tail.runs(1000) {
        let (start, end) = (run[0].offset, run[run.len() - 1].end());
        let bytes = &bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        checksum.push(decode_frames(bytes, run, header.page_size, &mut Vec::new(), |page, content| {
            pages.push((page, content.to_vec()));
            Ok::<_, DecodeError>(())
        })?);
    }
    checksum.verify(&tail)?;
    Ok(pages)
}

/// Puts the right checksum at the end, as far as the rest can be read: behind it are the checks that damage seldom
/// reaches.
fn seal(bytes: &mut [u8]) {
    let Some(header) = bytes.first_chunk::<HEADER_LENGTH>().copied() else { return };
    let Some(trailer) = bytes.last_chunk_mut::<16>() else { return };
    trailer[8] |= 0x80;
    let Ok(known) = Header::decode(&header) else { return };
    let Ok(TailProgress::Complete(tail)) = Tail::parse(bytes.len() as u64, bytes) else { return };
    let start = usize::try_from(tail.offset).unwrap();
    let frames = decode_frames(&bytes[HEADER_LENGTH..start], &tail.frames, known.page_size, &mut Vec::new(), |_, _| {
        Ok::<_, DecodeError>(())
    });
    let Ok(frames) = frames else { return };
    let end = bytes.len() - 8;
    let sum = RunningChecksum::of(&header).then(frames).then(RunningChecksum::of(&bytes[start..end]));
    bytes[end..].copy_from_slice(&sum.finish().get().to_be_bytes());
}
