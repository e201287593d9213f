//! A small S3 server in memory that does with conditional creates what no store should do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::proxy::Head;

/// What the store does with `If-None-Match: *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It stores all, one over the other.
    Ignores,
    /// It creates what exists, and answers 412 where nothing is.
    Inverts,
    /// It looks first and writes then, and lets this many look in between.
    LooksThenWrites(u32),
    /// It keeps the first, and tells all that they won.
    OkToAll,
    /// It answers this and stores nothing.
    Answers(u16),
    /// It stores the first, and answers 412 to all.
    StoresAndRefusesAll,
    /// It tells the first that it won and the others that they lost, and stores them nevertheless.
    OneWinsAnotherStays,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// Every key that was ever written.
    written: BTreeSet<String>,
    /// How many have looked whether a key exists.
    looked: HashMap<String, u32>,
}

#[derive(Debug)]
struct Shared {
    conduct: Conduct,
    state: Mutex<State>,
    changed: Condvar,
}

/// A running server. It lives as long as the process.
#[derive(Debug)]
pub struct OddStore {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// A date that is as good as any other.
const DATE: &str = "2026-01-01T00:00:00.000Z";
const HTTP_DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

impl OddStore {
    /// Listens on a free port.
    ///
    /// # Panics
    /// If it can't.
    pub fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { conduct, state: Mutex::default(), changed: Condvar::new() });
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&server);
                std::thread::spawn(move || serve(&shared, &client));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The keys that are there, as `bucket/key`.
    pub fn keys(&self) -> Vec<String> {
        self.shared.state().objects.keys().cloned().collect()
    }

    /// The keys that were ever written, as `bucket/key`.
    pub fn written(&self) -> Vec<String> {
        self.shared.state().written.iter().cloned().collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A create that is to be refused when the key exists: the status.
    fn create(&self, key: &str, content: Vec<u8>) -> u16 {
        let mut state = self.state();
        let mut exists = state.objects.contains_key(key);
        if let Conduct::LooksThenWrites(together) = self.conduct {
            let looked = state.looked.entry(key.to_owned()).or_default();
            *looked += 1;
            // Those who come behind them look when it is there.
            let is_late = *looked > together;
            self.changed.notify_all();
            while !is_late && state.looked.get(key).is_some_and(|looked| *looked < together) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            exists = exists || is_late;
        }
        let (stores, status) = match self.conduct {
            Conduct::Ignores => (true, 200),
            Conduct::Inverts => (exists, if exists { 200 } else { 412 }),
            Conduct::LooksThenWrites(_) => (!exists, if exists { 412 } else { 200 }),
            Conduct::OkToAll => (!exists, 200),
            Conduct::Answers(status) => (false, status),
            Conduct::StoresAndRefusesAll => (!exists, 412),
            Conduct::OneWinsAnotherStays => (true, if exists { 412 } else { 200 }),
        };
        if stores {
            state.store(key, content);
        }
        status
    }
}

impl State {
    fn store(&mut self, key: &str, content: Vec<u8>) {
        self.written.insert(key.to_owned());
        self.objects.insert(key.to_owned(), content);
    }

    fn list(&self, bucket: &str, query: &HashMap<String, String>) -> String {
        let parameter = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let mut xml = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (key, content) in &self.objects {
            let Some(key) = key.strip_prefix(bucket).and_then(|key| key.strip_prefix('/')) else { continue };
            if !key.starts_with(parameter("prefix")) || key <= parameter("start-after") {
                continue;
            }
            let _ = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>{DATE}</LastModified><ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                content.len()
            );
        }
        xml + "</ListBucketResult>"
    }
}

fn serve(shared: &Shared, client: &TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut from = BufReader::new(client.try_clone()?);
    let mut to = client.try_clone()?;
    while let Some(head) = Head::read(&mut from)? {
        let mut body = Vec::new();
        (&mut from).take(head.length()).read_to_end(&mut body)?;
        let mut words = head.lines[0].split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = decoded(path.trim_matches('/'));
        let (status, range, content) = match method {
            "PUT" if !key.contains('/') => (200, None, Vec::new()),
            "PUT" if head.headers.contains_key("if-none-match") => (shared.create(&key, body), None, Vec::new()),
            "PUT" => {
                shared.state().store(&key, body);
                (200, None, Vec::new())
            }
            "DELETE" => {
                shared.state().objects.remove(&key);
                (204, None, Vec::new())
            }
            "GET" if !key.contains('/') => {
                let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                let query = pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
                (200, None, shared.state().list(&key, &query).into_bytes())
            }
            "GET" => match shared.state().objects.get(&key) {
                None => (404, None, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
                Some(content) => match head.headers.get("range").map(|range| part(range, content.len())) {
                    None => (200, None, content.clone()),
                    Some((start, end)) => {
                        let range = format!("bytes {start}-{}/{}", end - 1, content.len());
                        (206, Some(range), content[start..end].to_vec())
                    }
                },
            },
            _ => (405, None, Vec::new()),
        };
        let mut reply = format!("HTTP/1.1 {status} Odd\r\nETag: \"e\"\r\nLast-Modified: {HTTP_DATE}\r\n");
        if let Some(range) = range {
            let _ = write!(reply, "Content-Range: {range}\r\n");
        }
        if status != 204 {
            let _ = write!(reply, "Content-Length: {}\r\n", content.len());
        }
        to.write_all(format!("{reply}\r\n").as_bytes())?;
        to.write_all(&content)?;
    }
    Ok(())
}

/// The bytes that `bytes=a-b` or `bytes=-n` asks for, of a content of this length.
fn part(range: &str, length: usize) -> (usize, usize) {
    let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
    match (start.parse::<usize>(), end.parse::<usize>()) {
        (Ok(start), Ok(end)) => (start.min(length), (end + 1).min(length)),
        (Ok(start), Err(_)) => (start.min(length), length),
        (Err(_), Ok(last)) => (length.saturating_sub(last), length),
        (Err(_), Err(_)) => (0, length),
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
