//! The endpoint of Socket.IO: each request is checked, then goes to our acceptor or to the engine.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    response::Response,
    routing::{MethodRouter, any},
};
use http::{Uri, header};
use tokio::sync::OwnedSemaphorePermit;

use super::{Service, polling::Polling};
use crate::{
    telemetry::WarnOnce,
    transport::{
        accept::Acceptor,
        registry::Registry,
        request::{EngineError, EngineRequest, Offers, parameter},
        stream::Guard,
    },
};

/// A connection's permit among `--connections-max`, in the request's extensions.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(pub Arc<OwnedSemaphorePermit>);

/// What answers the requests at Socket.IO's path.
#[derive(Debug, Clone)]
pub struct Endpoint {
    acceptor: Acceptor<MethodRouter>,
    polling: Polling,
    registry: Registry,
    offers: Offers,
    warned: Arc<WarnOnce>,
}

impl Endpoint {
    pub fn new(path: &'static str, service: Service, registry: Registry, offers: Offers) -> Self {
        let acceptor = Acceptor::new(service.clone(), path, registry.clone());
        let polling = Polling::new(path, service, registry.clone());
        Self { acceptor, polling, registry, offers, warned: Arc::default() }
    }

    pub fn route(self) -> MethodRouter {
        any(move |request: Request| self.clone().answer(request))
    }

    async fn answer(self, mut request: Request) -> Response {
        // The engine keeps a handshake for as long as the session, which outlives the connection.
        let permit = request.extensions_mut().remove::<ConnectionPermit>();
        let knows = |sid| self.registry.has_session(sid);
        match EngineRequest::read(&request, self.offers, knows) {
            Ok(EngineRequest::Websocket(_)) => {
                let guard = permit.map(|permit| -> Guard { Box::new(permit) });
                self.acceptor.accept(request, guard).map(Body::from)
            }
            Ok(EngineRequest::Open) => self.polling.open(request).await,
            Ok(EngineRequest::Poll(sid)) => self.polling.poll(sid, request).await,
            Ok(EngineRequest::Post(_)) => self.polling.post(request).await,
            Err(error) => {
                self.warn(error, request.uri());
                error.response()
            }
        }
    }

    /// Tells the operator what the client's developer cannot see: a browser's console shows no more
    /// than a status.
    fn warn(&self, error: EngineError, uri: &Uri) {
        let eio = parameter(uri, "EIO").unwrap_or_default();
        let is_websocket = parameter(uri, "transport") == Some("websocket");
        if error == EngineError::ProtocolUnsupported && self.warned.is_first(&format!("EIO {eio}"))
        {
            tracing::warn!(
                eio,
                "refused a client of another protocol version: EIO=4 is spoken here, which is \
                 socket.io-client 3 and 4 (EIO=3 is socket.io-client 2): update the client"
            );
        }
        let lacks_upgrade = error == EngineError::BadRequest && is_websocket;
        if lacks_upgrade && self.warned.is_first(header::UPGRADE.as_str()) {
            tracing::warn!(
                "refused a websocket request without the header Upgrade: a proxy in front drops \
                 it; let the proxy pass Upgrade and Connection on (nginx: proxy_http_version 1.1, \
                 proxy_set_header Upgrade $http_upgrade, proxy_set_header Connection \"upgrade\")"
            );
        }
    }
}
