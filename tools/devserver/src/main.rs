//! `bottomless-devserver`: an S3 server in one process, for development and the demo.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use bottomless_devserver::{Config, Credentials, Server};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// An embedded S3 server for development and tests. Prints its URL on standard output when it listens, and
/// stops on SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// HOST:PORT to listen on; port 0 takes a free one
    #[arg(long, default_value = "localhost:9000")]
    address: String,

    /// Folder for buckets and objects [default: a temporary one, removed at the end]
    #[arg(long)]
    dir: Option<PathBuf>,

    /// Create this bucket if it isn't there; may be given several times
    #[arg(long = "create-bucket", value_name = "NAME")]
    buckets: Vec<String>,

    /// Only accept requests signed with these keys [default: accept any and none]
    #[arg(long, requires = "secret_key")]
    access_key: Option<String>,

    /// The secret half of --access-key
    #[arg(long, requires = "access_key")]
    secret_key: Option<String>,

    /// Append one line of JSON for each request to this file
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,

    /// Stop when standard input closes, so that the server ends with the program that started it
    #[arg(long)]
    until_stdin_closes: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,s3s=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bottomless-devserver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the URL is printed: whoever reads it may stop us at once.
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let server = Server::start(Config {
        address: args.address,
        dir: args.dir,
        buckets: args.buckets,
        credentials: args
            .access_key
            .zip(args.secret_key)
            .map(|(access_key, secret_key)| Credentials { access_key, secret_key }),
        access_log: args.access_log,
    })?;
    let stdin_closed = args.until_stdin_closes.then(watch_stdin).transpose()?;
    writeln!(io::stdout(), "{}", server.url())?;

    runtime.block_on(async {
        let stdin_closed = async {
            match stdin_closed {
                Some(closed) => {
                    let _ = closed.await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = stdin_closed => {}
        }
    });
    server.shutdown();
    Ok(())
}

/// Reads standard input to its end on a thread: a read from a terminal or a pipe can't be cancelled.
fn watch_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (closed, watch) = oneshot::channel::<()>();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = [0; 1024];
        while !matches!(io::stdin().read(&mut buffer), Ok(0) | Err(_)) {}
        drop(closed);
    })?;
    Ok(watch)
}
