//! The store, and the network before it, in which requests wait until a test lets them arrive.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::pages::fold::frames::e_tag;

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) content: Bytes,
    pub(super) e_tag: String,
    /// By the store's clock.
    pub(super) created: Duration,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    /// It has its effect, and the reply is 503.
    ReplyLost,
    /// The reply is 503, and it has no effect.
    Refused,
    /// The reply is 503, and it may arrive later.
    Late,
    /// The reply is 403.
    Denied,
    /// It arrives with another byte.
    Garbled,
}

type Work = Box<dyn FnOnce(&mut State, Option<Error>) + Send>;
type Refusal = Box<dyn FnOnce(Error) + Send>;

/// A request on its way.
pub(super) struct Message {
    pub(super) from: usize,
    pub(super) sent: Duration,
    pub(super) what: String,
    /// Whether it changes anything.
    pub(super) is_write: bool,
    work: Work,
    /// Tells an error before anything arrives.
    reply: Option<Refusal>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Stored>,
    /// The store's clock.
    pub(super) now: Duration,
    /// Requests wait in the network.
    pub(super) is_slow: bool,
    /// What each request takes.
    pub(super) tick: Duration,
    /// After so many requests, no other arrives.
    pub(super) left: Option<usize>,
    pub(super) waiting: Vec<Message>,
    /// Every request, in the order in which they were sent.
    pub(super) requests: Vec<String>,
    /// For the next writes, by a part of their name.
    pub(super) fates: VecDeque<(&'static str, Fate)>,
    /// But it answers the question whether it does.
    pub(super) ignores_if_match: bool,
    /// Of all conditions.
    pub(super) ignores_all: bool,
    /// Only the claims of the one who asks are listed.
    pub(super) hides_claims: bool,
    /// ETags are no MD5s.
    pub(super) is_encrypted: bool,
    garbles: bool,
}

/// The way of one machine to the store.
#[derive(Clone)]
pub(super) struct Port {
    state: Arc<Mutex<State>>,
    machine: usize,
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "a test", source: text.into() }
}

impl State {
    fn meta(&self, key: &str, stored: &Stored) -> ObjectMeta {
        // By the clock that this process tells as the store's.
        let modified = SystemTime::now() - (self.now - stored.created);
        ObjectMeta {
            location: Path::from(key),
            last_modified: modified.into(),
            size: stored.content.len() as u64,
            e_tag: Some(format!("\"{}\"", stored.e_tag)),
            version: None,
        }
    }

    pub(super) fn put(&mut self, key: &str, content: Bytes) -> String {
        let mut content = content;
        if std::mem::take(&mut self.garbles) {
            let mut bytes = content.to_vec();
            bytes[0] ^= 1;
            content = bytes.into();
        }
        let mut tag = e_tag(&content);
        if self.is_encrypted {
            tag = e_tag(format!("{tag}{}", self.requests.len()).as_bytes());
        }
        let stored = Stored { content, e_tag: tag.clone(), created: self.now };
        self.objects.insert(key.to_owned(), stored);
        tag
    }

    fn put_if(&mut self, key: &str, content: Bytes, mode: &PutMode) -> Result<PutResult> {
        let there = self.objects.get(key).map(|stored| format!("\"{}\"", stored.e_tag));
        match mode {
            _ if self.ignores_all => {}
            PutMode::Create if there.is_some() => {
                return Err(Error::AlreadyExists { path: key.into(), source: "412".into() });
            }
            PutMode::Update(version) if there != version.e_tag => {
                // One that nothing has is a question, which it answers.
                let is_asked =
                    version.e_tag.as_deref().is_some_and(|tag| tag.trim_matches('"').bytes().all(|b| b == b'0'));
                if !self.ignores_if_match || is_asked {
                    return Err(Error::Precondition { path: key.into(), source: "412".into() });
                }
            }
            _ => {}
        }
        let tag = self.put(key, content);
        Ok(PutResult { e_tag: Some(format!("\"{tag}\"")), version: None, extensions: Default::default() })
    }

