//! A store in memory with faults at will: each decided by the number of the request, or by a seed.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::{Barrier, Semaphore};

use super::random::Random;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It takes effect, and the connection ends before the reply.
    ReplyLost,
    /// The connection ends, and it never takes effect.
    RequestLost,
    /// The connection ends, and it takes effect only behind a later request.
    Late,
    /// 503 without an effect.
    Busy,
    /// 503 though it took effect.
    BusyAfterEffect,
    /// 409: another creation is under way, which comes to nothing.
    Conflict,
    /// 412 that is due to its own effect, as behind a proxy that tries again.
    ExistsByItself,
    /// 403.
    Denied,
    /// No connection.
    Unreachable,
    /// Never answered, without an effect.
    Silent,
    /// Never answered though it took effect.
    SilentAfterEffect,
    /// A reply that ends half-way.
    PartialRead,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::ReplyLost,
        Self::RequestLost,
        Self::Late,
        Self::Busy,
        Self::BusyAfterEffect,
        Self::Conflict,
        Self::ExistsByItself,
        Self::Denied,
        Self::Unreachable,
        Self::Silent,
        Self::SilentAfterEffect,
        Self::PartialRead,
    ];

    /// A commit must survive one of these in its PUT.
    pub fn passes(self) -> bool {
        self != Self::Denied
    }

    /// Whether it makes sense for such a request, and is not the same as another one.
    pub fn applies(self, operation: Operation) -> bool {
        match self {
            Self::Busy | Self::Denied | Self::Unreachable | Self::ReplyLost => true,
            Self::PartialRead => operation != Operation::Put && operation != Operation::Delete,
            _ => operation == Operation::Put,
        }
    }

    fn takes_effect(self) -> bool {
        matches!(self, Self::ReplyLost | Self::BusyAfterEffect | Self::ExistsByItself | Self::SilentAfterEffect)
    }

    fn error(self, path: &Path) -> Error {
        let http = |kind| generic(HttpError::new(kind, io::Error::other("injected")));
        match self {
            Self::Busy | Self::BusyAfterEffect => generic(io::Error::other("status code: 503 Service Unavailable")),
            Self::Conflict | Self::ExistsByItself => {
                Error::AlreadyExists { path: path.to_string(), source: Box::new(io::Error::other("injected")) }
            }
            Self::Denied => {
                Error::PermissionDenied { path: path.to_string(), source: Box::new(io::Error::other("injected")) }
            }
            Self::Unreachable => http(HttpErrorKind::Connect),
            Self::Silent | Self::SilentAfterEffect => http(HttpErrorKind::Timeout),
            _ => http(HttpErrorKind::Interrupted),
        }
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "faults", source: Box::new(source) }
}

/// Which requests fail.
#[derive(Clone, Debug)]
pub enum Plan {
    Never,
    /// This one.
    Once(u64, Fault),
    /// This one and all behind it, until [`FaultStore::heal`].
    From(u64, Fault),
    /// One of `rate`, by the seed.
    Random(Random, u64),
}

/// How the store treats conditional creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    Honest,
    /// `If-None-Match` is ignored.
    Ignores,
    /// Two creators of a key win.
    TwoWin,
    NotImplemented,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put,
    Get,
    List,
    Delete,
}

