//! A file whose bytes were put together by hand from the description of the format, with a checksum computed bit by
//! bit: what a common mistake in encoder and decoder would not show.
#![allow(clippy::unwrap_used)]

use crate::*;

/// Page 2 of a database with 512-byte pages: all bytes 0xAB. As an LZ4 block: one literal, a match of 505 bytes at
/// distance 1 (15 in the token, 255 + 231 behind it, and 4 that every match has), and six last literals. (LZ4 asks
/// for five of them at least; the encoder leaves six.)
const BLOCK: [u8; 13] = [0x1f, 0xab, 1, 0, 255, 231, 0x60, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab];

#[rustfmt::skip]
const HEADER: [u8; 100] = [
    b'L', b'T', b'X', b'1',
    0, 0, 0, 2,                                     // flags: no checksums
    0, 0, 2, 0,                                     // page size 512
    0, 0, 0, 3,                                     // three pages
    0, 0, 0, 0, 0, 0, 0, 0x0c,                      // min TXID
    0, 0, 0, 0, 0, 0, 0, 0x0d,                      // max TXID
    0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00,       // 2023-11-14 22:13:20 UTC
    0, 0, 0, 0, 0, 0, 0, 0,                         // pre-apply checksum
    0, 0, 0, 0, 0, 0, 0, 0,                         // WAL offset
    0, 0, 0, 0, 0, 0, 0, 0,                         // WAL size
    0, 0, 0, 0, 0, 0, 0, 0,                         // WAL salts
    0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // node id
    b'B', b'T', b'M', b'2',
    0x80, 0, 0, 0, 0, 0, 0, 0x01,                   // database checksum before
    0x80, 0, 0, 0, 0, 0, 0, 0x02,                   // database checksum after
];

#[rustfmt::skip]
const TAIL: [u8; 26] = [
    0, 0, 0, 0, 0, 0,         // end marker
    2, 100, 23, 0,            // index: page 2 at offset 100, 23 bytes; its end
    0, 0, 0, 0, 0, 0, 0, 4,   // length of the index
    0, 0, 0, 0, 0, 0, 0, 0,   // post-apply checksum
];

const FRAME_HEADER: [u8; 10] = [0, 0, 0, 2, 0, 1, 0, 0, 0, 13];

fn header() -> Header {
    Header::new(
        PageSize::MIN,
        3,
        (Txid::new(12), Txid::new(13)),
        1_700_000_000_000,
        WriterId(0x1122_3344_5566_7788),
        DatabaseChecksums { before: Checksum::from_crc(1), after: Checksum::from_crc(2) },
    )
}

/// CRC-64/GO-ISO bit by bit.
fn crc64(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(u64::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u64::from(byte), |crc, _| (crc >> 1) ^ (0xd800_0000_0000_0000 * (crc & 1)))
    })
}

fn golden() -> Vec<u8> {
    assemble(&HEADER, &FRAME_HEADER, &BLOCK, &TAIL)
}

/// A file of these parts, with the checksum that is right for them. `tail` ends before the file checksum.
fn assemble(head: &[u8], frame_header: &[u8], block: &[u8], tail: &[u8]) -> Vec<u8> {
    let hashed = [head, frame_header, &[0xab; 512], tail].concat();
    let checksum = (crc64(&hashed) | 1 << 63).to_be_bytes();
    [head, frame_header, block, tail, &checksum].concat()
}

#[test]
fn a_hand_made_file_is_read() {
    let mut pages = Vec::new();
    let decoded = decode_file(&golden(), &mut Vec::new(), |_, page, content| {
        pages.push((page.get(), content.to_vec()));
        Ok::<_, DecodeError>(())
    })
    .unwrap();
    assert_eq!(decoded.header, header());
    assert_eq!(decoded.trailer.post_apply_checksum, None);
    assert_eq!(pages, [(2, vec![0xab; 512])]);
}

#[test]
fn the_same_file_is_written() {
    let mut bytes = vec![0; HEADER_LENGTH];
    let mut encoder = Encoder::new(PageSize::MIN);
    encoder.encode_page(PageNumber::new(2).unwrap(), &[0xab; 512], &mut bytes).unwrap();
    let finished = encoder.finish(&header(), &mut bytes).unwrap();
    bytes[..HEADER_LENGTH].copy_from_slice(&finished.header);
    assert_eq!(bytes, golden());
}

#[test]
fn the_older_page_format_is_named() {
    let mut bytes = golden();
    bytes[105] = 0;
    let error = decode_file(&bytes, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(())).unwrap_err();
    assert_eq!(error, DecodeError::OldPageFormat { page: 2, offset: 100 });
}

