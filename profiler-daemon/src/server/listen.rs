//! Sockets, and the conversations on them.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Extension};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};

use super::{
    App,
    access::Origin,
    address::{Address, ListenError},
    endpoints,
    peer::owner,
    record::LONGEST,
};

/// The most connections at a time and socket; others wait to be accepted.
const CONNECTIONS: usize = 512;

/// The most of probes and scrapers, which are not to wait for those.
const METRICS_CONNECTIONS: usize = 64;

/// How long a client may take to send the head of a request, or to agree on keys.
const HEAD: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// How long a connection may last: longer than the longest recording.
const CONNECTION: Duration = LONGEST.saturating_add(Duration::from_secs(5 * 60));

/// The sockets, open and not yet answered at.
pub struct Server {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
    metrics: Option<TcpListener>,
    /// Removed at the end.
    paths: Vec<PathBuf>,
}

impl Server {
    /// Opens the sockets: where everything is answered, and where the metrics alone are.
    ///
    /// # Errors
    ///
    /// [`ListenError`].
    pub async fn bind(
        addresses: &[Address],
        metrics: Option<SocketAddr>,
    ) -> Result<Self, ListenError> {
        let mut server =
            Self { tcp: Vec::new(), unix: Vec::new(), metrics: None, paths: Vec::new() };
        for address in addresses {
            let failed = |error| ListenError { address: address.clone(), error };
            match address {
                Address::Tcp(address) => {
                    server.tcp.push(TcpListener::bind(address).await.map_err(failed)?);
                }
                Address::Unix(path) => {
                    server.unix.push(bind_unix(path).map_err(failed)?);
                    server.paths.push(path.clone());
                }
            }
        }
        if let Some(metrics) = metrics {
            let listener = TcpListener::bind(metrics).await;
            let failed = |error| ListenError { address: Address::Tcp(metrics), error };
            server.metrics = Some(listener.map_err(failed)?);
        }
        Ok(server)
    }

    /// Where everything is answered, as URLs where that is possible.
    pub fn urls(&self, has_tls: bool) -> Vec<String> {
        let scheme = if has_tls { "https" } else { "http" };
        let tcp = self.tcp.iter().filter_map(|listener| listener.local_addr().ok());
        let paths = self.paths.iter().map(|path| Address::Unix(path.clone()).to_string());
        tcp.map(|address| format!("{scheme}://{address}")).chain(paths).collect()
    }

    /// Where the metrics alone are answered.
    pub fn metrics_url(&self) -> Option<String> {
        let address = self.metrics.as_ref()?.local_addr().ok()?;
        Some(format!("http://{address}/metrics"))
    }

    /// Answers; never returns.
    pub async fn run(mut self, app: App) {
        let router = endpoints::router(app.clone());
        let mut listening = JoinSet::new();
        for listener in std::mem::take(&mut self.tcp) {
            let (app, router) = (app.clone(), router.clone());
            listening.spawn(accept(
                Arc::new(Semaphore::new(CONNECTIONS)),
                listener,
                async |listener: &TcpListener| listener.accept().await,
                move |(stream, peer)| serve_tcp(stream, peer, app.clone(), router.clone()),
            ));
        }
        for listener in std::mem::take(&mut self.unix) {
            let (app, router) = (app.clone(), router.clone());
            listening.spawn(accept(
                Arc::new(Semaphore::new(CONNECTIONS)),
                listener,
                async |listener: &UnixListener| listener.accept().await,
                move |(stream, _)| {
                    let (app, router) = (app.clone(), router.clone());
                    async move {
                        if let Ok(credentials) = stream.peer_cred() {
                            let peer = app.members.peer(credentials.uid()).await;
                            let origin = Origin::Local(peer);
                            converse(stream, router.layer(Extension(origin))).await;
                        }
                    }
                },
            ));
        }
        if let Some(listener) = self.metrics.take() {
            let router = endpoints::metrics_router(app);
            listening.spawn(accept(
                Arc::new(Semaphore::new(METRICS_CONNECTIONS)),
                listener,
                async |listener: &TcpListener| listener.accept().await,
                move |(stream, _)| converse(stream, router.clone()),
            ));
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

/// Accepts for ever, as many at a time as there are permits.
async fn accept<L, S, W>(
    permits: Arc<Semaphore>,
    listener: L,
    next: impl AsyncFn(&L) -> io::Result<S>,
    serve: impl Fn(S) -> W,
) where
    W: Future<Output = ()> + Send + 'static,
{
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match next(&listener).await {
            Ok(accepted) => {
                let serving = serve(accepted);
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            // Such as that there are no descriptors left.
            Err(error) => {
                tracing::debug!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Finds out who asks, and answers.
async fn serve_tcp(stream: TcpStream, peer: SocketAddr, app: App, router: Router) {
    let origin = match stream.local_addr() {
        Ok(own) if own.ip().to_canonical().is_loopback() => match owner(peer, own) {
            Ok(uid) => Origin::Local(app.members.peer(uid).await),
            Err(error) => {
                tracing::debug!("who {peer} is cannot be told: {error}");
                return;
            }
        },
        Ok(_) => Origin::Elsewhere,
        Err(_) => return,
    };
    let router = router.layer(Extension(origin));
    let Some(acceptor) = app.access.get().acceptor() else {
        return converse(stream, router).await;
    };
    match tokio::time::timeout(HEAD, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, router).await,
        Ok(Err(error)) => tracing::debug!("TLS with {peer}: {error}"),
        Err(_) => tracing::debug!("TLS with {peer}: it takes too long"),
    }
}

/// Answers the requests of one connection.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION, served).await {
        Ok(Err(error)) => tracing::debug!("a connection failed: {error}"),
        Err(_) => tracing::debug!("a connection lasted too long"),
        Ok(Ok(())) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

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
