//! The engine's side of the connections: its namespace, and the queue of each socket in it.
//!
//! socketioxide makes the adapter inside `io.ns`, together with the handlers, and the handlers
//! already need the registry. So this is the one part of the registry that comes late. No client
//! can connect before it comes, and until then every answer here is that no socket is connected.

use std::sync::{Arc, OnceLock};

use socketioxide::adapter::Emitter;
use socketioxide_core::{
    Sid,
    adapter::{BroadcastFlags, BroadcastOptions, CoreLocalAdapter, errors::SocketError},
    packet::Packet,
};

pub type LocalAdapter = CoreLocalAdapter<Emitter>;

#[derive(Default)]
pub struct Namespace(OnceLock<Arc<LocalAdapter>>);

/// The socket's queue in the engine takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl Namespace {
    /// # Panics
    /// When a second namespace is made: a registry keeps the order of one.
    pub fn made(&self, local: Arc<LocalAdapter>) {
        assert!(self.0.set(local).is_ok(), "one registry serves one namespace");
    }

    /// Whether the session is in the namespace.
    pub fn is_connected(&self, sid: Sid) -> bool {
        let socket = BroadcastOptions::new(sid);
        self.0.get().is_some_and(|local| !local.fetch_sockets(socket).is_empty())
    }

    /// Every session in the namespace.
    pub fn sids(&self) -> Vec<Sid> {
        let mut everybody = BroadcastOptions::default();
        everybody.add_flag(BroadcastFlags::Broadcast);
        self.0.get().map(|local| local.sockets(everybody)).unwrap_or_default()
    }

    /// Puts a packet into the engine's own queue for one socket. A session that is ending takes
    /// everything.
    pub fn queue(&self, sid: Sid, packet: Packet) -> Result<(), QueueFull> {
        let Some(local) = self.0.get() else { return Ok(()) };
        let is_full = |error: &SocketError| matches!(error, SocketError::InternalChannelFull);
        match local.broadcast(packet, BroadcastOptions::new(sid)) {
            Err(errors) if errors.iter().any(is_full) => Err(QueueFull),
            _ => Ok(()),
        }
    }
}
