//! The entry of `/socket.io/`: websocket handshakes go to our acceptor, the rest to engineioxide.
//!
//! For a client that polls, the CONNECT reply is replaced here, in the body of the poll.

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

use crate::sockets::Service;
use crate::transport::{
    accept::{self, Acceptor},
    registry::Registry,
    stream::Guard,
};

/// A connection's permit among `--connections-max`, in the request's extensions.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(pub Arc<OwnedSemaphorePermit>);

/// The route to mount at `path`.
pub fn route(path: &'static str, service: Service, registry: Registry) -> MethodRouter {
    let acceptor = Acceptor::new(service.clone(), path, registry.clone());
    any(move |request: Request| {
        let (acceptor, mut service) = (acceptor.clone(), service.clone());
        let registry = registry.clone();
        async move {
            if accept::wants_websocket(&request) {
                let permit = request.extensions().get::<ConnectionPermit>().cloned();
                let guard = permit.map(|permit| -> Guard { Box::new(permit) });
                return acceptor.accept(request, guard).map(Body::from);
            }
            let polls = accept::session(request.uri()).filter(|_| request.method() == Method::GET);
            let answered: Result<_, Infallible> = service.call(request).await;
            let Ok(answer) = answered;
            let answer = Response::map(answer, Body::new);
            match polls {
                Some(sid) if registry.has_connect_reply(sid) => {
                    connect_reply(answer, &registry, sid).await
                }
                _ => answer,
            }
        }
    })
}

async fn connect_reply(answer: Response, registry: &Registry, sid: Sid) -> Response {
    let (mut head, body) = answer.into_parts();
    // engineioxide has built the body in memory already, and bounds it.
    let payload = match to_bytes(body, usize::MAX).await {
        Ok(payload) if head.status == StatusCode::OK => {
            registry.replace_connect_reply(sid, payload)
        }
        Ok(payload) => payload,
        Err(error) => {
            tracing::debug!(%error, "the response to a poll ended early");
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            return Response::from_parts(head, Body::empty());
        }
    };
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(payload.len()));
    Response::from_parts(head, Body::from(payload))
}
