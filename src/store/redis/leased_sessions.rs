//! The sessions of one partition that this node's connections hold, and which of them Redis has
//! yet to be told of. No I/O.
//!
//! Each state of a session has a number, and is written until Redis has confirmed that number.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{domain::name::PublicId, store::sessions::Holder};

/// The expiry of a session that is held, so that none stays when all nodes die.
pub const CEILING: Duration = Duration::from_secs(24 * 3_600);
/// What one call writes at most: bounds the time of the script.
pub const SESSIONS_PER_CALL: usize = 256;
const BYTES_PER_CALL: usize = 256 << 10;
/// Releases that may wait for Redis. Sessions released beyond that end at their ceiling.
const RELEASED_MAX: usize = 65_536;

/// One session as it has to be in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedSession {
    pub session: PublicId,
    pub record: Arc<str>,
    /// Counts the states of the session under its holder: the higher one is the newer.
    pub number: u64,
    /// The number that Redis has confirmed.
    written: u64,
    /// When the connection ended, if it has.
    pub released: Option<Instant>,
}

#[derive(Debug)]
pub struct LeasedSessions {
    /// The name of this node's lease.
    incarnation: Arc<str>,
    sessions: HashMap<Holder, LeasedSession>,
    released: usize,
    /// Those that the next calls write.
    unwritten: BTreeSet<Holder>,
    /// When every session was last written again, which renews the ceilings.
    refreshed: Instant,
    /// Sessions that others have claimed, and whose holders here are yet to be told.
    taken: Vec<(PublicId, Holder)>,
}

impl LeasedSessions {
    pub fn new(now: Instant) -> Self {
        Self {
            incarnation: "-".into(),
            sessions: HashMap::new(),
            released: 0,
            unwritten: BTreeSet::new(),
            refreshed: now,
            taken: Vec::new(),
        }
    }

    pub fn incarnation(&self) -> Arc<str> {
        Arc::clone(&self.incarnation)
    }

    /// The node registers under this name. What it holds is to be written under it.
    pub fn begin(&mut self, incarnation: Arc<str>, now: Instant) {
        self.incarnation = incarnation;
        self.write_all(now);
    }

    /// Redis may have lost any of them, or this node may have missed a claim.
    pub fn write_all(&mut self, now: Instant) {
        for hold in self.sessions.values_mut() {
            hold.number += 1;
        }
        self.unwritten = self.sessions.keys().copied().collect();
        self.refreshed = now;
    }

    /// A holder's newest record. The caller writes it, or says `retry`.
    pub fn put(&mut self, holder: Holder, session: PublicId, record: Arc<str>) {
        let (number, written) = self.forget(holder).map_or((0, 0), |was| (was.number, was.written));
        let hold = LeasedSession { session, record, number: number + 1, written, released: None };
        self.sessions.insert(holder, hold);
    }

    /// A session that was claimed. Unless it is saved first, it is written soon: another claim that
    /// came right after this one may have been announced before the session was known here.
    pub fn claimed(&mut self, holder: Holder, session: PublicId, record: Arc<str>) {
        if self.sessions.get(&holder).is_none_or(|hold| hold.released.is_some()) {
            self.put(holder, session, record);
            self.unwritten.insert(holder);
        }
    }

    pub fn get(&self, holder: Holder) -> Option<&LeasedSession> {
        self.sessions.get(&holder)
    }

    pub fn forget(&mut self, holder: Holder) -> Option<LeasedSession> {
        let hold = self.sessions.remove(&holder)?;
        self.released -= usize::from(hold.released.is_some());
        Some(hold)
    }

    /// Another holder has the session, and this one is to be told if its connection lives. `false`:
    /// it is not here.
    pub fn lose(&mut self, holder: Holder) -> bool {
        let Some(hold) = self.forget(holder) else { return false };
        if hold.released.is_none() {
            self.taken.push((hold.session, holder));
        }
        true
    }

    pub fn release(&mut self, holder: Holder, now: Instant) {
        if self.released >= RELEASED_MAX {
            self.sessions.remove(&holder);
        } else if let Some(hold) = self.sessions.get_mut(&holder) {
            self.released += usize::from(hold.released.is_none());
            hold.number += 1;
            hold.released.get_or_insert(now);
            self.unwritten.insert(holder);
        }
    }

