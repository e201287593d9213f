//! `bottomless-cli`: looks into a bucket that bottomless writes to, restores from it, and says what is wrong with it.
//!
//! Standard output is data, in the shape that `docs/cli.md` documents when `--json` is given; standard error is for
//! people. Exit codes: 0 done, 1 failed or something wrong was found, 2 wrong usage, 130 after SIGINT, 143 after SIGTERM.

mod args;
mod bar;
mod command;
mod error;
mod live;
mod output;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::error::{Error, Signal};
use crate::output::Output;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(message) => {
            // Help and version are messages too. When they can't be written there is nobody to tell.
            let _ = message.print();
            return ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2));
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| bar::Stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bottomless-cli: {error}");
            error.exit_code()
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let output = Output::new(args.common.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Caught before anything is begun.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // What is unfinished is dropped, and takes its temporary files along.
        tokio::select! {
            done = args.command.run(&args.common, output) => done,
            _ = interrupt.recv() => Err(Error::Interrupted(Signal::Interrupt)),
            _ = terminate.recv() => Err(Error::Interrupted(Signal::Terminate)),
        }
    })
}
