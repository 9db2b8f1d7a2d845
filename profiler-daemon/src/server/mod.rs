//! HTTP: what `net/http/pprof` gives a Go program, for every process.

mod endpoints;
mod index;
mod metrics;
mod peer;
mod query;
mod recent;
mod targets;

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{Router, extract::Extension};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};

use crate::{
    profile::{Profile, Window},
    recorder::control::Orders,
};
use metrics::Totals;
use peer::Peer;
use recent::Recent;

/// The most connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 512;

/// The most requests that record at a time.
const RECORDINGS: usize = 128;

/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// How long a connection may last: longer than the longest recording.
const CONNECTION: Duration = Duration::from_secs(15 * 60);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port of this machine's own address.
    Loopback(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("give the socket's whole path, such as unix:/run/rprofd.sock".into())
            };
        }
        let address: SocketAddr =
            text.parse().map_err(|_| "give an address such as 127.0.0.1:6065".to_owned())?;
        if !address.ip().is_loopback() {
            return Err("this version answers this machine alone: give 127.0.0.1:PORT, \
                        [::1]:PORT or unix:PATH, and forward the port with ssh -L"
                .into());
        }
        Ok(Self::Loopback(address))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {error}{}", advice(.error, .address))]
    Listen {
        /// The address.
        address: Address,
        /// Why.
        error: io::Error,
    },
}

fn advice(error: &io::Error, address: &Address) -> String {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Loopback(address)) => format!(
            "; see who has it with `ss -ltnp sport = :{0}`, or give another with --listen",
            address.port()
        ),
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            "; another rprofd answers there: stop it, or give another path with --listen".into()
        }
        _ => String::new(),
    }
}

/// What requests are answered from.
#[derive(Clone)]
pub struct App {
    orders: Orders,
    recent: Arc<Mutex<Recent>>,
    totals: Arc<Mutex<Totals>>,
    recordings: Arc<Semaphore>,
    /// Why it is not ready; empty: it is.
    unready: Arc<Mutex<String>>,
    settings: Settings,
}

/// What requests may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The rate of a recording that does not ask for another, in Hz.
    pub default_hertz: u64,
    /// The most that root may ask for, in Hz.
    pub most_hertz: u64,
    /// About how many bytes the windows of the last hour may take.
    pub recent_bytes: usize,
}

impl App {
    /// Answers with what `orders` bring about.
    pub fn new(orders: Orders, settings: Settings) -> Self {
        Self {
            orders,
            recent: Arc::new(Mutex::new(Recent::new(settings.recent_bytes))),
            totals: Arc::default(),
            recordings: Arc::new(Semaphore::new(RECORDINGS)),
            unready: Arc::new(Mutex::new("it is starting".into())),
            settings,
        }
    }

    /// Takes the profiles of a window.
    pub fn add(&self, window: Window, profiles: Vec<Profile>) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(&window, &profiles);
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).add(window, profiles);
    }

    /// Says why it is not ready, or that it is: an empty text.
    pub fn set_unready(&self, why: &str) {
        why.clone_into(&mut self.unready.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn with_recent<T>(&self, look: impl FnOnce(&Recent) -> T) -> T {
        look(&self.recent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The sockets, open and not yet answered at.
pub struct Server {
    loopback: Vec<TcpListener>,
    unix: Vec<UnixListener>,
    connections: Arc<Semaphore>,
    /// Removed at the end.
    paths: Vec<PathBuf>,
}

impl Server {
    /// Opens the sockets.
    ///
    /// # Errors
    ///
    /// [`ServerError`].
    pub async fn bind(addresses: &[Address]) -> Result<Self, ServerError> {
        let mut server = Self {
            loopback: Vec::new(),
            unix: Vec::new(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            paths: Vec::new(),
        };
        for address in addresses {
            let failed = |error| ServerError::Listen { address: address.clone(), error };
            match address {
                Address::Loopback(address) => {
                    let listener = TcpListener::bind(address).await.map_err(failed)?;
                    server.loopback.push(listener);
                }
                Address::Unix(path) => {
                    server.unix.push(bind_unix(path).map_err(failed)?);
                    server.paths.push(path.clone());
                }
            }
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<String> {
        let loopback = self.loopback.iter().filter_map(|listener| listener.local_addr().ok());
        let paths = self.paths.iter().map(|path| Address::Unix(path.clone()).to_string());
        loopback.map(|address| Address::Loopback(address).to_string()).chain(paths).collect()
    }

    /// Answers; never returns.
    pub async fn run(mut self, app: App) {
        let router = endpoints::router(app);
        let mut listening = tokio::task::JoinSet::new();
        for listener in std::mem::take(&mut self.loopback) {
            let (router, connections) = (router.clone(), Arc::clone(&self.connections));
            listening.spawn(async move {
                loop {
                    let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
                    let Some((stream, peer_address)) = accepted(listener.accept().await).await
                    else {
                        continue;
                    };
                    let own = stream.local_addr();
                    let peer = own.and_then(|own| Peer::of_loopback(peer_address, own));
                    let router = router.clone();
                    tokio::spawn(async move {
                        match peer {
                            Ok(peer) => converse(stream, router.layer(Extension(peer))).await,
                            Err(error) => {
                                tracing::debug!("who {peer_address} is cannot be told: {error}");
                            }
                        }
                        drop(permit);
                    });
                }
            });
        }
        for listener in std::mem::take(&mut self.unix) {
            let (router, connections) = (router.clone(), Arc::clone(&self.connections));
            listening.spawn(async move {
                loop {
                    let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
                    let Some((stream, _)) = accepted(listener.accept().await).await else {
                        continue;
                    };
                    let peer = stream.peer_cred().map(|credentials| Peer::of(credentials.uid()));
                    let router = router.clone();
                    tokio::spawn(async move {
                        if let Ok(peer) = peer {
                            converse(stream, router.layer(Extension(peer))).await;
                        }
                        drop(permit);
                    });
                }
            });
        }
        listening.join_all().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens a socket in the file system, for everybody on the machine: who asks is known. One that
/// nobody answers at any more is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    if is_socket {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// What was accepted; after an error, such as that there are no descriptors left, a pause.
async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::debug!("accept: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Answers the requests of one connection.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .max_header_list_size(HEAD_BYTES as u32);
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION, served).await {
        Ok(Err(error)) => tracing::debug!("a connection failed: {error}"),
        Err(_) => tracing::debug!("a connection lasted too long"),
        Ok(Ok(())) => {}
    }
}

/// A time before now.
fn before(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_alone() {
        assert!(matches!("127.0.0.1:6065".parse(), Ok(Address::Loopback(_))));
        assert!(matches!("[::1]:0".parse(), Ok(Address::Loopback(_))));
        assert!(matches!("unix:/run/x.sock".parse(), Ok(Address::Unix(_))));
        for wrong in ["0.0.0.0:6065", "10.1.2.3:80", "6065", "unix:x", "localhost"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_at_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(bind_unix(&path).unwrap());
        let listener = bind_unix(&path).unwrap();
        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(bind_unix(&dir.path().join("file")).is_err(), "a file is left alone");
    }
}
