//! SQLite's write-ahead log: the tracker next to a writer that does what SQLite does, and the reader next to a walk of
//! the checksums of its own.

mod file;
mod script;
mod writer;

use arbitrary::{Result, Unstructured};
use bottomless_engine::wal::WalTracker;

use crate::mutate;

/// The first byte says what the rest is: a script for a writer, writes at any place, a file, or how to make a file and
/// how to damage it.
pub fn wal_frames(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let input = &mut Unstructured::new(rest);
    match kind % 4 {
        0 => script::run(input),
        // Where the input ends, nothing is left to be tried.
        1 => any_writes(input).unwrap_or_default(),
        2 => file::check(rest),
        _ => damaged_file(input).unwrap_or_default(),
    }
}

fn damaged_file(input: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = file::build(input)?;
    file::check(&bytes);
    mutate(input, &mut bytes)?;
    file::check(&bytes);
    Ok(())
}

/// Writes that no SQLite does.
fn any_writes(input: &mut Unstructured<'_>) -> Result<()> {
    let zeros = vec![0; 66_000];
    let mut tracker = WalTracker::default();
    while !input.is_empty() {
        match input.int_in_range(0..=4)? {
            0 => tracker.begin(),
            1 => tracker.adopt_header(input.bytes(input.len().min(32))?),
            2 => {
                let length = *input.choose(&[0, 4, 8, 24, 31, 32, 512, 1024, 4096, 65_536, 66_000])?;
                tracker.observe(input.arbitrary()?, &zeros[..length]);
            }
            3 => {
                let length = input.int_in_range(0..=40)?;
                tracker.observe(input.arbitrary()?, input.bytes(length)?);
            }
            _ => {
                let frame_length = tracker.page_size().map_or(536, |size| u64::from(size.get()) + 24);
                let offset = 32 + frame_length * u64::from(input.arbitrary::<u32>()?);
                tracker.observe(offset, input.bytes(24)?);
                if let Some(size) = tracker.page_size().filter(|_| input.arbitrary().unwrap_or(true)) {
                    tracker.observe(offset + 24, &zeros[..size.bytes()]);
                }
            }
        }
        let frames = tracker.frames();
        assert!(frames.is_sorted_by(|a, b| a.0 < b.0), "{frames:?}");
    }
    Ok(())
}
