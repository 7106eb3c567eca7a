//! The endpoint of Socket.IO: each request is checked, then goes to our acceptor or to the engine.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    response::Response,
    routing::{MethodRouter, any},
};
use http::{HeaderValue, StatusCode, Uri, header};
use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{Service, offers, polling::Polling, profile::USER_ID, proof::UpgradeProofs};
use crate::{
    config::Config,
    dialects::mern::token_in,
    random,
    telemetry::WarnOnce,
    transport::{
        accept::Acceptor,
        registry::Registry,
        request::{EngineError, EngineRequest, Offers, parameter},
        sessions::SessionPermit,
        stream::Guard,
    },
};

/// A connection's permit among `--connections-max`, in the request's extensions.
#[derive(Debug, Clone)]
pub struct ConnectionPermit(pub Arc<OwnedSemaphorePermit>);

/// What a websocket holds for as long as it is open.
type Permits = (Option<ConnectionPermit>, Option<SessionPermit>);

/// How often the log says that clients are refused.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// When a refused client should come back: after this time, and at random up to this much later, so
/// that not all come at once.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const RETRY_SPREAD: Duration = Duration::from_secs(15);

/// Clients that were refused since the log last said so.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    told_at: Option<Instant>,
}

impl Refused {
    /// Counts one more. Answers how many there were, if the log is to say it now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told_at.is_some_and(|told_at| now < told_at + TELL_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// The answer of a node that is full: 503 with `retry-after`.
pub fn full(sessions_max: u32) -> Response {
    let text = format!(
        r#"{{"message":"this node is full: it has {sessions_max} sessions (--connections-max); try again"}}"#
    );
    let retry_after = RETRY_AFTER + random::below(RETRY_SPREAD);
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::RETRY_AFTER, retry_after.as_secs().into());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What answers the requests at Socket.IO's path.
#[derive(Debug, Clone)]
pub struct Endpoint {
    acceptor: Acceptor<MethodRouter>,
    polling: Polling,
    registry: Registry,
    offers: Offers,
    warned: Arc<WarnOnce>,
    full: Arc<Mutex<Refused>>,
    /// `None`: there are no accounts.
    proofs: Option<UpgradeProofs>,
}

impl Endpoint {
    pub fn new(
        config: &Config,
        service: Service,
        registry: Registry,
        proofs: UpgradeProofs,
    ) -> Self {
        let (path, offers) = (&config.socket_path, offers(config));
        let proofs = config.has_accounts().then_some(proofs);
        let acceptor = Acceptor::new(service.clone(), path, registry.clone());
        let polling = Polling::new(path, service, registry.clone());
        let (warned, full) = (Arc::default(), Arc::default());
        Self { acceptor, polling, registry, offers, warned, full, proofs }
    }

    pub fn route(self) -> MethodRouter {
        any(move |request: Request| self.clone().answer(request))
    }

    async fn answer(self, mut request: Request) -> Response {
        // The engine keeps a handshake for as long as the session, which outlives the connection.
        let permit = request.extensions_mut().remove::<ConnectionPermit>();
        let knows = |sid| self.registry.has_session(sid);
        match EngineRequest::read(&request, self.offers, knows) {
            Ok(EngineRequest::Websocket(None)) => match self.registry.sessions().permit() {
                Some(session) => self.accept(request, (permit, Some(session))),
                None => self.refuse(),
            },
            // The session has its permit already.
            Ok(EngineRequest::Websocket(Some(sid))) => {
                if let Some(proofs) = &self.proofs
                    && parameter(request.uri(), USER_ID).is_some()
                {
                    proofs.upgraded(sid, token_in(request.headers()));
                }
                self.accept(request, (permit, None))
            }
            Ok(EngineRequest::Open) => match self.registry.sessions().permit() {
                Some(session) => self.polling.open(request, session).await,
                None => self.refuse(),
            },
            Ok(EngineRequest::Poll(sid)) => self.polling.poll(sid, request).await,
            Ok(EngineRequest::Post(_)) => self.polling.post(request).await,
            Err(error) => {
                self.warn(error, request.uri());
                error.response()
            }
        }
    }

    fn accept(&self, request: Request, permits: Permits) -> Response {
        let guard: Guard = Box::new(permits);
        self.acceptor.accept(request, Some(guard)).map(Body::from)
    }

    /// There are as many sessions as there may be.
    fn refuse(&self) -> Response {
        let sessions_max = self.registry.settings().sessions_max;
        let refused = self.full.lock().count(Instant::now());
        if let Some(refused) = refused {
            tracing::warn!(
                refused,
                sessions_max,
                "refused clients: this node has as many sessions as --connections-max allows; \
                 raise it, or start more nodes"
            );
        }
        full(u32::try_from(sessions_max).unwrap_or(u32::MAX))
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
