//! Who attends which rooms on this node, and what Redis has yet to hear of it. No I/O.
//!
//! Redis is told when something changes, and nothing is repeated as long as the node keeps its
//! lease. A node that has lost it takes a new name, and tells everything again under that.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::{name::UserId, room::RoomName};

/// What one call tells at most: bounds the time of the script.
const CHANGES_PER_CALL: usize = 256;
const BYTES_PER_CALL: usize = 256 << 10;

pub type Pair = (RoomName, UserId);

/// One local_presence, or what is left of it.
#[derive(Debug)]
struct TrackedPresence {
    /// The user as he is to be shown. `None`: he has gone, and Redis does not know.
    line: Option<Arc<str>>,
    /// Redis may have it under this node's present name.
    told: bool,
    /// What he is called is news, and not only told again.
    fresh: bool,
}

/// What a call says of one local_presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    pub pair: Pair,
    /// `None`: it has ended.
    pub line: Option<Arc<str>>,
    pub fresh: bool,
}

/// One call of add_presence.lua.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub incarnation: Arc<str>,
    pub number: u64,
    /// In the order of rooms.
    pub changes: Vec<PresenceChange>,
}

/// What to ask of beat.lua.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// The node has something to tell, and no lease.
    Hello,
    /// The lease, if there is one, goes on.
    Beat(Option<Arc<str>>),
}

#[derive(Debug)]
pub struct LocalPresence {
    /// This node's name while it has a lease.
    incarnation: Option<Arc<str>>,
    calls: u64,
    places: HashMap<Pair, TrackedPresence>,
    /// What has changed since it was told.
    changed: BTreeSet<Pair>,
    /// What is told before anything that has changed since.
    round: VecDeque<Pair>,
    look_at: Instant,
    /// Since when Redis has answered without a break.
    well_since: Option<Instant>,
}

impl LocalPresence {
    pub fn new(now: Instant) -> Self {
        Self {
            incarnation: None,
            calls: 0,
            places: HashMap::new(),
            changed: BTreeSet::new(),
            round: VecDeque::new(),
            look_at: now,
            well_since: None,
        }
    }

    /// `false`: it is known already.
    pub fn add_presence(&mut self, pair: Pair, line: Arc<str>) -> bool {
        let place = self.places.entry(pair.clone()).or_insert(TrackedPresence {
            line: None,
            told: false,
            fresh: false,
        });
        if place.line.as_ref() == Some(&line) {
            return false;
        }
        (place.line, place.fresh) = (Some(line), true);
        self.changed.insert(pair);
        true
    }

    /// `false`: there is nothing to tell.
    pub fn remove_presence(&mut self, pair: Pair) -> bool {
        match self.places.get_mut(&pair) {
            Some(place) if place.told => {
                place.line = None;
                self.changed.insert(pair);
                true
            }
            Some(_never_told) => {
                self.places.remove(&pair);
                self.changed.remove(&pair);
                false
            }
            None => false,
        }
    }

    /// Redis has to be asked now.
    pub fn look_now(&mut self, now: Instant) {
        self.look_at = now;
    }

    pub fn look(&self, now: Instant) -> Option<Look> {
        if self.incarnation.is_none() && !(self.changed.is_empty() && self.round.is_empty()) {
            return Some(Look::Hello);
        }
        (now >= self.look_at).then(|| Look::Beat(self.incarnation.clone()))
    }

    /// Redis has answered. The next look is after `pause`.
    pub fn looked(&mut self, now: Instant, pause: Duration) {
        self.look_at = now + pause;
        self.well_since.get_or_insert(now);
    }

    /// Redis has not answered: leases may have ended that their nodes could not keep.
    pub fn unwell(&mut self) {
        self.well_since = None;
    }

    /// Nodes whose lease has ended since had their chance to come back.
    pub fn may_reap(&self, now: Instant, lease: Duration) -> bool {
        self.well_since.is_some_and(|since| now.duration_since(since) >= lease)
    }

    /// The node has a lease under this name.
    pub fn begin(&mut self, incarnation: Arc<str>) {
        self.incarnation = Some(incarnation);
        self.calls = 0;
    }

    /// The lease has ended, and with it what was told.
    pub fn lost(&mut self) {
        self.incarnation = None;
        self.well_since = None;
        self.round.clear();
        self.places.retain(|_, place| place.line.is_some());
        for place in self.places.values_mut() {
            (place.told, place.fresh) = (false, false);
        }
        self.changed = self.places.keys().cloned().collect();
    }

    pub fn has_more(&self) -> bool {
        !(self.changed.is_empty() && self.round.is_empty())
    }

