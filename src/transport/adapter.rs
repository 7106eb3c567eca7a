//! socketioxide's adapter: what the application broadcasts is encoded once and handed to the flush
//! tasks.
//!
//! The application says `io.to(room).emit(..)` as with any adapter. Rooms, `except` and `local`
//! mean the same as there, and are looked up when the flush runs. But the registry has the rooms:
//! sockets join and leave them there, and what socketioxide itself says about rooms is empty. A
//! volatile emit is sent like any other: it may be dropped, and is not.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use socketioxide::adapter::Emitter;
use socketioxide_core::{
    adapter::{
        BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, SocketEmitter,
        errors::BroadcastError,
    },
    packet::Packet,
};

use crate::transport::registry::Registry;

/// The adapter of a namespace. Only in `/` something is said.
pub struct Adapter {
    local: Arc<CoreLocalAdapter<Emitter>>,
    registry: Registry,
}

impl CoreAdapter<Emitter> for Adapter {
    type Error = Infallible;
    type State = Registry;
    type AckStream = <Emitter as SocketEmitter>::AckStream;
    type InitRes = ();

    /// # Panics
    /// When `/` is made twice: a lane keeps the order of one namespace.
    fn new(registry: &Registry, local: CoreLocalAdapter<Emitter>) -> Self {
        let local = Arc::new(local);
        registry.namespace().made(Arc::clone(&local));
        Self { local, registry: registry.clone() }
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        on_success();
    }

    /// Ready when the packet is queued for every flush task: at once, unless a flush is far behind.
    async fn broadcast(
        &self,
        packet: Packet,
        audience: BroadcastOptions,
    ) -> Result<(), BroadcastError> {
        self.registry.broadcast(packet, audience).await;
        Ok(())
    }

    /// Only for one socket: socketioxide knows no members of rooms here.
    async fn broadcast_with_ack(
        &self,
        packet: Packet,
        audience: BroadcastOptions,
        timeout: Option<Duration>,
    ) -> Result<Self::AckStream, Infallible> {
        Ok(self.local.broadcast_with_ack(packet, audience, timeout).0)
    }

    fn get_local(&self) -> &CoreLocalAdapter<Emitter> {
        &self.local
    }
}

impl DefinedAdapter for Adapter {}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("registry", &self.registry).finish_non_exhaustive()
    }
}
