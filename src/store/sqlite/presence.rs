//! Who is in which room of the only node, and the signals that wait to be delivered.
//!
//! One lock for both, so that steps of a roster are told in the order of their versions. The
//! writer's thread delivers; what finds no place is dropped, and that is told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    domain::{
        name::{RoomName, UserId},
        user::User,
    },
    store::{
        Delivery,
        presence::{Members, Signal},
    },
};

/// Signals that may wait for the relay.
const WAITING_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub struct SqlitePresence {
    inside: Mutex<Inside>,
    work: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    rooms: HashMap<RoomName, Roster>,
    /// No roster that is empty had a higher version.
    version: u64,
    waiting: Vec<Delivery>,
    lost: bool,
}

#[derive(Debug)]
struct Roster {
    version: u64,
    users: BTreeMap<UserId, User>,
}

impl SqlitePresence {
    pub fn add_presence(&self, room: RoomName, user: User) {
        let mut inside = self.inside();
        let version = inside.version;
        let roster = inside
            .rooms
            .entry(room.clone())
            .or_insert_with(|| Roster { version, users: BTreeMap::new() });
        if roster.users.insert(user.id.clone(), user.clone()).is_some() {
            return;
        }
        let presence = roster.step(room, vec![user], Vec::new());
        self.tell(&mut inside, presence);
    }

    pub fn remove_presence(&self, room: RoomName, user: &UserId) {
        let mut inside = self.inside();
        let Some(roster) = inside.rooms.get_mut(&room) else { return };
        if roster.users.remove(user).is_none() {
            return;
        }
        let presence = roster.step(room.clone(), Vec::new(), vec![user.clone()]);
        if roster.users.is_empty() {
            let version = roster.version;
            inside.rooms.remove(&room);
            inside.version = inside.version.max(version);
        }
        self.tell(&mut inside, presence);
    }

    pub fn members(&self, room: &RoomName, users_max: u32) -> Members {
        let inside = self.inside();
        let Some(roster) = inside.rooms.get(room) else {
            return Members { version: inside.version, count: 0, users: Vec::new() };
        };
        let users = if roster.users.len() <= users_max as usize {
            roster.users.values().cloned().collect()
        } else {
            Vec::new()
        };
        Members { version: roster.version, count: roster.count(), users }
    }

    /// Those with most people first; rooms of two people are left out.
    pub fn occupied(&self, limit: u32) -> Vec<(RoomName, u32)> {
        let inside = self.inside();
        let open = inside.rooms.iter().filter(|(room, _)| !room.as_str().starts_with("dm:"));
        let mut rooms: Vec<_> = open.map(|(room, roster)| (room.clone(), roster.count())).collect();
        drop(inside);
        rooms.sort_by(|(one, most), (other, more)| (more, one).cmp(&(most, other)));
        rooms.truncate(limit as usize);
        rooms
    }

    pub fn signal(&self, signal: Signal) {
        self.tell(&mut self.inside(), signal);
    }

    /// Returns when there is something to deliver.
    pub async fn ready(&self) {
        while self.inside().waiting.is_empty() {
            self.work.notified().await;
        }
    }

    pub fn take(&self) -> Vec<Delivery> {
        let mut inside = self.inside();
        let mut waiting = std::mem::take(&mut inside.waiting);
        if std::mem::take(&mut inside.lost) {
            waiting.push(Delivery::SignalsLost { partition: 0 });
        }
        waiting
    }

    fn tell(&self, inside: &mut Inside, signal: Signal) {
        if inside.waiting.len() < WAITING_MAX {
            inside.waiting.push(Delivery::Signal(signal));
            self.work.notify_one();
        } else {
            inside.lost = true;
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn what_finds_no_place_is_told_as_lost() {
        let rosters = SqlitePresence::default();
        for id in 0..=WAITING_MAX {
            rosters.add_presence(RoomName::lobby(), user(id));
        }
        let told = rosters.take();
        assert_eq!(told.len(), WAITING_MAX + 1);
        assert_eq!(told.last(), Some(&Delivery::SignalsLost { partition: 0 }));
        assert_eq!(rosters.members(&RoomName::lobby(), 0).version, WAITING_MAX as u64 + 1);
        assert_eq!(rosters.take(), []);
    }
}