    fn list(&self, prefix: &str, machine: usize) -> Vec<Result<ObjectMeta>> {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let ours = format!("/claim-{machine:016x}-");
        let shows = |key: &str| !self.hides_claims || !key.contains("/claim-") || key.contains(&ours);
        let listed = self.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && shows(key));
        listed.map(|(key, stored)| Ok(self.meta(key, stored))).collect()
    }

    /// Lets a request arrive, or whatever becomes of it.
    pub(super) fn deliver(&mut self, at: usize, fate: Fate) {
        let message = self.waiting.remove(at);
        self.work(message, fate);
    }

    fn work(&mut self, mut message: Message, fate: Fate) {
        let busy = || generic("status code: 503");
        match fate {
            Fate::Arrives => (message.work)(self, None),
            Fate::Garbled => {
                self.garbles = true;
                (message.work)(self, None);
                self.garbles = false;
            }
            Fate::ReplyLost => (message.work)(self, Some(busy())),
            Fate::Refused | Fate::Denied => {
                let error = if fate == Fate::Refused { busy() } else { generic("status code: 403") };
                let mut nothing = State { now: self.now, ..State::default() };
                (message.work)(&mut nothing, Some(error));
            }
            Fate::Late => {
                // Whoever sent it hears an error, and it stays on its way.
                if let Some(reply) = message.reply.take() {
                    reply(busy());
                }
                message.from = GONE;
                self.waiting.push(message);
            }
        }
    }
}

/// Nobody waits for the reply.
pub(super) const GONE: usize = usize::MAX;

impl Port {
    pub(super) fn new(machine: usize) -> Self {
        Self { state: Arc::default(), machine }
    }

    /// Another machine's way to the same store.
    pub(super) fn of(&self, machine: usize) -> Self {
        Self { state: Arc::clone(&self.state), machine }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sends a request.
    fn request<T: Send + 'static>(
        &self,
        what: String,
        is_write: bool,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let (reply, replied) = oneshot::channel();
        let reply = Arc::new(Mutex::new(Some(reply)));
        let refuse = Arc::clone(&reply);
        let work: Work = Box::new(move |state, error| {
            let done = work(state);
            if let Some(reply) = reply.lock().unwrap().take() {
                let _ = reply.send(error.map_or(Ok(done), Err));
            }
        });
        let refusal: Refusal = Box::new(move |error| {
            if let Some(reply) = refuse.lock().unwrap().take() {
                let _ = reply.send(Err(error));
            }
        });
        let mut state = self.state();
        state.requests.push(what.clone());
        let message = Message { from: self.machine, sent: state.now, is_write, work, what, reply: Some(refusal) };
        // The log does not change but by commits.
        let is_cut = state.left == Some(0);
        state.left = state.left.map(|left| left.saturating_sub(1));
        if !state.tick.is_zero() {
            let now = state.now + state.tick;
            state.now = now;
            crate::moment::pretend::set(now);
        }
        let is_slow = state.is_slow && !(message.what.starts_with("GET") && message.what.contains("/00"));
        if is_cut || is_slow {
            state.waiting.push(message);
        } else {
            let fits = |(part, _): &(&str, Fate)| message.what.contains(part);
            let fate = state.fates.front().is_some_and(fits).then(|| state.fates.pop_front()).flatten();
            state.work(message, fate.map_or(Fate::Arrives, |(_, fate)| fate));
        }
        async move { replied.await.unwrap_or_else(|_| Err(generic("the machine is gone"))) }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port")
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port")
    }
}

#[async_trait]
impl ObjectStore for Port {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (key, content, mode) = (path.to_string(), Bytes::from(payload), options.mode);
        let condition = match &mode {
            PutMode::Create => "if-none-match",
            PutMode::Update(_) => "if-match",
            PutMode::Overwrite => "always",
        };
        self.request(format!("PUT {key} {condition}"), true, move |state| state.put_if(&key, content, &mode)).await?
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(generic("not here"))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let key = path.to_string();
        let what = format!("{} {key}", if options.head { "HEAD" } else { "GET" });
        self.request(what, false, move |state| {
            let Some(stored) = state.objects.get(&key) else {
                return Err(Error::NotFound { path: key.clone(), source: "404".into() });
            };
            let meta = state.meta(&key, stored);
            let range: Range<u64> = match &options.range {
                Some(range) => range.as_range(meta.size).map_err(|error| generic(&error.to_string()))?,
                None => 0..meta.size,
            };
            let bytes = stored.content.slice(range.start as usize..range.end as usize);
            let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
            let attributes = Attributes::new();
            Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
        })
        .await?
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        paths
            .then(move |path| {
                let this = this.clone();
                async move {
                    let path = path?;
                    let key = path.to_string();
                    this.request(format!("DELETE {key}"), true, move |state| state.objects.remove(&key)).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let (what, machine) = (format!("LIST {prefix}"), self.machine);
        let listed = self.request(what, false, move |state| futures::stream::iter(state.list(&prefix, machine)));
        listed.into_stream().try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(generic("not here"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(generic("not here"))
    }
}
