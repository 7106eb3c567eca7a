//! The roster of a room: which users are in it, as one node knows it.
//!
//! Steps of the roster arrive in any order, more than once, or not at all. Their versions show
//! which. After a missed step the whole roster is read and compared with the known one, so every
//! join and every leave is told exactly once.

use std::collections::BTreeMap;

use crate::domain::{name::UserId, user::User};

/// Most users that a roster lists. Of a larger room only the count is known.
pub const LISTED_MAX: u32 = 500;

/// One change of a room's roster. All nodes see the steps in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterStep {
    /// One more than the version of the step before.
    pub version: u64,
    pub joined: Vec<User>,
    pub left: Vec<UserId>,
    /// Users in the room after the step.
    pub count: u32,
}

/// The whole roster at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterSnapshot {
    pub version: u64,
    pub count: u32,
    /// Empty, when there are more than `LISTED_MAX`.
    pub users: Vec<User>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    version: u64,
    count: u32,
    users: BTreeMap<UserId, User>,
}

/// What a step or a snapshot did to the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RosterUpdate {
    Changed(RosterChange),
    /// The roster is as new already.
    Known,
    /// Earlier steps, or the names of users, are missing: the roster must be read.
    Missing,
}

/// Users that joined and left since clients were last told. A join and a leave of the same user
/// cancel each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RosterChange {
    joined: BTreeMap<UserId, User>,
    left: BTreeMap<UserId, User>,
    count: u32,
}

impl Roster {
    pub fn apply(&mut self, step: RosterStep) -> RosterUpdate {
        if step.version <= self.version {
            return RosterUpdate::Known;
        }
        let was_listed = self.count <= LISTED_MAX;
        let is_listed = step.count <= LISTED_MAX;
        // The first step after a room was empty has a higher version, and lists all users.
        let is_all = step.joined.len() == step.count as usize;
        let follows = step.version == self.version + 1 && (was_listed || !is_listed);
        if !follows && !is_all {
            return RosterUpdate::Missing;
        }
        if !follows {
            let (version, count, users) = (step.version, step.count, step.joined);
            return self.replace(RosterSnapshot { version, count, users });
        }
        let mut change = RosterChange { count: step.count, ..RosterChange::default() };
        self.version = step.version;
        self.count = step.count;
        if !is_listed {
            self.users.clear();
            return RosterUpdate::Changed(change);
        }
        for user in step.joined {
            if self.users.insert(user.id.clone(), user.clone()).is_none() {
                change.joined.insert(user.id.clone(), user);
            }
        }
        for id in step.left {
            if let Some(user) = self.users.remove(&id) {
                change.left.insert(id, user);
            }
        }
        RosterUpdate::Changed(change)
    }

    /// Replaces what was known by what was read, and returns the difference.
    pub fn replace(&mut self, snapshot: RosterSnapshot) -> RosterUpdate {
        if snapshot.version < self.version {
            return RosterUpdate::Known;
        }
        let users: BTreeMap<UserId, User> =
            snapshot.users.into_iter().map(|user| (user.id.clone(), user)).collect();
        let mut change = RosterChange { count: snapshot.count, ..RosterChange::default() };
        for (id, user) in &users {
            if !self.users.contains_key(id) {
                change.joined.insert(id.clone(), user.clone());
            }
        }
        // A snapshot of a large room lists nobody, which does not mean that all have left.
        if snapshot.count <= LISTED_MAX {
            let gone = self.users.iter().filter(|(id, _)| !users.contains_key(*id));
            change.left = gone.map(|(id, user)| (id.clone(), user.clone())).collect();
        }
        *self = Self { version: snapshot.version, count: snapshot.count, users };
        RosterUpdate::Changed(change)
    }

    /// Steps may have been missed, or the store was emptied: the next snapshot counts, whatever its
    /// version is.
    pub fn invalidate(&mut self) {
        self.version = 0;
    }

    /// A user has another name or picture. `false`: the user is not listed here.
    pub fn rename(&mut self, user: &User) -> bool {
        match self.users.get_mut(&user.id) {
            Some(known) => {
                *known = user.clone();
                true
            }
            None => false,
        }
    }

    pub fn lists(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// None, when there are more than `LISTED_MAX`.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }
}

impl RosterChange {
    /// Adds a later change, so that clients are told both at once.
    pub fn merge(&mut self, later: Self) {
        self.count = later.count;
        for (id, user) in later.joined {
            if self.left.remove(&id).is_none() {
                self.joined.insert(id, user);
            }
        }
        for (id, user) in later.left {
            if self.joined.remove(&id).is_none() {
                self.left.insert(id, user);
            }
        }
    }

