//! `ls`

mod find;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::SystemTime;

use bottomless_history::{DatabaseId, Entry, History, Listing, PlanError};
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::BinaryBytes;
use serde::Serialize;

use find::{Found, PARALLEL_LISTINGS, find};

use super::{Place, connect, kind};
use crate::args::Common;
use crate::error::Error;
use crate::output::{Output, Report, Table, as_rfc3339, rfc3339_seconds};

pub(crate) async fn run(common: &Common, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    let database = common.database()?;
    let bucket = connect(&location).await?;
    let place = Place::from(&location);
    match database {
        Some(id) => {
            let listing = History::new(bucket, id).list(None).await?;
            if listing.is_empty() {
                let old = listing.is_old_litestream();
                let error = if old { PlanError::OldLitestream } else { PlanError::Empty };
                return Err(Error::Failed(error(listing.id().clone()).to_string()));
            }
            output.print(&Objects::new(place, &listing))?;
        }
        None => {
            let Found { prefixes, paged } = find(&bucket).await?;
            let listings = futures::stream::iter(prefixes)
                .map(|id| {
                    let history = History::new(bucket.clone(), id);
                    async move { history.list(None).await }
                })
                .buffered(PARALLEL_LISTINGS);
            let mut listings: Vec<Listing> = listings.try_collect().await?;
            listings.retain(|listing| !listing.is_empty());
            output.print(&Databases::new(place, &listings, paged))?;
        }
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Databases {
    #[serde(flatten)]
    place: Place,
    databases: Vec<Database>,
    /// What has page objects, and nothing that they belong to.
    lost_page_objects: Vec<String>,
}

impl Databases {
    fn new(place: Place, listings: &[Listing], mut paged: BTreeSet<DatabaseId>) -> Self {
        for listing in listings {
            paged.remove(listing.id());
        }
        Self {
            place,
            databases: listings.iter().map(Database::new).collect(),
            lost_page_objects: paged.iter().map(ToString::to_string).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Database {
    database: String,
    layout: String,
    last_txid: String,
    objects: usize,
    bytes: u64,
    #[serde(serialize_with = "as_rfc3339")]
    modified: SystemTime,
}

impl Database {
    fn new(listing: &Listing) -> Self {
        let entries = listing.entries();
        Self {
            database: listing.id().to_string(),
            layout: listing.layout().to_string(),
            last_txid: listing.last_txid().to_string(),
            objects: entries.len(),
            bytes: entries.iter().map(|entry| entry.size).sum(),
            modified: entries.iter().map(|entry| entry.modified).max().unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

impl Report for Databases {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(["DATABASE", "LAYOUT", "LAST TXID", "OBJECTS", "SIZE", "MODIFIED"]);
        for database in &self.databases {
            table.line([
                database.database.clone(),
                database.layout.clone(),
                database.last_txid.clone(),
                database.objects.to_string(),
                BinaryBytes(database.bytes).to_string(),
                rfc3339_seconds(database.modified),
            ]);
        }
        table.write(to)?;
        for id in &self.lost_page_objects {
            writeln!(
                to,
                "{id} has page objects, but neither marker nor log: it can't be restored; bring these back, or remove \
                 what is there (bottomless-cli rm -d {id})"
            )?;
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct Objects {
    #[serde(flatten)]
    place: Place,
    database: String,
    layout: String,
    last_txid: String,
    foreign_objects: usize,
    objects: Vec<Object>,
}

#[derive(Debug, Serialize)]
struct Object {
    key: String,
    level: u8,
    kind: &'static str,
    min_txid: String,
    max_txid: String,
    bytes: u64,
    #[serde(serialize_with = "as_rfc3339")]
    modified: SystemTime,
    etag: Option<String>,
}

impl Objects {
    fn new(place: Place, listing: &Listing) -> Self {
        Self {
            place,
            database: listing.id().to_string(),
            layout: listing.layout().to_string(),
            last_txid: listing.last_txid().to_string(),
            foreign_objects: listing.foreign(),
            objects: listing.entries().iter().map(|entry| Object::new(listing.id(), entry)).collect(),
        }
    }
}

impl Object {
    fn new(id: &DatabaseId, entry: &Entry) -> Self {
        let level = entry.name.level;
        Self {
            key: entry.name.key(id),
            level: level.get(),
            kind: kind(level),
            min_txid: entry.name.min.to_string(),
            max_txid: entry.name.max.to_string(),
            bytes: entry.size,
            modified: entry.modified,
            etag: entry.e_tag.clone(),
        }
    }
}

impl Report for Objects {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(["LEVEL", "KIND", "FIRST TXID", "LAST TXID", "SIZE", "MODIFIED"]);
        for object in &self.objects {
            table.line([
                object.level.to_string(),
                object.kind.to_owned(),
                object.min_txid.clone(),
                object.max_txid.clone(),
                BinaryBytes(object.bytes).to_string(),
                rfc3339_seconds(object.modified),
            ]);
        }
        table.write(to)?;
        match self.foreign_objects {
            0 => Ok(()),
            count => writeln!(to, "{count} other objects lie below {}/", self.database),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use bottomless_store::Location;
    use serde_json::json;

    use super::*;

    fn listing() -> Listing {
        let object = |key: &str, size: u64| bottomless_store::Object {
            key: format!("test.db/{key}"),
            size,
            modified: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + size),
            e_tag: (size > 200).then(|| "e".to_owned()),
        };
        Listing::new(
            DatabaseId::new("test.db").unwrap(),
            [
                object("0000/000000000000000c-000000000000000c.ltx", 200),
                object("0009/0000000000000001-000000000000000b.ltx", 5000),
                object("0001/000000000000000a-000000000000000b.ltx", 300),
                object("else", 1),
            ],
        )
    }

    fn place() -> Place {
        Place::from(&Location::new("http://localhost:9000".parse().unwrap(), "libsql").unwrap())
    }

    fn text(report: &impl Report) -> String {
        let mut text = Vec::new();
        report.write_text(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_objects_of_a_database() {
        let objects = Objects::new(place(), &listing());
        let object = |level: u8, kind, min: &str, max: &str, bytes: u64, modified, etag: Option<&str>| {
            json!({
                "key": format!("test.db/000{level}/{min}-{max}.ltx"), "level": level, "kind": kind, "min_txid": min,
                "max_txid": max, "bytes": bytes, "modified": modified, "etag": etag,
            })
        };
        let expected = json!({
            "endpoint": "http://localhost:9000", "bucket": "libsql", "database": "test.db",
            "layout": "ltx", "last_txid": "000000000000000c", "foreign_objects": 1,
            "objects": [
                object(0, "log", "000000000000000c", "000000000000000c", 200, "2023-11-14T22:13:20.2Z", None),
                object(1, "compacted", "000000000000000a", "000000000000000b", 300, "2023-11-14T22:13:20.3Z", Some("e")),
                object(9, "snapshot", "0000000000000001", "000000000000000b", 5000, "2023-11-14T22:13:25Z", Some("e")),
            ],
        });
        assert_eq!(serde_json::to_value(&objects).unwrap(), expected);
        assert_eq!(
            text(&objects),
            "LEVEL  KIND       FIRST TXID        LAST TXID         SIZE      MODIFIED\n\
             0      log        000000000000000c  000000000000000c  200 B     2023-11-14T22:13:20Z\n\
             1      compacted  000000000000000a  000000000000000b  300 B     2023-11-14T22:13:20Z\n\
             9      snapshot   0000000000000001  000000000000000b  4.88 KiB  2023-11-14T22:13:25Z\n\
             1 other objects lie below test.db/\n"
        );
    }

    #[test]
    fn the_databases_of_a_bucket() {
        let id = |id: &str| DatabaseId::new(id).unwrap();
        let databases = Databases::new(place(), &[listing()], [id("test.db"), id("lost.db")].into());
        let expected = json!({
            "endpoint": "http://localhost:9000", "bucket": "libsql",
            "databases": [{
                "database": "test.db", "layout": "ltx", "last_txid": "000000000000000c", "objects": 3, "bytes": 5500,
                "modified": "2023-11-14T22:13:25Z",
            }],
            "lost_page_objects": ["lost.db"],
        });
        assert_eq!(serde_json::to_value(&databases).unwrap(), expected);
        assert_eq!(
            text(&databases),
            "DATABASE  LAYOUT  LAST TXID         OBJECTS  SIZE      MODIFIED\n\
             test.db   ltx     000000000000000c  3        5.37 KiB  2023-11-14T22:13:25Z\n\
             lost.db has page objects, but neither marker nor log: it can't be restored; bring these back, or remove what \
             is there (bottomless-cli rm -d lost.db)\n"
        );
    }
}
