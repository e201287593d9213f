//! `rclone serve s3`: a real S3 server that ignores `If-None-Match`, over a folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::seaweed::{ACCESS_KEY, SECRET_KEY};
use crate::tools;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running server. It is killed when dropped.
#[derive(Debug)]
pub struct Rclone {
    address: SocketAddr,
    child: Child,
}

impl Rclone {
    /// Serves the folder; the folders in it are the buckets.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn serve(folder: &Path, home: &Path) -> Self {
        // A port that was free a moment ago may be taken by another process: then the next try takes another.
        for _ in 0..3 {
            if let Some(server) = Self::try_serve(folder, home) {
                return server;
            }
        }
        panic!("rclone doesn't start: {}", std::fs::read_to_string(home.join("rclone.log")).unwrap_or_default());
    }

    fn try_serve(folder: &Path, home: &Path) -> Option<Self> {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let log = std::fs::File::create(home.join("rclone.log")).expect("its log");
        let mut child = Command::new(tools::tool("rclone"))
            .args(["serve", "s3", "--config", "", "--addr", &address.to_string()])
            .args(["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}")])
            .arg(folder)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start rclone");
        let started = Instant::now();
        while started.elapsed() < START_DEADLINE && matches!(child.try_wait(), Ok(None)) {
            // It refuses a request without a signature. Another process on that port would have made it end.
            let answer = ureq::get(format!("http://{address}/"))
                .config()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(5)))
                .build()
                .call();
            if answer.is_ok_and(|answer| answer.status() == 400) {
                return Some(Self { address, child });
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
