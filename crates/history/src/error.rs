//! What can go wrong with a history, and what to do about it.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::SystemTime;

use bottomless_ltx::{Checksum, DecodeError, EncodeError, PageSize, Txid};
use bottomless_store::{StoreError, StoreErrorKind};

use crate::{FoldedAway, InvalidSettings, NoPoint, PlanError};

fn to_the_second(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}

/// Why the history could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The store did not answer as it should; the message says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The objects don't lead to the position.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state that was asked for can't be restored, others near it can.
    #[error(transparent)]
    NoPoint(Box<NoPoint>),
    /// The transaction that was asked for can't be restored any more: a fold goes on, or has.
    #[error(transparent)]
    Folded(Box<FoldedAway>),
    /// Another machine folds the log into page objects, or was cut off while it did.
    #[error(
        "{key} says that a program is folding the log into page objects: wait until it is done, or until {} when it was cut off",
        to_the_second(*until)
    )]
    Claimed {
        /// The key of its claim.
        key: String,
        /// When nothing can arrive any more of what it has sent.
        until: SystemTime,
    },
    /// Page objects were given up, and are there again.
    #[error(
        "{key} was made again while it was deleted: a program has the database open that is told to use page objects; nothing is \
         lost. Close it or change its layout, and try again"
    )]
    Refolded {
        /// The marker.
        key: String,
    },
    /// An object is not what it should be.
    #[error("{key}: {damage}; {}", damage.advice())]
    Damaged {
        /// The object's key.
        key: String,
        /// What is wrong with it.
        damage: Box<Damage>,
    },
    /// An object is damaged, and the others don't lead around it.
    #[error(transparent)]
    NoWay(Box<NoWay>),
    /// The settings of the database are not understood.
    #[error(
        "{key}: {cause}; correct it, rather than delete it: writers may still count on a fence window that was longer than \
         the default, and then that belongs into fence_window_before_seconds"
    )]
    Settings {
        /// The object's key.
        key: String,
        /// What is wrong with it.
        cause: InvalidSettings,
    },
    /// The temporary files of a merge can't be written.
    #[error(
        "{}: the temporary files for merging objects can't be written: {cause}; check the disk's free space and the \
         folder's permissions",
        folder.display()
    )]
    Spool {
        /// Where they are.
        folder: PathBuf,
        /// What the disk says.
        cause: io::Error,
    },
    /// A merged object can't be put together.
    #[error("{key} can't be made: {cause}")]
    Unmerged {
        /// The key that it would have.
        key: String,
        /// Why.
        cause: EncodeError,
    },
    /// A merged object was created, and what is read back is not what was sent.
    #[error(
        "{key} was created, but what is read back is damaged ({cause}); {}. Nothing is lost: what it was made from is \
         still there. The store, the way to it or the memory of this machine is at fault",
        if *removed {
            "it was removed again"
        } else {
            "if it still is (bottomless-cli verify tells), delete it or move it away, and it is made anew"
        }
    )]
    ReadBack {
        /// Its key.
        key: String,
        /// What is wrong with it.
        cause: Box<HistoryError>,
        /// Whether it is gone again.
        removed: bool,
    },
    /// The log can't be folded into page objects.
    #[error("{key}: {cause}. Nothing is lost: the log has all that was not folded")]
    Unfolded {
        /// The key of the object that is in the way.
        key: String,
        /// What is wrong, and what to do about it.
        cause: String,
    },
    /// The local file can't be written.
    #[error("the restored file can't be written: {0}; check the disk's free space and the folder's permissions")]
    Disk(#[source] io::Error),
    /// A worker of this process ended early: it is shutting down.
    #[error("the restore was interrupted: {0}")]
    Interrupted(String),
}

