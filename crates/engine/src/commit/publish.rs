//! One object, created once: the conditional PUT, and what its outcomes mean.

use std::time::{Duration, Instant};

use bottomless_history::{Ends, History, HistoryError, Level, ObjectName};
use bottomless_ltx::{Checksum, Header, Txid, WriterId};
use bottomless_store::{Body, CreateOutcome, StoreError, StoreErrorKind};

use super::draft::Draft;
use crate::config::Fencing;

/// Backing off between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A try of a small object is given up after this part of the remaining time, so that there is time for another.
const TRIES: u32 = 3;
/// An object larger than this has all of the time for one try.
const SMALL: u64 = 1 << 20;

/// Where the bucket is after a try to create the object of a transaction.
#[derive(Debug)]
pub(super) enum Published {
    /// The object is there, with this content.
    Done { e_tag: Option<String> },
    /// An earlier try with other content is there instead: it must be settled first.
    Earlier(Header),
    /// Another writer's object is there.
    Fenced(Header),
    /// It is not there, and will not come to be there.
    Refused(StoreError),
    /// It may be there, or come to be there.
    Unknown(StoreError),
    /// What is there can't be read.
    Unreadable(HistoryError),
}

/// Whose object is it?
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    /// Written by this writer id.
    Ours {
        header: Header,
        file_checksum: Checksum,
    },
    Others(Header),
}

/// The two ends of an object, if it is there.
pub(crate) async fn find_ends(history: &History, name: ObjectName) -> Result<Option<Ends>, HistoryError> {
    match history.ends(name).await {
        Ok(ends) => Ok(Some(ends)),
        Err(error) if error.is_vanished() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks at the object of a transaction.
pub(super) async fn look(history: &History, txid: Txid, writer: WriterId) -> Result<Found, HistoryError> {
    let ends = find_ends(history, ObjectName::log(txid)).await?;
    Ok(ends.map_or(Found::Nothing, |ends| whose(ends, writer)))
}

/// Tells by the writer id, never by equal content.
pub(super) fn whose(ends: Ends, writer: WriterId) -> Found {
    if ends.header.writer == writer {
        Found::Ours { header: ends.header, file_checksum: ends.trailer.file_checksum }
    } else {
        Found::Others(ends.header)
    }
}

/// Creates the object of a transaction; nothing but one PUT when all is well.
pub(super) async fn publish(history: &History, draft: &Draft, fencing: Fencing, timeout: Duration) -> Published {
    let begun = Instant::now();
    let deadline = begun + timeout;
    let key = ObjectName::log(draft.position.txid).key(history.id());
    let mut pause = FIRST_PAUSE;
    let mut may_have_landed = false;
    let mut last_error = None;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            break;
        }
        match attempt(history, &key, draft, fencing, remaining).await {
            Ok(CreateOutcome::Created { e_tag }) => return Published::Done { e_tag },
            Ok(CreateOutcome::Exists) => {
                let looked = tokio::time::timeout(remaining, look(history, draft.position.txid, draft.header.writer));
                match looked.await {
                    Ok(Ok(Found::Ours { file_checksum, .. })) if file_checksum == draft.file_checksum => {
                        return Published::Done { e_tag: None };
                    }
                    Ok(Ok(Found::Ours { header, .. })) => return Published::Earlier(header),
                    Ok(Ok(Found::Others(header))) => return Published::Fenced(header),
                    // 409: another creation is under way, and may yet fail.
                    Ok(Ok(Found::Nothing)) => {}
                    Ok(Err(HistoryError::Store(error))) if error.kind().is_transient() => {
                        may_have_landed = true;
                        last_error = Some(error);
                    }
                    Ok(Err(error)) => return Published::Unreadable(error),
                    Err(_) => may_have_landed = true,
                }
            }
            Err(error) if error.kind().is_transient() => {
                tracing::debug!(%error, key, "a commit's PUT is tried again");
                may_have_landed |= error.kind().may_have_landed();
                pause = error.retry_after().unwrap_or(pause);
                last_error = Some(error);
            }
            Err(error) if may_have_landed || error.kind().may_have_landed() => return Published::Unknown(error),
            Err(error) => return Published::Refused(error),
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(remaining)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let error = last_error.unwrap_or_else(|| history.bucket().given_up("PUT", &key, begun, timeout));
    if may_have_landed { Published::Unknown(error) } else { Published::Refused(error) }
}

async fn attempt(
    history: &History,
    key: &str,
    draft: &Draft,
    fencing: Fencing,
    remaining: Duration,
) -> Result<CreateOutcome, StoreError> {
    let timeout = if draft.body.len() > SMALL { remaining } else { (remaining / TRIES).max(FIRST_PAUSE) };
    let bucket = history.bucket();
    match fencing {
        Fencing::On => bucket.create(key, &draft.body, draft.time, timeout).await,
        Fencing::Off => bucket.overwrite(key, &draft.body, draft.time, timeout).await,
    }
}

/// Stores the pages of a draft once more as a snapshot, for readers that can't follow a change of the page size.
pub(super) async fn publish_snapshot(history: &History, draft: &Draft, timeout: Duration) -> Result<(), StoreError> {
    let snapshot = draft.as_snapshot();
    let name = ObjectName { level: Level::SNAPSHOT, min: Txid::FIRST, max: snapshot.last };
    let key = name.key(history.id());
    let checksum = snapshot.file_checksum.get().to_be_bytes();
    let disk = |e: std::io::Error| history.bucket().failure(StoreErrorKind::Disk, "PUT", &key, e.to_string());
    let body = match &draft.body {
        Body::Memory(bytes) => {
            let mut bytes = bytes.to_vec();
            let end = bytes.len() - checksum.len();
            bytes[..snapshot.header.len()].copy_from_slice(&snapshot.header);
            bytes[end..].copy_from_slice(&checksum);
            Body::Memory(bytes.into())
        }
        Body::File { file, length } => {
            use std::os::unix::fs::FileExt;
            file.write_all_at(&snapshot.header, 0).map_err(disk)?;
            file.write_all_at(&checksum, length - checksum.len() as u64).map_err(disk)?;
            draft.body.clone()
        }
    };
    history.bucket().create(&key, &body, draft.time, timeout).await.map(drop)
}