    /// What Redis is to be told next. One call is under way at a time.
    pub fn next_call(&mut self) -> Option<Call> {
        let incarnation = Arc::clone(self.incarnation.as_ref()?);
        if self.round.is_empty() {
            self.round = std::mem::take(&mut self.changed).into_iter().collect();
        }
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while changes.len() < CHANGES_PER_CALL && bytes < BYTES_PER_CALL {
            let Some(pair) = self.round.pop_front() else { break };
            // It may have come and gone meanwhile.
            let Some(place) = self.places.get_mut(&pair) else { continue };
            place.told = true;
            bytes += place.line.as_ref().map_or(0, |line| line.len());
            changes.push(PresenceChange { pair, line: place.line.clone(), fresh: place.fresh });
        }
        if changes.is_empty() {
            return None;
        }
        self.calls += 1;
        Some(Call { incarnation, number: self.calls, changes })
    }

    pub fn done(&mut self, call: Call) {
        for PresenceChange { pair, line, .. } in call.changes {
            let Some(place) = self.places.get_mut(&pair) else { continue };
            if place.line != line {
                continue;
            }
            place.fresh = false;
            if line.is_none() {
                self.places.remove(&pair);
            }
        }
    }

    /// Nobody knows whether it was done; the next call says it again.
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
        let mut local_presence = LocalPresence::new(Instant::now());
        local_presence.begin("node".into());
        local_presence
    }

    /// The next call as text: `+` or `-`, user, what he is called.
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
        assert!(node.add_presence(pair("lobby", "ann"), "Ann".into()));
        assert!(!node.add_presence(pair("lobby", "ann"), "Ann".into()), "again");
        assert_eq!(tell(&mut node), ["+ann Ann"]);
        assert!(!node.has_more());
        assert!(node.add_presence(pair("lobby", "ann"), "Anna".into()), "another name");
        assert_eq!(tell(&mut node), ["+ann Anna"]);
        assert!(node.remove_presence(pair("lobby", "ann")));
        assert_eq!(tell(&mut node), ["-ann"]);
        assert!(!node.remove_presence(pair("lobby", "ann")), "again");
        assert!(node.places.is_empty() && tell(&mut node).is_empty());
    }

    #[test]
    fn what_came_and_went_unheard_is_not_told() {
        let mut node = ready();
        node.add_presence(pair("lobby", "ann"), "Ann".into());
        assert!(!node.remove_presence(pair("lobby", "ann")));
        assert!(node.places.is_empty() && !node.has_more());
        node.add_presence(pair("lobby", "bob"), "Bob".into());
        assert_eq!(tell(&mut node), ["+bob Bob"]);
        for _ in 0..2 {
            node.remove_presence(pair("lobby", "bob"));
            node.add_presence(pair("lobby", "bob"), "Bob".into());
        }
        node.remove_presence(pair("lobby", "bob"));
        assert_eq!(tell(&mut node), ["-bob"], "Redis has him from before");
    }

    #[test]
    fn what_changes_while_a_call_is_under_way_comes_next() {
        let mut node = ready();
        node.add_presence(pair("lobby", "ann"), "Ann".into());
        let call = node.next_call().unwrap();
        node.remove_presence(pair("lobby", "ann"));
        node.done(call);
        let call = node.next_call().unwrap();
        assert_eq!((said(&call), call.number), (vec!["-ann".to_owned()], 2));
        node.add_presence(pair("lobby", "ann"), "Ann".into());
        node.failed(call);
        assert_eq!(tell(&mut node), ["+ann Ann"], "as it is now, whatever failed");
        assert!(!node.has_more());
    }

    #[test]
    fn a_lost_lease_has_all_told_again_under_another_name() {
        let (mut node, now) = (ready(), Instant::now());
        for user in ["ann", "bob"] {
            node.add_presence(pair("lobby", user), user.into());
        }
        tell(&mut node);
        node.remove_presence(pair("lobby", "bob"));
        node.looked(now, Duration::from_secs(3));
        assert_eq!(node.look(now), None);
        node.lost();
        assert_eq!((node.look(now), node.next_call()), (Some(Look::Hello), None));
        node.begin("again".into());
        let call = node.next_call().unwrap();
        assert_eq!(
            (&*call.incarnation, call.number, said(&call)),
            ("again", 1, vec!["=ann ann".into()])
        );
    }

    #[test]
    fn a_node_without_people_only_looks() {
        let now = Instant::now();
        let mut node = LocalPresence::new(now);
        assert_eq!(node.look(now), Some(Look::Beat(None)));
        let lease = Duration::from_secs(10);
        node.looked(now, lease);
        assert!(!node.may_reap(now, lease) && node.may_reap(now + lease, lease));
        node.unwell();
        node.looked(now + lease, lease);
        assert!(!node.may_reap(now + lease, lease), "others may have been cut off as well");
    }

    #[test]
    fn a_call_is_bounded_and_nothing_is_left_out() {
        let mut node = ready();
        let long: Arc<str> = "x".repeat(8_192).into();
        for n in 0..1_000 {
            let line = if n % 2 == 0 { Arc::clone(&long) } else { "short".into() };
            node.add_presence(pair(&format!("{}", n % 7), &n.to_string()), line);
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
