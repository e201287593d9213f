//! What the fuzz targets do with their input. A target is a plain function that panics when a promise of the format or
//! of the protocol is broken: libFuzzer calls it from `fuzz/`, and `tests/corpus.rs` with every file of the corpus.
//!
//! The target of the local state is in the engine, which alone can see it.

mod key;
mod ltx;
mod wal;

use arbitrary::{Result, Unstructured};

pub use key::object_key;
pub use ltx::ltx_decode;
pub use wal::wal_frames;

/// Damages bytes in up to eight places: a bit, a byte, a piece taken out or put in, the end cut off.
fn mutate(input: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..input.int_in_range(0..=8)? {
        if bytes.is_empty() {
            return Ok(());
        }
        let at = input.choose_index(bytes.len())?;
        match input.int_in_range(0..=5)? {
            0 => bytes[at] ^= 1 << input.int_in_range(0..=7)?,
            1 => bytes[at] = input.arbitrary()?,
            2 => {
                let end = bytes.len().min(at + input.int_in_range(1..=40_usize)?);
                bytes.drain(at..end);
            }
            3 => {
                let length = input.int_in_range(1..=40)?;
                let piece = input.bytes(length)?;
                bytes.splice(at..at, piece.iter().copied());
            }
            4 => {
                // Numbers of the formats are big-endian, and their ends are where mistakes are.
                let number: u32 = *input.choose(&[0, 1, 2, 0xff, 512, 65535, 65536, 0x7fff_ffff, u32::MAX])?;
                for (to, from) in bytes[at..].iter_mut().zip(number.to_be_bytes()) {
                    *to = from;
                }
            }
            _ => bytes.truncate(at),
        }
    }
    Ok(())
}
