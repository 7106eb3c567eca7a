//! The one task per node that brings what the bus delivers to the sockets, in one order.
//!
//! It delivers at the cutover: whoever holds that knows exactly what was delivered, and what was not.

use std::sync::Arc;

use crate::{
    delivery::{broadcaster::Broadcaster, replay::ReplayBuffer, rooms::Rooms},
    dialects::{Dialect, Event},
};
use crate::{
    domain::name::RoomName,
    store::{Bus, Deliveries, Delivery, presence::Signal, sessions::Holder},
};

/// What the bus brings beside the log, for whoever it concerns. Must not block.
#[derive(Debug)]
pub enum NodeEvent {
    /// Another connection has taken over a session of this node.
    Taken(Holder),
    Signal(Signal),
    /// Signals of this partition may have been missed.
    SignalsLost(u16),
}

pub struct Relay {
    pub bus: Arc<dyn Bus>,
    pub recent: ReplayBuffer,
    pub rooms: Rooms,
    pub teller: Broadcaster,
    pub news: Box<dyn Fn(NodeEvent) + Send + Sync>,
}

impl Relay {
    /// Ends when the bus does.
    pub async fn run(self, mut deliveries: Deliveries) {
        while let Some(batch) = deliveries.recv().await {
            let cutover = self.recent.cutover().await;
            for delivery in batch {
                self.deliver(&delivery).await;
                self.recent.push(delivery);
            }
            drop(cutover);
            self.recent.moved();
        }
    }

    async fn deliver(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Message(message) => self.teller.message(message).await,
            Delivery::External(body) => {
                let event = Event::external(body.as_json());
                self.teller.only(&RoomName::lobby(), Dialect::Plain, &event).await;
            }
            Delivery::Gap { partition, epoch, from, to } => {
                for room in self.rooms_of(*partition) {
                    self.teller.everybody(&room, &Event::gap(&room, epoch, *from, *to)).await;
                }
            }
            Delivery::NewEpoch { partition, epoch, .. } => {
                for room in self.rooms_of(*partition) {
                    self.teller.everybody(&room, &Event::new_epoch(epoch)).await;
                }
            }
            Delivery::SessionTaken { holder, .. } => (self.news)(NodeEvent::Taken(*holder)),
            Delivery::Signal(signal) => (self.news)(NodeEvent::Signal(signal.clone())),
            Delivery::SignalsLost { partition } => (self.news)(NodeEvent::SignalsLost(*partition)),
        }
    }

    fn rooms_of(&self, partition: u16) -> impl Iterator<Item = RoomName> + use<'_> {
        self.rooms.all().into_iter().filter(move |room| self.bus.partition(room) == partition)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("bus", &self.bus).finish_non_exhaustive()
    }
}
