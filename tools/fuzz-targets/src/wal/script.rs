//! A script of transactions, for a writer that knows what it commits. After each write the tracker must have seen
//! what really happened: every commit once, with the last frame of each of its pages.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};

use super::file;
use super::writer::{Failed, Writer};

/// Bytes that one script may write: an input is not worth more.
const BUDGET: usize = 1 << 17;

pub(super) fn run(input: &mut Unstructured<'_>) {
    // The input has ended: the script has, too.
    let Ok(mut writer) = Writer::new(input) else { return };
    let _ = steps(&mut writer, input);
    let image = writer.image();
    if image.len() < 1 << 18 {
        file::check(image);
    }
}

fn steps(writer: &mut Writer, input: &mut Unstructured<'_>) -> Result<()> {
    while !input.is_empty() && writer.written() < BUDGET {
        match input.int_in_range(0..=9)? {
            0 => writer.checkpoint(input.arbitrary()?),
            1 => others(writer, input)?,
            2 => writer.open_anew(input)?,
            _ => transaction(writer, input)?,
        }
    }
    Ok(())
}

/// Another process writes: without the tracker.
fn others(writer: &mut Writer, input: &mut Unstructured<'_>) -> Result<()> {
    if writer.is_exclusive() {
        return Ok(());
    }
    let pages = pages(input)?;
    writer.begin_unseen();
    // Without the tracker nothing fails.
    let _ = writer.write_frames(&pages, Some(input.int_in_range(1..=20)?));
    writer.end_committed();
    Ok(())
}

fn transaction(writer: &mut Writer, input: &mut Unstructured<'_>) -> Result<()> {
    writer.begin();
    let mut savepoints = Vec::new();
    if input.ratio(1, 8)? {
        writer.fail_after(input.int_in_range(0..=30)?);
    }
    loop {
        let result = match input.int_in_range(0..=7)? {
            0 | 1 => writer.write_frames(&pages(input)?, None),
            2 => {
                savepoints.push(writer.savepoint());
                Ok(())
            }
            3 if !savepoints.is_empty() => {
                let keep = input.choose_index(savepoints.len())?;
                savepoints.truncate(keep + 1);
                writer.rollback_to(savepoints[keep]);
                Ok(())
            }
            4 => {
                writer.end_rolled_back();
                return Ok(());
            }
            _ => return commit(writer, input),
        };
        if input.is_empty() {
            writer.end_rolled_back();
            return Ok(());
        }
        if result == Err(Failed) {
            writer.end_failed();
            return Ok(());
        }
    }
}

fn commit(writer: &mut Writer, input: &mut Unstructured<'_>) -> Result<()> {
    let pages = pages(input)?;
    let size = input.int_in_range(1..=20)?;
    if input.ratio(1, 10)? {
        writer.refuse_commit();
    }
    if writer.write_frames(&pages, Some(size)).is_err() {
        writer.end_failed();
        return Ok(());
    }
    if input.ratio(1, 10)? {
        // After the last frame SQLite can still fail: in the sync of the WAL, which the shim sees, or in the WAL index,
        // which it does not.
        if input.arbitrary()? {
            writer.end_failed();
        } else {
            writer.end_rolled_back();
        }
        return Ok(());
    }
    writer.end_committed();
    if writer.image().len() < 1 << 14 {
        check_recovery(writer);
    }
    Ok(())
}

/// What was committed is what recovery finds: the writer does as SQLite does.
fn check_recovery(writer: &Writer) {
    let Some(found) = file::recover(writer.image()) else { panic!("recovery finds no commit") };
    let committed: BTreeMap<u32, Vec<u8>> = writer.committed();
    assert_eq!(found.size_in_pages, writer.size_in_pages());
    assert!(found.pages == committed, "recovery finds other pages than were committed");
}

/// The pages of a transaction, or of a part of it that spills: few numbers, so that they meet again.
fn pages(input: &mut Unstructured<'_>) -> Result<Vec<u32>> {
    let mut pages: Vec<u32> = Vec::new();
    for _ in 0..input.int_in_range(1..=6)? {
        let page = input.int_in_range(1..=9)?;
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    // SQLite sorts them, but for spilled ones, which come singly.
    pages.sort_unstable();
    Ok(pages)
}
