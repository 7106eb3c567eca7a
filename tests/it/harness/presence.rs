//! Presence and profiles at a store: what tests write, read, and hear of rosters.

use std::collections::{BTreeMap, HashMap};

use roomcast::{
    domain::{
        name::{UserId, UserName},
        room::RoomName,
        user::{ProfilePatch, User},
    },
    store::{
        NodeEvent, Store,
        presence::{Members, Signal},
    },
};
use tokio::time::timeout;

use super::store::{DEADLINE, Node, room};

pub fn id(text: &str) -> UserId {
    UserId::parse(text).expect("a user")
}

pub fn user_named(user: &str, name: &str) -> User {
    let name = UserName::parse(name).expect("a name");
    User { id: id(user), name, picture: None }
}

pub async fn members(store: &Store, name: &str) -> Members {
    let members = timeout(DEADLINE, store.presence.members(room(name), 100_000)).await;
    members.expect("in time").expect("it can be read")
}

/// Everything that others see of a user, as a patch.
pub fn patch(user: &User) -> ProfilePatch {
    let User { id, name, picture } = user.clone();
    ProfilePatch { user: id, name: Some(name), picture }
}

pub async fn save(store: &Store, user: &User) -> bool {
    let saved = timeout(DEADLINE, store.profiles.patch(patch(user))).await;
    saved.expect("in time").expect("it can be written").is_some()
}

pub async fn profile(store: &Store, user: &str) -> Option<User> {
    timeout(DEADLINE, store.profiles.profile(id(user)))
        .await
        .expect("in time")
        .expect("it can be read")
}

pub async fn mark(store: &Store, user: &str, name: &str, seq: u64) -> u64 {
    let marked = timeout(DEADLINE, store.inbox.mark_read(id(user), room(name), seq)).await;
    marked.expect("in time").expect("it can be written")
}

/// A roster that is built only from the steps that were heard.
#[derive(Debug, Default)]
pub struct HeardRoster {
    pub version: u64,
    pub users: BTreeMap<UserId, User>,
}

/// What a node has heard.
#[derive(Debug, Default)]
pub struct Watch {
    pub rosters: HashMap<RoomName, HeardRoster>,
    /// Signals that are no steps.
    pub others: Vec<Signal>,
    pub lost: usize,
    pub steps: usize,
    /// The users that have left a room, as often as it was told.
    pub left: Vec<UserId>,
}

impl Watch {
    /// Goes on listening until it is so.
    pub async fn until(&mut self, node: &mut Node, what: &str, so: impl Fn(&Self) -> bool) {
        while !so(self) {
            let event = timeout(DEADLINE, node.node_events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("in time: {what}; heard {self:?}"));
            self.take(event.expect("the store runs"));
        }
    }

    fn take(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Signal(Signal::Presence { room, version, joined, left, count }) => {
                self.steps += 1;
                self.step(&room, version, joined, left);
                assert_eq!(self.count(room.as_str()), count as usize, "of {room} at {version}");
            }
            NodeEvent::Signal(other) => self.others.push(other),
            NodeEvent::SignalsLost { .. } => self.lost += 1,
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, room: &RoomName, version: u64, joined: Vec<User>, left: Vec<UserId>) {
        let heard = self.rosters.entry(room.clone()).or_default();
        if heard.users.is_empty() {
            assert!(version > heard.version, "{version} after {} of {room}", heard.version);
        } else {
            assert_eq!(version, heard.version + 1, "dense in {room}");
        }
        heard.version = version;
        assert!(!joined.is_empty() || !left.is_empty(), "a step of nobody");
        for user in joined {
            let was = heard.users.insert(user.id.clone(), user);
            assert_eq!(was, None, "was there already");
        }
        for user in left {
            assert!(heard.users.remove(&user).is_some(), "{user} was not there");
            self.left.push(user);
        }
    }

    pub fn count(&self, name: &str) -> usize {
        self.rosters.get(&room(name)).map_or(0, |heard| heard.users.len())
    }

    /// Applying the steps to nothing gives what a fresh read gives.
    pub async fn check(&self, store: &Store, name: &str) {
        let members = members(store, name).await;
        let heard = &self.rosters[&room(name)];
        let users: Vec<User> = heard.users.values().cloned().collect();
        assert_eq!((members.users, members.count as usize), (users, heard.users.len()), "{name}");
        if !heard.users.is_empty() {
            assert_eq!(members.version, heard.version, "{name}");
        }
        assert!(members.version >= heard.version, "{name}");
    }
}
