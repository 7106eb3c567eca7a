//! The users in rooms of one partition on this node, and what Redis has yet to be told. No I/O.
//!
//! Redis is told of changes, and nothing is repeated as long as the node keeps its lease. A node
//! whose lease has ended registers under a new name, and tells everything again under that.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use crate::domain::{name::UserId, room::RoomName};

/// What one call tells at most: bounds the time of the script.
const CHANGES_PER_CALL: usize = 256;
const BYTES_PER_CALL: usize = 256 << 10;

pub type Pair = (RoomName, UserId);

/// A user in a room, or what is left of it.
#[derive(Debug)]
struct TrackedPresence {
    /// The user as JSON. `None`: the user has left, and Redis does not know.
    line: Option<Arc<str>>,
    /// Redis may have the user in this room, under the present incarnation of this node.
    may_be_in_redis: bool,
    /// The name and picture are new, and not only told again.
    fresh: bool,
}

/// What a call says of one user in one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    pub pair: Pair,
    /// `None`: the user has left.
    pub line: Option<Arc<str>>,
    pub fresh: bool,
}

/// One call of presence.lua.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub incarnation: Arc<str>,
    pub number: u64,
    /// In the order of rooms.
    pub changes: Vec<PresenceChange>,
}

#[derive(Debug, Default)]
pub struct LocalPresence {
    /// The name of this node's lease.
    incarnation: Arc<str>,
    calls: u64,
    tracked: HashMap<Pair, TrackedPresence>,
    /// What has changed since it was told.
    changed: BTreeSet<Pair>,
    /// What is told before anything that has changed since.
    round: VecDeque<Pair>,
}

impl LocalPresence {
    /// The node registers under this name, and Redis has nothing under it.
    pub fn begin(&mut self, incarnation: Arc<str>) {
        self.incarnation = incarnation;
        self.calls = 0;
        self.round.clear();
        self.tracked.retain(|_, tracked| tracked.line.is_some());
        for tracked in self.tracked.values_mut() {
            (tracked.may_be_in_redis, tracked.fresh) = (false, false);
        }
        self.changed = self.tracked.keys().cloned().collect();
    }

    /// `false`: it is known already.
    pub fn add(&mut self, pair: Pair, line: Arc<str>) -> bool {
        let tracked = self.tracked.entry(pair.clone()).or_insert(TrackedPresence {
            line: None,
            may_be_in_redis: false,
            fresh: false,
        });
        if tracked.line.as_ref() == Some(&line) {
            return false;
        }
        (tracked.line, tracked.fresh) = (Some(line), true);
        self.changed.insert(pair);
        true
    }

    /// `false`: there is nothing to tell.
    pub fn remove(&mut self, pair: Pair) -> bool {
        match self.tracked.get_mut(&pair) {
            Some(tracked) if tracked.may_be_in_redis => {
                tracked.line = None;
                self.changed.insert(pair);
                true
            }
            Some(_never_told) => {
                self.tracked.remove(&pair);
                self.changed.remove(&pair);
                false
            }
            None => false,
        }
    }

    pub fn has_more(&self) -> bool {
        !(self.changed.is_empty() && self.round.is_empty())
    }

    /// What Redis is to be told next. One call is in flight at a time.
    pub fn next_call(&mut self) -> Option<Call> {
        if self.round.is_empty() {
            self.round = std::mem::take(&mut self.changed).into_iter().collect();
        }
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while changes.len() < CHANGES_PER_CALL && bytes < BYTES_PER_CALL {
            let Some(pair) = self.round.pop_front() else { break };
            // It may have come and gone meanwhile.
            let Some(tracked) = self.tracked.get_mut(&pair) else { continue };
            tracked.may_be_in_redis = true;
            bytes += tracked.line.as_ref().map_or(0, |line| line.len());
            changes.push(PresenceChange { pair, line: tracked.line.clone(), fresh: tracked.fresh });
        }
        if changes.is_empty() {
            return None;
        }
        self.calls += 1;
        Some(Call { incarnation: Arc::clone(&self.incarnation), number: self.calls, changes })
    }

    pub fn done(&mut self, call: Call) {
        for PresenceChange { pair, line, .. } in call.changes {
            let Some(tracked) = self.tracked.get_mut(&pair) else { continue };
            if tracked.line != line {
                continue;
            }
            tracked.fresh = false;
            if line.is_none() {
                self.tracked.remove(&pair);
            }
        }
    }

