//! Which message ids are recent, so that a retry is known for what it is.
//!
//! Clients choose ids, often random ones, and an index of random keys on disk would rewrite a
//! page for each message. So the ids of the window are in memory, as hashes that point to rows;
//! the rows are the truth, and `recent` is filled from them when the file is opened. A hash only
//! proposes: the row it points to is compared. Should two ids of one generation share all 64 bits
//! of a randomly keyed hash, the older of the two is forgotten; clients cannot provoke it.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    time::{Duration, Instant},
};

use crate::domain::name::{MessageId, UserId};

/// Ids known at once: 17 bytes each, so less than 300 MiB, and 139 000 messages a second over a
/// window of two minutes. Beyond that the writer answers `Busy`: refusing is safe, forgetting
/// would let a retry show twice.
pub const IDS_MAX: usize = 16 << 20;
/// Ids that leave together. It bounds the pause in which a table grows.
const GENERATION_IDS_MAX: usize = 1 << 20;
/// The window is cut in this many parts, so that ids leave soon after they may.
const GENERATIONS_PER_WINDOW: u32 = 4;

#[derive(Debug)]
pub struct RecentIds {
    hasher: RandomState,
    window: Duration,
    ids_max: usize,
    /// The newest is at the front.
    generations: VecDeque<Generation>,
}

#[derive(Debug)]
struct Generation {
    seqs: HashMap<u64, u64>,
    started: Instant,
    newest: Instant,
}

impl RecentIds {
    pub fn new(window: Duration, ids_max: usize) -> Self {
        Self { hasher: RandomState::new(), window, ids_max, generations: VecDeque::new() }
    }

    /// What stands for an id here.
    pub fn key(&self, from: &UserId, id: &MessageId) -> u64 {
        self.hasher.hash_one((from, id))
    }

    /// The messages that may carry the id, newest first.
    pub fn candidates(&self, key: u64) -> impl Iterator<Item = u64> {
        self.generations.iter().filter_map(move |generation| generation.seqs.get(&key).copied())
    }

    /// How many more ids there is room for.
    pub fn room_left(&self) -> usize {
        let ids: usize = self.generations.iter().map(|generation| generation.seqs.len()).sum();
        self.ids_max.saturating_sub(ids)
    }

    pub fn remember(&mut self, key: u64, seq: u64, now: Instant) {
        let fits = self.generations.front().is_some_and(|newest| {
            newest.seqs.len() < GENERATION_IDS_MAX
                && now.duration_since(newest.started) * GENERATIONS_PER_WINDOW <= self.window
        });
        if !fits {
            let seqs = HashMap::new();
            self.generations.push_front(Generation { seqs, started: now, newest: now });
        }
        if let Some(newest) = self.generations.front_mut() {
            newest.seqs.insert(key, seq);
            newest.newest = now;
        }
    }

    /// Drops what left the window. The age here is how long this process knows the id, on a clock
    /// that cannot be set; whether an id counts is decided by the times of the messages.
    pub fn expire(&mut self, now: Instant) {
        while self
            .generations
            .back()
            .is_some_and(|oldest| now.duration_since(oldest.newest) > self.window)
        {
            self.generations.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(120);

    #[test]
    fn the_newest_message_with_an_id_comes_first() {
        let start = Instant::now();
        let mut ids = RecentIds::new(WINDOW, 100);
        ids.remember(7, 1, start);
        ids.remember(7, 2, start + WINDOW);
        assert_eq!(ids.candidates(7).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(ids.candidates(8).count(), 0);
    }

    #[test]
    fn an_id_stays_for_the_window_and_leaves_soon_after() {
        let start = Instant::now();
        let mut ids = RecentIds::new(WINDOW, 1_000);
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            ids.remember(second, second, now);
            ids.expire(now);
        }
        ids.expire(start + Duration::from_secs(200));
        let known: Vec<u64> =
            (0..200).filter(|key| ids.candidates(*key).next().is_some()).collect();
        assert!(known.contains(&80), "in the window");
        assert!(known[0] > 80 - 60, "{} should have left", known[0]);
        assert!(ids.room_left() > 1_000 - 160);
    }

    #[test]
    fn ids_are_bounded() {
        let start = Instant::now();
        let mut ids = RecentIds::new(WINDOW, 2);
        ids.remember(1, 1, start);
        assert_eq!(ids.room_left(), 1);
        ids.remember(2, 2, start);
        assert_eq!(ids.room_left(), 0);
    }
}
