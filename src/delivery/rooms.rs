//! Which rooms this node holds, and in which dialects they are spoken: what nobody here wants is
//! neither rendered nor queued. And where those sit who are reached one by one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use socketioxide_core::Sid;

use crate::dialects::Dialect;
use crate::{
    domain::name::{PublicId, RoomName},
    store::sessions::Holder,
};

/// Sockets of one room, by dialect.
type Count = [u32; Dialect::ALL.len()];

/// A clonable handle.
#[derive(Debug, Clone, Default)]
pub struct Rooms(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rooms: Mutex<HashMap<RoomName, Count>>,
    /// Which socket a session of the native dialect is heard on. A Socket.IO room for each would
    /// cost an idle connection much more.
    seats: Mutex<HashMap<PublicId, (Holder, Sid)>>,
}

impl Rooms {
    pub fn enter(&self, room: &RoomName, dialect: Dialect) {
        self.lock().entry(room.clone()).or_default()[dialect as usize] += 1;
    }

    /// For a socket that has entered.
    pub fn leave(&self, room: &RoomName, dialect: Dialect) {
        let mut rooms = self.lock();
        if let Some(count) = rooms.get_mut(room) {
            count[dialect as usize] -= 1;
            if *count == Count::default() {
                rooms.remove(room);
            }
        }
    }

    pub fn dialects(&self, room: &RoomName) -> impl Iterator<Item = Dialect> + use<> {
        let count = self.lock().get(room).copied().unwrap_or_default();
        Dialect::ALL.into_iter().filter(move |dialect| count[*dialect as usize] > 0)
    }

    pub fn all(&self) -> Vec<RoomName> {
        self.lock().keys().cloned().collect()
    }

    /// From now on what is said to this session goes to this socket.
    pub fn seat(&self, session: &PublicId, holder: Holder, sid: Sid) {
        self.seats().insert(session.clone(), (holder, sid));
    }

    /// Unless somebody else holds the session here by now.
    pub fn unseat(&self, session: &PublicId, holder: Holder) {
        let mut seats = self.seats();
        if seats.get(session).is_some_and(|(seated, _)| *seated == holder) {
            seats.remove(session);
        }
    }

    pub fn seated(&self, session: &PublicId) -> Option<Sid> {
        self.seats().get(session).map(|(_, sid)| *sid)
    }

    pub fn count_seated(&self) -> usize {
        self.seats().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomName, Count>> {
        self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<PublicId, (Holder, Sid)>> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
