//! Properties of whole files: what is written is read again, and nothing else is.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use proptest::prelude::*;

use crate::*;

/// A file: its header, its pages, its bytes.
#[derive(Clone, Debug)]
struct File {
    header: Header,
    pages: Vec<(PageNumber, Vec<u8>)>,
    bytes: Vec<u8>,
}

fn encode(header: &Header, pages: &[(PageNumber, Vec<u8>)]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![0; HEADER_LENGTH];
    let mut encoder = Encoder::new(header.page_size);
    for (page, content) in pages {
        encoder.encode_page(*page, content, &mut bytes)?;
        assert_eq!(encoder.length(), bytes.len() as u64);
    }
    let finished = encoder.finish(header, &mut bytes)?;
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    assert_eq!(finished.length, bytes.len() as u64);
    assert_eq!(finished.pages as usize, pages.len());
    assert_eq!(finished.file_checksum.get().to_be_bytes(), bytes[bytes.len() - 8..]);
    Ok(bytes)
}

/// Content as pages have it: runs, noise, or nothing.
fn content(page_size: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(move |byte| vec![byte; page_size]),
        prop::collection::vec(any::<u8>(), page_size),
        (prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(move |piece| { piece.iter().copied().cycle().take(page_size).collect() }),
    ]
}

fn file() -> impl Strategy<Value = File> {
    let page_size = prop_oneof![Just(512_u32), Just(1024), Just(4096), Just(65536)];
    (page_size, any::<bool>(), any::<(u64, u64, u64, i64)>())
        .prop_flat_map(|(size, snapshot, numbers)| {
            let numbers_of_pages = if snapshot {
                (0..6_u32).prop_map(|last| (1..=last).collect()).boxed()
            } else {
                prop::collection::btree_set(1..100_000_u32, 0..6).boxed()
            };
            let pages = numbers_of_pages.prop_flat_map(move |set: std::collections::BTreeSet<u32>| {
                set.into_iter().map(|n| (Just(PageNumber::new(n).unwrap()), content(size as usize))).collect::<Vec<_>>()
            });
            (Just(size), Just(snapshot), Just(numbers), pages, 0..3_u32)
        })
        .prop_map(|(size, snapshot, (a, b, writer, timestamp), pages, more)| {
            let last = pages.last().map_or(0, |(page, _)| page.get());
            let min = if snapshot { 1 } else { a.max(2) };
            let header = Header::new(
                PageSize::new(size).unwrap(),
                if snapshot { last } else { last + more },
                (Txid::new(min), Txid::new(b.max(min))),
                timestamp,
                WriterId(writer),
                DatabaseChecksums { before: Checksum::from_crc(a), after: Checksum::from_crc(b) },
            );
            let bytes = encode(&header, &pages).unwrap();
            File { header, pages, bytes }
        })
}

type Pages = Vec<(PageNumber, Vec<u8>)>;

