//! The history of a database: what is there, whose it is, which position has a checksum.

use bottomless_ltx::{Checksum, DatabaseChecksums, HEADER_LENGTH, Header, Position, TRAILER_LENGTH, Trailer, Txid};
use bottomless_store::{Bucket, Object};
use futures::{StreamExt, TryStreamExt};

use crate::{Damage, DatabaseId, Entry, HistoryError, Listing, ObjectName};

/// Headers that are fetched at the same time.
const PARALLEL_HEADERS: usize = 16;

/// The history of one database in a bucket.
#[derive(Clone, Debug)]
pub struct History {
    bucket: Bucket,
    id: DatabaseId,
}

/// What an object says of itself, at its two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The header: who wrote it, the database checksums.
    pub header: Header,
    /// The trailer: the file checksum.
    pub trailer: Trailer,
    /// Bytes of the object.
    pub size: u64,
    /// The ETag without its quotes.
    pub e_tag: Option<String>,
}

impl History {
    /// The history of `id` in `bucket`. Nothing is sent.
    #[must_use]
    pub fn new(bucket: Bucket, id: DatabaseId) -> Self {
        Self { bucket, id }
    }

    /// Where it is.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &DatabaseId {
        &self.id
    }

    /// Lists the objects of the history, in one request for every thousand. With `after`, the log is listed behind that
    /// transaction only; the levels above are listed whole. ([`History::list_briefly`] takes few requests for a log of any
    /// length.)
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, after: Option<Txid>) -> Result<Listing, HistoryError> {
        let key = after.map(|txid| ObjectName::log(txid).key(&self.id));
        let objects = self.bucket.list(self.id.as_str(), key.as_deref()).await?;
        Ok(Listing::new(self.id.clone(), objects).passing_over(Txid::FIRST, after))
    }

    /// Reads the header and the trailer of an object, to tell whose it is.
    ///
    /// # Errors
    /// Those of the store (see [`HistoryError::is_vanished`] for an object that is not there), and
    /// [`HistoryError::Damaged`] when it is not the object that its name says.
    pub async fn ends(&self, name: ObjectName) -> Result<Ends, HistoryError> {
        let key = name.key(&self.id);
        let (head, (tail, object)) = futures::try_join!(
            self.bucket.get_range(&key, 0..HEADER_LENGTH as u64),
            self.bucket.get_end(&key, TRAILER_LENGTH as u64),
        )?;
        let Object { size, e_tag, .. } = object;
        let damaged = |error| HistoryError::damaged(&key, Damage::Decode(error));
        let header = self.check_name(name, Header::decode(&head).map_err(damaged)?)?;
        let trailer = Trailer::decode(size, &tail).map_err(damaged)?;
        Ok(Ends { header, trailer, size, e_tag })
    }

    /// Reads the header of an object.
    ///
    /// # Errors
    /// As [`History::ends`].
    pub async fn header(&self, name: ObjectName) -> Result<Header, HistoryError> {
        let key = name.key(&self.id);
        let head = self.bucket.get_range(&key, 0..HEADER_LENGTH as u64).await?;
        let header = Header::decode(&head).map_err(|error| HistoryError::damaged(&key, Damage::Decode(error)))?;
        self.check_name(name, header)
    }

    /// The header, if its transactions are those of the name.
    pub(crate) fn check_name(&self, name: ObjectName, header: Header) -> Result<Header, HistoryError> {
        let Header { min_txid: min, max_txid: max, .. } = header;
        if (min, max) == (name.min, name.max) {
            Ok(header)
        } else {
            Err(HistoryError::damaged(name.key(&self.id), Damage::Name { min, max }))
        }
    }

    /// The newest position at which the database had this checksum, as the object that ends there says, or the one that
    /// follows. Reads headers, from the newest object to the oldest; objects that carry no checksum are passed over, and
    /// so are those that vanish meanwhile.
    ///
    /// # Errors
    /// Those of the store, and [`HistoryError::Damaged`].
    pub async fn find_position(&self, listing: &Listing, checksum: Checksum) -> Result<Option<Position>, HistoryError> {
        let mut ends: Vec<&Entry> = listing.entries().iter().collect();
        // Of several objects that end at the same position, the log's comes first.
        ends.sort_by_key(|entry| (std::cmp::Reverse(entry.name.max), entry.name.level));
        let headers = ends.into_iter().map(|entry| async {
            match self.header(entry.name).await {
                Err(error) if error.is_vanished() => Ok(None),
                header => header.map(Some),
            }
        });
        let found = futures::stream::iter(headers)
            .buffered(PARALLEL_HEADERS)
            .try_filter_map(|header| futures::future::ok(header.and_then(|header| end_with(&header, checksum))))
            .boxed()
            .try_next()
            .await?;
        Ok(found.map(|txid| Position { txid, checksum }))
    }
}

/// The end of the object at which the database had this checksum.
fn end_with(header: &Header, checksum: Checksum) -> Option<Txid> {
    let DatabaseChecksums { before, after } = header.database?;
    let before = (before == checksum).then(|| header.min_txid.prev()).filter(|txid| *txid > Txid::ZERO);
    (after == checksum).then_some(header.max_txid).or(before)
}
