//! Unsigned varints as Go's `encoding/binary` writes them: seven bits a byte, the lowest first, bit 7 set on all but
//! the last byte.

/// Bytes of the longest varint of 64 bits.
const MAX_LENGTH: usize = 10;

/// Appends `value`.
pub(crate) fn append(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Takes a varint from the front of `bytes`; `None` when it is cut off or exceeds 64 bits.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (n, &byte) in bytes.iter().take(MAX_LENGTH).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if n == MAX_LENGTH - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * n);
        if byte & 0x80 == 0 {
            *bytes = bytes.get(n + 1..)?;
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0, &[0_u8][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = Vec::new();
            append(&mut out, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn what_exceeds_64_bits_or_is_cut_off_is_refused() {
        assert_eq!(take(&mut &[][..]), None);
        assert_eq!(take(&mut &[0x80][..]), None);
        assert_eq!(take(&mut &[0xff; 10][..]), None);
        let mut too_large = [0xff; 10];
        too_large[9] = 2;
        assert_eq!(take(&mut &too_large[..]), None);
    }

    proptest! {
        #[test]
        fn round_trip(value: u64, rest: Vec<u8>) {
            let mut out = Vec::new();
            append(&mut out, value);
            out.extend_from_slice(&rest);
            let mut bytes = &out[..];
            prop_assert_eq!(take(&mut bytes), Some(value));
            prop_assert_eq!(bytes, &rest[..]);
        }
    }
}
