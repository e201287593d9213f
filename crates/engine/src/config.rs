//! The configuration of one database: environment variables, and URI parameters, which win.

mod compaction;

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use bottomless_history::{DatabaseId, Layout, Policy};
use bottomless_store::{Endpoint, Location};

use crate::error::{Error, ErrorKind, Result};

pub use compaction::policy;

/// What to do at open when the local file is not empty and the bucket holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialReplication {
    /// The open fails.
    Error,
    /// The whole local database becomes the next transaction; earlier history stays restorable.
    Force,
    /// Nothing is uploaded at open; the first commit publishes the whole local database.
    Skip,
}

/// Whether the store keeps two writers apart, by conditional writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// It does, and must prove it before the first commit.
    On,
    /// It does not: the user promises to be the only writer.
    Off,
}

/// The configuration of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The endpoint and the bucket.
    pub location: Location,
    /// The prefix in the bucket.
    pub database_id: DatabaseId,
    /// The policy for a conflict at open.
    pub initial_replication: InitialReplication,
    /// How the base of the database is kept in the bucket. None: as the bucket has it, and as [`Layout::Ltx`] where it has
    /// nothing.
    pub layout: Option<Layout>,
    /// Whether fencing stands on conditional writes.
    pub fencing: Fencing,
    /// How long a commit may wait for the store.
    pub timeout: Duration,
    /// Whether this process keeps the history small in the background.
    pub compaction: bool,
    /// How often that is done, and for how long is kept.
    pub policy: Policy,
}

const PREFIX: &str = "LIBSQL_BOTTOMLESS_";

/// The settings of a database; each is also a URI parameter, in lower case.
const SETTINGS: [&str; 13] = [
    "ENDPOINT",
    "BUCKET",
    "DATABASE_ID",
    "INITIAL_REPLICATION",
    "LAYOUT",
    "FENCING",
    "TIMEOUT",
    compaction::SWITCH,
    compaction::LEVELS[0],
    compaction::LEVELS[1],
    compaction::LEVELS[2],
    compaction::SNAPSHOT,
    compaction::RETENTION,
];

/// Settings of the process, which no URI can change.
const DEFAULT_VFS: &str = "DEFAULT_VFS";

/// The longest time that makes sense as a timeout: a day.
const LONGEST_TIMEOUT_SECONDS: f64 = 86_400.0;

/// Where settings come from.
pub trait Source {
    /// The value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// The names of all environment variables.
    fn variables(&self) -> Vec<String>;
    /// The value of a URI parameter.
    fn parameter(&self, name: &str) -> Option<String>;
}

/// The environment of this process, without a URI.
#[derive(Debug, Clone, Copy)]
pub struct Environment;

impl Source for Environment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn variables(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    fn parameter(&self, _: &str) -> Option<String> {
        None
    }
}

/// A setting's value with the name under which the user gave it, for messages.
struct Setting {
    name: String,
    value: String,
}

impl Setting {
    fn wrong(&self, expected: &str) -> Error {
        let Self { name, value } = self;
        Error::new(ErrorKind::Configuration, format!("{name}={value:?} is not valid: {expected}"))
    }
}

/// Reads one setting. An empty variable is an unset one, as for the AWS tools.
fn setting(source: &dyn Source, key: &str) -> Option<Setting> {
    let parameter = key.to_ascii_lowercase();
    if let Some(value) = source.parameter(&parameter) {
        return Some(Setting { name: format!("the URI parameter {parameter}"), value });
    }
    let name = format!("{PREFIX}{key}");
    variable(source, &name)
}

fn variable(source: &dyn Source, name: &str) -> Option<Setting> {
    source.variable(name).filter(|value| !value.is_empty()).map(|value| Setting { name: name.to_owned(), value })
}

