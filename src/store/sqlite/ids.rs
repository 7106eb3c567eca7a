//! The recent message ids, so that a retry is recognised.
//!
//! Clients choose ids, often random ones. An index of random keys on disk would rewrite a page for
//! each message, so the ids of the window are kept in memory, as hashes that point to rows. The
//! rows are the truth: `recent` is filled from them when the file is opened, and a hash only
//! proposes a row whose id is then compared. If two ids of one generation share all 64 bits of the
//! randomly keyed hash, the older one is forgotten. Clients cannot provoke that.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    domain::{
        name::{MessageId, UserId},
        position::Timestamp,
    },
    store::RetentionPolicy,
};

/// Most ids known at once. An id takes 17 bytes, so all take less than 300 MiB, enough for 139 000
/// messages a second over a window of two minutes. Beyond it the writer answers `Busy`: refusing is
/// safe, while forgetting an id would let a retry show twice.
pub const IDS_MAX: usize = 16 << 20;
/// Ids that are dropped together. It bounds the pause in which a table grows.
const GENERATION_IDS_MAX: usize = 1 << 20;
/// The window is cut into this many generations, so that ids are dropped soon after it has passed.
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

    /// The hash that stands for an id here.
    pub fn key(&self, from: &UserId, id: &MessageId) -> u64 {
        self.hasher.hash_one((from, id))
    }

    /// The sequences of messages that may carry the id, newest first.
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

    /// Drops the ids that have left the window. Their age here is the time since this process
    /// learned them, by a clock that cannot be set. Whether an id still counts is decided by the
    /// times of the messages.
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

/// The ids that a retry may still name, read from the rows that carry them.
pub fn recent_ids(
    connection: &Connection,
    retention: &RetentionPolicy,
    now: Timestamp,
    known_since: Instant,
) -> rusqlite::Result<RecentIds> {
    let window = retention.idempotency_window;
    let mut recent = RecentIds::new(window, IDS_MAX);
    let oldest = now.0.saturating_sub(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
    let mut statement =
        connection.prepare("SELECT seq, sender, id, at FROM messages ORDER BY seq DESC")?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        // Rows are almost in the order of their times: they differ only by the time that drafts
        // waited in the queue. So one extra window before the end is more than enough.
        if row.get::<_, u64>(3)? < oldest.saturating_sub(oldest.abs_diff(now.0))
            || keys.len() == IDS_MAX
        {
            break;
        }
        let from = UserId::parse(row.get_ref(1)?.as_str()?);
        let id = MessageId::parse(row.get_ref(2)?.as_str()?);
        if let (Ok(from), Ok(id)) = (from, id) {
            keys.push((recent.key(&from, &id), row.get::<_, u64>(0)?));
        }
    }
    for (key, seq) in keys.into_iter().rev() {
        recent.remember(key, seq, known_since);
    }
    Ok(recent)
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
