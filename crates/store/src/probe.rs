//! Does a bucket honour `If-None-Match: *` under simultaneous writers?
//!
//! Stores exist that ignore the header, invert it, do not know it, or let several of many simultaneous creators win;
//! one create after another does not show the last kind. So eight creates of one key are under way at a time.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;

use crate::{Body, Bucket, CreateOutcome, StoreError, StoreErrorKind};

/// Simultaneous creators.
pub const WRITERS: usize = 8;

/// What the probe found.
#[derive(Debug)]
pub enum Proof {
    /// Exactly one of the simultaneous creators won, and all others were refused.
    Proven,
    /// The store does not keep the promise that fencing needs; the text says what it did instead.
    Refuted(String),
}

/// Lets [`WRITERS`] creators race for a key below the folder `prefix`, and removes what they made.
///
/// # Errors
/// When the store can't be asked: no answer is no proof.
pub async fn conditional_create(bucket: &Bucket, prefix: &str, timeout: Duration) -> Result<Proof, StoreError> {
    let unique = random().map_err(|e| bucket.error(StoreErrorKind::Disk, "probe", prefix, e.to_string()))?;
    let key = format!("{prefix}/probe-{unique:016x}");
    let writers = (0..WRITERS).map(|writer| {
        let body = Body::Memory(Bytes::from(format!("bottomless probe {unique:016x} {writer}")));
        let (bucket, key) = (bucket.clone(), key.clone());
        // A task each, so that the requests do not wait for one another.
        tokio::spawn(async move { bucket.create(&key, &body, SystemTime::now(), timeout).await })
    });
    let mut created = 0;
    let mut failure = None;
    for joined in join_all(writers).await {
        match joined {
            Ok(Ok(CreateOutcome::Created { .. })) => created += 1,
            Ok(Ok(CreateOutcome::Exists)) => {}
            Ok(Err(error)) => failure = Some(error),
            Err(error) => return Err(bucket.error(StoreErrorKind::Disk, "probe", &key, error.to_string())),
        }
    }
    if created > 0
        && let Err(error) = bucket.delete(&key).await
    {
        tracing::warn!(%error, key, "the probe object could not be removed; it is safe to delete");
    }
    match failure {
        Some(error) if error.kind() == StoreErrorKind::Unsupported => {
            Ok(Proof::Refuted(format!("it does not support conditional writes ({error})")))
        }
        Some(error) if created <= 1 => Err(error),
        _ => Ok(verdict(created)),
    }
}

fn verdict(created: usize) -> Proof {
    match created {
        1 => Proof::Proven,
        0 => Proof::Refuted(format!("it refused all of {WRITERS} creators of a key that did not exist")),
        n => Proof::Refuted(format!("it let {n} of {WRITERS} simultaneous creators of one key succeed")),
    }
}

/// A random number from the operating system.
pub(crate) fn random() -> std::io::Result<u64> {
    getrandom::u64().map_err(|e| std::io::Error::other(e.to_string()))
}
