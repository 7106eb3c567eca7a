//! Which sockets of this node are subscribed to which rooms, and in which dialects, so that an
//! event without a subscriber here is neither rendered nor queued.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use socketioxide_core::Sid;

use crate::{
    dialects::{DIALECTS, DialectId, dialect::LiveEvent, event::Event},
    domain::{name::PublicId, record::Record, room::RoomName},
    store::sessions::Holder,
    transport::{
        close::CloseReason,
        connect_reply::ConnectReply,
        registry::{Admission, Registry},
    },
};

/// A socket, and the dialect that it keeps until it closes.
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    pub sid: Sid,
    pub dialect: DialectId,
}

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct Subscriptions(Arc<Inner>);

/// Sockets of one room, by dialect.
type Count = [u32; DIALECTS];

#[derive(Debug)]
struct Inner {
    registry: Registry,
    rooms: Mutex<HashMap<RoomName, Count>>,
    /// The socket of each session that can be addressed alone. A Socket.IO room for each session
    /// would cost an idle connection much more memory.
    addressed: Mutex<HashMap<PublicId, (Holder, Recipient)>>,
}

impl Subscriptions {
    pub fn new(registry: Registry) -> Self {
        let (rooms, addressed) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { registry, rooms, addressed }))
    }

    /// From now on the room's events reach the socket.
    pub fn subscribe(&self, to: Recipient, room: &RoomName) {
        self.0.registry.join(to.sid, to.dialect.socket_room(room));
        self.0.rooms.lock().entry(room.clone()).or_default()[to.dialect.index()] += 1;
    }

    pub fn unsubscribe(&self, to: Recipient, room: &RoomName) {
        self.0.registry.leave(to.sid, &to.dialect.socket_room(room));
        self.forget(to, room);
    }

    /// The socket has closed, or another session uses it now: only the bookkeeping is removed here.
    pub fn forget(&self, to: Recipient, room: &RoomName) {
        let mut rooms = self.0.rooms.lock();
        if let Some(count) = rooms.get_mut(room) {
            count[to.dialect.index()] -= 1;
            if *count == Count::default() {
                rooms.remove(room);
            }
        }
    }

    pub fn dialects(&self, room: &RoomName) -> impl Iterator<Item = DialectId> + use<> {
        let count = self.0.rooms.lock().get(room).copied().unwrap_or_default();
        DialectId::all().filter(move |dialect| count[dialect.index()] > 0)
    }

    /// Every room that has a subscribed socket on this node.
    pub fn rooms(&self) -> Vec<RoomName> {
        self.0.rooms.lock().keys().cloned().collect()
    }

    /// From now on events for this session alone go to this socket.
    pub fn address(&self, session: &PublicId, holder: Holder, to: Recipient) {
        self.0.addressed.lock().insert(session.clone(), (holder, to));
    }

    /// Does nothing if another holder of the session is addressed on this node by now.
    pub fn unaddress(&self, session: &PublicId, holder: Holder) {
        let mut addressed = self.0.addressed.lock();
        if addressed.get(session).is_some_and(|(known, _)| *known == holder) {
            addressed.remove(session);
        }
    }

    pub fn recipient(&self, session: &str) -> Option<Recipient> {
        self.0.addressed.lock().get(session).map(|(_, to)| *to)
    }

    pub fn addressed_count(&self) -> usize {
        self.0.addressed.lock().len()
    }

    /// Emits to one socket, in one order with all broadcasts.
    pub fn emit(&self, to: Recipient, event: &LiveEvent<'_>) {
        if let Some(event) = to.dialect.live(event) {
            self.emit_event(to, &event);
        }
    }

    fn emit_event(&self, to: Recipient, event: &Event<'_>) {
        self.0.registry.emit(to.sid, event.name, &event.arguments);
    }

    /// Emits a stored record, if the socket's dialect has an event for it.
    pub fn emit_stored(&self, to: Recipient, record: &Record, offset: String) {
        if let Some(event) = to.dialect.record(record, offset) {
            self.emit_event(to, &event);
        }
    }

    /// Admits the socket; its client gets `reply` once it is connected.
    pub fn admit(&self, to: Recipient, reply: ConnectReply) -> Admission {
        self.0.registry.admit(to.sid, Some(reply))
    }

    pub fn connect_replies_waiting(&self) -> usize {
        self.0.registry.connect_replies_waiting()
    }

    /// The session of this socket was claimed by another connection. No DISCONNECT packet is sent:
    /// after it a client does not reconnect, and a packet on an abandoned connection can arrive
    /// after the client has reconnected elsewhere.
    pub fn close_superseded(&self, sid: Sid) {
        self.0.registry.close(sid, CloseReason::SessionTaken);
    }
}
