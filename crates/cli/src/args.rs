//! The command line that all commands share, and the variables that stand in for what it leaves out. The options of a
//! command are in its module.

use bottomless_history::DatabaseId;
use bottomless_store::{Endpoint, Location};
use clap::Parser;

use crate::command::Command;
use crate::error::Error;

const DEFAULT_ENDPOINT: &str = "http://localhost:9000";
const DEFAULT_BUCKET: &str = "libsql";

/// Look into a bucket that bottomless writes to, restore from it, and find out what is wrong with it.
///
/// Standard output is data; messages and logs (RUST_LOG) go to standard error. Credentials and region come from the
/// regular AWS chain. Exit codes: 0 done, 1 failed or something wrong was found, 2 wrong usage, 130 interrupted (Ctrl-C),
/// 143 terminated.
#[derive(Debug, Parser)]
#[command(name = "bottomless-cli", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands need.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The store: an http(s) URL, or file:///dir [default: $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL, else
    /// http://localhost:9000]
    #[arg(short, long, global = true, value_name = "URL", env = "LIBSQL_BOTTOMLESS_ENDPOINT", hide_env_values = true)]
    endpoint: Option<String>,

    /// The bucket [default: libsql]
    #[arg(short, long, global = true, value_name = "NAME", env = "LIBSQL_BOTTOMLESS_BUCKET", hide_env_values = true)]
    bucket: Option<String>,

    /// The database's prefix in the bucket; usually the name of its file
    #[arg(
        short,
        long,
        global = true,
        value_name = "ID",
        env = "LIBSQL_BOTTOMLESS_DATABASE_ID",
        hide_env_values = true
    )]
    database: Option<String>,

    /// Print one line of JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Common {
    /// Where the bucket is.
    pub(crate) fn location(&self) -> Result<Location, Error> {
        self.location_with(|name| std::env::var(name).ok())
    }

    fn location_with(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Location, Error> {
        let aws = || ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().find_map(|name| filled(variable(name)));
        let endpoint = filled(self.endpoint.clone()).or_else(aws).unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let endpoint: Endpoint = endpoint.parse().map_err(usage)?;
        Location::new(endpoint, &filled(self.bucket.clone()).unwrap_or_else(|| DEFAULT_BUCKET.into())).map_err(usage)
    }

    /// The database, for a command that works on one.
    pub(crate) fn one_database(&self) -> Result<DatabaseId, Error> {
        self.database()?.ok_or_else(|| {
            let how = "name the database with -d or LIBSQL_BOTTOMLESS_DATABASE_ID (bottomless-cli ls lists them)";
            Error::Usage(how.into())
        })
    }

    /// The database, if one is named.
    pub(crate) fn database(&self) -> Result<Option<DatabaseId>, Error> {
        filled(self.database.clone()).map(DatabaseId::new).transpose().map_err(usage)
    }
}

/// An empty variable is an unset one.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn usage(error: impl std::fmt::Display) -> Error {
    Error::Usage(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["bottomless-cli"], arguments].concat())
    }

    fn location(arguments: &[&str], variables: &[(&str, &str)]) -> Result<String, Error> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let common = parse(arguments).unwrap().common;
        common.location_with(variable).map(|location| location.to_string())
    }

    #[test]
    fn the_definition_holds_together() {
        Args::command().debug_assert();
    }

    /// The examples of the page are held against what is printed by `tests/documented.rs`.
    #[test]
    fn every_command_and_option_is_on_the_page() {
        const PAGE: &str = include_str!("../../../docs/cli.md");
        let sections: Vec<&str> = PAGE.split("\n## ").collect();
        for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let title = format!("`{}`\n", command.get_name());
            let section = sections.iter().find(|section| section.starts_with(&title));
            let section = section.unwrap_or_else(|| panic!("docs/cli.md has no section {title}"));
            for option in command.get_arguments() {
                let name = match (option.get_long(), option.get_value_names()) {
                    (Some(long), _) => format!("--{long}"),
                    (None, Some([name, ..])) => format!("`{name}`"),
                    (None, _) => option.get_id().to_string(),
                };
                assert!(section.contains(&name), "docs/cli.md does not have {name} in the section {title}");
            }
        }
        for long in Args::command().get_arguments().filter_map(|option| option.get_long()) {
            assert!(sections[1].contains(&format!("--{long}")), "docs/cli.md does not have --{long}");
        }
    }

    #[test]
    fn options_stand_before_and_after_the_command() {
        for arguments in [["-d", "a.db", "ls", "--json"], ["ls", "--json", "--database", "a.db"]] {
            let args = parse(&arguments).unwrap();
            assert!(args.common.json);
            assert_eq!(args.common.database().unwrap(), Some(DatabaseId::new("a.db").unwrap()));
        }
    }

    #[test]
    fn the_endpoint_is_ours_then_that_of_aws_then_localhost() {
        let aws = ("AWS_ENDPOINT_URL", "http://aws:1");
        let s3 = ("AWS_ENDPOINT_URL_S3", "http://s3:2");
        let at = |arguments, variables: &[_]| location(arguments, variables).unwrap();
        assert_eq!(at(&["ls"], &[]), "http://localhost:9000/libsql");
        assert_eq!(at(&["ls"], &[aws]), "http://aws:1/libsql");
        assert_eq!(at(&["ls"], &[aws, s3]), "http://s3:2/libsql");
        assert_eq!(at(&["ls", "-e", "file:///b", "-b", "x"], &[aws, s3]), "file:///b/x");
        assert_eq!(at(&["ls", "-e", "", "-b", ""], &[]), "http://localhost:9000/libsql");
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for arguments in [&["ls", "-e", "localhost"][..], &["ls", "-b", "a/b"]] {
            assert!(matches!(location(arguments, &[]), Err(Error::Usage(_))));
        }
        let args = parse(&["ls", "-d", "a//b"]).unwrap();
        assert!(matches!(args.common.database(), Err(Error::Usage(_))));
        assert!(matches!(args.common.one_database(), Err(Error::Usage(_))));
        for arguments in [&["restore"][..], &["restore", "-o", "f", "--txid", "12"], &["lsd"], &[]] {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }
}