/// A file as other writers of LTX make it: with LTX checksums, without our tag.
#[test]
fn a_file_with_ltx_checksums_is_read() {
    let mut head = HEADER;
    head[7] = 0;
    head[40] = 0x80;
    head[47] = 7;
    head[72..].fill(0);
    let mut tail = TAIL;
    tail[18] = 0x80;
    tail[25] = 9;
    let bytes = assemble(&head, &FRAME_HEADER, &BLOCK, &tail);
    let decoded = decode_file(&bytes, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(())).unwrap();
    assert_eq!(decoded.header.pre_apply_checksum, Some(Checksum::from_crc(7)));
    assert_eq!(decoded.header.database, None);
    assert_eq!(decoded.trailer.post_apply_checksum, Some(Checksum::from_crc(9)));
}

/// Parts that contradict each other, in files whose checksum is right: only a writer's mistake makes such files, and
/// a reader that trusts one part and not the other would go astray.
#[test]
fn parts_that_contradict_each_other_are_refused() {
    let error = |frame_header: &[u8], block: &[u8], tail: &[u8]| {
        let bytes = assemble(&HEADER, frame_header, block, tail);
        let error = decode_file(&bytes, &mut Vec::new(), |_, _, _| Ok::<_, DecodeError>(())).unwrap_err();
        assert!(!matches!(error, DecodeError::FileChecksum { .. }), "{error}");
        error.to_string()
    };
    let tail = |index: &[u8]| {
        let length = (index.len() as u64).to_be_bytes();
        [&[0; 6], index, &length, &[0; 8]].concat()
    };
    let frame = "page frame at offset 100: ";
    let index = "page index at offset 129: ";
    let index_end = "page index at offset 133: ";

    let message = error(&[0, 0, 0, 3, 0, 1, 0, 0, 0, 13], &BLOCK, &TAIL);
    assert_eq!(message, format!("{frame}it is of page 3, but the index says page 2"));
    let message = error(&[0, 0, 0, 2, 0, 3, 0, 0, 0, 13], &BLOCK, &TAIL);
    assert_eq!(message, format!("{frame}the flags 0x0003 of page 2 have unknown bits"));
    let message = error(&[0, 0, 0, 2, 0, 1, 0, 0, 0, 12], &BLOCK, &TAIL);
    assert_eq!(message, format!("{frame}page 2 has 12 bytes, but the index leaves 13 for it"));

    let mut short = BLOCK;
    short[5] -= 1;
    let message = error(&FRAME_HEADER, &short, &TAIL);
    assert_eq!(message, format!("{frame}page 2 expands to 511 bytes, but the page size is 512"));
    let mut long = BLOCK;
    long[5] += 1;
    let message = error(&FRAME_HEADER, &long, &TAIL);
    assert!(message.starts_with(&format!("{frame}page 2 can't be expanded: ")), "{message}");

    let mut no_end_marker = TAIL;
    no_end_marker[5] = 1;
    let message = error(&FRAME_HEADER, &BLOCK, &no_end_marker);
    assert_eq!(message, "page frame at offset 123: the end marker, six zero bytes, is missing");

    for (entries, message) in [
        (&[2, 101, 22, 0][..], "the frame of page 2 is said to begin at offset 101, but the one before it ends at 100"),
        (&[2, 100, 24, 0], "the frame of page 2 is said to have 24 bytes"),
        (&[2, 100, 10, 0], "the frame of page 2 is said to have 10 bytes"),
        (&[0x80, 0x80, 0x80, 0x80, 0x10, 100, 23, 0], "4294967296 is not a page number"),
        (&[2, 100, 23], "the page number is cut off, or is more than 64 bits"),
    ] {
        let found = error(&FRAME_HEADER, &BLOCK, &tail(entries));
        assert!(found.starts_with("page index at offset ") && found.ends_with(message), "{found}");
    }
    let message = error(&FRAME_HEADER, &BLOCK, &tail(&[2, 100, 11, 2, 111, 12, 0]));
    assert_eq!(message, "page index at offset 132: page 2 comes after page 2: pages must ascend");
    let message = error(&FRAME_HEADER, &BLOCK, &tail(&[2, 101, 22, 0]));
    assert!(message.starts_with(index), "{message}");
    let message = error(&FRAME_HEADER, &BLOCK, &tail(&[2, 100, 22, 0]));
    assert_eq!(message, format!("{index_end}its last frame ends at offset 122, but the end marker is at 123"));
    let message = error(&FRAME_HEADER, &BLOCK, &tail(&[2, 100, 23, 0, 0]));
    assert_eq!(message, format!("{index_end}1 bytes follow its end"));
}
