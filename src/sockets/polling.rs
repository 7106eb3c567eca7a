//! Clients that poll: their requests go to the engine, and its answers become those of Node's
//! server.
//!
//! The CONNECT reply is replaced here, in the body of a poll.

use std::{convert::Infallible, fmt, sync::Arc};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    response::Response,
};
use http::{HeaderValue, Method, StatusCode, header};
use tower::Service as _;

use super::Service;
use crate::transport::{
    Sid,
    close::CloseReason,
    connect_reply,
    registry::Registry,
    request::EngineError,
    sessions::{SessionPermit, opened_session},
};

/// How the engine's body begins when a session has just ended.
const SESSION_UNKNOWN: &[u8] = br#"{"code":"1""#;

/// A client's answer to a ping.
const PONG: &str = "3";

/// A poll that has no answer yet. When its client closes the connection, the server drops what
/// works on the answer, and this with it: the client is gone, and its session ends, as in Node's
/// server. Otherwise it would be there until it does not answer a ping.
struct WaitingPoll {
    registry: Registry,
    sid: Sid,
    is_answered: bool,
}

impl WaitingPoll {
    fn begin(registry: &Registry, sid: Sid) -> Self {
        Self { registry: registry.clone(), sid, is_answered: false }
    }

    fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for WaitingPoll {
    fn drop(&mut self) {
        // A session that upgrades goes on in its websocket.
        if !self.is_answered && self.registry.lane(self.sid).is_none() {
            self.registry.close(self.sid, CloseReason::SessionEnded);
        }
    }
}

/// Asks the engine for clients that poll.
#[derive(Clone)]
pub struct Polling {
    path: Arc<str>,
    service: Service,
    registry: Registry,
}

impl Polling {
    pub fn new(path: &str, service: Service, registry: Registry) -> Self {
        Self { path: path.into(), service, registry }
    }

    /// Opens a session.
    pub async fn open(mut self, mut request: Request, permit: SessionPermit) -> Response {
        let token = self.registry.sessions().token(permit);
        request.extensions_mut().insert(token.clone());
        let (head, body) = match self.ask(request).await {
            Ok(answer) => answer,
            Err(refusal) => return refusal,
        };
        if let Some(sid) = opened_session(&body) {
            token.opened(sid);
            self.take_first_ping(sid).await;
        }
        Response::from_parts(head, Body::from(body))
    }

    /// The engine pings at once, where the protocol has the first ping after the interval. The
    /// client does not know of its session yet, so this poll and this answer are the first.
    async fn take_first_ping(&mut self, sid: Sid) {
        let uri = format!("{}?EIO=4&transport=polling&sid={sid}", self.path);
        let request = |method: Method, body: &'static str| {
            let request = Request::builder().method(method).uri(&uri).body(Body::from(body));
            request.expect("a path and a session id make a request")
        };
        let waiting = WaitingPoll::begin(&self.registry, sid);
        let polled = self.ask(request(Method::GET, "")).await;
        waiting.answered();
        if polled.is_ok() {
            // A session that has ended meanwhile needs no answer.
            self.ask(request(Method::POST, PONG)).await.ok();
        }
    }

    /// Waits for packets for the client.
    pub async fn poll(mut self, sid: Sid, request: Request) -> Response {
        let waiting = WaitingPoll::begin(&self.registry, sid);
        let answered = self.ask(request).await;
        waiting.answered();
        let (mut head, body) = match answered {
            Ok(answer) => answer,
            Err(refusal) => return refusal,
        };
        let body = match self.registry.has_connect_reply(sid) {
            true => self.registry.replace_connect_reply(sid, body),
            false => body,
        };
        let body = connect_reply::replace_elsewhere(body);
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        Response::from_parts(head, Body::from(body))
    }

    /// Takes packets of the client.
    pub async fn post(mut self, request: Request) -> Response {
        match self.ask(request).await {
            Ok((head, body)) => Response::from_parts(head, Body::from(body)),
            Err(refusal) => refusal,
        }
    }

    /// The engine's answer, or an error as Node's server words it.
    async fn ask(&mut self, request: Request) -> Result<(http::response::Parts, Bytes), Response> {
        let answered: Result<_, Infallible> = self.service.call(request).await;
        let Ok(answer) = answered;
        let (head, body) = answer.into_parts();
        // The engine has built the body in memory already, and bounds it.
        let body = to_bytes(Body::new(body), usize::MAX).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "an answer of the engine ended early");
            Bytes::new()
        });
        if head.status == StatusCode::OK {
            return Ok((head, body));
        }
        let is_unknown = body.starts_with(SESSION_UNKNOWN);
        let error = if is_unknown { EngineError::SessionUnknown } else { EngineError::BadRequest };
        let mut refusal: Response = error.response();
        if head.status == StatusCode::PAYLOAD_TOO_LARGE {
            *refusal.status_mut() = head.status;
        }
        Err(refusal)
    }
}

impl fmt::Debug for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polling").field("registry", &self.registry).finish_non_exhaustive()
    }
}
