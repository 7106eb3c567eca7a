//! The door of `/socket.io/`: websocket handshakes go to our acceptor, the rest to the engine.
//!
//! The CONNECT reply of a client that polls is exchanged here, in the body of the poll.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    response::Response,
    routing::{MethodRouter, any},
};
use http::{HeaderValue, Method, StatusCode, header};
use socketioxide_core::Sid;
use tokio::sync::OwnedSemaphorePermit;
use tower::Service as _;

use super::Service;
use crate::fanout::{
    accept::{self, Acceptor, Guard},
    lanes::Lanes,
    welcome,
};

/// A connection's place among `--connections-max`, in the request's extensions.
#[derive(Debug, Clone)]
pub struct Place(pub Arc<OwnedSemaphorePermit>);

/// What to mount at `path`.
pub fn route(path: &'static str, service: Service, lanes: Lanes) -> MethodRouter {
    let acceptor = Acceptor::new(service.clone(), path, lanes.clone());
    any(move |request: Request| {
        let (acceptor, mut service) = (acceptor.clone(), service.clone());
        let lanes = lanes.clone();
        async move {
            if accept::wants_websocket(&request) {
                let place = request.extensions().get::<Place>().cloned();
                let guard = place.map(|place| -> Guard { Box::new(place) });
                return acceptor.accept(request, guard).map(Body::from);
            }
            let polls = accept::session(request.uri()).filter(|_| request.method() == Method::GET);
            let answered: Result<_, Infallible> = service.call(request).await;
            let Ok(answer) = answered;
            let answer = Response::map(answer, Body::new);
            match polls {
                Some(sid) if lanes.has_welcome(sid) => welcome(answer, &lanes, sid).await,
                _ => answer,
            }
        }
    })
}

async fn welcome(answer: Response, lanes: &Lanes, sid: Sid) -> Response {
    let (mut head, body) = answer.into_parts();
    // The engine has built it whole, and bounds it.
    let payload = match to_bytes(body, usize::MAX).await {
        Ok(payload) if head.status == StatusCode::OK => welcome::in_payload(&payload, lanes, sid),
        Ok(payload) => payload,
        Err(error) => {
            tracing::debug!(%error, "a poll's answer broke off");
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            return Response::from_parts(head, Body::empty());
        }
    };
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(payload.len()));
    Response::from_parts(head, Body::from(payload))
}
