//! A way to the server that closes behind some requests.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

pub(crate) struct Gate {
    pub(crate) url: String,
    /// Told of each request that is not let through. It waits for good.
    pub(crate) waiting: Receiver<()>,
    /// Keeps those that wait from being hung up.
    _held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    /// Lets so many GET requests for objects of a history through.
    pub(crate) fn after(behind: &str, downloads: usize) -> Self {
        Self::after_some(behind, "GET", downloads)
    }

    /// Lets so many requests of this method for objects of a history through.
    pub(crate) fn after_some(behind: &str, method: &'static str, count: usize) -> Self {
        let behind = behind.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, waiting) = channel();
        let held = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::new(AtomicUsize::new(0));
        let kept = Arc::clone(&held);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(&behind).unwrap();
                kept.lock().unwrap().push(client.try_clone().unwrap());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (seen, sender) = (Arc::clone(&seen), sender.clone());
                thread::spawn(move || forward(from, to, &seen, (method, count), &sender));
                let (mut from, mut to) = (server, client);
                thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        });
        Self { url, waiting, _held: held }
    }
}

/// A request without a body is one piece here: this client sends the next one only behind the reply.
fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    seen: &AtomicUsize,
    (method, count): (&str, usize),
    waiting: &Sender<()>,
) {
    let mut bytes = [0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let request = String::from_utf8_lossy(&bytes[..length]);
        let line = request.lines().next().unwrap_or_default();
        if line.starts_with(method) && line.contains(".ltx") && seen.fetch_add(1, Ordering::SeqCst) >= count {
            let _ = waiting.send(());
            return;
        }
        if to.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
