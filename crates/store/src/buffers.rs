//! Memory for replies that is used again: a large reply in fresh memory costs more for the memory than for the copying.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{GetResult, GetResultPayload};

/// Shorter replies are not worth it.
const SHORTEST: u64 = 64 << 10;

/// Buffers that are free; as many as were in use at the same time, and each as long as its longest reply.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Buffers").finish_non_exhaustive()
    }
}

impl Buffers {
    /// The content of a reply, in a buffer that comes back when the last handle to it is dropped.
    pub(crate) async fn receive(self: &Arc<Self>, reply: GetResult) -> object_store::Result<Bytes> {
        let length = reply.range.end.saturating_sub(reply.range.start);
        if length < SHORTEST || !matches!(reply.payload, GetResultPayload::Stream(_)) {
            return reply.bytes().await;
        }
        let mut lent = Lent { content: self.take(), home: Arc::clone(self) };
        lent.content.reserve(usize::try_from(length).unwrap_or_default());
        let mut stream = reply.into_stream();
        while let Some(chunk) = stream.try_next().await? {
            lent.content.extend_from_slice(&chunk);
        }
        Ok(Bytes::from_owner(lent))
    }

    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn put_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A buffer in use.
struct Lent {
    content: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.put_back(std::mem::take(&mut self.content));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};

    use super::*;

    #[tokio::test]
    async fn a_buffer_is_used_again_when_nothing_reads_it_any_more() {
        let store = InMemory::new();
        let path = Path::from("x");
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        store.put(&path, PutPayload::from(content.clone())).await.unwrap();
        let buffers = Arc::new(Buffers::default());
        let fetch = async |range: std::ops::Range<u64>| {
            let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
            buffers.receive(store.get_opts(&path, options).await.unwrap()).await.unwrap()
        };
        let free = || buffers.0.lock().unwrap().len();
        let first = fetch(0..500_000).await;
        let part = first.slice(7..9);
        let second = fetch(400_000..1_200_000).await;
        assert_eq!((&first[..], &second[..]), (&content[..500_000], &content[400_000..]));
        drop(first);
        assert_eq!(free(), 0, "a part of it is in use");
        assert_eq!(&part[..], &content[7..9]);
        drop(part);
        assert_eq!(free(), 1);
        let third = fetch(10..100_010).await;
        assert_eq!((&third[..], free()), (&content[10..100_010], 0));
        assert_eq!(&fetch(0..10).await[..], &content[..10], "a short one has its own memory");
        drop((second, third));
        assert_eq!(free(), 2);
    }
}
