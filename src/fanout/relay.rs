//! The one task per node that brings what the bus delivers to the sockets, in one order.
//!
//! It delivers at the seam: whoever holds that knows exactly what was delivered, and what was not.

use std::sync::Arc;

use super::{
    dialect::{Dialect, Event},
    recent::Recent,
    rooms::Rooms,
    teller::Teller,
};
use crate::{
    bus::{Bus, Deliveries, Delivery, people::Signal, session::Holder},
    domain::name::RoomName,
};

/// What the bus brings beside the log, for whoever it concerns. Must not block.
#[derive(Debug)]
pub enum News {
    /// Another connection has taken over a session of this node.
    Taken(Holder),
    Signal(Signal),
    /// Signals of this partition may have been missed.
    SignalsLost(u16),
}

pub struct Relay {
    pub bus: Arc<dyn Bus>,
    pub recent: Recent,
    pub rooms: Rooms,
    pub teller: Teller,
    pub news: Box<dyn Fn(News) + Send + Sync>,
}

impl Relay {
    /// Ends when the bus does.
    pub async fn run(self, mut deliveries: Deliveries) {
        while let Some(batch) = deliveries.recv().await {
            let seam = self.recent.seam().await;
            for delivery in batch {
                self.deliver(&delivery).await;
                self.recent.push(delivery);
            }
            drop(seam);
            self.recent.moved();
        }
    }

    async fn deliver(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Message(message) => self.teller.message(message).await,
            Delivery::Foreign(body) => {
                let event = Event::foreign(body.as_json());
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
            Delivery::SessionTaken { holder, .. } => (self.news)(News::Taken(*holder)),
            Delivery::Signal(signal) => (self.news)(News::Signal(signal.clone())),
            Delivery::SignalsLost { partition } => (self.news)(News::SignalsLost(*partition)),
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
