//! What is in a file of copies.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bottomless_history::ObjectName;
use bottomless_ltx::RunningChecksum;
use bytes::Bytes;

use super::file::{BEGIN, CopyHead, ENTRY, Head};

/// The copies in a file, as they were when it was read.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// None where there is no such file.
    found: Option<(File, Head)>,
    copies: HashMap<ObjectName, Copy>,
    /// Where each copy begins, in the order of the file.
    begins: Vec<(u64, ObjectName)>,
    /// Behind the last copy.
    end: u64,
    /// Behind whatever is there.
    file_end: u64,
}

#[derive(Debug)]
struct Copy {
    e_tag: String,
    /// Where the object begins.
    at: u64,
    length: u64,
    checksum: u64,
}

impl Index {
    pub(super) fn read_from(file: File, identity: u64) -> io::Result<Self> {
        let Some(head) = Head::read(&file, identity)? else {
            return Ok(Self::default());
        };
        let file_end = file.metadata()?.len();
        let begin = head.needed_from.clamp(BEGIN, file_end.max(BEGIN));
        let mut index = Self { end: begin, file_end, ..Self::default() };
        while let Some((copied, e_tag)) = read_head(&file, index.end)? {
            let at = index.end + (ENTRY + e_tag.len()) as u64;
            let CopyHead { name, length, checksum, .. } = copied;
            // The last one may not be written to its end.
            let Some(end) = at.checked_add(length).filter(|end| *end <= file_end) else { break };
            index.begins.push((index.end, name));
            index.copies.insert(name, Copy { e_tag, at, length, checksum });
            index.end = end;
        }
        index.found = Some((file, head));
        Ok(index)
    }

    /// The copy of this very object.
    pub(super) fn read(&self, name: ObjectName, e_tag: &str, size: u64) -> Option<Bytes> {
        let copy = self.copies.get(&name).filter(|copy| copy.e_tag == e_tag && copy.length == size)?;
        let (file, _) = self.found.as_ref()?;
        let mut bytes = vec![0; usize::try_from(copy.length).ok()?];
        // The file may begin anew at any time.
        file.read_exact_at(&mut bytes, copy.at).ok()?;
        (RunningChecksum::of(&bytes).finish().get() == copy.checksum).then(|| bytes.into())
    }

    /// Where no copy begins though there is something; a copy that is just being written looks like that too.
    fn broken_at(&self) -> Option<u64> {
        Some(self.end).filter(|end| *end < self.file_end)
    }

    /// True if it was broken at the same place before.
    pub(super) fn is_broken_as(&self, before: Option<&Self>) -> bool {
        let generation = |index: &Self| index.found.as_ref().map(|(_, head)| head.generation);
        self.broken_at().is_some()
            && before.is_some_and(|b| b.broken_at() == self.broken_at() && generation(b) == generation(self))
    }

    /// The header that says from where on copies are needed, all of them not if what is there is damaged; None where there is
    /// nothing to say.
    pub(super) fn needed(&self, is_needed: impl Fn(ObjectName) -> bool, is_damaged: bool) -> Option<Head> {
        let (_, head) = self.found.as_ref()?;
        let first = self.begins.iter().find(|(_, name)| is_needed(*name)).map(|(begin, _)| *begin);
        let needed_from = if is_damaged { self.file_end } else { first.unwrap_or(self.end) };
        Some(Head { needed_from, ..*head })
    }
}

/// The header and the ETag of the copy at this place; None if there is no whole one.
fn read_head(file: &File, at: u64) -> io::Result<Option<(CopyHead, String)>> {
    let whole = |result: io::Result<()>| match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let mut bytes = [0; ENTRY];
    if !whole(file.read_exact_at(&mut bytes, at))? {
        return Ok(None);
    }
    let Some(head) = CopyHead::decode(&bytes) else { return Ok(None) };
    let mut e_tag = vec![0; head.e_tag_length];
    if !whole(file.read_exact_at(&mut e_tag, at + ENTRY as u64))? {
        return Ok(None);
    }
    let Ok(e_tag) = String::from_utf8(e_tag) else { return Ok(None) };
    let is_whole = head.encode(&e_tag).starts_with(&bytes);
    Ok(is_whole.then_some((head, e_tag)))
}
