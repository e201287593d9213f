//! One object by itself.

use bottomless_ltx::{Checksum, DecodeError, HEADER_LENGTH, Header, PageSize, TAIL_MIN_LENGTH, Tail, Trailer};

use crate::{Damage, Entry, History, HistoryError, Level, MergeOptions};

/// What an object says of the states before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// The database checksum before it, where it names one.
    pub(super) before: Option<Checksum>,
    /// The one after it.
    pub(super) after: Option<Checksum>,
    /// The page size after it.
    pub(super) page_size: PageSize,
    /// The size of the database after it.
    pub(super) size_in_pages: u32,
}

impl Outline {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            before: header.database.map(|database| database.before),
            after: header.database.map(|database| database.after),
            page_size: header.page_size,
            size_in_pages: header.size_in_pages,
        }
    }
}

/// What is downloaded of an object.
pub(super) fn bytes_to_read(entry: &Entry, quick: bool) -> u64 {
    if quick { (HEADER_LENGTH + TAIL_MIN_LENGTH) as u64 } else { entry.size }
}

impl History {
    /// Checks the two ends of an object.
    pub(super) async fn glance(&self, entry: &Entry) -> Result<Outline, HistoryError> {
        self.check_not_empty(entry)?;
        let key = entry.name.key(self.id());
        let damaged = |damage: Damage| HistoryError::damaged(&key, damage);
        let (head, (end, object)) = futures::try_join!(
            self.bucket().get_range(&key, 0..HEADER_LENGTH as u64),
            self.bucket().get_end(&key, TAIL_MIN_LENGTH as u64),
        )?;
        if object.size != entry.size {
            return Err(damaged(Damage::Size { listed: entry.size, have: object.size }));
        }
        let header = Header::decode(&head).map_err(|error| damaged(error.into()))?;
        let header = self.check_name(entry.name, header)?;
        // The length of the index, too: an object that was cut off seldom ends with one that makes sense.
        Tail::parse(entry.size, &end).map_err(|error| damaged(error.into()))?;
        Trailer::decode(entry.size, &end).map_err(|error| damaged(error.into()))?;
        Ok(Outline::new(&header))
    }

    /// Downloads an object and checks all of it: that its name, header, index and frames fit each other, its file checksum,
    /// and where it holds every page that together they have the checksum that it names.
    pub(super) async fn inspect(&self, entry: &Entry, options: &MergeOptions) -> Result<Outline, HistoryError> {
        self.check_not_empty(entry)?;
        if entry.name.level == Level::PAGES {
            return Ok(Outline::new(&self.marker(entry).await?.object.header));
        }
        let read = self.read_telling(entry, options).await?;
        Ok(Outline::new(&read.header))
    }

    /// Services refuse to send a part of an empty object.
    fn check_not_empty(&self, entry: &Entry) -> Result<(), HistoryError> {
        if entry.size > 0 {
            return Ok(());
        }
        let error = DecodeError::TooShort { what: "the header", offset: 0, need: HEADER_LENGTH as u64, have: 0 };
        Err(HistoryError::damaged(entry.name.key(self.id()), Damage::Decode(error)))
    }
}
