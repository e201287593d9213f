//! Where an object grows: in memory while it is small, then in a file without a name beside the database.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bottomless_ltx::HEADER_LENGTH;
use bottomless_store::Body;

/// An object up to this size stays in memory.
const MEMORY: usize = 4 << 20;

/// The bytes of an object under construction; the first [`HEADER_LENGTH`] of them come last.
pub(super) struct Spool {
    /// What was appended and is not in the file yet.
    pub(super) buffer: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    spilled: u64,
    folder: PathBuf,
}

impl Spool {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { buffer: vec![0; HEADER_LENGTH], file: None, spilled: 0, folder }
    }

    /// Moves what is in memory to the file, if it is much.
    pub(super) fn spill(&mut self) -> io::Result<()> {
        if self.buffer.len() < MEMORY {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.folder)?),
        };
        file.write_all(&self.buffer)?;
        self.spilled += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The finished object.
    pub(super) fn finish(mut self, header: &[u8; HEADER_LENGTH]) -> io::Result<Body> {
        let Some(mut file) = self.file else {
            self.buffer[..HEADER_LENGTH].copy_from_slice(header);
            return Ok(Body::Memory(self.buffer.into()));
        };
        file.write_all(&self.buffer)?;
        file.write_all_at(header, 0)?;
        let length = self.spilled + self.buffer.len() as u64;
        Ok(Body::File { file: Arc::new(file), length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooled(size: usize) -> Vec<u8> {
        let mut spool = Spool::new(std::env::temp_dir());
        for i in 0..size {
            spool.buffer.push(u8::try_from(i % 251).unwrap_or_default());
            spool.spill().unwrap();
        }
        match spool.finish(&[7; HEADER_LENGTH]).unwrap() {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File { file, length } => {
                let mut bytes = vec![0; usize::try_from(length).unwrap()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            }
        }
    }

    #[test]
    fn small_and_large_objects_come_out_as_they_went_in() {
        for size in [0, 1, MEMORY - HEADER_LENGTH - 1, MEMORY, MEMORY * 2 + 5] {
            let bytes = spooled(size);
            assert_eq!(bytes.len(), size + HEADER_LENGTH);
            assert!(bytes[..HEADER_LENGTH].iter().all(|b| *b == 7));
            assert!(bytes[HEADER_LENGTH..].iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251));
        }
    }
}
