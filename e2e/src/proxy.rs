//! A recording HTTP/1.1 proxy with faults: what was said on the wire, and a store that misbehaves on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::gate::Gate;

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Closes the connection without forwarding.
    Close,
    /// Answers with this status without forwarding.
    Status(u16),
    /// Forwards nothing and answers nothing until the fault is lifted, then closes.
    Hang,
    /// Forwards, takes the reply, and closes the connection instead of passing it on.
    LoseReply,
    /// Holds requests until this many have come, then forwards all: simultaneous for sure.
    Gather(usize),
    /// Forwards without the condition, as if the store ignored it. Unsigned, because the condition was signed.
    Unconditional,
}

/// One request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// `PUT`, `GET` …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// What was answered; `None` while nothing was, and if nothing ever is.
    pub status: Option<u16>,
}

impl Request {
    /// Whether it is a listing.
    pub fn is_list(&self) -> bool {
        self.method == "GET" && self.target.contains("list-type=2")
    }
}

struct Rule {
    method: Option<String>,
    contains: String,
    fault: Fault,
    /// Only this one of the requests that it is for, counted from 1.
    only: Option<usize>,
    met: usize,
}

impl Rule {
    /// Whether the fault is for this request.
    fn takes(&mut self, method: &str, target: &str) -> bool {
        if self.method.as_ref().is_some_and(|m| m != method) || !target.contains(&self.contains) {
            return false;
        }
        self.met += 1;
        self.only.is_none_or(|only| only == self.met)
    }
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    rules: Vec<Rule>,
    /// Counts changes of the rules, so that hung requests notice.
    generation: u64,
    refusing: bool,
    /// Requests that are held together, or were.
    gathered: usize,
    connections: Vec<TcpStream>,
}

struct Shared {
    upstream: SocketAddr,
    gate: Gate,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A proxy in front of a server. It lives as long as the process.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a free port of the loopback address.
    ///
    /// # Panics
    /// If it can't listen.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let shared =
            Arc::new(Shared { upstream, gate: Gate::default(), state: Mutex::default(), changed: Condvar::new() });
        let proxy = Self { address, shared };
        proxy.accept(listener);
        proxy
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where a test holds requests and replies one by one.
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// All requests so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.shared.state().requests.clear();
    }

    /// From now on this happens to every request.
    pub fn fail(&self, fault: Fault) {
        self.fail_only(None, "", fault);
    }

    /// From now on this happens to requests with this method (or any) whose target contains the text.
    pub fn fail_only(&self, method: Option<&str>, contains: &str, fault: Fault) {
        self.add(method, contains, fault, None);
    }

    /// This happens to the n-th request from now on, counted from 1; rules that came earlier count only what they leave.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        self.add(None, "", fault, Some(number));
    }

    fn add(&self, method: Option<&str>, contains: &str, fault: Fault, only: Option<usize>) {
        let method = method.map(str::to_owned);
        let rule = Rule { method, contains: contains.to_owned(), fault, only, met: 0 };
        let mut state = self.shared.state();
        state.rules.push(rule);
        state.gathered = 0;
        state.generation += 1;
        self.shared.changed.notify_all();
    }

    /// Nothing listens here any more: connections are refused, and those that exist are closed.
    ///
    /// # Panics
    /// If the listener doesn't go away.
    pub fn refuse(&self) {
        {
            let mut state = self.shared.state();
            state.refusing = true;
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        // The accepting thread looks at the flag after each connection: this is the last one.
        let _ = TcpStream::connect(self.address);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.address).is_ok() {
            assert!(Instant::now() < deadline, "the proxy still listens");
            std::thread::yield_now();
        }
    }

    /// Lifts all faults; listens again after [`Proxy::refuse`].
    ///
    /// # Panics
    /// If somebody took the port in between.
    pub fn heal(&self) {
        let refused = {
            let mut state = self.shared.state();
            state.rules.clear();
            state.generation += 1;
            self.shared.changed.notify_all();
            std::mem::take(&mut state.refusing)
        };
        if refused {
            self.accept(TcpListener::bind(self.address).expect("listen again"));
        }
    }

    /// Waits until a request satisfies the condition.
    ///
    /// # Panics
    /// If none does within 30 seconds.
    pub fn wait_for(&self, condition: impl Fn(&Request) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut state = self.shared.state();
        while !state.requests.iter().any(&condition) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such request in 30 s: {:#?}", state.requests);
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    fn accept(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { continue };
                let mut state = shared.state();
                if state.refusing {
                    break;
                }
                if let Ok(clone) = connection.try_clone() {
                    state.connections.push(clone);
                }
                drop(state);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = serve(&shared, &connection);
                    let _ = connection.shutdown(Shutdown::Both);
                });
            }
        });
    }
}

