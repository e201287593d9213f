//! A server's life: bind, accept, stop.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::sync::oneshot;

use crate::log::{RequestLog, RequestRecord};
use crate::s3::Protocol;
use crate::storage::Storage;
use crate::wire::Wire;

/// How long requests in progress may take to finish when the server stops.
const GRACE: Duration = Duration::from_secs(1);
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT`; port 0 takes a free one.
    pub address: String,
    /// Where buckets and objects are kept, created if it isn't there; by default a temporary folder that is
    /// removed when the server stops.
    pub dir: Option<PathBuf>,
    /// Buckets that are there from the start.
    pub buckets: Vec<String>,
    /// With these, requests must be signed with them. Without, any credentials and none are accepted.
    pub credentials: Option<Credentials>,
    /// A file to which one line of JSON is appended for each request, see [`RequestRecord`].
    pub access_log: Option<PathBuf>,
}

impl Default for Config {
    /// A free port of 127.0.0.1, a temporary folder, no buckets, open to anyone.
    fn default() -> Self {
        Self { address: "127.0.0.1:0".into(), dir: None, buckets: Vec::new(), credentials: None, access_log: None }
    }
}

/// A pair of keys as in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
#[derive(Clone)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// A running server. It stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    url: String,
    log: Arc<RequestLog>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on threads of its own. When this returns it listens.
    ///
    /// # Errors
    /// The address can't be listened on, the folder or the log can't be written or another server uses the
    /// folder, or a bucket can't be created.
    pub fn start(config: Config) -> io::Result<Self> {
        let storage = Storage::open(config.dir.as_deref())?;
        for name in &config.buckets {
            if storage.bucket(name).is_ok() {
                continue;
            }
            if !s3s::path::check_bucket_name(name) {
                let message = format!("{name:?} is no name for a bucket");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            storage.create_bucket(name).map_err(io::Error::other)?;
        }
        let log = Arc::new(RequestLog::open(config.access_log.as_deref())?);
        let (listeners, url) = bind(&config.address)?;

        let checks_signatures = config.credentials.is_some();
        let mut service = S3ServiceBuilder::new(Protocol::new(storage));
        if let Some(keys) = config.credentials {
            service.set_auth(SimpleAuth::from_single(keys.access_key, keys.secret_key));
        }
        let wire = Wire { s3: service.build(), log: Arc::clone(&log), checks_signatures };

        let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("devserver").enable_all().build()?;
        let listeners = {
            let _context = runtime.enter();
            listeners.into_iter().map(tokio::net::TcpListener::from_std).collect::<io::Result<Vec<_>>>()?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("devserver".into())
            .spawn(move || runtime.block_on(serve(listeners, wire, stopped)))?;
        Ok(Self { url, log, stop: Some(stop), thread: Some(thread) })
    }

    /// The endpoint's address, `http://HOST:PORT`, with the host as it was configured.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was received since the start or the last [`reset_log`](Self::reset_log), in the order of the
    /// replies. A client that has a reply finds its request here.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.log.records()
    }

    /// Forgets the requests so far; the file of the access log keeps them.
    pub fn reset_log(&self) {
        self.log.clear();
    }

    /// Stops, as dropping does: requests in progress have a second to finish.
    pub fn shutdown(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The other end is gone when the server's thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the server's thread panicked");
        }
    }
}

/// Listens on every address that the host's name has: clients of `localhost` may try 127.0.0.1 or `::1`.
fn bind(address: &str) -> io::Result<(Vec<TcpListener>, String)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = None;
    let mut failed = None;
    for address in address.to_socket_addrs()? {
        let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
        match TcpListener::bind(address) {
            Ok(listener) => {
                port = Some(listener.local_addr()?.port());
                listener.set_nonblocking(true)?;
                listeners.push(listener);
            }
            // Somebody else's port on one of the addresses: some clients would reach them.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() != 0 => {
                let message = format!("something listens on {address} already");
                return Err(io::Error::new(error.kind(), message));
            }
            Err(error) => failed = Some(error),
        }
    }
    let (Some(port), Some((host, _))) = (port, address.rsplit_once(':')) else {
        let message = format!("no address {address}");
        return Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, message)));
    };
    Ok((listeners, format!("http://{host}:{port}")))
}

async fn serve(listeners: Vec<tokio::net::TcpListener>, wire: Wire, stopped: oneshot::Receiver<()>) {
    let graceful = Arc::new(GracefulShutdown::new());
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(listener, wire.clone(), Arc::clone(&graceful))))
        .collect();
    // An error says that the server was dropped without a word: the same.
    let _ = stopped.await;
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    // The tasks that shared it have ended.
    if let Some(graceful) = Arc::into_inner(graceful)
        && tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err()
    {
        tracing::warn!("stopped with requests in progress");
    }
}

async fn accept(listener: tokio::net::TcpListener, wire: Wire, graceful: Arc<GracefulShutdown>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Replies are small and somebody waits for each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let wire = wire.clone();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service_fn(move |request| wire.clone().call(request)));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
        });
    }
}