    /// Whether there is something to write.
    pub fn has_more(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// What to write next, in one call.
    pub fn next_call(&mut self, now: Instant) -> Vec<(Holder, LeasedSession)> {
        if now.duration_since(self.refreshed) >= CEILING / 2 {
            self.write_all(now);
        }
        let (mut call, mut bytes) = (Vec::new(), 0);
        while call.len() < SESSIONS_PER_CALL && bytes < BYTES_PER_CALL {
            let Some(holder) = self.unwritten.pop_first() else { break };
            // It may have been written or lost meanwhile.
            let hold = self.sessions.get(&holder).filter(|hold| hold.written < hold.number);
            let Some(hold) = hold.cloned() else { continue };
            bytes += hold.record.len();
            call.push((holder, hold));
        }
        call
    }

    /// Redis has it in the state with this number.
    pub fn written(&mut self, holder: Holder, number: u64) {
        let Some(hold) = self.sessions.get_mut(&holder) else { return };
        hold.written = hold.written.max(number);
        if hold.released.is_some() && hold.written == hold.number {
            self.forget(holder);
        }
    }

    /// Unless it was written meanwhile, the next call writes it.
    pub fn retry(&mut self, holder: Holder) {
        if self.sessions.get(&holder).is_some_and(|hold| hold.written < hold.number) {
            self.unwritten.insert(holder);
        }
    }

    pub fn next_taken(&mut self) -> Option<(PublicId, Holder)> {
        self.taken.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(count: u64) -> (LeasedSessions, Instant) {
        let now = Instant::now();
        let mut held = LeasedSessions::new(now);
        held.begin("node.1".into(), now);
        for n in 0..count {
            let session = PublicId::parse(&format!("s{n}")).unwrap();
            held.put(Holder::from_bits(n), session, "x".into());
        }
        (held, now)
    }

    fn write(held: &mut LeasedSessions, now: Instant) -> Vec<u64> {
        let call = held.next_call(now);
        for (holder, hold) in &call {
            held.written(*holder, hold.number);
        }
        call.iter().map(|(holder, _)| holder.bits()).collect()
    }

    #[test]
    fn an_idle_session_is_written_again_only_twice_a_day_or_under_another_lease() {
        let (mut held, now) = held(2);
        assert_eq!(write(&mut held, now), [0; 0], "its caller writes what is put");
        for n in 0..2 {
            held.retry(Holder::from_bits(n));
        }
        assert_eq!(write(&mut held, now), [0, 1]);
        assert_eq!(write(&mut held, now + CEILING / 2 - Duration::from_secs(1)), [0; 0]);
        assert_eq!(write(&mut held, now + CEILING / 2), [0, 1]);
        held.begin("node.2".into(), now + CEILING);
        assert_eq!(held.next_call(now + CEILING)[0].1.number, 3);
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_again() {
        let (mut held, now) = held(1);
        let ann = Holder::from_bits(0);
        let first = held.get(ann).unwrap().clone();
        held.put(ann, first.session.clone(), "y".into());
        held.retry(ann);
        held.written(ann, first.number);
        let call = held.next_call(now);
        assert_eq!((call[0].1.number, &*call[0].1.record), (2, "y"));
        held.written(ann, 2);
        held.claimed(ann, first.session, "x".into());
        assert_eq!(held.next_call(now), [], "the answer to a claim that was repeated");
    }

    #[test]
    fn a_loss_is_told_once_and_only_to_a_connection_that_lives() {
        let (mut held, now) = held(2);
        let (ann, bob) = (Holder::from_bits(0), Holder::from_bits(1));
        assert!(held.lose(ann) && !held.lose(ann));
        held.release(ann, now);
        held.release(bob, now);
        assert!(held.lose(bob));
        assert_eq!(held.next_taken(), Some((PublicId::parse("s0").unwrap(), ann)));
        assert_eq!((held.next_taken(), held.released, held.next_call(now).len()), (None, 0, 0));
    }

    #[test]
    fn a_release_is_kept_until_it_is_written_and_a_call_is_bounded() {
        let (mut held, now) = held(600);
        for n in 0..600 {
            held.release(Holder::from_bits(n), now);
        }
        let lost = held.next_call(now);
        assert_eq!(lost.len(), SESSIONS_PER_CALL);
        for (holder, _) in lost {
            held.retry(holder);
        }
        let written: usize = (0..3).map(|_| write(&mut held, now).len()).sum();
        assert_eq!((written, held.sessions.len(), held.released), (600, 0, 0));
    }
}
