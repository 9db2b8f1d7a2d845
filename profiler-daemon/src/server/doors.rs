//! Whom a socket lets in, and the conversations with them.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body as AxumBody, Bytes},
};
use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::{
    App,
    access::Origin,
    connections::{Answering, Connections, Owner, Place},
    peer::Owners,
    record::LONGEST,
};

/// How long a client may take to send the head of a request, or to agree on keys.
const HEAD: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// How long a connection may last: longer than the longest recording.
const CONNECTION: Duration = LONGEST.saturating_add(Duration::from_secs(5 * 60));

/// How long nothing is accepted after there were no descriptors left, or no memory.
const SHORTAGE: Duration = Duration::from_millis(100);

/// What somebody is answered who keeps all their connections busy.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 61\r\n\
    Connection: close\r\n\r\n\
    too many connections of yours are being answered; close some\n";

/// A socket that is listened at.
pub(super) trait Door: Send + Sync + 'static {
    type Stream: Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whose connection it is.
    fn owner(&self, stream: &Self::Stream) -> io::Result<Owner>;

    /// Says that there is no place.
    fn refuse(&self, stream: &Self::Stream);

    /// Answers, for as long as that lasts.
    fn serve(
        &self,
        stream: Self::Stream,
        owner: Owner,
        place: Arc<Place>,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Where everything is answered, by TCP.
pub(super) struct Tcp {
    pub(super) listener: TcpListener,
    pub(super) owners: Owners,
    pub(super) app: App,
    pub(super) router: Router,
}

/// The same, by a socket in the file system.
pub(super) struct Unix {
    pub(super) listener: UnixListener,
    pub(super) app: App,
    pub(super) router: Router,
}

/// Where everybody is answered the same, without TLS.
pub(super) struct Plain {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
}

/// Lets in whoever there is room for; never returns.
pub(super) async fn listen(door: impl Door, connections: Connections) {
    loop {
        let stream = match door.accept().await {
            Ok(stream) => stream,
            // It was over before it began (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::debug!("accept: {error}");
                tokio::time::sleep(SHORTAGE).await;
                continue;
            }
        };
        let owner = match door.owner(&stream) {
            Ok(owner) => owner,
            Err(error) => {
                tracing::debug!("who asks cannot be told: {error}");
                continue;
            }
        };
        let Some(place) = connections.admit(owner) else {
            door.refuse(&stream);
            continue;
        };
        let task = tokio::spawn(door.serve(stream, owner, Arc::clone(&place)));
        place.is_served_by(task.abort_handle());
        // What made room is closed before the next one is accepted.
        drop(place);
        tokio::task::yield_now().await;
    }
}

impl Door for Tcp {
    type Stream = (TcpStream, SocketAddr);

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.listener.accept().await
    }

    fn owner(&self, (stream, peer): &Self::Stream) -> io::Result<Owner> {
        let own = stream.local_addr()?;
        if own.ip().to_canonical().is_loopback() {
            return self.owners.owner(*peer, own).map(Owner::User);
        }
        Ok(Owner::at(peer.ip()))
    }

    fn refuse(&self, (stream, _): &Self::Stream) {
        if self.app.access.get().acceptor().is_none() {
            let _ = stream.try_write(REFUSAL);
        }
    }

    fn serve(
        &self,
        (stream, peer): Self::Stream,
        owner: Owner,
        place: Arc<Place>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (app, router) = (self.app.clone(), self.router.clone());
        async move {
            let origin = match owner {
                Owner::User(uid) => Origin::Local(app.members.peer(uid).await),
                Owner::Address(_) => Origin::Elsewhere,
            };
            let Some(acceptor) = app.access.get().acceptor() else {
                return converse(stream, router, Some(origin), place).await;
            };
            match tokio::time::timeout(HEAD, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, router, Some(origin), place).await,
                Ok(Err(error)) => tracing::debug!("TLS with {peer}: {error}"),
                Err(_) => tracing::debug!("TLS with {peer}: it takes too long"),
            }
        }
    }
}

impl Door for Unix {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    fn owner(&self, stream: &UnixStream) -> io::Result<Owner> {
        stream.peer_cred().map(|it| Owner::User(it.uid()))
    }

    fn refuse(&self, stream: &UnixStream) {
        let _ = stream.try_write(REFUSAL);
    }

    fn serve(
        &self,
        stream: UnixStream,
        owner: Owner,
        place: Arc<Place>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (app, router) = (self.app.clone(), self.router.clone());
        async move {
            let Owner::User(uid) = owner else { return };
            let origin = Origin::Local(app.members.peer(uid).await);
            converse(stream, router, Some(origin), place).await;
        }
    }
}

impl Door for Plain {
    type Stream = (TcpStream, SocketAddr);

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.listener.accept().await
    }

    fn owner(&self, (_, peer): &Self::Stream) -> io::Result<Owner> {
        Ok(Owner::at(peer.ip()))
    }

    fn refuse(&self, (stream, _): &Self::Stream) {
        let _ = stream.try_write(REFUSAL);
    }

    fn serve(
        &self,
        (stream, _): Self::Stream,
        _: Owner,
        place: Arc<Place>,
    ) -> impl Future<Output = ()> + Send + 'static {
        converse(stream, self.router.clone(), None, place)
    }
}

/// Answers the requests of one connection.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    origin: Option<Origin>,
    place: Arc<Place>,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let routed = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(origin) = origin {
            request.extensions_mut().insert(origin);
        }
        let answering = place.answers();
        let answer = routed.call(request);
        async move {
            let answer = answer.await?;
            Ok::<_, std::convert::Infallible>(
                answer.map(|body| Sent { body, _answering: answering }),
            )
        }
    });
    let served = builder.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION, served).await {
        Ok(Err(error)) => tracing::debug!("a connection failed: {error}"),
        Err(_) => tracing::debug!("a connection lasted too long"),
        Ok(Ok(())) => {}
    }
}

/// The body of an answer: as long as it is sent, the request is being answered.
struct Sent {
    body: AxumBody,
    _answering: Answering,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