#[derive(Debug)]
struct LatePut {
    /// It arrives behind this request.
    due: u64,
    path: Path,
    payload: PutPayload,
    options: PutOptions,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    conduct: Conduct,
    requests: Vec<(Operation, String)>,
    /// The requests that failed.
    failed: Vec<(u64, Operation, Fault)>,
    late: Vec<LatePut>,
    /// What is late waits for [`FaultStore::late_behind`].
    holds_late: bool,
    creators: HashMap<Path, u32>,
    /// Creates of log objects wait here for each other.
    gate: Option<Arc<Barrier>>,
    /// Writes of keys that begin like this wait here.
    held: Option<(String, Arc<Semaphore>)>,
    /// Bytes that were read, by key.
    read: HashMap<String, u64>,
    /// How long a read takes.
    read_time: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct FaultStore {
    /// The store without faults.
    pub inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

impl FaultStore {
    pub fn new(plan: Plan, conduct: Conduct) -> Arc<Self> {
        Self::over(Arc::new(InMemory::new()), plan, conduct)
    }

    /// Another way to the same objects, with faults of its own.
    pub fn over(inner: Arc<InMemory>, plan: Plan, conduct: Conduct) -> Arc<Self> {
        let state = State {
            plan,
            conduct,
            requests: Vec::new(),
            failed: Vec::new(),
            late: Vec::new(),
            holds_late: false,
            creators: HashMap::new(),
            gate: None,
            held: None,
            read: HashMap::new(),
            read_time: Duration::ZERO,
        };
        Arc::new(Self { inner, state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// No request fails from now on; what is late stays so.
    pub fn heal(&self) {
        self.state().plan = Plan::Never;
    }

    /// Faults again, counted from the first request.
    pub fn fail(&self, plan: Plan) {
        self.state().plan = plan;
    }

    /// The next request's number.
    pub fn next_request(&self) -> u64 {
        self.state().requests.len() as u64 + 1
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<(Operation, String)> {
        self.state().requests.clone()
    }

    /// How many requests for a page of a listing there were.
    pub fn lists(&self) -> usize {
        self.state().requests.iter().filter(|(operation, _)| *operation == Operation::List).count()
    }

    /// Bytes that were read of this object.
    pub fn bytes_read(&self, key: &str) -> u64 {
        self.state().read.get(key).copied().unwrap_or_default()
    }

    pub fn failed(&self) -> Vec<(u64, Operation, Fault)> {
        self.state().failed.clone()
    }

    pub fn gate(&self, gate: Option<Arc<Barrier>>) {
        self.state().gate = gate;
    }

    /// Writes of keys that begin like this wait from now on until the gate is closed.
    pub fn hold(&self, begin: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.state().held = Some((begin.to_owned(), Arc::clone(&gate)));
        gate
    }

    /// Slow reads.
    pub fn read_time(&self, time: Duration) {
        self.state().read_time = time;
    }

    /// What is late from now on arrives when the test says so.
    pub fn hold_late(&self) {
        self.state().holds_late = true;
    }

    /// All that is late arrives behind this request.
    pub fn late_behind(&self, request: u64) {
        self.state().late.iter_mut().for_each(|put| put.due = request);
    }

    /// All that is late arrives.
    pub async fn deliver_all(&self) {
        self.deliver(u64::MAX).await;
    }

    async fn deliver(&self, behind: u64) {
        let due = {
            let mut state = self.state();
            let (due, later) = std::mem::take(&mut state.late).into_iter().partition(|put| put.due <= behind);
            state.late = later;
            let due: Vec<LatePut> = due;
            due
        };
        for LatePut { path, payload, options, .. } in due {
            // Nobody waits for the answer.
            let _ = self.inner.put_opts(&path, payload, options).await;
        }
    }

    fn begin(&self, operation: Operation, path: &str) -> (u64, Option<Fault>) {
        let mut state = self.state();
        state.requests.push((operation, path.to_owned()));
        let number = state.requests.len() as u64;
        let fault = match &mut state.plan {
            Plan::Once(at, fault) if *at == number => Some(*fault),
            Plan::From(at, fault) if *at <= number => Some(*fault),
            Plan::Random(random, rate) => random.one_of(*rate).then(|| random.pick(&Fault::ALL)),
            _ => None,
        };
        let fault = fault.filter(|fault| fault.applies(operation));
        if let Some(fault) = fault {
            state.failed.push((number, operation, fault));
        }
        (number, fault)
    }

    /// A listing is a request for every thousand objects.
    fn in_pages(
        &self,
        objects: BoxStream<'static, Result<ObjectMeta>>,
        path: Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let state = Arc::clone(&self.state);
        let count = move |(at, _): &(usize, Result<ObjectMeta>)| {
            if *at > 0 && at.is_multiple_of(1000) {
                state.lock().unwrap().requests.push((Operation::List, path.to_string()));
            }
        };
        objects.enumerate().inspect(count).map(|(_, object)| object).boxed()
    }

    async fn create(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let conduct = self.state().conduct;
        let overwrite = PutOptions { mode: PutMode::Overwrite, ..options.clone() };
        match conduct {
            _ if options.mode != PutMode::Create => self.inner.put_opts(path, payload, options).await,
            Conduct::Honest => self.inner.put_opts(path, payload, options).await,
            Conduct::Ignores => self.inner.put_opts(path, payload, overwrite).await,
            Conduct::TwoWin => {
                let creators = {
                    let mut state = self.state();
                    let creators = state.creators.entry(path.clone()).or_default();
                    *creators += 1;
                    *creators
                };
                let options = if creators <= 2 { overwrite } else { options };
                self.inner.put_opts(path, payload, options).await
            }
            Conduct::NotImplemented => {
                Err(Error::NotImplemented { operation: "If-None-Match".into(), implementer: "faults".into() })
            }
        }
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (number, fault) = self.begin(Operation::Put, path.as_ref());
        let gate = self.state().gate.clone().filter(|_| path.as_ref().contains("/0000/"));
        if let Some(gate) = gate {
            gate.wait().await;
        }
        let held = self.state().held.clone().filter(|(begin, _)| path.as_ref().starts_with(begin.as_str()));
        if let Some((_, gate)) = held {
            // An error is a closed gate, which lets everybody pass.
            let _ = gate.acquire().await;
        }
        let result = match fault {
            None => self.create(path, payload, options).await,
            Some(fault) => {
                if fault.takes_effect() {
                    let _ = self.create(path, payload, options).await;
                } else if fault == Fault::Late {
                    let mut state = self.state();
                    // Behind one of the next requests, and not always the next one.
                    let due = if state.holds_late { u64::MAX } else { number + 1 + number % 3 };
                    state.late.push(LatePut { due, path: path.clone(), payload, options });
                }
                Err(fault.error(path))
            }
        };
        self.deliver(number).await;
        if matches!(fault, Some(Fault::Silent | Fault::SilentAfterEffect)) {
            return futures::future::pending().await;
        }
        result
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "faults".into() })
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let (number, fault) = self.begin(Operation::Get, path.as_ref());
        let time = self.state().read_time;
        tokio::time::sleep(time).await;
        let result = match fault {
            None => self.inner.get_opts(path, options).await,
            Some(Fault::PartialRead) => half(self.inner.get_opts(path, options).await?).await,
            Some(fault) => Err(fault.error(path)),
        };
        if let Ok(reply) = &result {
            let bytes = reply.range.end - reply.range.start;
            *self.state().read.entry(path.to_string()).or_default() += bytes;
        }
        self.deliver(number).await;
        result
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (_, fault) = self.begin(Operation::Delete, "");
        let inner = Arc::clone(&self.inner);
        paths
            .and_then(move |path| {
                let inner = Arc::clone(&inner);
                async move {
                    if fault.is_none_or(Fault::takes_effect) {
                        inner.delete(&path).await?;
                    }
                    fault.map_or(Ok(path.clone()), |fault| Err(fault.error(&path)))
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        match self.begin(Operation::List, path.as_ref()).1 {
            None => self.in_pages(self.inner.list(prefix), path),
            Some(Fault::PartialRead) => {
                let rest = stream::once(async move { Err(Fault::PartialRead.error(&path)) });
                self.inner.list(prefix).take(1).chain(rest).boxed()
            }
            Some(fault) => stream::once(async move { Err(fault.error(&path)) }).boxed(),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        match self.begin(Operation::List, path.as_ref()).1 {
            None => self.in_pages(self.inner.list_with_offset(prefix, offset), path),
            Some(Fault::PartialRead) => {
                let rest = stream::once(async move { Err(Fault::PartialRead.error(&path)) });
                self.inner.list_with_offset(prefix, offset).take(1).chain(rest).boxed()
            }
            Some(fault) => stream::once(async move { Err(fault.error(&path)) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The first half of a reply, and the end of the connection.
async fn half(reply: GetResult) -> Result<GetResult> {
    let (meta, range, attributes, extensions) =
        (reply.meta.clone(), reply.range.clone(), reply.attributes.clone(), reply.extensions.clone());
    let bytes: Bytes = reply.bytes().await?;
    let first = bytes.slice(..bytes.len() / 2);
    let cut = Fault::PartialRead.error(&meta.location);
    let payload = GetResultPayload::Stream(stream::iter([Ok(first), Err(cut)]).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}
