//! Markers: objects that say up to which transaction the page objects hold the database.

use bottomless_ltx::{DecodeError, HEADER_LENGTH, Header, RunningChecksum, TAIL_MIN_LENGTH, Tail, Txid};

/// What stands behind the header of an object without frames, up to the file checksum: the end marker in 6 bytes, an index
/// of one zero byte and its length in 8, and the post-apply checksum in 8, which ours leave out.
const TAIL: [u8; TAIL_MIN_LENGTH - 8] = {
    let mut tail = [0; TAIL_MIN_LENGTH - 8];
    tail[TAIL_MIN_LENGTH - 8 - 9] = 1;
    tail
};

/// The marker with this header, which begins with the first transaction: an LTX object without frames.
pub(crate) fn encode_marker(header: &Header) -> Vec<u8> {
    let header = header.encode();
    let checksum = RunningChecksum::of(&header).then(RunningChecksum::of(&TAIL)).finish();
    let mut bytes = Vec::with_capacity(HEADER_LENGTH + TAIL_MIN_LENGTH);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&TAIL);
    bytes.extend_from_slice(&checksum.get().to_be_bytes());
    bytes
}

/// Whether header and index are those of a marker.
pub(crate) fn check_marker(header: &Header, tail: &Tail) -> Result<(), DecodeError> {
    let problem = if header.min_txid != Txid::FIRST {
        format!("a marker begins with the first transaction, but this one with {}", header.min_txid)
    } else if header.database.is_none() {
        "a marker names the database checksum, but this one does not".into()
    } else if !tail.frames.is_empty() {
        format!("a marker has no pages, but this one has {}", tail.frames.len())
    } else {
        return Ok(());
    };
    Err(DecodeError::Index { offset: tail.offset, problem })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bottomless_ltx::{Checksum, DatabaseChecksums, Encoder, Frame, PageNumber, PageSize, TailProgress, WriterId};

    use super::*;

    fn header(size_in_pages: u32) -> Header {
        let database = DatabaseChecksums { before: Checksum::EMPTY, after: Checksum::from_crc(5) };
        let txids = (Txid::FIRST, Txid::new(7));
        Header::new(PageSize::new(512).unwrap(), size_in_pages, txids, 1_700_000_000_000, WriterId(9), database)
    }

    #[test]
    fn a_marker_is_an_object_without_frames() {
        // Of a database without pages it is what anybody would write.
        let mut bytes = vec![0; HEADER_LENGTH];
        let finished = Encoder::new(PageSize::new(512).unwrap()).finish(&header(0), &mut bytes).unwrap();
        bytes.get_mut(..HEADER_LENGTH).unwrap().copy_from_slice(&finished.header);
        assert_eq!(encode_marker(&header(0)), bytes);

        let bytes = encode_marker(&header(1000));
        let length = bytes.len() as u64;
        let TailProgress::Complete(tail) = Tail::parse(length, &bytes).unwrap() else { unreachable!() };
        assert_eq!(Header::decode(&bytes).unwrap(), header(1000));
        check_marker(&header(1000), &tail).unwrap();
        assert!(check_marker(&Header { min_txid: Txid::new(2), ..header(9) }, &tail).is_err());
        assert!(check_marker(&Header { database: None, ..header(9) }, &tail).is_err());
        let mut tail = tail;
        tail.frames = vec![Frame { page: PageNumber::FIRST, length: 20, offset: 100 }];
        assert!(check_marker(&header(1), &tail).is_err());
    }
}
