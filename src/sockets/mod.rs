//! The Socket.IO face: handshake, then each request to `chat` and its result back to the client.
//!
//! socketioxide calls `Events::call` on the connection's reader, one event after the other.
//! Every request is decided there, before the call returns, so what one client sends keeps its
//! order. Answers come later, from the store's callback or from a task that waits for it.

mod answers;
mod auth;
pub mod endpoint;
mod handshake;
mod namespaces;
mod polling;
pub mod profile;
pub mod proof;
mod reply;
mod requests;
#[cfg(test)]
mod types;

use std::{sync::Arc, time::Duration};

use axum::routing::MethodRouter;
use socketioxide::{
    SocketIo, TransportType,
    extract::{SocketRef, TryData},
    handler::ConnectHandler,
    service::SocketIoService,
    socket::Socket,
};
use socketioxide_core::Value;
use tokio::sync::watch;

use self::{auth::Auth, proof::UpgradeProofs};
use crate::{
    chat::{Chat, accounts::Accounts},
    config::{Config, Transport},
    dialects::Dialects,
    shutdown::Tasks,
    store::Health,
    telemetry::WarnOnce,
    transport::{Io, adapter::Adapter, registry::Registry, request::Offers},
};

/// A client that has opened a session, or has left the namespace, must enter the namespace within
/// this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Packets that may wait for one client. A burst of 5 000 messages must fit.
const PACKETS_MAX: usize = 16_384;
/// Memory for reading that each connection keeps. A longer message gets a larger buffer while it is
/// received.
const READ_BUFFER_BYTES: usize = 128;

/// Socket.IO over HTTP, with axum's answer for any other request.
pub type Service = SocketIoService<MethodRouter, Adapter>;

/// What every connection shares.
#[derive(Debug)]
pub struct Sockets {
    pub chat: Chat,
    /// `None`: there are no accounts.
    pub accounts: Option<Accounts>,
    pub proofs: UpgradeProofs,
    pub dialects: Dialects,
    /// Events without a row that the log has warned of.
    pub warned: WarnOnce,
    pub registry: Registry,
    pub health: watch::Receiver<Health>,
    pub tasks: Tasks,
}

/// The service to mount at `/socket.io/`, and the handle that delivery emits through.
pub fn build(config: &Config, sockets: Sockets) -> (Service, Io) {
    let builder = SocketIo::builder()
        .req_path(config.socket_path.trim_end_matches('/').to_owned())
        .ping_interval(config.ping_interval)
        .ping_timeout(config.ping_timeout)
        .connect_timeout(CONNECT_TIMEOUT)
        .max_buffer_size(PACKETS_MAX)
        .max_payload(config.transport_bytes_max as u64)
        .ws_max_message_size(config.transport_bytes_max)
        .ws_max_frame_size(config.transport_bytes_max)
        .ws_read_buffer_size(READ_BUFFER_BYTES)
        .with_adapter::<Adapter>(sockets.registry.clone());
    let Offers { polling, websocket } = offers(config);
    let builder = match (polling, websocket) {
        (true, false) => builder.transports([TransportType::Polling]),
        (false, true) => builder.transports([TransportType::Websocket]),
        _ => builder.transports([TransportType::Polling, TransportType::Websocket]),
    };
    let enter = Enter(sockets.chat.clone());
    let namespaces = sockets.dialects.namespaces();
    let sockets = Arc::new(sockets);
    let (service, io) = builder.build_with_inner_svc(MethodRouter::new());
    let admit = async move |socket: SocketRef<Adapter>, auth: TryData<Auth>| {
        sockets.admit(&socket, auth).await
    };
    io.ns("/", enter.with(admit));
    namespaces::open(&io, namespaces);
    (service, io)
}

/// The transports that clients may use.
pub fn offers(config: &Config) -> Offers {
    let has = |transport| config.transports.contains(&transport);
    Offers { polling: has(Transport::Polling), websocket: has(Transport::Websocket) }
}

/// Brings the session's rooms live once the client has been told that it is connected.
#[derive(Debug, Clone)]
struct Enter(Chat);

impl ConnectHandler<Adapter, ()> for Enter {
    fn call(&self, socket: Arc<Socket<Adapter>>, _auth: Option<Value>) {
        self.0.restore(socket.id);
    }
}
