//! TCP connections: accepted, bounded, and served.
//!
//! Sessions are bounded where they begin, at the handshake. TCP connections have a bound of their
//! own, and above it a few more, which only ever serve health and a refusal: a node that is full
//! says so, and a load balancer still sees that it lives.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tower::ServiceExt as _;

use crate::{shutdown::Tasks, sockets::endpoint::ConnectionPermit};

/// A client must send the head of its first request, or of the next one, within this time. Load
/// balancers keep idle connections for 60 s and must close them first: a request that meets a
/// connection which the server is closing fails, and a POST is not sent again.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Connections that may wait in the kernel to be accepted, as far as its own limit allows.
const BACKLOG: u32 = 4_096;
/// Connections that are accepted and wait to be served.
const QUEUE_MAX: usize = 16_384;
/// A peer that acknowledges nothing for this long is taken for gone, even with data in flight.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Bytes of one connection that the kernel may hold unsent. Above it frames wait in the lane,
/// where all connections share them; the kernel keeps a copy for each, up to 4 MiB.
const UNSENT_BYTES_MAX: u32 = 256 << 10;
/// TCP connections for each session: a browser that polls has two, and may fetch a file.
const PER_SESSION: usize = 3;
/// Connections above the bound that serve health and refusals.
const REFUSING_MAX: usize = 256;
/// Such a connection has one request, and ends after this time.
const REFUSING_TIME_MAX: Duration = Duration::from_secs(10);

/// The connections that this node may have, of all its listeners. A clonable handle.
#[derive(Debug, Clone)]
pub struct Connections {
    serving: Arc<Semaphore>,
    refusing: Arc<Semaphore>,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// A connection and its permit.
enum Accepted {
    Serving(TcpStream, ConnectionPermit),
    Refusing(TcpStream, OwnedSemaphorePermit),
}

/// What serves connections.
#[derive(Clone)]
struct Apps {
    serving: Router,
    refusing: Router,
}

impl Connections {
    pub fn new(sessions_max: u32) -> Self {
        let serving = (sessions_max as usize).saturating_mul(PER_SESSION);
        Self {
            serving: Arc::new(Semaphore::new(serving.min(Semaphore::MAX_PERMITS))),
            refusing: Arc::new(Semaphore::new(REFUSING_MAX)),
        }
    }

    /// `None`: even the connections that only refuse are all in use.
    fn take(&self, stream: TcpStream) -> Option<Accepted> {
        if let Ok(permit) = Arc::clone(&self.serving).try_acquire_owned() {
            return Some(Accepted::Serving(stream, ConnectionPermit(Arc::new(permit))));
        }
        let permit = Arc::clone(&self.refusing).try_acquire_owned().ok()?;
        Some(Accepted::Refusing(stream, permit))
    }
}

impl Listener {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart need not wait until the kernel has forgotten the last process's connections.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG).map(Self)
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }

    /// Serves until the tasks stop. `refusing` serves the connections above the bound.
    pub fn serve(
        self,
        serving: Router,
        refusing: Router,
        connections: &Connections,
        tasks: &Tasks,
    ) {
        let (accepted, queue) = mpsc::channel(QUEUE_MAX);
        tasks.spawn("accept", accept(self.0, accepted, tasks.clone(), connections.clone()));
        let apps = Apps { serving, refusing };
        tasks.spawn("serve accepted", serve_accepted(queue, apps, tasks.clone()));
    }
}

/// Accepts as fast as it can: a client that finds the kernel's queue full tries again only after
/// seconds.
async fn accept(
    listener: TcpListener,
    queue: mpsc::Sender<Accepted>,
    tasks: Tasks,
    connections: Connections,
) {
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = tasks.stopping() => return,
        };
        match connection {
            Ok((stream, _peer)) => {
                let Some(accepted) = connections.take(stream) else {
                    tracing::debug!("closed a connection: all that may refuse are in use");
                    continue;
                };
                if queue.send(accepted).await.is_err() {
                    return;
                }
            }
            // Out of file descriptors, most likely: waiting lets some come free.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one more connection in each round of the scheduler: however many come at once, the
/// connections that are served already have their turn between two of them.
async fn serve_accepted(mut queue: mpsc::Receiver<Accepted>, apps: Apps, tasks: Tasks) {
    while let Some(accepted) = queue.recv().await {
        match accepted {
            Accepted::Serving(stream, permit) => {
                let served = serve_connection(stream, apps.serving.clone(), permit, tasks.clone());
                tasks.spawn("connection", served);
            }
            Accepted::Refusing(stream, permit) => {
                tasks.spawn("refusing", refuse(stream, apps.refusing.clone(), permit));
            }
        }
        tokio::task::yield_now().await;
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    stream.set_nodelay(true)
}

/// The permit is also in every request, because a websocket outlives this.
async fn serve_connection(stream: TcpStream, app: Router, permit: ConnectionPermit, tasks: Tasks) {
    if let Err(error) = set_options(&stream) {
        return tracing::debug!(%error, "a connection ended at once");
    }
    let app = app.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        request
    });
    let service = TowerToHyperService::new(app);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tasks.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended badly");
    }
}

/// Answers one request.
async fn refuse(stream: TcpStream, app: Router, permit: OwnedSemaphorePermit) {
    let app = app.map_request(|request: http::Request<Incoming>| request);
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    if timeout(REFUSING_TIME_MAX, connection).await.is_err() {
        tracing::trace!("a connection took too long to be refused");
    }
    drop(permit);
}