/// An object is damaged, and no way around it leads to the position.
#[derive(Debug)]
pub struct NoWay {
    /// What was found first.
    pub first: HistoryError,
    /// The keys of other objects that were found damaged on other ways.
    pub also: Vec<String>,
    /// The transactions over which no undamaged objects lead; empty when others contradict each other.
    pub missing: RangeInclusive<Txid>,
    /// The position that was to be restored.
    pub up_to: Txid,
    /// The last position before it to which the other objects lead.
    pub restorable: Option<Txid>,
}

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, what) = self.first.subject();
        let (from, to) = (self.missing.start(), self.missing.end());
        if !what.contains(key) {
            write!(f, "{key}: ")?;
        }
        match self.missing.is_empty() {
            false => write!(f, "{what}. No other objects lead over TXIDs {from} to {to}")?,
            true => write!(f, "{what}. The other ways hold as little")?,
        }
        write!(f, ", so TXID {} can't be restored", self.up_to)?;
        if !self.also.is_empty() {
            write!(f, " (damaged too: {})", self.also.join(", "))?;
        }
        write!(f, "; bring the object back from a backup or an older version of it in the bucket")?;
        if let HistoryError::Damaged { damage, .. } = &self.first
            && let Damage::Contradicted { witness, .. } = &**damage
        {
            write!(f, ", or if {witness} is the wrong one, move it away and restore again")?;
        }
        match self.restorable {
            Some(txid) => write!(
                f,
                ", or restore TXID {txid} into a new file, the last one before it that the other objects lead to \
                 (bottomless-cli restore --txid {txid})"
            ),
            None => write!(f, "; no earlier TXID can be restored from the other objects"),
        }
    }
}

impl std::error::Error for NoWay {}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes are not what was written.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The object changed its size since it was listed.
    #[error("it has {have} bytes, but was listed with {listed}")]
    Size {
        /// In the listing.
        listed: u64,
        /// In the reply.
        have: u64,
    },
    /// Another object has taken its place since it was listed.
    #[error("it was listed with ETag {listed}, but has ETag {have}")]
    Replaced {
        /// In the listing.
        listed: String,
        /// In the reply.
        have: String,
    },
    /// It holds other transactions than its name says.
    #[error("its header says TXIDs {min} to {max}, not those of its name")]
    Name {
        /// The first.
        min: Txid,
        /// The last.
        max: Txid,
    },
    /// It does not continue the state before it.
    #[error("it continues a database with checksum {before}, but {previous} leaves one with {after}")]
    Chain {
        /// What the object says was before it.
        before: Checksum,
        /// Which object or state stands before it.
        previous: String,
        /// What that one says it left.
        after: Checksum,
    },
    /// Its end is not the state that another object continues, or says to end with.
    #[error("it leaves a database with checksum {have}, but {witness} says that at this TXID it had {need}")]
    Contradicted {
        /// What it leads to.
        have: Checksum,
        /// The key of the other object.
        witness: String,
        /// What that one says.
        need: Checksum,
    },
    /// The page size changes, and no later object holds every page.
    #[error("its pages have {have} bytes, but later ones have {need}, and no later object holds every page")]
    PageSize {
        /// In this object.
        have: PageSize,
        /// At the end.
        need: PageSize,
    },
    /// The size of the database can't be right.
    #[error("its header says that the database has {size_in_pages} pages, but the objects hold {at_most} at most")]
    TooLarge {
        /// In the header.
        size_in_pages: u32,
        /// As many pages fit into the bytes of the objects, or are in the local file.
        at_most: u64,
    },
    /// A page is nowhere.
    #[error("the database has {size_in_pages} pages at this TXID, but no object holds page {page}")]
    MissingPage {
        /// The first that is missing.
        page: u32,
        /// The size of the database.
        size_in_pages: u32,
    },
    /// It holds every page, and they are not those that it says.
    #[error("it holds every page, and together they have checksum {have}, but it says {need}")]
    Pages {
        /// Of its pages.
        have: Checksum,
        /// In its header.
        need: Checksum,
    },
    /// A page object of this marker is not there.
    #[error("the page objects of the database don't agree with it: {object} is missing")]
    NoPage {
        /// The key of the page object.
        object: String,
    },
    /// A page object of this marker is no page.
    #[error("the page objects of the database don't agree with it: {object} has {have} bytes, but a page has {need}")]
    PageLength {
        /// The key of the page object.
        object: String,
        /// Its bytes.
        have: u64,
        /// The page size.
        need: PageSize,
    },
    /// The page objects are not the database that this marker says.
    #[error(
        "the page objects of the database don't agree with it: with the log behind it they make one with checksum {have}, \
         not {need}"
    )]
    PageObjects {
        /// Of the result.
        have: Checksum,
        /// In the newest object.
        need: Checksum,
    },
    /// Nothing says which database the page objects must make.
    #[error("it names no database checksum, so that nothing tells whether the page objects before it are right")]
    NoChecksum,
    /// The result is not the database that was there.
    #[error("the restored database has checksum {have}, but at this TXID it had {need}")]
    Database {
        /// Of the result.
        have: Checksum,
        /// In the object.
        need: Checksum,
    },
}

