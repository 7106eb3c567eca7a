//! Emits to the sockets of this node. An event is rendered once per dialect of the room's sockets.

use std::fmt;

use socketioxide::operators::BroadcastOperators;

use crate::domain::{
    name::{PublicId, UserId},
    record::{PassedEvent, Record},
    room::{RoomKind, RoomName},
    visibility::{audience, is_own_direct},
};
use crate::{
    delivery::subscriptions::Subscriptions,
    dialects::{
        DialectId,
        dialect::{Dialect, LiveEvent},
        event::Event,
        offset::RecordOffset,
    },
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
    pub async fn record(&self, record: &Record, offset: &RecordOffset) {
        let except = record.except.as_ref();
        let render = |dialect: &'static dyn Dialect, room: &RoomName| {
            let is_own = match room.kind() {
                RoomKind::Personal { user } => is_own_direct(user, record),
                _ => false,
            };
            if is_own && !dialect.features().own_direct {
                return Vec::new();
            }
            dialect.record(record, offset)
        };
        self.emit_to(&record.room, except, render).await;
    }

    /// Emits an event that is passed on to every socket that receives it.
    pub async fn passed_on(&self, passed: &PassedEvent) {
        let (except, event) = (passed.except.as_ref(), LiveEvent::PassedOn(passed));
        self.emit_to(&passed.room, except, |dialect, _room| dialect.live(&event)).await;
    }

    /// Emits one of the events that all clients of a dialect get again and again.
    pub async fn tick(&self, dialect: DialectId, index: usize) {
        let lobby = RoomName::lobby();
        if self.subscriptions.dialects_in(&lobby).any(|one| one == dialect) {
            for event in dialect.live(&LiveEvent::Tick(index)) {
                self.emit(self.io.to(dialect.socket_room(&lobby)), &event).await;
            }
        }
    }

    /// Emits what is written in a room, in the dialect of each socket, to all but one session.
    async fn emit_to<'a>(
        &self,
        room: &RoomName,
        except: Option<&PublicId>,
        render: impl Fn(&'static dyn Dialect, &RoomName) -> Vec<Event<'a>>,
    ) {
        let recipient_of = |session: &PublicId| self.subscriptions.recipient(session.as_str());
        let except = except.and_then(recipient_of).map(|to| to.sid);
        // A session has no Socket.IO room, so its socket is looked up by the session's id.
        if let RoomKind::Socket { session } = room.kind() {
            let to = self.subscriptions.recipient(session).filter(|to| except != Some(to.sid));
            let Some(to) = to else { return };
            for event in render(to.dialect.get(), room) {
                self.registry.emit_when_not_full(to.sid, &event.name, &event.arguments).await;
            }
            return;
        }
        let except = except.and_then(|sid| self.io.get_socket(sid));
        for room in audience(room) {
            for dialect in self.subscriptions.dialects_in(&room) {
                for event in render(dialect.get(), &room) {
                    let to = dialect.socket_room(&room);
                    let to = match &except {
                        Some(socket) => socket.to(to),
                        None => self.io.to(to),
                    };
                    self.emit(to, &event).await;
                }
            }
        }
    }

    /// Emits an event that is not stored to the members of these rooms, except the connections of
    /// one user. A member of several rooms gets it once.
    pub async fn live(&self, rooms: &[RoomName], except: Option<&UserId>, event: &LiveEvent<'_>) {
        let except = except.map(RoomName::personal);
        for dialect in self.subscriptions.dialects().all() {
            let has_subscriber =
                |room: &&RoomName| self.subscriptions.dialects_in(room).any(|one| one == dialect);
            let rooms = rooms.iter().filter(|room| except.as_ref() != Some(room));
            let rooms: Vec<_> =
                rooms.filter(has_subscriber).map(|room| dialect.socket_room(room)).collect();
            // For Socket.IO an empty list of rooms means every socket.
            if rooms.is_empty() {
                continue;
            }
            for event in dialect.live(event) {
                let to = match &except {
                    Some(own) => self.io.to(rooms.clone()).except(dialect.socket_room(own)),
                    None => self.io.to(rooms.clone()),
                };
                self.emit(to, &event).await;
            }
        }
    }

    /// Whether the room has a client on this node.
    pub fn is_heard(&self, room: &RoomName) -> bool {
        self.subscriptions.dialects_in(room).next().is_some()
    }

    /// Whether the room has a client on this node that takes part in presence.
    pub fn reaches(&self, room: &RoomName) -> bool {
        let is_reached = |room: RoomName| {
            self.subscriptions.dialects_in(&room).any(|dialect| dialect.features().presence)
        };
        audience(room).any(is_reached)
    }

    async fn emit(&self, to: BroadcastOperators<Adapter>, event: &Event<'_>) {
        if let Err(error) = to.emit(&event.name, &event.arguments).await {
            tracing::debug!(event = %event.name, %error, "an event did not reach every connection");
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
