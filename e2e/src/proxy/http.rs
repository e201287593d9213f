//! As much of HTTP/1.1 as a proxy needs.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};

/// The first line and the headers of a request or a reply.
pub(crate) struct Head {
    pub(crate) lines: Vec<String>,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Head {
    /// Reads up to and with the empty line; `None` at the end of the connection.
    pub(crate) fn read(from: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut lines = Vec::new();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let text = line.trim_end();
            if text.is_empty() {
                lines.push(line);
                return Ok(Some(Self { lines, headers }));
            }
            if let (false, Some((name, value))) = (lines.is_empty(), text.split_once(':')) {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            lines.push(line);
        }
    }

    pub(super) fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(self.lines.concat().as_bytes())
    }

    pub(super) fn without_condition(mut self) -> Self {
        let gone = ["if-none-match:", "authorization:", "x-amz-date:", "x-amz-content-sha256:"];
        self.lines.retain(|line| !gone.iter().any(|name| line.to_ascii_lowercase().starts_with(name)));
        self
    }

    /// The status of a reply.
    pub(super) fn status(&self) -> u16 {
        self.lines[0].split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// Copies the body of a reply to a request with this method.
    pub(super) fn copy_body(&self, method: &str, from: &mut impl BufRead, to: &mut impl Write) -> std::io::Result<()> {
        if method == "HEAD" || self.status() == 204 || self.status() == 304 {
            return Ok(());
        }
        if self.is_chunked() {
            copy_chunks(from, to)
        } else {
            std::io::copy(&mut from.take(self.length()), to).map(drop)
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.headers.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }
}

fn copy_chunks(from: &mut impl BufRead, to: &mut impl Write) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        to.write_all(line.as_bytes())?;
        let size = line.trim().split(';').next().and_then(|s| u64::from_str_radix(s, 16).ok()).unwrap_or(0);
        std::io::copy(&mut from.take(size + 2), to)?;
        if size == 0 {
            return Ok(());
        }
    }
}
