//! The checksums of an upload: the MD5 that is the ETag, and those that the client asked to be checked.

use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::Checksum;
use s3s::{S3Result, s3_error};

/// What the client says the content's checksums are, base64.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) md5: Option<String>,
    pub(crate) crc32: Option<String>,
    pub(crate) crc32c: Option<String>,
    pub(crate) crc64nvme: Option<String>,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
}

pub(crate) struct Digest {
    md5: Md5,
    others: ChecksumHasher,
    expected: Expected,
}

impl Digest {
    pub(crate) fn new(expected: Expected) -> Self {
        let others = ChecksumHasher {
            crc32: expected.crc32.as_ref().map(|_| Crc32::new()),
            crc32c: expected.crc32c.as_ref().map(|_| Crc32c::new()),
            crc64nvme: expected.crc64nvme.as_ref().map(|_| Crc64Nvme::new()),
            sha1: expected.sha1.as_ref().map(|_| Sha1::new()),
            sha256: expected.sha256.as_ref().map(|_| Sha256::new()),
        };
        Self { md5: Md5::new(), others, expected }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.others.update(bytes);
    }

    /// The MD5, and the other checksums to send back; `BadDigest` if one is not what the client said.
    pub(crate) fn finish(self) -> S3Result<([u8; 16], Checksum)> {
        let md5 = self.md5.finalize();
        let expected = self.expected;
        if let Some(expected) = &expected.md5
            && base64_simd::STANDARD.encode_to_string(md5) != *expected
        {
            return Err(s3_error!(BadDigest, "the content does not match Content-MD5"));
        }
        let found = self.others.finalize();
        if found.checksum_crc32 != expected.crc32
            || found.checksum_crc32c != expected.crc32c
            || found.checksum_crc64nvme != expected.crc64nvme
            || found.checksum_sha1 != expected.sha1
            || found.checksum_sha256 != expected.sha256
        {
            return Err(s3_error!(BadDigest, "the content does not match its checksum"));
        }
        Ok((md5, found))
    }
}

/// Lower case, as in ETags.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
