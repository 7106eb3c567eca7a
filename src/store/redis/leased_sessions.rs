//! The sessions that this node's connections hold, and what is to be done about them. No I/O.
//!
//! The node keeps each of them alive in Redis, which forgets what nobody keeps: that is how the
//! sessions of a node that died end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{domain::name::PublicId, store::sessions::Holder};

/// Releases that may wait for Redis; those beyond are left to their leases.
const RELEASED_MAX: usize = 65_536;

/// One session as it has to be in Redis.
#[derive(Debug, Clone)]
pub struct LeasedSession {
    pub session: PublicId,
    pub record: Arc<str>,
    /// Counts the records of its holder: the higher one is the newer.
    pub number: u64,
    /// When Redis is to be told next.
    due: Instant,
}

#[derive(Debug)]
pub struct LeasedSessions {
    /// How often a session is kept alive.
    every: Duration,
    sessions: HashMap<Holder, LeasedSession>,
    /// What was released, and when.
    released: Vec<(Holder, LeasedSession, Instant)>,
    /// RedisSessions that others have claimed, and whose holders here are yet to be told.
    taken: Vec<(PublicId, Holder)>,
}

impl LeasedSessions {
    pub fn new(every: Duration) -> Self {
        Self { every, sessions: HashMap::new(), released: Vec::new(), taken: Vec::new() }
    }

    /// A holder's newest record. It is in nobody's way until it is written: the next turn tries.
    pub fn put(&mut self, holder: Holder, session: PublicId, record: Arc<str>, now: Instant) {
        let number = self.sessions.get(&holder).map_or(0, |hold| hold.number);
        let due = now + self.every;
        self.sessions.insert(holder, LeasedSession { session, record, number: number + 1, due });
    }

    /// A session that was claimed. Redis is asked soon whether it still is this holder's: who
    /// claimed it in the same moment may have been announced before there was anything here.
    pub fn claimed(
        &mut self,
        holder: Holder,
        session: PublicId,
        record: Arc<str>,
        now: Instant,
        soon: Duration,
    ) {
        let due = now + self.every.min(soon);
        self.sessions.entry(holder).or_insert(LeasedSession { session, record, number: 0, due });
    }

    pub fn get(&self, holder: Holder) -> Option<&LeasedSession> {
        self.sessions.get(&holder)
    }

    pub fn forget(&mut self, holder: Holder) {
        self.sessions.remove(&holder);
    }

    /// Another holder has the session, and this one is to be told.
    pub fn lose(&mut self, holder: Holder) {
        if let Some(hold) = self.sessions.remove(&holder) {
            self.taken.push((hold.session, holder));
        }
    }

    pub fn release(&mut self, holder: Holder, now: Instant) {
        if let Some(hold) = self.sessions.remove(&holder)
            && self.released.len() < RELEASED_MAX
        {
            self.released.push((holder, hold, now));
        }
    }

    /// A release that did not reach Redis.
    pub fn release_again(&mut self, holder: Holder, hold: LeasedSession, since: Instant) {
        if self.released.len() < RELEASED_MAX {
            self.released.push((holder, hold, since));
        }
    }

    /// Whose turn it is. Each has its next turn one round later.
    pub fn due(&mut self, now: Instant) -> Vec<Holder> {
        let mut due = Vec::new();
        for (holder, hold) in &mut self.sessions {
            if hold.due <= now {
                hold.due = now + self.every;
                due.push(*holder);
            }
        }
        due
    }

    /// A turn that has failed.
    pub fn due_again(&mut self, holder: Holder, now: Instant) {
        if let Some(hold) = self.sessions.get_mut(&holder) {
            hold.due = now;
        }
    }

    /// All have their turn now: something may have been missed, or Redis may have lost them.
    pub fn all_due(&mut self, now: Instant) {
        for hold in self.sessions.values_mut() {
            hold.due = now;
        }
    }

    pub fn take_released(&mut self) -> Vec<(Holder, LeasedSession, Instant)> {
        std::mem::take(&mut self.released)
    }

    pub fn take_taken(&mut self) -> Vec<(PublicId, Holder)> {
        std::mem::take(&mut self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(30);

    fn session(text: &str) -> PublicId {
        PublicId::parse(text).unwrap()
    }

    #[test]
    fn each_has_its_turn_once_a_round_and_a_failed_one_again() {
        let (mut held, now) = (LeasedSessions::new(ROUND), Instant::now());
        let (ann, bob) = (Holder::from_bits(1), Holder::from_bits(2));
        held.put(ann, session("a"), "1".into(), now);
        held.claimed(bob, session("b"), "2".into(), now, ROUND / 30);
        assert_eq!(held.due(now), [], "what was just written waits for a round");
        assert_eq!(held.due(now + ROUND / 30), [bob], "what was just claimed is looked at soon");
        assert_eq!(held.due(now + ROUND), [ann]);
        assert_eq!(held.due(now + ROUND), []);
        held.due_again(ann, now + ROUND);
        assert_eq!(held.due(now + ROUND), [ann]);
        held.all_due(now + ROUND);
        assert_eq!(held.due(now + ROUND).len(), 2);
    }

    #[test]
    fn a_later_record_has_a_higher_number() {
        let (mut held, now) = (LeasedSessions::new(ROUND), Instant::now());
        let ann = Holder::from_bits(1);
        held.claimed(ann, session("a"), "0".into(), now, ROUND);
        held.put(ann, session("a"), "1".into(), now);
        // The answer to a claim that was repeated.
        held.claimed(ann, session("a"), "0".into(), now, ROUND);
        let hold = held.get(ann).unwrap();
        assert_eq!((hold.number, &*hold.record), (1, "1"));
    }

    #[test]
    fn what_is_lost_is_told_once_and_never_released() {
        let (mut held, now) = (LeasedSessions::new(ROUND), Instant::now());
        let ann = Holder::from_bits(1);
        held.put(ann, session("a"), "1".into(), now);
        held.lose(ann);
        held.lose(ann);
        held.release(ann, now);
        assert_eq!(held.take_taken(), [(session("a"), ann)]);
        assert_eq!((held.take_taken().len(), held.take_released().len()), (0, 0));
        assert_eq!(held.due(now + ROUND), []);
    }
}
