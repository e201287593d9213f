//! `man`

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::args::Args;
use crate::error::Error;
use crate::output::Output;

/// What `man` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Write the page and those of all commands into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(options: &Options, output: Output) -> Result<(), Error> {
    let command = Args::command();
    if let Some(folder) = &options.out {
        let failed = |error| Error::Failed(format!("{} can't be written: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(failed)?;
        return clap_mangen::generate_to(command, folder).map_err(failed);
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(output.print_bytes(&page)?)
}
