//! What is uploaded: bytes in memory, or a file that is streamed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;

/// The content of an object to be created.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in memory.
    Memory(Bytes),
    /// The first `length` bytes of a file, streamed, so that memory does not grow with them.
    File {
        /// The open file; read with positioned reads only.
        file: Arc<File>,
        /// Bytes to upload.
        length: u64,
    },
}

impl Body {
    /// Bytes of the object.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// These bytes of it; a file is read from the disk.
    ///
    /// # Errors
    /// Whatever the disk says; an early end is an error.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(too_large)?;
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(range.start).map_err(too_large)?;
                let end = start.checked_add(length).filter(|&end| end <= bytes.len());
                Ok(bytes.slice(start..end.ok_or(io::ErrorKind::UnexpectedEof)?))
            }
            Self::File { file, .. } => read_chunk(file, range.start, length),
        }
    }

    /// True for an object without a byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes read from the file at a time.
const CHUNK: u64 = 256 * 1024;

/// Reads `length` bytes at `offset`; an early end is an error.
pub(crate) fn read_chunk(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; length];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk.into())
}

/// The ranges in which a file of `length` bytes is read.
pub(crate) fn chunks(length: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..length.div_ceil(CHUNK)).map(move |i| {
        let offset = i * CHUNK;
        let size = CHUNK.min(length - offset);
        (offset, usize::try_from(size).unwrap_or(usize::MAX))
    })
}

/// A file as the body of a request. Reads happen on the blocking threads of the runtime.
pub(crate) struct FileBody {
    file: Arc<File>,
    offset: u64,
    length: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    pub(crate) fn new(file: Arc<File>, length: u64) -> Self {
        Self { file, offset: 0, length, reading: None }
    }
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.offset >= this.length {
            return Poll::Ready(None);
        }
        let Self { file, offset, length, reading } = this;
        let handle = reading.get_or_insert_with(|| {
            let (file, offset) = (Arc::clone(file), *offset);
            let size = usize::try_from(CHUNK.min(*length - offset)).unwrap_or(usize::MAX);
            tokio::task::spawn_blocking(move || read_chunk(&file, offset, size))
        });
        let read = ready!(Pin::new(handle).poll(cx));
        *reading = None;
        let result = read.map_err(io::Error::other).and_then(|chunk| chunk);
        Poll::Ready(Some(result.map(|chunk| {
            *offset += chunk.len() as u64;
            Frame::data(chunk)
        })))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length - self.offset)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_file_is_streamed_whole_and_in_order() {
        let content: Vec<u8> = (0..CHUNK * 2 + 77).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let body = FileBody::new(Arc::new(file), content.len() as u64);
        assert_eq!(body.size_hint().exact(), Some(content.len() as u64));
        assert_eq!(body.collect().await.unwrap().to_bytes(), content);
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_an_error() {
        let body = FileBody::new(Arc::new(tempfile::tempfile().unwrap()), 10);
        assert!(body.collect().await.is_err());
    }

    #[test]
    fn chunks_cover_a_length_exactly() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1] {
            let mut end = 0;
            for (offset, size) in chunks(length) {
                assert_eq!(offset, end);
                end += size as u64;
            }
            assert_eq!(end, length);
        }
    }
}