impl Config {
    /// Reads the configuration of the database at `path`.
    ///
    /// # Errors
    /// A wrong value, or a variable that begins like ours but is none: a typing error must not silently become the
    /// default.
    pub fn read(source: &dyn Source, path: &Path) -> Result<Self> {
        refuse_unknown(source)?;
        Ok(Self {
            location: location(source)?,
            database_id: database_id(source, path)?,
            initial_replication: choice(
                source,
                "INITIAL_REPLICATION",
                InitialReplication::Error,
                &[
                    ("error", InitialReplication::Error),
                    ("force", InitialReplication::Force),
                    ("skip", InitialReplication::Skip),
                ],
            )?,
            layout: choice(source, "LAYOUT", None, &[("ltx", Some(Layout::Ltx)), ("pages", Some(Layout::Pages))])?,
            fencing: choice(source, "FENCING", Fencing::On, &[("on", Fencing::On), ("off", Fencing::Off)])?,
            timeout: timeout(source)?,
            compaction: compaction::is_on(source)?,
            policy: policy(source)?,
        })
    }
}

/// Whether `bottomless` is to become the default VFS of the process when it is loaded.
///
/// # Errors
/// A value other than `on` and `off`.
pub fn default_vfs(source: &dyn Source) -> Result<bool> {
    choice(source, DEFAULT_VFS, false, &[("on", true), ("off", false)])
}

/// The endpoint and the bucket alone, for tools that work on a bucket rather than on a local database.
///
/// # Errors
/// A wrong value.
pub fn location(source: &dyn Source) -> Result<Location> {
    let aws = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
    let endpoint = match setting(source, "ENDPOINT").or_else(|| aws.iter().find_map(|name| variable(source, name))) {
        Some(found) => Endpoint::from_str(&found.value).map_err(|e| found.wrong(&e.to_string()))?,
        None => Endpoint::from_str("http://localhost:9000").map_err(|e| configuration(&e))?,
    };
    let bucket = setting(source, "BUCKET");
    let name = bucket.as_ref().map_or("libsql", |found| &found.value);
    Location::new(endpoint, name).map_err(|e| match &bucket {
        Some(found) => found.wrong(&e.to_string()),
        None => configuration(&e),
    })
}

fn configuration(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Configuration, error.to_string())
}

fn database_id(source: &dyn Source, path: &Path) -> Result<DatabaseId> {
    match setting(source, "DATABASE_ID") {
        Some(found) => DatabaseId::new(found.value.clone()).map_err(|e| found.wrong(&e.to_string())),
        None => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            DatabaseId::new(name.clone()).map_err(|e| {
                let text = format!(
                    "the file name {name:?} can't be the database's name in the bucket ({e}); \
                     set LIBSQL_BOTTOMLESS_DATABASE_ID or the URI parameter database_id"
                );
                Error::new(ErrorKind::Configuration, text)
            })
        }
    }
}

fn timeout(source: &dyn Source) -> Result<Duration> {
    let Some(found) = setting(source, "TIMEOUT") else {
        return Ok(Duration::from_secs(30));
    };
    let seconds = found.value.trim().parse::<f64>().ok().filter(|s| (0.1..=LONGEST_TIMEOUT_SECONDS).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| found.wrong("a number of seconds from 0.1 to 86400 is expected"))
}

fn choice<T: Copy>(source: &dyn Source, key: &str, default: T, choices: &[(&str, T)]) -> Result<T> {
    let Some(found) = setting(source, key) else {
        return Ok(default);
    };
    choices.iter().find(|(name, _)| *name == found.value).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        found.wrong(&format!("{} is expected", names.join(" or ")))
    })
}

