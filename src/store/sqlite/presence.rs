//! Which users are in which room of the only node, and signals to that node.
//!
//! One lock guards both, so that the steps of a roster are sent in the order of their versions.
//! When the channel is full a signal is dropped, and the node gets `SignalsLost`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, OwnedPermit};

use crate::{
    domain::{name::UserId, room::RoomName, user::User},
    store::{
        NodeEvent,
        presence::{Members, Signal},
    },
};

/// A clonable handle.
#[derive(Debug, Clone)]
pub struct SqlitePresence(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    rooms: HashMap<RoomName, Roster>,
    /// At least the last version of every roster that has become empty.
    version: u64,
    sender: mpsc::Sender<NodeEvent>,
    /// A reserved slot of the channel for `SignalsLost`. `None`: that event is queued already.
    reserved_slot: Option<OwnedPermit<NodeEvent>>,
}

#[derive(Debug)]
struct Roster {
    version: u64,
    users: BTreeMap<UserId, User>,
}

impl SqlitePresence {
    pub fn new(sender: mpsc::Sender<NodeEvent>) -> Self {
        let reserved_slot = sender.clone().try_reserve_owned().ok();
        let (rooms, version) = (HashMap::new(), 0);
        Self(Arc::new(Mutex::new(Inner { rooms, version, sender, reserved_slot })))
    }

    pub fn add(&self, room: RoomName, user: User) {
        let mut inner = self.0.lock();
        let version = inner.version;
        let roster = inner
            .rooms
            .entry(room.clone())
            .or_insert_with(|| Roster { version, users: BTreeMap::new() });
        if roster.users.insert(user.id.clone(), user.clone()).is_some() {
            return;
        }
        let presence = roster.step(room, vec![user], Vec::new());
        inner.send(presence);
    }

    pub fn remove(&self, room: RoomName, user: &UserId) {
        let mut inner = self.0.lock();
        let Some(roster) = inner.rooms.get_mut(&room) else { return };
        if roster.users.remove(user).is_none() {
            return;
        }
        let presence = roster.step(room.clone(), Vec::new(), vec![user.clone()]);
        if roster.users.is_empty() {
            let version = roster.version;
            inner.rooms.remove(&room);
            inner.version = inner.version.max(version);
        }
        inner.send(presence);
    }

    pub fn members(&self, room: &RoomName, users_max: u32) -> Members {
        let inner = self.0.lock();
        let Some(roster) = inner.rooms.get(room) else {
            return Members { version: inner.version, count: 0, users: Vec::new() };
        };
        let users = if roster.users.len() <= users_max as usize {
            roster.users.values().cloned().collect()
        } else {
            Vec::new()
        };
        Members { version: roster.version, count: roster.count(), users }
    }

    /// Rooms with most members first, without rooms of two users.
    pub fn occupied(&self, limit: u32) -> Vec<(RoomName, u32)> {
        let inner = self.0.lock();
        let open = inner.rooms.iter().filter(|(room, _)| !room.is_direct());
        let mut rooms: Vec<_> = open.map(|(room, roster)| (room.clone(), roster.count())).collect();
        drop(inner);
        rooms.sort_by(|(one, most), (other, more)| (more, one).cmp(&(most, other)));
        rooms.truncate(limit as usize);
        rooms
    }

    pub fn publish(&self, signal: Signal) {
        self.0.lock().send(signal);
    }
}

impl Inner {
    fn send(&mut self, signal: Signal) {
        if self.reserved_slot.is_none() {
            self.reserved_slot = self.sender.clone().try_reserve_owned().ok();
        }
        // A dropped signal does no harm: the node reads everything again after the queued
        // `SignalsLost`.
        if self.reserved_slot.is_none() || self.sender.try_send(NodeEvent::Signal(signal)).is_ok() {
            return;
        }
        if let Some(slot) = self.reserved_slot.take() {
            slot.send(NodeEvent::SignalsLost { partition: 0 });
        }
    }
}

impl Roster {
    fn step(&mut self, room: RoomName, joined: Vec<User>, left: Vec<UserId>) -> Signal {
        self.version += 1;
        Signal::Presence { room, version: self.version, joined, left, count: self.count() }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.users.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::UserName;

    fn user(id: usize) -> User {
        let id = id.to_string();
        let name = UserName::parse(&id).unwrap();
        User { id: UserId::parse(&id).unwrap(), name, picture: None }
    }

    #[tokio::test]
    async fn a_signal_that_finds_no_place_is_reported_as_lost() {
        const PLACES: usize = 8;
        let (sender, mut events) = mpsc::channel(PLACES);
        let presence = SqlitePresence::new(sender);
        for id in 0..=PLACES {
            presence.add(RoomName::lobby(), user(id));
        }
        for _ in 1..PLACES {
            assert!(matches!(events.recv().await, Some(NodeEvent::Signal(_))));
        }
        assert_eq!(events.recv().await, Some(NodeEvent::SignalsLost { partition: 0 }));
        assert_eq!(presence.members(&RoomName::lobby(), 0).version, PLACES as u64 + 1);
        presence.add(RoomName::lobby(), user(PLACES + 1));
        assert!(matches!(events.recv().await, Some(NodeEvent::Signal(_))), "there is room again");
    }
}
