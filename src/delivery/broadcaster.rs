//! Emits to the sockets of this node. An event is rendered once per dialect of the room's sockets.

use std::fmt;

use socketioxide::operators::BroadcastOperators;

use crate::domain::{
    name::{PublicId, UserId},
    record::Record,
    room::{RoomKind, RoomName},
    visibility::audience,
};
use crate::{
    delivery::subscriptions::Subscriptions,
    dialects::{DialectId, dialect::LiveEvent, event::Event},
    transport::{Io, adapter::Adapter, registry::Registry},
};

/// A clonable handle. Events from one caller are emitted in the order of its calls.
#[derive(Clone)]
pub struct Broadcaster {
    io: Io,
    subscriptions: Subscriptions,
    registry: Registry,
}

impl Broadcaster {
    pub fn new(io: Io, subscriptions: Subscriptions, registry: Registry) -> Self {
        Self { io, subscriptions, registry }
    }

    /// Emits a record to every socket that receives it. `offset` is the one of a client that has
    /// received everything up to this record.
    pub async fn record(&self, record: &Record, offset: &str) {
        let recipient_of = |session: &PublicId| self.subscriptions.recipient(session.as_str());
        let except = record.except.as_ref().and_then(recipient_of).map(|to| to.sid);
        // A session has no Socket.IO room, so its socket is looked up by the session's id.
        if let RoomKind::Socket { session } = record.room.kind() {
            let to = self.subscriptions.recipient(session).filter(|to| except != Some(to.sid));
            if let Some(to) = to
                && let Some(event) = to.dialect.record(record, offset.to_owned())
            {
                self.registry.emit_in_turn(to.sid, event.name, &event.arguments).await;
            }
            return;
        }
        let except = except.and_then(|sid| self.io.get_socket(sid));
        for room in audience(&record.room) {
            for dialect in self.subscriptions.dialects(&room) {
                let Some(event) = dialect.record(record, offset.to_owned()) else { continue };
                let to = dialect.socket_room(&room);
                let to = match &except {
                    Some(socket) => socket.to(to),
                    None => self.io.to(to),
                };
                self.emit(to, &event).await;
            }
        }
    }

    /// Emits an event that is not stored to the members of these rooms, except the connections of
    /// one user. A member of several rooms gets it once.
    pub async fn live(&self, rooms: &[RoomName], except: Option<&UserId>, event: &LiveEvent<'_>) {
        let except = except.map(RoomName::personal);
        for dialect in DialectId::all() {
            let Some(event) = dialect.live(event) else { continue };
            let is_spoken =
                |room: &&RoomName| self.subscriptions.dialects(room).any(|one| one == dialect);
            let rooms = rooms.iter().filter(|room| except.as_ref() != Some(room));
            let rooms: Vec<_> =
                rooms.filter(is_spoken).map(|room| dialect.socket_room(room)).collect();
            // For Socket.IO an empty list of rooms means every socket.
            if rooms.is_empty() {
                continue;
            }
            let to = match &except {
                Some(own) => self.io.to(rooms).except(dialect.socket_room(own)),
                None => self.io.to(rooms),
            };
            self.emit(to, &event).await;
        }
    }

    /// Whether the room has a client on this node that takes part in presence.
    pub fn reaches(&self, room: &RoomName) -> bool {
        let is_reached = |room: RoomName| {
            self.subscriptions.dialects(&room).any(|dialect| dialect.features().presence)
        };
        audience(room).any(is_reached)
    }

    async fn emit(&self, to: BroadcastOperators<Adapter>, event: &Event<'_>) {
        if let Err(error) = to.emit(event.name, &event.arguments).await {
            tracing::debug!(event = event.name, %error, "an event did not reach every connection");
        }
    }
}

impl fmt::Debug for Broadcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcaster")
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}
