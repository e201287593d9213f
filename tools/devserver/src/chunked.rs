//! Takes the `aws-chunked` framing off an upload whose signature nobody checks.
//!
//! Clients that sign while they stream frame the body: `HEX[;chunk-signature=…] CRLF data CRLF …`, a chunk
//! of length 0, and lines of trailing headers up to an empty line.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, TryStreamExt as _};
use s3s::{Body, S3Error, S3ErrorCode, s3_error};

/// A chunk's head line is a length and a signature.
const MAX_LINE_BYTES: usize = 8 * 1024;

#[derive(Debug, Default)]
struct Decoder {
    received: BytesMut,
    expects: Expects,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Expects {
    #[default]
    Head,
    Data {
        left: usize,
    },
    /// The line end after a chunk's data.
    DataEnd,
    Trailer,
    Nothing,
}

impl Decoder {
    /// The next piece of content, `None` if more must be received first, or at the end.
    fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            match self.expects {
                Expects::Head => {
                    let Some(line) = self.line()? else {
                        return Ok(None);
                    };
                    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                    let left = std::str::from_utf8(digits)
                        .ok()
                        .and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok())
                        .ok_or_else(malformed)?;
                    self.expects = match left {
                        0 => Expects::Trailer,
                        left => Expects::Data { left },
                    };
                }
                Expects::Data { left } => {
                    if self.received.is_empty() {
                        return Ok(None);
                    }
                    let piece = self.received.split_to(left.min(self.received.len()));
                    self.expects = match left - piece.len() {
                        0 => Expects::DataEnd,
                        left => Expects::Data { left },
                    };
                    return Ok(Some(piece.freeze()));
                }
                Expects::DataEnd => match self.line()? {
                    Some(line) if line.is_empty() => self.expects = Expects::Head,
                    Some(_) => return Err(malformed()),
                    None => return Ok(None),
                },
                Expects::Trailer => match self.line()? {
                    Some(line) if line.is_empty() => self.expects = Expects::Nothing,
                    Some(_) => {}
                    None => return Ok(None),
                },
                Expects::Nothing => return Ok(None),
            }
        }
    }

    fn line(&mut self) -> Result<Option<Bytes>, S3Error> {
        match self.received.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => {
                let line = self.received.split_to(end).freeze();
                self.received.advance(2);
                Ok(Some(line))
            }
            None if self.received.len() > MAX_LINE_BYTES => Err(malformed()),
            None => Ok(None),
        }
    }

    /// Whether the content has ended. Some clients leave the last empty line out.
    fn is_complete(&self) -> bool {
        match self.expects {
            Expects::Nothing => true,
            Expects::Trailer => self.received.is_empty(),
            _ => false,
        }
    }
}

fn malformed() -> S3Error {
    s3_error!(InvalidRequest, "malformed aws-chunked body")
}

/// The content of a framed body, as it arrives.
pub(crate) fn content(body: Body) -> impl Stream<Item = Result<Bytes, S3Error>> + Send + Sync {
    futures::stream::try_unfold((body, Decoder::default()), |(mut body, mut decoder)| async move {
        loop {
            if let Some(piece) = decoder.next()? {
                return Ok(Some((piece, (body, decoder))));
            }
            let received =
                body.try_next().await.map_err(|source| S3Error::with_source(S3ErrorCode::IncompleteBody, source))?;
            match received {
                Some(bytes) => decoder.received.extend_from_slice(&bytes),
                None if decoder.is_complete() => return Ok(None),
                None => return Err(s3_error!(IncompleteBody)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const BODY: &[u8] =
        b"5;chunk-signature=00ff\r\nhello\r\n7\r\n, world\r\n0;chunk-signature=11\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";

    fn decode(body: &[u8], piece_bytes: usize) -> Result<Vec<u8>, S3Error> {
        let mut decoder = Decoder::default();
        let mut content = Vec::new();
        for piece in body.chunks(piece_bytes) {
            decoder.received.extend_from_slice(piece);
            while let Some(bytes) = decoder.next()? {
                content.extend_from_slice(&bytes);
            }
        }
        if decoder.is_complete() { Ok(content) } else { Err(s3_error!(IncompleteBody)) }
    }

    #[test]
    fn content_comes_out_however_it_arrives() {
        for piece_bytes in 1..=BODY.len() {
            assert_eq!(decode(BODY, piece_bytes).unwrap(), b"hello, world");
        }
        assert_eq!(decode(b"0\r\n\r\n", 1).unwrap(), b"");
    }

    #[test]
    fn a_body_that_stops_early_is_an_error() {
        let content_end = BODY.len() - b"x-amz-checksum-crc32:AAAA\r\n\r\n".len();
        for end in 0..content_end {
            assert!(decode(&BODY[..end], 3).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for body in [&b"zz\r\n"[..], b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n", &[b'0'; 9000]] {
            assert!(decode(body, 1000).is_err());
        }
    }
}
