//! A recording HTTP/1.1 proxy with faults: what was said on the wire, and a store that misbehaves on demand.

mod fault;
mod http;
mod serve;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::gate::Gate;

pub use fault::{Answer, Fault, When};
pub(crate) use http::Head;
use serve::{Kept, deliver, serve};

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
    /// When its head had arrived.
    pub came: Instant,
    /// When the answer was known here.
    pub answered: Option<Instant>,
    /// What was answered; `None` while nothing was, and if nothing ever is. Of a request that was kept, what the store
    /// said of it in the end.
    pub status: Option<u16>,
}

impl Request {
    /// Whether it is a listing.
    pub fn is_list(&self) -> bool {
        self.method == "GET" && self.target.contains("list-type=2")
    }

    /// Whether it is signed with this key.
    pub fn is_signed_with(&self, access_key: &str) -> bool {
        self.headers.get("authorization").is_some_and(|v| v.contains(&format!("Credential={access_key}/")))
    }
}

struct Rule {
    method: Option<String>,
    contains: String,
    /// Only for requests that are signed with this key.
    access_key: Option<String>,
    fault: Fault,
    /// Only this one of the requests that it is for, counted from 1.
    only: Option<usize>,
    met: usize,
}

impl Rule {
    /// Whether the fault is for this request.
    fn takes(&mut self, request: &Request) -> bool {
        let method = self.method.as_ref().is_none_or(|m| *m == request.method);
        let signed = self.access_key.as_ref().is_none_or(|key| request.is_signed_with(key));
        if !method || !signed || !request.target.contains(&self.contains) {
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
    /// Requests that met a fault since the faults were lifted last.
    hits: usize,
    kept: Vec<Kept>,
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
        self.add(method, contains, None, fault, None);
    }

    /// This happens to the next such request, and to no other.
    pub fn fail_once(&self, method: Option<&str>, contains: &str, fault: Fault) {
        self.add(method, contains, None, fault, Some(1));
    }

    /// From now on this happens to requests that are signed with this access key.
    pub fn fail_signed_with(&self, access_key: &str, fault: Fault) {
        self.add(None, "", Some(access_key), fault, None);
    }

    /// This happens to the n-th request from now on, counted from 1; rules that came earlier count only what they leave.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        self.add(None, "", None, fault, Some(number));
    }

    /// How many requests met a fault since [`Proxy::heal`].
    pub fn hits(&self) -> usize {
        self.shared.state().hits
    }

    /// The bodies of the requests that wait for their late delivery.
    pub fn kept(&self) -> Vec<Vec<u8>> {
        self.shared.state().kept.iter().map(Kept::body).collect()
    }

    /// Now the store gets every request that was kept; what it answered.
    ///
    /// # Panics
    /// If the store can't be reached.
    pub fn deliver(&self) -> Vec<u16> {
        deliver(&self.shared, |_| true).expect("the store")
    }

    fn add(&self, method: Option<&str>, contains: &str, access_key: Option<&str>, fault: Fault, only: Option<usize>) {
        let (method, access_key) = (method.map(str::to_owned), access_key.map(str::to_owned));
        let rule = Rule { method, contains: contains.to_owned(), access_key, fault, only, met: 0 };
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
            state.hits = 0;
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
        self.wait_until(|requests| requests.iter().any(&condition));
    }

    /// Waits until the requests satisfy the condition.
    ///
    /// # Panics
    /// If they don't within 30 seconds.
    pub fn wait_until(&self, condition: impl Fn(&[Request]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut state = self.shared.state();
        while !condition(&state.requests) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such requests in 30 s: {:#?}", state.requests);
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
                    // The last descriptor of it goes away with this thread.
                    let peer = connection.peer_addr().ok();
                    shared.state().connections.retain(|other| other.peer_addr().ok() != peer);
                });
            }
        });
    }
}
