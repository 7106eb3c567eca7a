//! Namespaces beside `/`: clients may enter them, and nothing is said there.
//!
//! Many frontends open one for a part of their page. Without an answer they would try for ever.

use std::{convert::Infallible, sync::Arc, time::Duration};

use socketioxide::{
    extract::{AckSender, SocketRef},
    handler::{ConnectHandler as _, DisconnectHandler},
    socket::{DisconnectReason, Socket},
};

use super::answers::RejectAck;
use crate::{
    domain::reject::{Code, Reject},
    transport::{Io, adapter::Adapter},
};

/// The engine tells the client that it is connected, and takes answers for it a moment later.
const ANSWERS_AFTER: Duration = Duration::from_millis(1);
const TRIES_MAX: u32 = 100;

/// Opens the namespaces that the rule table names.
pub fn open(io: &Io, names: &'static [String]) {
    for name in names {
        // Before the client is told that it is connected, so that no event can come too early.
        let admit = async |socket: SocketRef<Adapter>| {
            socket.on_fallback(refuse);
            socket.on_disconnect(OnLeave);
            Ok::<(), Infallible>(())
        };
        io.ns(name.as_str(), (async || ()).with(admit));
    }
}

async fn refuse(socket: SocketRef<Adapter>, ack: AckSender<Adapter>) {
    for _ in 0..TRIES_MAX {
        if socket.connected() {
            break;
        }
        tokio::time::sleep(ANSWERS_AFTER).await;
    }
    let why = "this namespace is empty: send the event in the namespace /";
    let reject = Reject::new(Code::BadRequest, why);
    if let Err(error) = ack.send(&RejectAck::new(&reject)) {
        tracing::trace!(%error, "a client left before it was answered");
    }
}

/// Removes a socket while its reader waits, so that a CONNECT that comes next is not treated as a
/// second one.
struct OnLeave;

impl DisconnectHandler<Adapter, ()> for OnLeave {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        _reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        remove(socket);
    }
}
