//! Emits to the rooms of this node, for those in them who speak the dialect.

use std::fmt;

use socketioxide::operators::BroadcastOperators;
use socketioxide_core::adapter::Room;

use crate::domain::{
    name::{PublicId, UserId},
    record::Record,
    room::{RoomKind, RoomName},
    visibility::audience,
};
use crate::{
    delivery::subscriptions::Subscriptions,
    dialects::{Dialect, Event},
    transport::{Io, adapter::Adapter, registry::Registry},
};

/// A clonable handle. What one caller tells is told in order.
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

    /// A record of the log, for everybody who receives it. `offset` is that of a client that has it.
    pub async fn record(&self, record: &Record, offset: &str) {
        let stored = |dialect| Event::stored(record, dialect, offset.to_owned());
        let socket_of = |session: &PublicId| self.subscriptions.socket_of(session.as_str());
        let except = record.except.as_ref().and_then(socket_of);
        // A session has no Socket.IO room: its socket is found by its id.
        if let RoomKind::Socket { session } = record.room.kind() {
            let told = self.subscriptions.socket_of(session).filter(|sid| except != Some(*sid));
            if let (Some(sid), Some(event)) = (told, stored(Dialect::Native)) {
                self.registry.emit_in_turn(sid, event.name, &event.arguments).await;
            }
            return;
        }
        let except = except.and_then(|sid| self.io.get_socket(sid));
        for room in audience(&record.room) {
            for dialect in self.subscriptions.dialects(&room) {
                let Some(event) = stored(dialect) else { continue };
                let to = dialect.room(&room);
                let to = match &except {
                    Some(socket) => socket.to(to),
                    None => self.io.to(to),
                };
                self.emit(to, &event).await;
            }
        }
    }

    /// An event that looks alike in every dialect.
    pub async fn everybody(&self, room: &RoomName, event: &Event<'_>) {
        for dialect in self.subscriptions.dialects(room) {
            self.emit(self.io.to(dialect.room(room)), event).await;
        }
    }

    /// An event that only one dialect has.
    pub async fn only(&self, room: &RoomName, dialect: Dialect, event: &Event<'_>) {
        self.union(std::slice::from_ref(room), dialect, event).await;
    }

    /// An event for the members of these rooms. A member of several gets it once.
    pub async fn union(&self, rooms: &[RoomName], dialect: Dialect, event: &Event<'_>) {
        let rooms = self.spoken(rooms, dialect);
        // No room at all would mean every socket.
        if !rooms.is_empty() {
            self.emit(self.io.to(rooms), event).await;
        }
    }

    /// An event for those who are told what is said in the room, except the connections of this
    /// user.
    pub async fn others(
        &self,
        room: &RoomName,
        dialect: Dialect,
        user: &UserId,
        event: &Event<'_>,
    ) {
        let own = RoomName::personal(user);
        let audience: Vec<RoomName> = audience(room).filter(|room| *room != own).collect();
        let rooms = self.spoken(&audience, dialect);
        if !rooms.is_empty() {
            self.emit(self.io.to(rooms).except(dialect.room(&own)), event).await;
        }
    }

    /// An event for those who are told what is said in the room.
    pub async fn audience(&self, room: &RoomName, dialect: Dialect, event: &Event<'_>) {
        self.union(&audience(room).collect::<Vec<_>>(), dialect, event).await;
    }

    /// The Socket.IO rooms of those of these rooms in which this dialect is spoken here.
    fn spoken(&self, rooms: &[RoomName], dialect: Dialect) -> Vec<Room> {
        let is_spoken =
            |room: &&RoomName| self.subscriptions.dialects(room).any(|spoken| spoken == dialect);
        rooms.iter().filter(is_spoken).map(|room| dialect.room(room)).collect()
    }

    /// Whether somebody on this node is told what is said in the room.
    pub fn reaches(&self, room: &RoomName, dialect: Dialect) -> bool {
        audience(room)
            .any(|room| self.subscriptions.dialects(&room).any(|spoken| spoken == dialect))
    }

    async fn emit(&self, to: BroadcastOperators<Adapter>, event: &Event<'_>) {
        if let Err(error) = to.emit(event.name, &event.arguments).await {
            tracing::debug!(event = event.name, %error, "not every connection took an event");
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
