//! `create-bucket`

use std::io::{self, Write};

use bottomless_store::{Bucket, Transport};
use serde::Serialize;

use super::Place;
use crate::args::Common;
use crate::error::Error;
use crate::output::{Output, Report};

#[derive(Debug, Serialize)]
struct Created {
    #[serde(flatten)]
    place: Place,
}

impl Report for Created {
    fn write_text(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "The bucket {} is there, at {}.", self.place.bucket, self.place.endpoint)
    }
}

pub(crate) async fn run(common: &Common, output: Output) -> Result<(), Error> {
    let location = common.location()?;
    Bucket::create_bucket(&location, &Transport::new()?).await?;
    Ok(output.print(&Created { place: Place::from(&location) })?)
}
