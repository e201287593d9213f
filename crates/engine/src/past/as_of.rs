//! Which point a database is to be opened at.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use bottomless_history::parse_time;
use bottomless_ltx::Txid;

use crate::config::Source;
use crate::error::{Error, ErrorKind, Result};

/// A point in the history of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// After this transaction.
    Txid(Txid),
    /// As of this time.
    Time(SystemTime),
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Txid(txid) => write!(f, "TXID {txid}"),
            Self::Time(time) => match jiff::Timestamp::try_from(*time) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => f.write_str("a time that no calendar has"),
            },
        }
    }
}

const TXID: &str = "txid";
const TIMESTAMP: &str = "timestamp";

impl AsOf {
    /// The point that the URI of the database at `path` asks for, if it asks for one. No variable does: a program that
    /// is started with one would find every database of its in the past.
    ///
    /// # Errors
    /// When a parameter is wrong, when both are there, when the parameters stand in the file name itself, and with
    /// SQLite's shared cache.
    pub fn read(source: &dyn Source, path: &Path) -> Result<Option<Self>> {
        refuse_unread_uri(path)?;
        let as_of = match (source.parameter(TXID), source.parameter(TIMESTAMP)) {
            (None, None) => return Ok(None),
            (Some(txid), None) => txid_of(&txid)?,
            (None, Some(time)) => time_of(&time)?,
            (Some(_), Some(_)) => {
                return Err(wrong("the URI parameters txid and timestamp can't be used together; use one"));
            }
        };
        // SQLite finds the pages of another connection by the name of the file: the present's has the same.
        if source.parameter("cache").is_some_and(|cache| cache == "shared") {
            return Err(wrong("the URI parameters txid and timestamp can't be used with cache=shared; leave that out"));
        }
        Ok(Some(as_of))
    }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, text)
}

fn txid_of(text: &str) -> Result<AsOf> {
    let txid = Txid::from_str(text).map_err(|error| wrong(format!("the URI parameter txid is not valid: {error}")))?;
    if txid == Txid::ZERO {
        return Err(wrong("the URI parameter txid is not valid: the first transaction is 0000000000000001"));
    }
    Ok(AsOf::Txid(txid))
}

fn time_of(text: &str) -> Result<AsOf> {
    let time = parse_time(text, SystemTime::now());
    time.map(AsOf::Time).map_err(|error| wrong(format!("the URI parameter timestamp is not valid: {error}")))
}

/// Without `SQLITE_OPEN_URI` SQLite takes a URI for the name of a file, and makes an empty database of that name.
fn refuse_unread_uri(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parameters = name.split_once('?').map_or("", |(_, parameters)| parameters);
    let names_point = parameters.split('&').any(|parameter| {
        let key = parameter.split('=').next();
        key == Some(TXID) || key == Some(TIMESTAMP)
    });
    if !names_point {
        return Ok(());
    }
    Err(wrong(format!(
        "{name:?} was not read as a URI, since the connection does not allow URIs: open it with SQLITE_OPEN_URI (in \
         Python: uri=True)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Uri<'a>(&'a [(&'a str, &'a str)]);

    impl Source for Uri<'_> {
        fn variable(&self, _: &str) -> Option<String> {
            Some("0000000000000007".to_owned())
        }
        fn variables(&self) -> Vec<String> {
            Vec::new()
        }
        fn parameter(&self, name: &str) -> Option<String> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        }
    }

    fn read(parameters: &[(&str, &str)]) -> Result<Option<AsOf>> {
        AsOf::read(&Uri(parameters), Path::new("/data/test.db"))
    }

    #[test]
    fn a_point_is_one_parameter_and_no_variable() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("txid", "000000000000000c")]).unwrap(), Some(AsOf::Txid(Txid::new(12))));
        for wrong in ["", "c", "12", "000000000000000C", "0000000000000000", "-000000000000000c"] {
            let error = read(&[("txid", wrong)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("URI parameter txid"), "{error}");
        }
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_500);
        assert_eq!(read(&[("timestamp", "2023-11-14T23:13:20.5+01:00")]).unwrap(), Some(AsOf::Time(time)));
        let Some(AsOf::Time(time)) = read(&[("timestamp", "10 minutes ago")]).unwrap() else { panic!("no time") };
        assert!(time < SystemTime::now());
        for wrong in ["", "2023-11-14T23:13:20", "10 minutes", "12"] {
            let error = read(&[("timestamp", wrong)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("URI parameter timestamp"), "{error}");
        }
        for (other, word) in [(("timestamp", "1 minute ago"), "together"), (("cache", "shared"), "cache=shared")] {
            let error = read(&[("txid", "000000000000000c"), other]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(read(&[("txid", "000000000000000c"), ("cache", "private")]).unwrap().is_some());
    }

    #[test]
    fn a_uri_that_was_not_read_as_one_is_refused() {
        for name in ["file:test.db?vfs=bottomless&txid=000000000000000c", "test.db?timestamp=1"] {
            let error = AsOf::read(&Uri(&[]), &Path::new("/data").join(name)).unwrap_err().to_string();
            assert!(error.contains("SQLITE_OPEN_URI"), "{error}");
        }
        for name in ["what?.db", "txid=7", "a?b=txid"] {
            assert_eq!(AsOf::read(&Uri(&[]), &Path::new("/data").join(name)).unwrap(), None, "{name}");
        }
    }
}
