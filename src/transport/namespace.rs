//! The engine's side of the connections: its namespaces, and the queue of each socket in `/`.
//!
//! socketioxide makes the adapter inside `io.ns`, together with the handlers, and the handlers
//! already need the registry. So this is the one part of the registry that comes late. No client
//! can connect before it comes, and until then every answer here is that no socket is connected.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use socketioxide::adapter::Emitter;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastFlags, BroadcastOptions, CoreLocalAdapter, errors::SocketError},
    packet::Packet,
};

use crate::transport::packet;

pub type LocalAdapter = CoreLocalAdapter<Emitter>;

#[derive(Default)]
pub struct Namespace {
    main: OnceLock<Arc<LocalAdapter>>,
    /// Namespaces in which nothing is said.
    others: Mutex<Vec<Arc<LocalAdapter>>>,
}

/// The socket's queue in the engine takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl Namespace {
    /// # Panics
    /// When `/` is made twice: a registry keeps the order of one.
    pub fn made(&self, local: Arc<LocalAdapter>) {
        if local.path().as_str() == packet::NAMESPACE {
            assert!(self.main.set(local).is_ok(), "one registry serves one namespace");
        } else {
            self.others.lock().push(local);
        }
    }

    /// Whether the session is in any namespace.
    pub fn is_in_any(&self, sid: Sid) -> bool {
        let is_there =
            |local: &Arc<LocalAdapter>| !local.fetch_sockets(BroadcastOptions::new(sid)).is_empty();
        self.is_connected(sid) || self.others.lock().iter().any(is_there)
    }

    /// Whether the session is in the namespace.
    pub fn is_connected(&self, sid: Sid) -> bool {
        let socket = BroadcastOptions::new(sid);
        self.main.get().is_some_and(|local| !local.fetch_sockets(socket).is_empty())
    }

    /// Every session in the namespace.
    pub fn sids(&self) -> Vec<Sid> {
        let mut everybody = BroadcastOptions::default();
        everybody.add_flag(BroadcastFlags::Broadcast);
        self.main.get().map(|local| local.sockets(everybody)).unwrap_or_default()
    }

    /// Puts a packet into the engine's own queue for one socket. A session that is ending takes
    /// everything.
    pub fn queue(&self, sid: Sid, packet: Packet) -> Result<(), QueueFull> {
        let Some(local) = self.main.get() else { return Ok(()) };
        let is_full = |error: &SocketError| matches!(error, SocketError::InternalChannelFull);
        match local.broadcast(packet, BroadcastOptions::new(sid)) {
            Err(errors) if errors.iter().any(is_full) => Err(QueueFull),
            _ => Ok(()),
        }
    }
}