    /// It is unknown whether it was done; the next call says it again.
    pub fn failed(&mut self, call: Call) {
        self.changed.extend(call.changes.into_iter().map(|change| change.pair));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(room: &str, user: &str) -> Pair {
        (RoomName::parse(room).unwrap(), UserId::parse(user).unwrap())
    }

    fn ready() -> LocalPresence {
        let mut local_presence = LocalPresence::default();
        local_presence.begin("node".into());
        local_presence
    }

    /// A call as text: `+`, `=` or `-`, user, line.
    fn said(call: &Call) -> Vec<String> {
        let change = |change: &PresenceChange| match &change.line {
            Some(line) if change.fresh => format!("+{} {line}", change.pair.1),
            Some(line) => format!("={} {line}", change.pair.1),
            None => format!("-{}", change.pair.1),
        };
        call.changes.iter().map(change).collect()
    }

    fn tell(local_presence: &mut LocalPresence) -> Vec<String> {
        let Some(call) = local_presence.next_call() else { return Vec::new() };
        let said = said(&call);
        local_presence.done(call);
        said
    }

    #[test]
    fn an_edge_is_told_once() {
        let mut node = ready();
        assert!(node.add(pair("lobby", "ann"), "Ann".into()));
        assert!(!node.add(pair("lobby", "ann"), "Ann".into()), "again");
        assert_eq!(tell(&mut node), ["+ann Ann"]);
        assert!(!node.has_more());
        assert!(node.add(pair("lobby", "ann"), "Anna".into()), "another name");
        assert_eq!(tell(&mut node), ["+ann Anna"]);
        assert!(node.remove(pair("lobby", "ann")));
        assert_eq!(tell(&mut node), ["-ann"]);
        assert!(!node.remove(pair("lobby", "ann")), "again");
        assert!(node.tracked.is_empty() && tell(&mut node).is_empty());
    }

    #[test]
    fn what_came_and_went_before_it_was_told_is_not_told() {
        let mut node = ready();
        node.add(pair("lobby", "ann"), "Ann".into());
        assert!(!node.remove(pair("lobby", "ann")));
        assert!(node.tracked.is_empty() && !node.has_more());
        node.add(pair("lobby", "bob"), "Bob".into());
        assert_eq!(tell(&mut node), ["+bob Bob"]);
        for _ in 0..2 {
            node.remove(pair("lobby", "bob"));
            node.add(pair("lobby", "bob"), "Bob".into());
        }
        node.remove(pair("lobby", "bob"));
        assert_eq!(tell(&mut node), ["-bob"], "Redis has it from before");
    }

    #[test]
    fn what_changes_while_a_call_is_in_flight_comes_next() {
        let mut node = ready();
        node.add(pair("lobby", "ann"), "Ann".into());
        let call = node.next_call().unwrap();
        node.remove(pair("lobby", "ann"));
        node.done(call);
        let call = node.next_call().unwrap();
        assert_eq!((said(&call), call.number), (vec!["-ann".to_owned()], 2));
        node.add(pair("lobby", "ann"), "Ann".into());
        node.failed(call);
        assert_eq!(tell(&mut node), ["+ann Ann"], "as it is now, whatever failed");
        assert!(!node.has_more());
    }

    #[test]
    fn everything_is_told_again_under_another_name() {
        let mut node = ready();
        for user in ["ann", "bob"] {
            node.add(pair("lobby", user), user.into());
        }
        tell(&mut node);
        node.remove(pair("lobby", "bob"));
        node.begin("again".into());
        let call = node.next_call().unwrap();
        assert_eq!(
            (&*call.incarnation, call.number, said(&call)),
            ("again", 1, vec!["=ann ann".into()])
        );
    }

    #[test]
    fn a_call_is_bounded_and_nothing_is_left_out() {
        let mut node = ready();
        let long: Arc<str> = "x".repeat(8_192).into();
        for n in 0..1_000 {
            let line = if n % 2 == 0 { Arc::clone(&long) } else { "short".into() };
            node.add(pair(&format!("{}", n % 7), &n.to_string()), line);
        }
        let mut told = BTreeSet::new();
        while let Some(call) = node.next_call() {
            let bytes = |change: &PresenceChange| change.line.as_ref().map_or(0, |line| line.len());
            assert!(call.changes.len() <= CHANGES_PER_CALL);
            assert!(call.changes.iter().map(bytes).sum::<usize>() < BYTES_PER_CALL + long.len());
            told.extend(call.changes.iter().map(|change| change.pair.clone()));
            node.done(call);
        }
        assert_eq!(told.len(), 1_000);
    }
}
