//! socketioxide's adapter: what the application broadcasts is encoded once and handed to the
//! flush passes.
//!
//! The application says `io.to(room).emit(..)` as with any adapter. Rooms, `except` and `local`
//! mean what they mean there, and are looked up when the pass runs. A volatile emit is sent like
//! any other: it may be dropped, and is not.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use socketioxide::adapter::Emitter;
use socketioxide_core::{
    adapter::{
        BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, SocketEmitter,
        errors::BroadcastError,
    },
    packet::Packet,
};

use super::{lanes::Lanes, pass::Passes};

/// The adapter of the one namespace.
pub struct LaneAdapter {
    local: Arc<CoreLocalAdapter<Emitter>>,
    lanes: Lanes,
}

impl CoreAdapter<Emitter> for LaneAdapter {
    type Error = Infallible;
    type State = Lanes;
    type AckStream = <Emitter as SocketEmitter>::AckStream;
    type InitRes = ();

    /// # Panics
    /// When a second namespace is made: a lane's order is that of one.
    fn new(lanes: &Lanes, local: CoreLocalAdapter<Emitter>) -> Self {
        let local = Arc::new(local);
        lanes.set_passes(Passes::start(Arc::clone(&local), lanes));
        Self { local, lanes: lanes.clone() }
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        on_success();
    }

    /// Ready when the packet is queued for every pass; at once, unless a pass is far behind.
    async fn broadcast(
        &self,
        packet: Packet,
        audience: BroadcastOptions,
    ) -> Result<(), BroadcastError> {
        self.lanes.broadcast(packet, audience).await;
        Ok(())
    }

    /// Each socket has its own ack id here, so nothing is shared and the ordinary way is taken.
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

impl DefinedAdapter for LaneAdapter {}

impl fmt::Debug for LaneAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneAdapter").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}