fn decode(bytes: &[u8]) -> Result<(DecodedFile, Pages), DecodeError> {
    let mut pages = Vec::new();
    let decoded = decode_file(bytes, &mut Vec::new(), |_, page, content| {
        pages.push((page, content.to_vec()));
        Ok::<_, DecodeError>(())
    })?;
    Ok((decoded, pages))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(file in file()) {
        let (decoded, pages) = decode(&file.bytes).unwrap();
        prop_assert_eq!(decoded.header, file.header);
        prop_assert_eq!(decoded.pages, pages.len());
        prop_assert_eq!(pages, file.pages);
    }

    /// The same file in pieces: the tail in as many steps as it takes, then the frames in runs.
    #[test]
    fn pieces_are_read_as_the_whole(file in file(), step in 1..200_usize, target in 1..5000_u64) {
        let length = file.bytes.len();
        let header = Header::decode(&file.bytes[..HEADER_LENGTH]).unwrap();
        let mut have = step.min(length);
        let tail = loop {
            match Tail::parse(length as u64, &file.bytes[length - have..]).unwrap() {
                TailProgress::Complete(tail) => break tail,
                TailProgress::NeedMore { bytes } => have += bytes as usize,
            }
        };
        tail.check(&header).unwrap();
        let mut checksum = FileChecksum::new(file.bytes.first_chunk().unwrap());
        let mut pages = Vec::new();
        let mut end = HEADER_LENGTH as u64;
        for run in tail.runs(target) {
            prop_assert_eq!(run[0].offset, end);
            end = run.last().unwrap().end();
            prop_assert!(run.len() == 1 || end - run[0].offset <= target);
            let bytes = &file.bytes[run[0].offset as usize..end as usize];
            let part = decode_frames(bytes, run, header.page_size, &mut Vec::new(), |page, content| {
                pages.push((page, content.to_vec()));
                Ok::<_, DecodeError>(())
            });
            checksum.push(part.unwrap());
        }
        prop_assert_eq!(end, tail.offset);
        checksum.verify(&tail).unwrap();
        prop_assert_eq!(pages, file.pages);
    }

    /// A file whose frames are partly copied from another is the one that is encoded from the pages.
    #[test]
    fn copied_frames_make_the_same_file(file in file(), copied: u8, anew: u8) {
        let TailProgress::Complete(tail) = Tail::parse(file.bytes.len() as u64, &file.bytes).unwrap() else {
            panic!("the whole file was given");
        };
        let frames = &file.bytes[HEADER_LENGTH..tail.offset as usize];
        let mut encoder = Encoder::new(file.header.page_size);
        let mut single = FrameEncoder::new(file.header.page_size);
        let mut bytes = vec![0; HEADER_LENGTH];
        let mut pages = Vec::new();
        let part = decode_whole_frames(frames, &tail.frames, file.header.page_size, &mut Vec::new(), |frame| {
            let page = frame.frame.page;
            if anew >> (pages.len() % 8) & 1 == 1 {
                let mut bytes = vec![7];
                let checksum = single.encode(page, frame.content, &mut bytes).unwrap();
                assert_eq!((&bytes[1..], checksum), (frame.bytes, frame.checksum));
            }
            if copied >> (pages.len() % 8) & 1 == 1 {
                encoder.copy_frame(page, frame.bytes, frame.checksum, &mut bytes).unwrap();
            } else {
                encoder.encode_page(page, frame.content, &mut bytes).unwrap();
            }
            pages.push((page, frame.content.to_vec()));
            Ok::<_, DecodeError>(())
        }).unwrap();
        let finished = encoder.finish(&file.header, &mut bytes).unwrap();
        bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
        prop_assert!(bytes == file.bytes);
        prop_assert_eq!(finished.length, bytes.len() as u64);
        prop_assert_eq!(pages, file.pages);
        let mut checksum = FileChecksum::new(&finished.header);
        checksum.push(part);
        checksum.verify(&tail).unwrap();
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), length: u64) {
        prop_assert!(decode(&bytes).is_err());
        let _ = Header::decode(&bytes);
        let _ = Trailer::decode(length, &bytes);
        let _ = Tail::parse(bytes.len() as u64, &bytes);
        // A caller may be wrong about the length, too.
        let _ = Tail::parse(length, &bytes);
    }

    /// Damage that keeps the outer form, so that the inner checks are reached.
    #[test]
    fn damaged_files_never_panic(file in file(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = file.bytes.clone();
        for (place, byte) in places {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((_, pages)) = decode(&bytes) {
            prop_assert_eq!(pages, file.pages);
        }
    }

    #[test]
    fn truncated_files_are_refused(file in file(), cut in any::<prop::sample::Index>()) {
        prop_assert!(decode(&file.bytes[..cut.index(file.bytes.len())]).is_err());
    }

    #[test]
    fn a_snapshot_with_a_hole_is_not_written(file in file(), hole in any::<prop::sample::Index>()) {
        prop_assume!(file.header.is_snapshot() && !file.pages.is_empty());
        let mut pages = file.pages.clone();
        let (missing, _) = pages.remove(hole.index(pages.len()));
        prop_assert_eq!(encode(&file.header, &pages), Err(EncodeError::MissingPage(missing.get())));
    }
}

fn small_file() -> File {
    let header = Header::new(
        PageSize::MIN,
        9,
        (Txid::new(7), Txid::new(7)),
        1_700_000_000_000,
        WriterId(42),
        DatabaseChecksums { before: Checksum::from_crc(1), after: Checksum::from_crc(2) },
    );
    let noise = (0..512_u32).map(|n| (n * n % 251) as u8).collect();
    let pages = vec![
        (PageNumber::FIRST, noise),
        (PageNumber::new(4).unwrap(), vec![0; 512]),
        (PageNumber::new(9).unwrap(), b"bottomless".repeat(52)[..512].to_vec()),
    ];
    let bytes = encode(&header, &pages).unwrap();
    File { header, pages, bytes }
}

/// All 255 wrong values of every byte. Only within an LZ4 block may another byte mean the same page.
#[test]
fn every_damaged_byte_is_detected_or_does_not_matter() {
    let file = small_file();
    let mut scratch = Vec::new();
    for at in 0..file.bytes.len() {
        for flip in 1..=255 {
            let mut bytes = file.bytes.clone();
            bytes[at] ^= flip;
            let mut nth = 0;
            let result = decode_file(&bytes, &mut scratch, |_, page, content| {
                let same = file.pages[nth] == (page, content.to_vec());
                nth += 1;
                if same { Ok(()) } else { Err(DecodeError::Magic([0; 4])) }
            });
            if let Ok(decoded) = result {
                assert_eq!(decoded.header, file.header, "byte {at} ^ {flip:#x}");
                assert_eq!(nth, file.pages.len(), "byte {at} ^ {flip:#x}");
            }
        }
    }
}

/// Without the visitor's help: every byte outside of the LZ4 blocks is covered by a check of ours.
#[test]
fn every_damaged_byte_outside_of_the_blocks_is_refused() {
    let file = small_file();
    let TailProgress::Complete(tail) = Tail::parse(file.bytes.len() as u64, &file.bytes).unwrap() else {
        panic!("the whole file was given");
    };
    let in_block = |at: u64| tail.frames.iter().any(|f| at >= f.offset + 10 && at < f.end());
    for at in (0..file.bytes.len()).filter(|&at| !in_block(at as u64)) {
        for bit in 0..8 {
            let mut bytes = file.bytes.clone();
            bytes[at] ^= 1 << bit;
            assert!(decode(&bytes).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn pages_that_do_not_belong_in_a_file_are_refused() {
    let file = small_file();
    let page = vec![0; 512];
    let mut out = Vec::new();
    let mut encoder = Encoder::new(PageSize::MIN);
    let lock_page = PageSize::MIN.lock_page();
    let number = |n| PageNumber::new(n).unwrap();
    encoder.encode_page(number(3), &page, &mut out).unwrap();
    let length = out.len();
    assert_eq!(
        encoder.encode_page(number(3), &page, &mut out),
        Err(EncodeError::Order { page: number(3), previous: number(3) })
    );
    assert_eq!(encoder.encode_page(lock_page, &page, &mut out), Err(EncodeError::LockPage(lock_page)));
    assert_eq!(
        encoder.encode_page(number(5), &page[1..], &mut out),
        Err(EncodeError::PageLength { page: number(5), have: 511, need: 512 })
    );
    encoder.encode_page(number(10), &page, &mut out).unwrap();
    assert!(out.len() > length, "a refusal leaves the encoder usable");
    assert_eq!(
        encoder.finish(&file.header, &mut out),
        Err(EncodeError::BehindEnd { page: number(10), size_in_pages: 9 })
    );
    let other_size = Encoder::new(PageSize::MAX);
    assert!(matches!(other_size.finish(&file.header, &mut out), Err(EncodeError::PageSize { .. })));
}

#[test]
fn bytes_that_are_no_frame_are_not_copied() {
    let file = small_file();
    let TailProgress::Complete(tail) = Tail::parse(file.bytes.len() as u64, &file.bytes).unwrap() else {
        panic!("the whole file was given");
    };
    let end = tail.offset as usize;
    let mut frames = Vec::new();
    decode_whole_frames(&file.bytes[HEADER_LENGTH..end], &tail.frames, PageSize::MIN, &mut Vec::new(), |frame| {
        frames.push((frame.frame.page, frame.bytes.to_vec(), frame.checksum));
        Ok::<_, DecodeError>(())
    })
    .unwrap();
    let (page, frame, checksum) = frames[1].clone();
    let mut encoder = Encoder::new(PageSize::MIN);
    let mut out = Vec::new();
    let mut refused = |page, frame: &[u8]| {
        let length = frame.len();
        assert_eq!(encoder.copy_frame(page, frame, checksum, &mut out), Err(EncodeError::NotAFrame { page, length }));
    };
    for length in 0..frame.len() {
        refused(page, &frame[..length]);
    }
    for byte in 0..10 {
        let mut other = frame.clone();
        other[byte] ^= 1;
        refused(page, &other);
    }
    refused(page, &[frame.as_slice(), &[0]].concat());
    refused(PageNumber::FIRST, &frame);
    let mut long = frame.clone();
    long.resize(10 + 2000, 0);
    long[6..10].copy_from_slice(&2000_u32.to_be_bytes());
    refused(page, &long);
    assert_eq!((out.len(), encoder.pages()), (0, 0));

    let lock_page = PageSize::MIN.lock_page();
    encoder.copy_frame(page, &frame, checksum, &mut out).unwrap();
    assert_eq!(encoder.copy_frame(page, &frame, checksum, &mut out), Err(EncodeError::Order { page, previous: page }));
    assert_eq!(encoder.copy_frame(lock_page, &frame, checksum, &mut out), Err(EncodeError::LockPage(lock_page)));
    assert_eq!(out, frame);
}

#[test]
fn a_snapshot_passes_over_the_lock_page() {
    let size = PageSize::MAX;
    let lock_page = size.lock_page().get();
    let content = vec![0; size.bytes()];
    let header = Header::new(
        size,
        lock_page + 1,
        (Txid::FIRST, Txid::FIRST),
        0,
        WriterId(1),
        DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::EMPTY },
    );
    let mut out = vec![0; HEADER_LENGTH];
    let mut encoder = Encoder::new(size);
    for page in (1..=lock_page + 1).filter(|&page| page != lock_page) {
        encoder.encode_page(PageNumber::new(page).unwrap(), &content, &mut out).unwrap();
    }
    let finished = encoder.finish(&header, &mut out).unwrap();
    assert_eq!(finished.pages, lock_page);
    out[..HEADER_LENGTH].copy_from_slice(&finished.header);
    let decoded = decode_file(&out, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(())).unwrap();
    assert_eq!(decoded.pages, lock_page as usize);
}

#[test]
fn pages_that_do_not_fit_the_header_are_refused() {
    let file = small_file();
    let TailProgress::Complete(tail) = Tail::parse(file.bytes.len() as u64, &file.bytes).unwrap() else {
        panic!("the whole file was given");
    };
    assert_eq!(tail.check(&file.header), Ok(()));
    let smaller = Header { size_in_pages: 8, ..file.header.clone() };
    assert!(matches!(tail.check(&smaller), Err(DecodeError::Index { offset, .. }) if offset == tail.frames[2].offset));
    let snapshot = Header { min_txid: Txid::FIRST, ..file.header.clone() };
    assert!(matches!(tail.check(&snapshot), Err(DecodeError::Index { offset, .. }) if offset == tail.offset));
    let lock_page = PageSize::MIN.lock_page();
    let mut with_lock_page = tail.clone();
    with_lock_page.frames[2].page = lock_page;
    let large = Header { size_in_pages: lock_page.get(), ..file.header };
    assert!(with_lock_page.check(&large).is_err());
}
