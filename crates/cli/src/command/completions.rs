//! `completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Args;
use crate::error::Error;
use crate::output::Output;

/// What `completions` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(options: &Options, output: Output) -> Result<(), Error> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    Ok(output.print_bytes(&script)?)
}
