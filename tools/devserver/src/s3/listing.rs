//! ListBuckets and ListObjectsV2.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Result, s3_error};

use super::Protocol;
use crate::list::{Item, Query, Start};

/// The most entries that one page has.
const MAX_KEYS: i32 = 1000;

/// What `encoding-type=url` leaves as it is.
const URL_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

impl Protocol {
    pub(super) fn list_all_buckets(&self) -> ListBucketsOutput {
        let buckets = self.storage.buckets().into_iter().map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(created.into()),
            ..Bucket::default()
        });
        ListBucketsOutput { buckets: Some(buckets.collect()), ..ListBucketsOutput::default() }
    }

    pub(super) fn list_page(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        let bucket = self.storage.bucket(&input.bucket)?;
        let max_keys = input.max_keys.unwrap_or(MAX_KEYS).min(MAX_KEYS);
        let start_after = input.start_after.clone().unwrap_or_default();
        let start = match input.continuation_token.as_deref() {
            Some(token) => Start::from_token(token)
                .ok_or_else(|| s3_error!(InvalidArgument, "not a continuation token of ours"))?,
            None => Start::AfterKey(start_after),
        };
        let query = Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            start,
            max_keys: usize::try_from(max_keys).map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))?,
        };
        let url = input.encoding_type.as_ref().map(EncodingType::as_str) == Some(EncodingType::URL);
        let encode = |text: &str| match url {
            true => utf8_percent_encode(text, URL_SET).to_string(),
            false => text.to_owned(),
        };

        let (contents, common_prefixes, next) = bucket.list(&query, |page| {
            let mut contents = Vec::new();
            let mut common_prefixes = Vec::new();
            for item in page.items {
                match item {
                    Item::Object(key, object) => contents.push(Object {
                        key: Some(encode(key)),
                        e_tag: Some(object.etag()),
                        size: i64::try_from(object.content_bytes).ok(),
                        last_modified: Some(object.about.modified().into()),
                        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                        ..Object::default()
                    }),
                    Item::CommonPrefix(prefix) => common_prefixes.push(CommonPrefix { prefix: Some(encode(&prefix)) }),
                }
            }
            (contents, common_prefixes, page.next)
        });
        let count = contents.len() + common_prefixes.len();
        Ok(ListObjectsV2Output {
            key_count: i32::try_from(count).ok(),
            max_keys: Some(max_keys),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next.map(|next| next.to_token()),
            continuation_token: input.continuation_token,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            prefix: Some(encode(&query.prefix)),
            delimiter: input.delimiter.as_deref().map(encode),
            start_after: input.start_after.as_deref().map(encode),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..ListObjectsV2Output::default()
        })
    }
}
