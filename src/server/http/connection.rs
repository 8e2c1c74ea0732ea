//! Accepting connections, and serving requests on each until it is idle or closed.

use super::connections::{Busy, Connection, Connections};
use super::listen::{Accepting, Listener, Stream};
use super::tls::Tls;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// An answer of which the client takes nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(60);

/// Who is at the other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether the connection is encrypted by this service.
    pub tls: bool,
}

/// How connections are served.
pub struct Serving {
    pub app: Router,
    pub tls: Option<Arc<Tls>>,
    /// For a request's head, a handshake, and for what comes next.
    pub idle: Duration,
    /// Connections in all, and from one address.
    pub most: usize,
    pub most_per_address: usize,
    /// Whose connections are not counted per address.
    pub is_proxy: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Hears how many connections are open.
    pub count: Box<dyn Fn(usize) + Send + Sync>,
}

/// Accepts connections until `stop` has a value: so long they have then for their
/// answers.
pub async fn serve(
    listener: Listener,
    serving: Serving,
    mut stop: watch::Receiver<Option<Duration>>,
) -> io::Result<()> {
    let listener = listener.start()?;
    let most = serving.most.min(most_open());
    let connections = Arc::new(Connections::new(most, serving.most_per_address));
    let serving = Arc::new(serving);
    let mut tasks = JoinSet::new();
    let stopped = stop.clone();
    let accepting = async {
        loop {
            let (stream, address) = accepted(&listener).await;
            while tasks.try_join_next().is_some() {}
            let counted = address.filter(|address| !(serving.is_proxy)(*address));
            let Some(connection) = connections.admit(counted) else {
                tracing::warn!(client = ?address, "a connection is refused: there are too many");
                continue;
            };
            (serving.count)(connections.count());
            let (serving, connections) = (serving.clone(), connections.clone());
            let stopped = stopped.clone();
            tasks.spawn(async move {
                converse(stream, address, &connection, &serving, stopped).await;
                connections.left(&connection);
                (serving.count)(connections.count());
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stop.wait_for(Option::is_some) => {}
    }
    let grace = stop.borrow().unwrap_or_default();
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(grace, ended).await;
    Ok(())
}

async fn accepted(listener: &Accepting) -> (Stream, Option<IpAddr>) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client is gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!("no connection can be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// How many connections this process can hold open beside its files, once its limit is as
/// high as it may be.
fn most_open() -> usize {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` is a valid place for the answer.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return usize::MAX;
        }
        if limit.rlim_cur < limit.rlim_max {
            let raised = libc::rlimit {
                rlim_cur: limit.rlim_max.min(1 << 20),
                ..limit
            };
            // SAFETY: `raised` is a valid limit; where it is refused the old one stays.
            if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
                limit = raised;
            }
        }
        let files = usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX);
        // For results, the ledger, the device, and connections that are being closed.
        files.saturating_sub((files / 4).clamp(32, 256)).max(8)
    }
    #[cfg(not(unix))]
    usize::MAX
}

/// One connection, from its first byte to its end.
async fn converse(
    stream: Stream,
    address: Option<IpAddr>,
    connection: &Arc<Connection>,
    serving: &Serving,
    stopped: watch::Receiver<Option<Duration>>,
) {
    let peer = Peer {
        address,
        tls: serving.tls.is_some(),
    };
    let Some(tls) = &serving.tls else {
        return requests(stream, peer, connection, serving, stopped).await;
    };
    let shake = TlsAcceptor::from(tls.config()).accept(stream);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(serving.idle, shake) => shaken,
        () = connection.close.notified() => return,
    };
    match shaken {
        Ok(Ok(stream)) => requests(stream, peer, connection, serving, stopped).await,
        Ok(Err(error)) => tracing::debug!(client = ?address, "no TLS: {error}"),
        Err(_) => {}
    }
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    connection: &Arc<Connection>,
    serving: &Serving,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    /// What is asked about the connection's idleness, in parts of the limit.
    const PARTS: u32 = 8;
    /// Bytes of a connection that are read before they are asked for; as many may a head have.
    const READ_AHEAD: usize = 64 << 10;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(READ_AHEAD)
        .header_read_timeout(serving.idle);
    builder.http2().timer(TokioTimer::new());
    let stream = Watched {
        stream,
        connection: connection.clone(),
    };
    let service = Answering {
        app: TowerToHyperService::new(serving.app.clone()),
        connection: connection.clone(),
        peer,
    };
    let conversation = builder.serve_connection(TokioIo::new(stream), service);
    let mut conversation = std::pin::pin!(conversation);
    let period = (serving.idle / PARTS).clamp(Duration::from_millis(100), Duration::from_secs(5));
    let mut look = tokio::time::interval(period);
    let mut leaving = stopped.borrow().is_some();
    if leaving {
        conversation.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            _ = conversation.as_mut() => return,
            () = connection.close.notified() => return,
            _ = stopped.changed(), if !leaving => {
                leaving = true;
                conversation.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                if connection.is_stalled_for(STALLED)
                    || connection.is_idle_for(serving.idle + period)
                {
                    return;
                }
                // A word of farewell in HTTP/2.
                if connection.is_idle_for(serving.idle) && !leaving {
                    leaving = true;
                    conversation.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The service on one connection.
struct Answering {
    app: TowerToHyperService<Router>,
    connection: Arc<Connection>,
    peer: Peer,
}

impl Service<Request<Incoming>> for Answering {
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let busy = self.connection.begin();
        request.extensions_mut().insert(self.peer);
        let answer = self.app.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| Counted { body, _busy: busy }))
        })
    }
}

/// An answer's body, which keeps its connection busy.
struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's bytes, of which it is known whether the client takes them.
struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn noted<T>(&self, written: Poll<T>) -> Poll<T> {
        self.connection.writes(written.is_pending());
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
