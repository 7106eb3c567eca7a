//! Our own websocket acceptor: it takes the connection back out of the upgrade, and gives the
//! engine a lane in its place.
//!
//! Both kinds come here: a fresh websocket, and the upgrade of a polling session (`sid=`). Other
//! requests are for the engine's own service.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto};
use socketioxide::service::SocketIoService;
use socketioxide_core::Sid;
use tokio::net::TcpStream;
use tower::Service;
use tungstenite::handshake::derive_accept_key;

use crate::transport::{
    adapter::Adapter,
    close::CloseReason,
    lane::Lane,
    lane_stream::LaneStream,
    registry::Registry,
    request::{EngineError, parameter},
    stream::{Guard, Stream},
    supervisor,
};

/// A request to the engine that ends a session, as its own client would write it.
const END: &str = "1";

/// Turns upgrade requests into lanes.
#[derive(Clone)]
pub struct Acceptor<S: Clone> {
    service: SocketIoService<S, Adapter>,
    registry: Registry,
}

impl<S> Acceptor<S>
where
    S: Clone + Send + Sync + 'static,
    SocketIoService<S, Adapter>: Service<Request<String>> + Clone + Send,
    <SocketIoService<S, Adapter> as Service<Request<String>>>::Future: Send + 'static,
{
    /// Also starts the supervisor, which ends polling sessions through the service.
    pub fn new(service: SocketIoService<S, Adapter>, path: &str, registry: Registry) -> Self {
        let mut ending = service.clone();
        let path = path.to_owned();
        let end_polling = move |sid| end_polling(&mut ending, &path, sid);
        let supervisor = supervisor::run(registry.clone(), end_polling);
        registry.tasks().spawn_vital("supervisor", supervisor);
        Self { service, registry }
    }

    /// Answers the handshake; when it is through, the engine has the connection.
    pub fn accept<B>(&self, mut request: Request<B>, guard: Option<Guard>) -> Response<String> {
        let accept = match accept_key(&request) {
            Ok(accept) => accept,
            Err(why) => {
                tracing::debug!(why, "a websocket handshake that is wrong");
                return EngineError::BadRequest.response();
            }
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let acceptor = self.clone();
        let uri = request.uri().clone();
        self.registry.tasks().spawn("upgrade", acceptor.upgraded(upgrade, uri, guard));
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        response
    }

    async fn upgraded(self, upgrade: OnUpgrade, uri: Uri, guard: Option<Guard>) {
        let stopping = self.registry.tasks().clone();
        let upgraded = tokio::select! {
            upgraded = upgrade => upgraded,
            () = stopping.stopping() => return,
        };
        // A client that goes before its handshake leaves nothing behind.
        let Ok(upgraded) = upgraded else { return };
        let (stream, head) = connection(upgraded);
        self.serve(stream, head, &uri, guard);
    }

    /// Gives the engine a websocket connection whose handshake is done. `uri` has its query.
    pub fn serve(mut self, stream: Stream, head: Bytes, uri: &Uri, guard: Option<Guard>) {
        let upgrades = session(uri);
        let lane = Lane::new(stream, head, upgrades, guard);
        if let Some(sid) = upgrades
            && !self.registry.opened(sid, &lane)
        {
            // It has a lane, or another upgrade goes on: that one must not suffer.
            return self.registry.close_lane(&lane, CloseReason::DuplicateWebsocket);
        }
        let stream = LaneStream::new(lane, self.registry.clone());
        let mut request = Request::new(());
        // A copy, because the original keeps the request's whole read buffer alive.
        *request.uri_mut() = uri.to_string().parse().expect("it was one before");
        let taken =
            Service::<(LaneStream, Request<()>)>::call(&mut self.service, (stream, request));
        if let Err(error) = taken.into_inner() {
            tracing::debug!(%error, "a websocket request that is not the engine's");
        }
    }
}

impl<S: Clone> std::fmt::Debug for Acceptor<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("registry", &self.registry).finish_non_exhaustive()
    }
}

fn end_polling<T>(service: &mut T, path: &str, sid: Sid) -> BoxFuture<'static, ()>
where
    T: Service<Request<String>>,
    T::Future: Send + 'static,
{
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{path}?EIO=4&transport=polling&sid={sid}"))
        .body(END.to_owned())
        .expect("a path and a session id make a request");
    let answer = service.call(request);
    // The session has ended, whatever the answer says.
    Box::pin(async move { drop(answer.await) })
}

/// The value of `Sec-WebSocket-Accept`, or what is wrong with the handshake.
fn accept_key<B>(request: &Request<B>) -> Result<HeaderValue, &'static str> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err("a websocket handshake is a GET");
    }
    let upgrades = headers.get_all(header::CONNECTION).iter().any(|value| {
        let names = value.to_str().unwrap_or_default().split(',');
        names.into_iter().any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
    });
    if !upgrades {
        return Err("Connection does not say Upgrade");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return Err("only websocket version 13 is spoken here");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is missing")?;
    let accept = derive_accept_key(key.as_bytes());
    HeaderValue::try_from(accept).map_err(|_not_a_header| "Sec-WebSocket-Key is not a key")
}

/// The session that a request names.
fn session(uri: &Uri) -> Option<Sid> {
    parameter(uri, "sid")?.parse().ok()
}

/// The TCP connection under an upgrade, or whatever else it is, and what was read beyond the head.
fn connection(upgraded: Upgraded) -> (Stream, Bytes) {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return (Stream::Tcp(parts.io.into_inner()), copy(&parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    match auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => (Stream::Tcp(parts.io.into_inner()), copy(&parts.read_buf)),
        Err(upgraded) => (Stream::Other(Box::pin(TokioIo::new(upgraded))), Bytes::new()),
    }
}

/// A slice would keep the request's whole read buffer alive.
fn copy(read: &Bytes) -> Bytes {
    Bytes::copy_from_slice(read)
}