impl Damage {
    fn advice(&self) -> &'static str {
        match self {
            Self::Decode(DecodeError::OldPageFormat { .. }) => "nothing was restored",
            Self::Size { .. } | Self::Replaced { .. } => {
                "another program writes to this prefix; try again when it has ended"
            }
            Self::Name { .. } => {
                "it was put here under a wrong name; bring back the right object from a backup or an older version"
            }
            Self::NoPage { .. } | Self::PageLength { .. } | Self::PageObjects { .. } => {
                "bring the page objects back from a backup or older versions of them in the bucket"
            }
            Self::NoChecksum => {
                "another program wrote it, and page objects can't be used with it: bring a database with them back from a \
                 backup"
            }
            Self::Contradicted { .. } => {
                "one of the two belongs to another database or another history; if it is the second, move that one \
                 away and restore again"
            }
            Self::Chain { .. } => {
                "one of the two belongs to another database or another history; bring back the right object, or restore \
                 an earlier TXID"
            }
            _ => {
                "the object is damaged or incomplete: bring it back from a backup or an older version of it in the \
                 bucket, or restore an earlier TXID"
            }
        }
    }
}

impl HistoryError {
    /// The key of the object that is wrong, empty if there is none, and what is wrong with it.
    pub(crate) fn subject(&self) -> (&str, String) {
        match self {
            Self::Damaged { key, damage } => (key, damage.to_string()),
            Self::ReadBack { key, cause, .. } => (key, cause.to_string()),
            Self::Store(error) => (error.key(), error.to_string()),
            other => ("", other.to_string()),
        }
    }

    /// The keys of all objects that may be the wrong one.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let (key, second) = match self {
            Self::Damaged { key, damage } => match &**damage {
                Damage::Chain { previous, .. } => (Some(key.as_str()), Some(previous.as_str())),
                _ => (Some(key.as_str()), None),
            },
            Self::Store(error) => (Some(error.key()), None),
            _ => (None, None),
        };
        key.into_iter().chain(second)
    }

    pub(crate) fn no_point(error: NoPoint) -> Self {
        Self::NoPoint(Box::new(error))
    }

    pub(crate) fn damaged(key: impl Into<String>, damage: impl Into<Damage>) -> Self {
        Self::Damaged { key: key.into(), damage: Box::new(damage.into()) }
    }

    /// Whether an object that was listed is not there any more: it may have been compacted in between, so that a new
    /// listing leads on.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() == StoreErrorKind::NotFound)
    }

    /// Whether the bucket is not as it was listed: an object has vanished, or another has taken its place. A new listing
    /// leads on.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        match self {
            Self::Damaged { damage, .. } => matches!(**damage, Damage::Size { .. } | Damage::Replaced { .. }),
            other => other.is_vanished(),
        }
    }
}