    /// A user has another name or picture: clients are told the new one.
    pub fn rename(&mut self, user: &User) {
        for told in [&mut self.joined, &mut self.left] {
            if let Some(known) = told.get_mut(&user.id) {
                *known = user.clone();
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.left.is_empty() && self.count <= LISTED_MAX
    }

    pub fn has_joined(&self, user: &UserId) -> bool {
        self.joined.contains_key(user)
    }

    pub fn joined(&self) -> impl Iterator<Item = &User> {
        self.joined.values()
    }

    pub fn left(&self) -> impl Iterator<Item = &User> {
        self.left.values()
    }

    pub fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::name::UserName;

    fn user(n: u8) -> User {
        let id = UserId::parse(&format!("u{n}")).unwrap();
        User { id, name: UserName::parse(&format!("name {n}")).unwrap(), picture: None }
    }

    /// What really happened: each step lets one user join or leave.
    fn steps(toggled: &[u8]) -> (Vec<RosterStep>, Vec<RosterSnapshot>) {
        let mut here: BTreeMap<UserId, User> = BTreeMap::new();
        let (mut steps, mut truth) = (Vec::new(), vec![snapshot(0, &here)]);
        for (version, n) in (1..).zip(toggled) {
            let user = user(*n);
            let (mut joined, mut left) = (Vec::new(), Vec::new());
            if here.remove(&user.id).is_some() {
                left.push(user.id);
            } else {
                here.insert(user.id.clone(), user.clone());
                joined.push(user);
            }
            let count = u32::try_from(here.len()).unwrap();
            steps.push(RosterStep { version, joined, left, count });
            truth.push(snapshot(version, &here));
        }
        (steps, truth)
    }

    fn snapshot(version: u64, here: &BTreeMap<UserId, User>) -> RosterSnapshot {
        let count = u32::try_from(here.len()).unwrap();
        RosterSnapshot { version, count, users: here.values().cloned().collect() }
    }

    fn ids<'a>(users: impl Iterator<Item = &'a User>) -> Vec<UserId> {
        users.map(|user| user.id.clone()).collect()
    }

    /// Applies `change` to what a client knows.
    fn told(known: &mut BTreeMap<UserId, User>, change: &RosterChange) {
        for user in change.joined() {
            assert!(known.insert(user.id.clone(), user.clone()).is_none(), "told twice");
        }
        for user in change.left() {
            assert!(known.remove(&user.id).is_some(), "one left who was not there");
        }
    }

    proptest! {
        /// Steps may be lost, repeated or late, with snapshots between them. In the end the roster
        /// is right, and a client that applied all changes knows the same users.
        #[test]
        fn steps_in_any_order_end_in_the_same_roster(
            toggled in proptest::collection::vec(0u8..6, 1..40),
            arrivals in proptest::collection::vec((0usize..40, any::<bool>()), 0..80),
        ) {
            let (steps, truth) = steps(&toggled);
            let mut roster = Roster::default();
            let mut client = BTreeMap::new();
            let mut batch: Option<RosterChange> = None;
            let last = (steps.len() - 1, true);
            for (at, is_read) in arrivals.into_iter().chain([last]) {
                let at = at % steps.len();
                let mut applied = roster.apply(steps[at].clone());
                if is_read || applied == RosterUpdate::Missing {
                    let read = roster.replace(truth[at + 1].clone());
                    applied = match (applied, read) {
                        (RosterUpdate::Changed(mut first), RosterUpdate::Changed(then)) => {
                            first.merge(then);
                            RosterUpdate::Changed(first)
                        }
                        (_, read) => read,
                    };
                }
                if let RosterUpdate::Changed(change) = applied {
                    match &mut batch {
                        Some(batch) => batch.merge(change),
                        None => batch = Some(change),
                    }
                }
                if at % 3 == 0 && let Some(batch) = batch.take() {
                    told(&mut client, &batch);
                }
            }
            if let Some(batch) = batch.take() {
                told(&mut client, &batch);
            }
            let end = truth.last().unwrap();
            prop_assert_eq!(ids(roster.users()), ids(end.users.iter()));
            prop_assert_eq!(roster.count(), end.count);
            prop_assert_eq!(ids(client.values()), ids(end.users.iter()));
        }
    }

    #[test]
    fn a_user_that_is_renamed_before_others_are_told_joins_with_the_new_name() {
        let (steps, _) = steps(&[1]);
        let mut roster = Roster::default();
        let RosterUpdate::Changed(mut change) = roster.apply(steps[0].clone()) else { panic!() };
        let renamed = User { name: UserName::parse("Ann").unwrap(), ..user(1) };
        assert!(roster.rename(&renamed));
        change.rename(&renamed);
        assert_eq!(change.joined().collect::<Vec<_>>(), [&renamed]);
    }

    #[test]
    fn a_room_that_is_too_large_to_list_has_a_count() {
        let mut roster = Roster::default();
        let users = |n: u16| {
            let user = |n: u16| {
                let id = UserId::parse(&format!("u{n:05}")).unwrap();
                User { id, name: UserName::parse("x").unwrap(), picture: None }
            };
            (0..n).map(user).collect::<Vec<_>>()
        };
        roster.replace(RosterSnapshot { version: 7, count: 500, users: users(500) });
        let more = RosterStep { version: 8, joined: vec![user(1)], left: Vec::new(), count: 501 };
        let RosterUpdate::Changed(change) = roster.apply(more) else { panic!("a change") };
        assert_eq!((change.joined().count(), change.count(), roster.users().count()), (0, 501, 0));
        let fewer = RosterStep { version: 9, joined: vec![], left: vec![user(1).id], count: 500 };
        assert_eq!(roster.apply(fewer), RosterUpdate::Missing, "the names must be read");
    }
}
