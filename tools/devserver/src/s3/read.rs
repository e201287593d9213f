//! HeadObject and GetObject.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use s3s::dto::*;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Error, S3Result, StdError, s3_error};

use super::Protocol;
use crate::storage::Object;

const PIECE_BYTES: usize = 256 * 1024;

impl Protocol {
    pub(super) fn describe(&self, input: HeadObjectInput) -> S3Result<HeadObjectOutput> {
        let object = self.storage.bucket(&input.bucket)?.head(&input.key)?;
        check(&object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(length(object.content_bytes)?),
            e_tag: Some(object.etag()),
            last_modified: Some(object.about.modified().into()),
            ..HeadObjectOutput::default()
        };
        object.about.attributes.fill_head(&mut output);
        Ok(output)
    }

    pub(super) fn read(&self, input: GetObjectInput) -> S3Result<GetObjectOutput> {
        let (object, mut file) = self.storage.bucket(&input.bucket)?.open(&input.key)?;
        check(&object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let (range, content_range) = match input.range {
            None => (0..object.content_bytes, None),
            Some(range) => {
                let range = range.check(object.content_bytes)?;
                let last = range.end.saturating_sub(1);
                let text = format!("bytes {}-{last}/{}", range.start, object.content_bytes);
                (range, Some(text))
            }
        };
        file.seek(SeekFrom::Start(range.start)).map_err(S3Error::internal_error)?;
        let left = range.end - range.start;
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            body: Some(StreamingBlob::new(Content { file, left })),
            content_length: Some(length(left)?),
            content_range,
            e_tag: Some(object.etag()),
            last_modified: Some(object.about.modified().into()),
            ..GetObjectOutput::default()
        };
        object.about.attributes.fill_get(&mut output);
        Ok(output)
    }
}

fn check(object: &Object, if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<()> {
    let is = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.about.etag,
    };
    if if_match.is_some_and(|condition| !is(condition)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

fn length(bytes: u64) -> S3Result<i64> {
    i64::try_from(bytes).map_err(S3Error::internal_error)
}

/// A part of a file as a stream. It reads in place: a local file's page cache is quicker than a hop to
/// another thread.
struct Content {
    file: File,
    left: u64,
}

impl Stream for Content {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let wanted = usize::try_from(self.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut piece = BytesMut::zeroed(wanted);
        let piece = match self.file.read(&mut piece) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => {
                self.left -= read as u64;
                piece.truncate(read);
                Ok(piece.freeze())
            }
            Err(error) => Err(error.into()),
        };
        if piece.is_err() {
            self.left = 0;
        }
        Poll::Ready(Some(piece))
    }
}

impl ByteStream for Content {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.left).map_or(RemainingLength::unknown(), RemainingLength::new_exact)
    }
}
