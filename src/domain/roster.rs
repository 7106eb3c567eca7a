//! Who is in a room, as one node knows it: a value that the steps of the roster are applied to.
//!
//! Steps come in any order, more than once, or not at all; the version tells. What was missed is
//! read anew and compared, so that every join and every leave is told exactly once.

use std::collections::BTreeMap;

use crate::domain::{name::UserId, user::User};

/// People whose names a room lists; a larger room has a count only.
pub const LISTED_MAX: u32 = 500;

/// One change of a room's roster, in all nodes' one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// One more than that of the step before.
    pub version: u64,
    pub joined: Vec<User>,
    pub left: Vec<UserId>,
    /// People in the room after it.
    pub count: u32,
}

/// The whole roster at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub version: u64,
    pub count: u32,
    /// Nobody, when there are more than `LISTED_MAX`.
    pub users: Vec<User>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    version: u64,
    count: u32,
    users: BTreeMap<UserId, User>,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Changed(RosterChange),
    /// It was applied before.
    Known,
    /// Steps before it, or the names that it needs, are missing: the roster must be read.
    Missing,
}

/// Who has come and gone since somebody was told last. A coming and a going cancel each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RosterChange {
    joined: BTreeMap<UserId, User>,
    left: BTreeMap<UserId, User>,
    count: u32,
}

impl Roster {
    pub fn apply(&mut self, step: Step) -> Applied {
        if step.version <= self.version {
            return Applied::Known;
        }
        let was_listed = self.count <= LISTED_MAX;
        let is_listed = step.count <= LISTED_MAX;
        // After a room was empty its versions go on higher, and its first step has everybody.
        let is_all = step.joined.len() == step.count as usize;
        let follows = step.version == self.version + 1 && (was_listed || !is_listed);
        if !follows && !is_all {
            return Applied::Missing;
        }
        if !follows {
            let (version, count, users) = (step.version, step.count, step.joined);
            return self.replace(Snapshot { version, count, users });
        }
        let mut change = RosterChange { count: step.count, ..RosterChange::default() };
        self.version = step.version;
        self.count = step.count;
        if !is_listed {
            self.users.clear();
            return Applied::Changed(change);
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
        Applied::Changed(change)
    }

    /// Takes what was read in place of what was known; answers what that changes.
    pub fn replace(&mut self, snapshot: Snapshot) -> Applied {
        if snapshot.version < self.version {
            return Applied::Known;
        }
        let users: BTreeMap<UserId, User> =
            snapshot.users.into_iter().map(|user| (user.id.clone(), user)).collect();
        let mut change = RosterChange { count: snapshot.count, ..RosterChange::default() };
        for (id, user) in &users {
            if !self.users.contains_key(id) {
                change.joined.insert(id.clone(), user.clone());
            }
        }
        // Of a room that is too large for a list nobody has left.
        if snapshot.count <= LISTED_MAX {
            let gone = self.users.iter().filter(|(id, _)| !users.contains_key(*id));
            change.left = gone.map(|(id, user)| (id.clone(), user.clone())).collect();
        }
        *self = Self { version: snapshot.version, count: snapshot.count, users };
        Applied::Changed(change)
    }

    /// Steps may have been missed, or the store has begun anew: what is read next counts, whatever
    /// its version.
    pub fn invalidate(&mut self) {
        self.version = 0;
    }

    /// A user has another name or picture. `false`: he is not listed here.
    pub fn rename(&mut self, user: &User) -> bool {
        match self.users.get_mut(&user.id) {
            Some(known) => {
                *known = user.clone();
                true
            }
            None => false,
        }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Nobody, when there are more than `LISTED_MAX`.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }
}

impl RosterChange {
    /// What is to be told after both.
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

    /// Whoever is told of this user is told of him as he is now.
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

    /// What really happened: each step toggles one user.
    fn steps(toggled: &[u8]) -> (Vec<Step>, Vec<Snapshot>) {
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
            steps.push(Step { version, joined, left, count });
            truth.push(snapshot(version, &here));
        }
        (steps, truth)
    }

    fn snapshot(version: u64, here: &BTreeMap<UserId, User>) -> Snapshot {
        let count = u32::try_from(here.len()).unwrap();
        Snapshot { version, count, users: here.values().cloned().collect() }
    }

    fn ids<'a>(users: impl Iterator<Item = &'a User>) -> Vec<UserId> {
        users.map(|user| user.id.clone()).collect()
    }

    /// What a client knows that is told `change` after `known`.
    fn told(known: &mut BTreeMap<UserId, User>, change: &RosterChange) {
        for user in change.joined() {
            assert!(known.insert(user.id.clone(), user.clone()).is_none(), "told twice");
        }
        for user in change.left() {
            assert!(known.remove(&user.id).is_some(), "one left who was not there");
        }
    }

    proptest! {
        /// Steps that are lost, repeated or late, and snapshots between them, end in the truth; and
        /// a client that applies what it is told knows the same as one that reads it all.
        #[test]
        fn any_arrival_ends_in_one_roster(
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
                if is_read || applied == Applied::Missing {
                    let read = roster.replace(truth[at + 1].clone());
                    applied = match (applied, read) {
                        (Applied::Changed(mut first), Applied::Changed(then)) => {
                            first.merge(then);
                            Applied::Changed(first)
                        }
                        (_, read) => read,
                    };
                }
                if let Applied::Changed(change) = applied {
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
    fn who_changes_his_name_before_others_are_told_comes_with_the_new_one() {
        let (steps, _) = steps(&[1]);
        let mut roster = Roster::default();
        let Applied::Changed(mut change) = roster.apply(steps[0].clone()) else { panic!() };
        let renamed = User { name: UserName::parse("Ann").unwrap(), ..user(1) };
        assert!(roster.rename(&renamed));
        change.rename(&renamed);
        assert_eq!(change.joined().collect::<Vec<_>>(), [&renamed]);
    }

    #[test]
    fn a_room_that_is_too_large_for_a_list_has_a_count() {
        let mut roster = Roster::default();
        let users = |n: u16| {
            let user = |n: u16| {
                let id = UserId::parse(&format!("u{n:05}")).unwrap();
                User { id, name: UserName::parse("x").unwrap(), picture: None }
            };
            (0..n).map(user).collect::<Vec<_>>()
        };
        roster.replace(Snapshot { version: 7, count: 500, users: users(500) });
        let more = Step { version: 8, joined: vec![user(1)], left: Vec::new(), count: 501 };
        let Applied::Changed(change) = roster.apply(more) else { panic!("a change") };
        assert_eq!((change.joined().count(), change.count(), roster.users().count()), (0, 501, 0));
        let fewer = Step { version: 9, joined: vec![], left: vec![user(1).id], count: 500 };
        assert_eq!(roster.apply(fewer), Applied::Missing, "the names must be read");
    }
}