pub(crate) struct Head {
    pub(crate) lines: Vec<String>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Head {
    /// Reads up to and with the empty line; `None` at the end of the connection.
    pub(crate) fn read(from: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut lines = Vec::new();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let text = line.trim_end();
            if text.is_empty() {
                lines.push(line);
                return Ok(Some(Self { lines, headers }));
            }
            if let (false, Some((name, value))) = (lines.is_empty(), text.split_once(':')) {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            lines.push(line);
        }
    }

    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(self.lines.concat().as_bytes())
    }

    fn without_condition(mut self) -> Self {
        let gone = ["if-none-match:", "authorization:", "x-amz-date:", "x-amz-content-sha256:"];
        self.lines.retain(|line| !gone.iter().any(|name| line.to_ascii_lowercase().starts_with(name)));
        self
    }

    pub(crate) fn length(&self) -> u64 {
        self.headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    fn is_chunked(&self) -> bool {
        self.headers.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }
}

fn serve(shared: &Shared, client: &TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut to_client = client.try_clone()?;
    let mut upstream: Option<BufReader<TcpStream>> = None;
    while let Some(head) = Head::read(&mut from_client)? {
        let mut words = head.lines[0].split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let gated = shared.gate.takes(&method, &target);
        let (index, fault, generation) = {
            let mut state = shared.state();
            let fault = state.rules.iter_mut().find_map(|rule| rule.takes(&method, &target).then_some(rule.fault));
            state.requests.push(Request {
                method: method.clone(),
                target,
                headers: head.headers.clone(),
                body_bytes: head.length(),
                status: None,
            });
            shared.changed.notify_all();
            (state.requests.len() - 1, fault, state.generation)
        };
        let answered = |status: u16| {
            let mut state = shared.state();
            if let Some(request) = state.requests.get_mut(index) {
                request.status = Some(status);
            }
            shared.changed.notify_all();
        };
        match fault {
            Some(Fault::Close) => return Ok(()),
            Some(Fault::Hang) => {
                let mut state = shared.state();
                while state.generation == generation && !state.refusing {
                    state = shared.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                return Ok(());
            }
            Some(Fault::Status(status)) => {
                std::io::copy(&mut (&mut from_client).take(head.length()), &mut std::io::sink())?;
                answered(status);
                write!(to_client, "HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Some(Fault::Gather(count)) => {
                let mut state = shared.state();
                state.gathered += 1;
                shared.changed.notify_all();
                while state.gathered < count && state.generation == generation && !state.refusing {
                    state = shared.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
            Some(Fault::LoseReply | Fault::Unconditional) | None => {}
        }
        if gated {
            shared.gate.request();
        }
        let head = if fault == Some(Fault::Unconditional) { head.without_condition() } else { head };

        if upstream.is_none() {
            let stream = TcpStream::connect(shared.upstream)?;
            stream.set_nodelay(true)?;
            upstream = Some(BufReader::with_capacity(1 << 16, stream));
        }
        let Some(server) = upstream.as_mut() else { return Ok(()) };
        head.write(server.get_mut())?;
        assert!(!head.is_chunked(), "the proxy takes requests with a length only");
        std::io::copy(&mut (&mut from_client).take(head.length()), server.get_mut())?;
        let Some(reply) = Head::read(server)? else { return Ok(()) };
        let status: u16 = reply.lines[0].split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        answered(status);
        if fault == Some(Fault::LoseReply) {
            return Ok(());
        }
        if gated {
            shared.gate.reply();
        }
        reply.write(&mut to_client)?;
        if method != "HEAD" && status != 204 && status != 304 {
            if reply.is_chunked() {
                copy_chunks(server, &mut to_client)?;
            } else {
                std::io::copy(&mut server.take(reply.length()), &mut to_client)?;
            }
        }
        if reply.headers.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
    Ok(())
}

fn copy_chunks(from: &mut impl BufRead, to: &mut impl Write) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        to.write_all(line.as_bytes())?;
        let size = line.trim().split(';').next().and_then(|s| u64::from_str_radix(s, 16).ok()).unwrap_or(0);
        std::io::copy(&mut from.take(size + 2), to)?;
        if size == 0 {
            return Ok(());
        }
    }
}
