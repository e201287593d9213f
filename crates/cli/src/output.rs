//! Standard output: the one place that writes to it.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// Prints a command's result, for people or for programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

/// A command's result. Its serialization is the documented shape of `--json`.
pub(crate) trait Report: Serialize {
    /// Writes it for people, with a line end after each line.
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()>;
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: with `--json` as one line. That nobody reads it is no error.
    pub(crate) fn print(self, report: &impl Report) -> io::Result<()> {
        let mut text = Vec::new();
        if self.json {
            serde_json::to_writer(&mut text, report)?;
            text.push(b'\n');
        } else {
            report.write_text(&mut text)?;
        }
        self.print_bytes(&text)
    }

    /// Prints what has one form only. That nobody reads it is no error.
    pub(crate) fn print_bytes(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Lines of cells, as wide as each column needs.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const COLUMNS: usize>(heads: [&str; COLUMNS]) -> Self {
        Self { lines: vec![heads.map(str::to_owned).into()] }
    }

    pub(crate) fn line<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.lines.push(cells.into());
    }

    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for line in &self.lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            writeln!(to, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// RFC 3339 in UTC, with the parts of a second that there are.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

/// A time as a field of JSON.
pub(crate) fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

/// RFC 3339 in UTC, whole seconds.
pub(crate) fn rfc3339_seconds(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["A", "BB", "C"]);
        table.line(["größe".into(), "1".into(), "x".into()]);
        table.line(["y".into(), String::new(), String::new()]);
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "A      BB  C\ngröße  1   x\ny\n");
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.5Z");
        assert_eq!(rfc3339_seconds(time), "2023-11-14T22:13:20Z");
    }
}
