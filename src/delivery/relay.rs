//! The only task of a node that takes log events to the sockets, in one order.
//!
//! It delivers while it holds the cutover lock: another task that holds the lock knows exactly what
//! was delivered and what was not.

use std::sync::Arc;

use crate::{
    delivery::{broadcaster::Broadcaster, replay::ReplayBuffer, subscriptions::Subscriptions},
    dialects::{dialect::LiveEvent, offset::OffsetCursor},
    domain::room::RoomName,
    store::log::{LogEvent, LogEvents, MessageLog},
};

pub struct Relay {
    pub log: Arc<dyn MessageLog>,
    pub replay: ReplayBuffer,
    pub subscriptions: Subscriptions,
    pub broadcaster: Broadcaster,
}

impl Relay {
    /// Runs until the store closes.
    pub async fn run(self, mut events: LogEvents) {
        while let Some(batch) = events.recv().await {
            let cutover = self.replay.cutover().await;
            let mut offsets = self.replay.offsets();
            for event in batch {
                self.deliver(&event, &mut offsets).await;
                let is_record = matches!(event, LogEvent::Record(_));
                self.replay.push(event);
                if !is_record {
                    offsets = self.replay.offsets();
                }
            }
            drop(cutover);
            self.replay.moved();
        }
    }

    async fn deliver(&self, event: &LogEvent, offsets: &mut OffsetCursor) {
        match event {
            LogEvent::Record(record) => {
                let partition = self.log.partition(&record.room);
                let offset = offsets.pass(partition, &record.position);
                self.broadcaster.record(record, &offset).await;
            }
            LogEvent::External(body) => {
                let event = LiveEvent::External(body);
                self.broadcaster.live(&[RoomName::lobby()], None, &event).await;
            }
            LogEvent::Gap { partition, epoch, from, to } => {
                for room in self.rooms_of(*partition) {
                    let event = LiveEvent::Gap { room: &room, epoch, from: *from, to: *to };
                    self.broadcaster.live(std::slice::from_ref(&room), None, &event).await;
                }
            }
            LogEvent::NewEpoch { partition, epoch, .. } => {
                let rooms: Vec<RoomName> = self.rooms_of(*partition).collect();
                self.broadcaster.live(&rooms, None, &LiveEvent::NewEpoch(epoch)).await;
            }
        }
    }

    fn rooms_of(&self, partition: u16) -> impl Iterator<Item = RoomName> + use<'_> {
        self.subscriptions
            .rooms()
            .into_iter()
            .filter(move |room| self.log.partition(room) == partition)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("log", &self.log).finish_non_exhaustive()
    }
}
