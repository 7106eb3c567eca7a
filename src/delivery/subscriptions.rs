//! Which sockets of this node are subscribed to which rooms, and in which dialects, so that an
//! event without a subscriber here is neither rendered nor queued.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use socketioxide_core::Sid;

use crate::{
    dialects::{DialectId, Dialects, dialect::LiveEvent, event::Event, offset::RecordOffset},
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
type Count = Box<[u32]>;

#[derive(Debug)]
struct Inner {
    registry: Registry,
    dialects: Dialects,
    rooms: Mutex<HashMap<RoomName, Count>>,
    /// The socket of each session that can be addressed alone. A Socket.IO room for each session
    /// would cost an idle connection much more memory.
    addressed: Mutex<HashMap<PublicId, (Holder, Recipient)>>,
}

impl Subscriptions {
    pub fn new(registry: Registry, dialects: Dialects) -> Self {
        let (rooms, addressed) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { registry, dialects, rooms, addressed }))
    }

    /// The dialects of this node.
    pub fn dialects(&self) -> Dialects {
        self.0.dialects
    }

    /// From now on the room's events reach the socket.
    pub fn subscribe(&self, to: Recipient, room: &RoomName) {
        self.0.registry.join(to.sid, to.dialect.socket_room(room));
        let none = || vec![0; self.0.dialects.count()].into_boxed_slice();
        self.0.rooms.lock().entry(room.clone()).or_insert_with(none)[to.dialect.index()] += 1;
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
            if count.iter().all(|sockets| *sockets == 0) {
                rooms.remove(room);
            }
        }
    }

    /// The dialects that sockets in the room speak.
    pub fn dialects_in(&self, room: &RoomName) -> impl Iterator<Item = DialectId> + use<> {
        let mut found = 0_u64;
        if let Some(count) = self.0.rooms.lock().get(room) {
            for (index, sockets) in count.iter().enumerate() {
                found |= u64::from(*sockets > 0) << index;
            }
        }
        self.0.dialects.all().filter(move |dialect| found & (1 << dialect.index()) != 0)
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
        self.emit_all(to, &to.dialect.live(event));
    }

    /// Emits a stored record, if the socket's dialect has events for it.
    pub fn emit_stored(&self, to: Recipient, record: &Record, offset: &RecordOffset) {
        self.emit_all(to, &to.dialect.record(record, offset));
    }

    fn emit_all(&self, to: Recipient, events: &[Event<'_>]) {
        for event in events {
            self.0.registry.emit(to.sid, &event.name, &event.arguments);
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
