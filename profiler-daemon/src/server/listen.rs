//! The sockets.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::{
    net::{TcpListener, TcpSocket, UnixListener},
    task::JoinSet,
};

use super::{
    App,
    address::{Address, ListenError},
    connections::Connections,
    doors::{Plain, Tcp, Unix, listen},
    endpoints,
    peer::Owners,
};

/// The most connections at a time and socket.
const CONNECTIONS: usize = 512;

/// The fewest, where descriptors are few.
const FEWEST_CONNECTIONS: usize = 8;

/// The most of probes and scrapers, which are not to wait for those.
const METRICS_CONNECTIONS: usize = 64;

/// How many connections the kernel holds until they are accepted: a burst of more has clients wait
/// for a second (`tcp_v4_syn_recv_sock`). It allows no more by itself (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

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
    pub fn bind(addresses: &[Address], metrics: Option<SocketAddr>) -> Result<Self, ListenError> {
        let mut server =
            Self { tcp: Vec::new(), unix: Vec::new(), metrics: None, paths: Vec::new() };
        for address in addresses {
            let failed = |error| ListenError { address: address.clone(), error };
            match address {
                Address::Tcp(address) => {
                    server.tcp.push(bind_tcp(*address).map_err(failed)?);
                }
                Address::Unix(path) => {
                    server.unix.push(bind_unix(path).map_err(failed)?);
                    server.paths.push(path.clone());
                }
            }
        }
        if let Some(metrics) = metrics {
            let listener = bind_tcp(metrics);
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

    /// Answers; never returns. `descriptors`: so many may be taken by connections.
    pub async fn run(mut self, app: App, descriptors: usize) {
        let router = endpoints::router(app.clone());
        let count = self.tcp.len() + self.unix.len() + usize::from(self.metrics.is_some());
        let room = |most: usize| {
            Connections::new((descriptors / count.max(1)).clamp(FEWEST_CONNECTIONS, most))
        };
        let mut listening = JoinSet::new();
        for listener in std::mem::take(&mut self.tcp) {
            let door = Tcp {
                listener,
                owners: Owners::default(),
                app: app.clone(),
                router: router.clone(),
            };
            listening.spawn(listen(door, room(CONNECTIONS)));
        }
        for listener in std::mem::take(&mut self.unix) {
            let door = Unix { listener, app: app.clone(), router: router.clone() };
            listening.spawn(listen(door, room(CONNECTIONS)));
        }
        if let Some(listener) = self.metrics.take() {
            let door = Plain { listener, router: endpoints::metrics_router(app) };
            listening.spawn(listen(door, room(METRICS_CONNECTIONS)));
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

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of a daemon before this one may linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