fn refuse_unknown(source: &dyn Source) -> Result<()> {
    let known = || SETTINGS.into_iter().chain([DEFAULT_VFS]);
    for name in source.variables() {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !known().any(|key| key == *rest)) else {
            continue;
        };
        if rest.starts_with("AWS_") {
            let text = format!(
                "{name} is not used: credentials and region come from the regular AWS chain \
                 (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_REGION, …); unset it"
            );
            return Err(Error::new(ErrorKind::Configuration, text));
        }
        let near = known().max_by(|a, b| strsim::jaro(a, rest).total_cmp(&strsim::jaro(b, rest))).unwrap_or_default();
        let text = format!("{name} is not a variable of bottomless; did you mean {PREFIX}{near}? Unset or rename it");
        return Err(Error::new(ErrorKind::Configuration, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Fake {
        variables: HashMap<&'static str, &'static str>,
        parameters: HashMap<&'static str, &'static str>,
    }

    impl Source for Fake {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(ToString::to_string)
        }
        fn variables(&self) -> Vec<String> {
            self.variables.keys().map(ToString::to_string).collect()
        }
        fn parameter(&self, name: &str) -> Option<String> {
            self.parameters.get(name).map(ToString::to_string)
        }
    }

    pub(super) fn read(
        variables: &[(&'static str, &'static str)],
        parameters: &[(&'static str, &'static str)],
    ) -> Result<Config> {
        let source =
            Fake { variables: variables.iter().copied().collect(), parameters: parameters.iter().copied().collect() };
        Config::read(&source, Path::new("/data/test.db"))
    }

    #[test]
    fn the_defaults_are_those_of_the_table() {
        let config = read(&[], &[]).unwrap();
        assert_eq!(config.location.to_string(), "http://localhost:9000/libsql");
        assert_eq!(config.database_id.to_string(), "test.db");
        assert_eq!(config.initial_replication, InitialReplication::Error);
        assert_eq!(config.layout, None, "as the bucket has it");
        assert_eq!(config.fencing, Fencing::On);
        assert_eq!(config.timeout, Duration::from_secs(30));
    }

    #[test]
    fn a_parameter_wins_over_the_variable_and_the_variable_over_aws() {
        let aws = ("AWS_ENDPOINT_URL", "http://aws:1");
        let ours = ("LIBSQL_BOTTOMLESS_ENDPOINT", "http://ours:2");
        let endpoint = |c: Config| c.location.endpoint.to_string();
        assert_eq!(endpoint(read(&[aws], &[]).unwrap()), "http://aws:1");
        let s3 = ("AWS_ENDPOINT_URL_S3", "http://s3:4");
        assert_eq!(endpoint(read(&[aws, s3], &[]).unwrap()), "http://s3:4");
        assert_eq!(endpoint(read(&[aws, ours], &[]).unwrap()), "http://ours:2");
        assert_eq!(endpoint(read(&[aws, ours], &[("endpoint", "file:///b")]).unwrap()), "file:///b");
    }

    #[test]
    fn a_wrong_value_is_refused_under_the_name_that_the_user_gave_it() {
        for (key, value) in [
            ("LIBSQL_BOTTOMLESS_INITIAL_REPLICATION", "maybe"),
            ("LIBSQL_BOTTOMLESS_TIMEOUT", "soon"),
            ("LIBSQL_BOTTOMLESS_TIMEOUT", "0"),
            ("LIBSQL_BOTTOMLESS_TIMEOUT", "inf"),
            ("LIBSQL_BOTTOMLESS_LAYOUT", "pages "),
            ("LIBSQL_BOTTOMLESS_FENCING", "ON"),
            ("LIBSQL_BOTTOMLESS_ENDPOINT", "localhost"),
            ("LIBSQL_BOTTOMLESS_BUCKET", "a/b"),
            ("LIBSQL_BOTTOMLESS_DATABASE_ID", "../x"),
        ] {
            let error = read(&[(key, value)], &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains(key), "{error}");
        }
        let error = read(&[], &[("fencing", "no")]).unwrap_err().to_string();
        assert!(error.contains("URI parameter fencing") && error.contains("on or off"), "{error}");
    }

    #[test]
    fn the_layout_is_one_of_two() {
        let layout = |value| read(&[("LIBSQL_BOTTOMLESS_LAYOUT", value)], &[]).unwrap().layout;
        assert_eq!(["ltx", "pages", ""].map(layout), [Some(Layout::Ltx), Some(Layout::Pages), None]);
        let config = read(&[("LIBSQL_BOTTOMLESS_LAYOUT", "ltx")], &[("layout", "pages")]).unwrap();
        assert_eq!(config.layout, Some(Layout::Pages), "the parameter wins");
        let error = read(&[], &[("layout", "page")]).unwrap_err().to_string();
        assert!(error.contains("URI parameter layout") && error.contains("ltx or pages"), "{error}");
    }

    #[test]
    fn a_misspelt_variable_is_refused_and_the_right_one_named() {
        let error = read(&[("LIBSQL_BOTTOMLESS_BUKET", "x")], &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean LIBSQL_BOTTOMLESS_BUCKET"), "{error}");
        let error = read(&[("LIBSQL_BOTTOMLESS_AWS_ACCESS_KEY_ID", "x")], &[]).unwrap_err().to_string();
        assert!(error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    }
}
