//! Copies within the bucket, of which no byte comes here.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use object_store::{CopyMode, CopyOptions, ObjectStore as _};

use super::{Bucket, is_exists};
use crate::meter::Operation;
use crate::s3::Requests;
use crate::{Body, CreateOutcome, StoreError, StoreErrorKind, local};

impl Bucket {
    /// The most bytes that an object may have to be copied with one request (CopyObject).
    pub const LARGEST_COPY: u64 = 5 << 30;

    /// Makes `to` a copy of the object `from`, with its metadata. Where the store has conditional copies, only if `to` does
    /// not exist; others replace it.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] when `from` is not there, [`StoreErrorKind::Unsupported`] when the store can't copy;
    /// see [`StoreErrorKind::may_have_landed`].
    pub async fn copy(&self, from: &str, to: &str, timeout: Duration) -> Result<CreateOutcome, StoreError> {
        let asked = Instant::now();
        match tokio::time::timeout(timeout, self.renewing(|| self.copy_once(from, to))).await {
            Ok(result) => result,
            Err(_) => Err(self.given_up("COPY", to, asked, timeout)),
        }
    }

    async fn copy_once(&self, from: &str, to: &str) -> Result<CreateOutcome, StoreError> {
        let (source, target) = (self.path("COPY", from)?, self.path("COPY", to)?);
        if let Some(requests) = &self.inner.requests {
            return match requests.copy(from, to, &[("if-none-match", "*")]).await {
                // The store may know copies, but no conditional ones.
                Err(error) if error.kind() == StoreErrorKind::Unsupported => requests.copy(from, to, &[]).await,
                result => result,
            };
        }
        self.count(Operation::Put, 0);
        if let Some(folder) = &self.inner.folder {
            return self.copy_file(folder.join(from), folder.join(to), (from, to)).await;
        }
        let options = CopyOptions::new().with_mode(CopyMode::Create);
        match self.inner.writer.copy_opts(&source, &target, options).await {
            Ok(()) => Ok(CreateOutcome::Created { e_tag: None }),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(CreateOutcome::Exists),
            result => self.checked("COPY", from, None, result.map(|()| CreateOutcome::Exists)),
        }
    }

    /// A file of its own, not another name of the same one: a copy is as old as it is.
    async fn copy_file(
        &self,
        source: PathBuf,
        target: PathBuf,
        (from, to): (&str, &str),
    ) -> Result<CreateOutcome, StoreError> {
        let disk = |cause: String| self.error(StoreErrorKind::Disk, "COPY", to, cause);
        let unique = crate::probe::random().map_err(|e| disk(e.to_string()))?;
        let copy = move || {
            let opened = File::open(source).and_then(|file| Ok((file.metadata()?.len(), Arc::new(file))));
            opened.map(|(length, file)| local::create(&file, length, &target, unique))
        };
        match tokio::task::spawn_blocking(copy).await.map_err(|e| disk(e.to_string()))? {
            Ok(Ok(())) => Ok(CreateOutcome::Created { e_tag: None }),
            Ok(Err(e)) if e.kind() == ErrorKind::AlreadyExists => Ok(CreateOutcome::Exists),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(self.error(StoreErrorKind::NotFound, "COPY", from, e.to_string()))
            }
            Ok(Err(e)) | Err(e) => Err(disk(e.to_string())),
        }
    }
}

impl Requests {
    /// One CopyObject.
    async fn copy(&self, from: &str, to: &str, conditions: &[(&str, &str)]) -> Result<CreateOutcome, StoreError> {
        let source = self.copy_source(from);
        let headers = [&[("x-amz-copy-source", source.as_str())], conditions].concat();
        let mut reply = self.put(to, &Body::Memory(Default::default()), &headers).await?;
        // A copy that takes long is answered before it has ended: what came of it is in the text.
        if reply.status.is_success() && reply.text.contains("<Error>") {
            reply.status = StatusCode::INTERNAL_SERVER_ERROR;
        }
        match reply.status {
            status if status.is_success() => Ok(CreateOutcome::Created { e_tag: None }),
            status if !conditions.is_empty() && is_exists(status) => Ok(CreateOutcome::Exists),
            StatusCode::NOT_FOUND => Err(self.refused(from, &reply)),
            _ => Err(self.refused(to, &reply)),
        }
    }
}
