//! How one object is one file: its content, then what is known about it, so that a rename puts both in
//! place at once.
//!
//! ```text
//! content | description (JSON) | length of the description (u32, little-endian) | "bLdevObj"
//! ```
//!
//! The file's name is made from the key, for the eyes of people only; the key itself is in the description.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::crypto::{Checksum as _, Sha256};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"bLdevObj";
const TAIL_BYTES: u64 = 12;
/// A description holds at most the key (1 KiB) and the headers of one request.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;

/// Linux file names have at most 255 bytes.
const MAX_NAME_BYTES: usize = 240;
const NAME_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// What a client said about an object beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<String>,
    /// `x-amz-meta-…`, without that prefix.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The description at the end of an object's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) key: String,
    pub(crate) etag: String,
    /// Milliseconds since 1970.
    pub(crate) modified_ms: u64,
    #[serde(default)]
    pub(crate) attributes: Attributes,
}

impl Description {
    /// Appends it to a file that ends with the content.
    pub(crate) fn write_to(&self, mut file: impl Write) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(self)?;
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("description too long"))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        file.write_all(&bytes)
    }

    /// Reads it back, with the length of the content in bytes.
    pub(crate) fn read_from(file: &mut File) -> io::Result<(Self, u64)> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not an object's file");
        let file_bytes = file.metadata()?.len();
        let body_end = file_bytes.checked_sub(TAIL_BYTES).ok_or_else(damaged)?;
        file.seek(SeekFrom::Start(body_end))?;
        let mut length = [0; 4];
        let mut magic = [0; 8];
        file.read_exact(&mut length)?;
        file.read_exact(&mut magic)?;
        let length = u64::from(u32::from_le_bytes(length));
        if &magic != MAGIC || length > MAX_DESCRIPTION_BYTES {
            return Err(damaged());
        }
        let content_bytes = body_end.checked_sub(length).ok_or_else(damaged)?;
        file.seek(SeekFrom::Start(content_bytes))?;
        let mut json = Vec::new();
        file.take(length).read_to_end(&mut json)?;
        Ok((serde_json::from_slice(&json)?, content_bytes))
    }

    pub(crate) fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.modified_ms)
    }
}

/// The name of the file for a key: readable, unique, and never one that the file system gives a meaning.
pub(crate) fn file_name(key: &str) -> String {
    let mut name = utf8_percent_encode(key, NAME_SET).to_string();
    if name.starts_with('.') {
        name.replace_range(..1, "%2E");
    }
    if name.len() > MAX_NAME_BYTES {
        name.truncate(MAX_NAME_BYTES - 66);
        // No key's plain encoding holds a `~`, so a shortened name can't be another key's.
        name.push('~');
        for byte in Sha256::checksum(key.as_bytes()) {
            name.push_str(&format!("{byte:02x}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_description_comes_back_from_the_end_of_the_file() {
        let description = Description {
            key: "a b/ü".into(),
            etag: "00".into(),
            modified_ms: 1_700_000_000_123,
            attributes: Attributes {
                metadata: BTreeMap::from([("litestream-timestamp".into(), "now".into())]),
                ..Attributes::default()
            },
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        description.write_to(&mut file).unwrap();
        assert_eq!(Description::read_from(&mut file).unwrap(), (description, 7));
    }

    #[test]
    fn what_has_no_description_is_refused() {
        for content in [&b""[..], b"short", b"long enough, but no description at the end"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            assert!(Description::read_from(&mut file).is_err());
        }
    }

    #[test]
    fn names_are_distinct_safe_and_short() {
        let long = "k/".repeat(500);
        let keys = ["a", "a/b", "a%2Fb", "a b", ".", "..", "../x", ".hidden", "%2E", &long, &long[1..]];
        let mut names: Vec<_> = keys.iter().map(|key| file_name(key)).collect();
        for name in &names {
            assert!(!name.contains('/') && !name.starts_with('.') && name.len() <= 255, "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), keys.len());
    }
}
