//! The name of a database in a bucket.

use std::fmt;
use std::str::FromStr;

/// The prefix that holds a database's objects: `test.db`, `team/test.db`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(String);

/// Bytes: S3 keys have at most 1024, and level and TXIDs need some behind the prefix.
const LONGEST: usize = 900;

/// The text can't be the name of a database in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database id {id:?} {problem}; set LIBSQL_BOTTOMLESS_DATABASE_ID to a name like test.db or team/test.db")]
pub struct InvalidDatabaseId {
    id: String,
    problem: &'static str,
}

impl DatabaseId {
    /// The database of this name.
    ///
    /// # Errors
    /// When the text is empty or too long, holds control characters, or has a segment that is empty, `.` or `..`.
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidDatabaseId> {
        let id = id.into();
        let problem = if id.is_empty() {
            "is empty"
        } else if id.len() > LONGEST {
            "is longer than 900 bytes"
        } else if id.chars().any(char::is_control) {
            "holds a control character"
        } else if id.starts_with('/') || id.ends_with('/') {
            "begins or ends with a slash"
        } else if id.split('/').any(str::is_empty) {
            "has two slashes behind each other"
        } else if id.split('/').any(|segment| segment == "." || segment == "..") {
            "has the segment . or .."
        } else {
            return Ok(Self(id));
        };
        Err(InvalidDatabaseId { id, problem })
    }

    /// The prefix, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DatabaseId {
    type Err = InvalidDatabaseId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use bottomless_store::Bucket;

    use super::*;

    #[test]
    fn names_that_make_good_keys_are_accepted() {
        for id in ["test.db", "team/test.db", "a b", "größe.db", "100%", "..db", "a#b?c", &"x".repeat(900)] {
            assert!(DatabaseId::new(id).is_ok(), "{id}");
            assert!(Bucket::is_key(&format!("{id}/0000/x.ltx")), "{id}");
        }
    }

    #[test]
    fn names_that_would_go_astray_are_refused_with_the_reason() {
        for (id, problem) in [
            ("", "is empty"),
            ("/a", "slash"),
            ("a/", "slash"),
            ("/", "slash"),
            ("a//b", "two slashes"),
            ("a/../b", "segment"),
            (".", "segment"),
            ("a\nb", "control"),
            ("a\u{7f}", "control"),
            (&"x".repeat(901), "longer"),
        ] {
            let message = DatabaseId::new(id).map_err(|e| e.to_string());
            assert!(message.clone().is_err_and(|m| m.contains(problem)), "{id:?}: {message:?}");
        }
    }
}
