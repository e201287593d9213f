//! Does a bucket honour `If-None-Match: *` under simultaneous writers?
//!
//! Stores exist that ignore the header, invert it, do not know it, or let several of many simultaneous creators win;
//! one create after another does not show the last kind. So eight creates of one key are under way at a time.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::join_all;

use crate::{Body, Bucket, CreateOutcome, StoreError, StoreErrorKind};

/// Simultaneous creators.
pub const WRITERS: usize = 8;

/// A round without a winner shows nothing by itself: a proxy that sends a request again makes 412 of a success. A
/// store that has none in this many rounds is refused.
const ROUNDS: usize = 3;

/// What the probe found.
#[derive(Debug)]
pub enum Proof {
    /// Exactly one of the simultaneous creators won, all others were refused, and the winner's object is there.
    Proven,
    /// The store does not keep the promise that fencing needs; the text says what it did instead.
    Refuted(String),
}

/// What one round has shown.
enum Round {
    Decided(Proof),
    /// No creator was told that it won; the text says what the store did.
    NoWinner(String),
}

/// Lets [`WRITERS`] creators race for a key below the folder `prefix`, and removes what they made.
///
/// # Errors
/// When the store can't be asked: no answer is no proof.
pub async fn conditional_create(bucket: &Bucket, prefix: &str, timeout: Duration) -> Result<Proof, StoreError> {
    let deadline = Instant::now() + timeout;
    let mut last = String::new();
    for _ in 0..ROUNDS {
        match round(bucket, prefix, deadline).await? {
            Round::Decided(proof) => return Ok(proof),
            Round::NoWinner(what) => last = what,
        }
    }
    Ok(Proof::Refuted(last))
}

async fn round(bucket: &Bucket, prefix: &str, deadline: Instant) -> Result<Round, StoreError> {
    let unique = random().map_err(|e| bucket.error(StoreErrorKind::Disk, "probe", prefix, e.to_string()))?;
    let key = format!("{prefix}/probe-{unique:016x}");
    let content = |writer| Bytes::from(format!("bottomless probe {unique:016x} {writer}"));
    let timeout = left(deadline);
    let writers = (0..WRITERS).map(|writer| {
        let body = Body::Memory(content(writer));
        let (bucket, key) = (bucket.clone(), key.clone());
        // A task each, so that the requests do not wait for one another.
        tokio::spawn(async move { bucket.create(&key, &body, SystemTime::now(), timeout).await })
    });
    let mut winners = Vec::new();
    let mut failure = None;
    for (writer, joined) in join_all(writers).await.into_iter().enumerate() {
        match joined {
            Ok(Ok(CreateOutcome::Created { .. })) => winners.push(writer),
            Ok(Ok(CreateOutcome::Exists)) => {}
            Ok(Err(error)) => failure = Some(error),
            Err(error) => return Err(bucket.error(StoreErrorKind::Disk, "probe", &key, error.to_string())),
        }
    }
    let may_be_there = !winners.is_empty() || failure.as_ref().is_some_and(|error| error.kind().may_have_landed());
    let found = match failure {
        Some(error) if error.kind() == StoreErrorKind::Unsupported => {
            Ok(refuted(format!("it does not support conditional writes ({error})")))
        }
        Some(error) if winners.len() <= 1 => Err(error),
        _ if winners.len() > 1 => {
            Ok(refuted(format!("it let {} of {WRITERS} simultaneous creators of one key succeed", winners.len())))
        }
        _ => look(bucket, &key, deadline).await.map(|kept| match (winners.first(), kept) {
            (Some(winner), Some(kept)) if kept == content(*winner) => Round::Decided(Proof::Proven),
            (Some(_), Some(_)) => refuted(format!(
                "it told one of {WRITERS} simultaneous creators of a key that it had won, and kept another's object"
            )),
            (Some(_), None) => {
                refuted(format!("it told one of {WRITERS} creators of a key that it had won, and has no such object"))
            }
            (None, Some(_)) => Round::NoWinner(format!(
                "it refused all of {WRITERS} creators of a key that did not exist, and yet stored an object"
            )),
            (None, None) => {
                Round::NoWinner(format!("it refused all of {WRITERS} creators of a key that did not exist"))
            }
        }),
    };
    let no_winner = matches!(found, Ok(Round::NoWinner(_)));
    if may_be_there || no_winner {
        clean(bucket, &key, deadline).await;
    }
    found
}

fn refuted(why: String) -> Round {
    Round::Decided(Proof::Refuted(why))
}

/// What the store keeps under the key.
async fn look(bucket: &Bucket, key: &str, deadline: Instant) -> Result<Option<Bytes>, StoreError> {
    let (asked, timeout) = (Instant::now(), left(deadline));
    match tokio::time::timeout(timeout, bucket.get(key)).await {
        Ok(Ok(content)) => Ok(Some(content)),
        Ok(Err(error)) if error.kind() == StoreErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(bucket.given_up("GET", key, asked, timeout)),
    }
}

async fn clean(bucket: &Bucket, key: &str, deadline: Instant) {
    // The commit that waits for this needs time of its own.
    let (asked, limit) = (Instant::now(), left(deadline) / 3);
    let error = match tokio::time::timeout(limit, bucket.delete(key)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => bucket.given_up("DELETE", key, asked, limit),
    };
    tracing::warn!(%error, key, "the probe object could not be removed; it is safe to delete");
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// A random number from the operating system.
pub(crate) fn random() -> std::io::Result<u64> {
    getrandom::u64().map_err(|e| std::io::Error::other(e.to_string()))
}
