//! The subcommands, one module each.
//!
//! What each prints, as text and with `--json`, is promised in `docs/cli.md`.

pub(crate) mod create_bucket;
pub(crate) mod doctor;
pub(crate) mod ls;
pub(crate) mod restore;

use bottomless_store::{Bucket, Location, Transport};
use clap::Subcommand;
use serde::Serialize;

use crate::args::Common;
use crate::error::Error;
use crate::output::Output;

/// What to do. Each command has its module, with its options and what it prints.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the databases of the bucket, or with -d the objects of one
    Ls,
    /// Write a database of the bucket into a file
    Restore(restore::Options),
    /// Check the store: reachable, credentials, bucket, conditional writes, round trip, clock
    ///
    /// Writes a few small objects and deletes them again.
    Doctor,
    /// Create the bucket; that it exists already is fine
    CreateBucket,
}

impl Command {
    /// Does it. When it is interrupted, the future is dropped: what is unfinished must go away with it.
    pub(crate) async fn run(&self, common: &Common, output: Output) -> Result<(), Error> {
        match self {
            Self::Ls => ls::run(common, output).await,
            Self::Restore(options) => restore::run(common, options, output).await,
            Self::Doctor => doctor::run(common, output).await,
            Self::CreateBucket => create_bucket::run(common, output).await,
        }
    }
}

/// The fields with which every report begins.
#[derive(Debug, Serialize)]
struct Place {
    endpoint: String,
    bucket: String,
}

impl From<&Location> for Place {
    fn from(location: &Location) -> Self {
        Self { endpoint: location.endpoint.to_string(), bucket: location.bucket.clone() }
    }
}

async fn connect(location: &Location) -> Result<Bucket, Error> {
    Ok(Bucket::connect(location, &Transport::new()?).await?)
}
