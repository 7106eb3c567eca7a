//! Everything that transport keeps of one session, and the rooms of all sessions of a shard.
//!
//! A session has a record from its admission to the namespace, or from the opening of its
//! websocket, whichever comes first, until it has neither. Rooms are in its record and in the
//! index of the shard, always both.

use std::{
    collections::{HashMap, HashSet},
    hint::black_box,
    sync::Arc,
};

use socketioxide_core::{
    Sid,
    adapter::{BroadcastFlags, BroadcastOptions, Room},
};

use crate::transport::{connect_reply::ConnectReply, lane::Lane};

/// A flush looks every client up, so hashing must be quick. It is seeded at random, because a
/// client that upgrades chooses which session it names.
pub type BySession<T> = HashMap<Sid, T, foldhash::fast::RandomState>;
type Sids = HashSet<Sid, foldhash::fast::RandomState>;

/// One session's connection.
#[derive(Debug)]
struct Connection {
    link: Link,
    /// The number of its last admission to the namespace; 0 before the first.
    admission: u64,
    rooms: Vec<Arc<str>>,
}

/// Where the next bytes for a client go, and its connect reply with them.
#[derive(Debug)]
enum Link {
    Polling(Option<Box<ConnectReply>>),
    /// The lane has the connect reply.
    Websocket(Arc<Lane>),
}

/// The sessions of one flush task.
#[derive(Debug, Default)]
pub struct Shard {
    connections: BySession<Connection>,
    rooms: HashMap<Arc<str>, Sids>,
}

impl Shard {
    /// The session's lane. A polling session has none.
    pub fn lane(&self, sid: Sid) -> Option<&Arc<Lane>> {
        match &self.connections.get(&sid)?.link {
            Link::Websocket(lane) => Some(lane),
            Link::Polling(_) => None,
        }
    }

    /// The lanes of some sessions, in their order.
    pub fn lanes(&self, sids: &[Sid]) -> Vec<Option<Arc<Lane>>> {
        let found: Vec<Option<&Arc<Lane>>> = sids.iter().map(|sid| self.lane(*sid)).collect();
        // Since a lane was last written to, the system has had the caches for itself. Plain reads
        // wait for memory side by side; cloning one after the other does not.
        black_box(found.iter().flatten().map(|lane| Arc::strong_count(lane)).sum::<usize>());
        found.into_iter().map(Option::<&_>::cloned).collect()
    }

    pub fn sids(&self) -> impl Iterator<Item = Sid> {
        self.connections.keys().copied()
    }

    /// The session has this lane from now on. `false`: it has another one.
    pub fn open(&mut self, sid: Sid, lane: &Arc<Lane>) -> bool {
        let connection = self.connections.entry(sid).or_default();
        let Link::Polling(reply) = &mut connection.link else { return false };
        // Until the upgrade is through, the CONNECT reply may still pass in a poll.
        if reply.is_some() {
            lane.set_connect_reply(reply.take());
        }
        connection.link = Link::Websocket(Arc::clone(lane));
        true
    }

    /// The lane has ended, and the session ends with it. `false`: the session is not known by it.
    pub fn close(&mut self, sid: Sid, lane: &Arc<Lane>) -> bool {
        let is_this = self.lane(sid).is_some_and(|known| Arc::ptr_eq(known, lane));
        if is_this {
            self.remove(sid);
        }
        is_this
    }

    /// The session is admitted to the namespace, in no room yet.
    pub fn admit(&mut self, sid: Sid, admission: u64, reply: Option<ConnectReply>) {
        self.leave_all(sid);
        let connection = self.connections.entry(sid).or_default();
        connection.admission = admission;
        connection.set_connect_reply(reply.map(Box::new));
    }

    /// This admission is over. Another one may have begun on the same connection.
    pub fn dismiss(&mut self, sid: Sid, admission: u64) {
        let Some(connection) = self.connections.get_mut(&sid) else { return };
        if connection.admission != admission {
            return;
        }
        match connection.link {
            Link::Polling(_) => self.remove(sid),
            Link::Websocket(_) => {
                connection.set_connect_reply(None);
                self.leave_all(sid);
            }
        }
    }

    pub fn has_connect_reply(&self, sid: Sid) -> bool {
        self.connections.get(&sid).is_some_and(Connection::has_connect_reply)
    }

    pub fn take_connect_reply(&mut self, sid: Sid) -> Option<Box<ConnectReply>> {
        match &mut self.connections.get_mut(&sid)?.link {
            Link::Polling(reply) => reply.take(),
            Link::Websocket(lane) => lane.take_connect_reply(),
        }
    }

    pub fn connect_replies(&self) -> usize {
        self.connections.values().filter(|connection| connection.has_connect_reply()).count()
    }

    /// `false`: the session is in the room already, or its connection has ended.
    pub fn join(&mut self, sid: Sid, room: &str) -> bool {
        let Some(connection) = self.connections.get_mut(&sid) else { return false };
        if connection.is_in(room) {
            return false;
        }
        let name = match self.rooms.get_key_value(room) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(room),
        };
        // Most sessions are in one room or two.
        connection.rooms.reserve_exact(1);
        connection.rooms.push(Arc::clone(&name));
        self.rooms.entry(name).or_default().insert(sid);
        true
    }

    pub fn leave(&mut self, sid: Sid, room: &str) {
        if let Some(connection) = self.connections.get_mut(&sid) {
            connection.rooms.retain(|name| **name != *room);
            remove_member(&mut self.rooms, room, sid);
        }
    }

    pub fn leave_all(&mut self, sid: Sid) {
        let Some(connection) = self.connections.get_mut(&sid) else { return };
        for room in std::mem::take(&mut connection.rooms) {
            remove_member(&mut self.rooms, &room, sid);
        }
    }

    pub fn is_in(&self, sid: Sid, room: &str) -> bool {
        self.connections.get(&sid).is_some_and(|connection| connection.is_in(room))
    }

    /// Which sessions are in the audience: of its rooms, or of `everybody` if it names none. Rooms,
    /// `except` and the sender of a broadcast mean what they mean in socketioxide.
    pub fn audience(&self, audience: &BroadcastOptions, mut everybody: Vec<Sid>) -> Vec<Sid> {
        let members = |room: &Room| self.rooms.get(&**room).into_iter().flatten().copied();
        let sender = audience.sid.filter(|_| audience.has_flag(BroadcastFlags::Broadcast));
        let mut except: Sids = audience.except.iter().flat_map(members).chain(sender).collect();
        match audience.rooms.as_slice() {
            [] => {
                everybody.retain(|sid| !except.contains(sid));
                everybody
            }
            [room] => members(room).filter(|sid| !except.contains(sid)).collect(),
            rooms => rooms.iter().flat_map(members).filter(|sid| except.insert(*sid)).collect(),
        }
    }

    fn remove(&mut self, sid: Sid) {
        self.leave_all(sid);
        self.connections.remove(&sid);
        let capacity = self.connections.capacity();
        if capacity > 64 && self.connections.len() < capacity / 8 {
            self.connections.shrink_to_fit();
        }
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self { link: Link::Polling(None), admission: 0, rooms: Vec::new() }
    }
}

impl Connection {
    fn is_in(&self, room: &str) -> bool {
        self.rooms.iter().any(|name| **name == *room)
    }

    fn set_connect_reply(&mut self, new: Option<Box<ConnectReply>>) {
        match &mut self.link {
            Link::Polling(reply) => *reply = new,
            Link::Websocket(lane) => lane.set_connect_reply(new),
        }
    }

    fn has_connect_reply(&self) -> bool {
        match &self.link {
            Link::Polling(reply) => reply.is_some(),
            Link::Websocket(lane) => lane.has_connect_reply(),
        }
    }
}

fn remove_member(rooms: &mut HashMap<Arc<str>, Sids>, room: &str, sid: Sid) {
    if let Some(members) = rooms.get_mut(room) {
        members.remove(&sid);
        if members.is_empty() {
            rooms.remove(room);
        }
    }
}

#[cfg(test)]
mod tests;
