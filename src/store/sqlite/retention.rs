//! Deletes old rows from the log, in steps so small that no message waits long for one.
//!
//! A message leaves in two steps. First `rooms.trimmed_to` passes it, and history no longer shows
//! it. Its row is deleted later, when its id has left the idempotency window, because the row is
//! how a retry is recognised, also after a restart. A room without rows is forgotten; from then on
//! `log.forgotten_to` covers its deleted messages.
//!
//! After `log.deleted_to` every row of every room is there, for readers of the whole log: so rows
//! also stay for the recovery window. A message's state is deleted with its row. Records about
//! messages are deleted with the room's messages of the same age, or when the room has more records
//! than messages, but they stay for the same windows. Sessions, profiles and read marks are deleted
//! when they expire.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::store::sqlite::{index, states};
use crate::{domain::position::Timestamp, store::RetentionPolicy};

/// Rows that one step trims, and rows that one step deletes. It must be more than arrive between
/// two steps, or the log would grow under load.
const STEP_ROWS_MAX: u64 = 4_096;
/// Rooms that one step visits. Successive steps visit all rooms in turn.
const STEP_ROOMS_MAX: u32 = 64;
/// Sessions, profiles and marks that one step deletes, of each. It must be at least as many as
/// begin between two steps.
const STEP_ENDED_MAX: usize = 4_096;
/// Over-long rooms that may wait for a step. Rooms beyond it are found when their turn comes.
const LONG_ROOMS_MAX: usize = 4_096;

/// A busy writer makes a step after this many messages.
pub const STEP_EVERY: usize = 2_048;

#[derive(Debug)]
pub struct Retention {
    retention: RetentionPolicy,
    long_rooms: BTreeSet<i64>,
    /// Every room up to this id was visited in this turn.
    visited_to: i64,
}

struct Room {
    id: i64,
    kept: u64,
    trimmed_to: u64,
    records: u64,
}

/// One of a room's oldest rows, counted from 0.
struct Old {
    rank: u64,
    seq: u64,
    at: u64,
}

/// What a step may still delete.
struct Budget {
    trim: u64,
    delete: u64,
}

impl Retention {
    pub fn new(retention: RetentionPolicy) -> Self {
        Self { retention, long_rooms: BTreeSet::new(), visited_to: 0 }
    }

    /// The writer reports how many messages, or records if these are more, a room has.
    pub fn notice(&mut self, room: i64, count: u64) {
        if count > u64::from(self.retention.history_max) && self.long_rooms.len() < LONG_ROOMS_MAX {
            self.long_rooms.insert(room);
        }
    }

    /// One bounded transaction. `true`: the next step is due at once.
    pub fn step(&mut self, connection: &mut Connection, now: Timestamp) -> rusqlite::Result<bool> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut budget = Budget { trim: STEP_ROWS_MAX, delete: STEP_ROWS_MAX };
        let mut done = Vec::new();
        for &id in &self.long_rooms {
            for room in rooms(&transaction, id - 1, 1)?.into_iter().filter(|room| room.id == id) {
                self.tick(&transaction, room, now, &mut budget)?;
            }
            if budget.is_spent() {
                break;
            }
            done.push(id);
        }
        let mut visited_to = self.visited_to;
        let mut round = Vec::new();
        if !budget.is_spent() {
            round = rooms(&transaction, visited_to, STEP_ROOMS_MAX)?;
            visited_to = 0;
        }
        let round_goes_on = round.len() == STEP_ROOMS_MAX as usize;
        for room in round {
            let id = room.id;
            self.tick(&transaction, room, now, &mut budget)?;
            if budget.is_spent() {
                // The next step starts with this room.
                visited_to = id - 1;
                break;
            }
            if round_goes_on {
                visited_to = id;
            }
        }
        let ended = delete_ended(&transaction, now)?;
        transaction.commit()?;
        self.visited_to = visited_to;
        for id in done {
            self.long_rooms.remove(&id);
        }
        Ok(budget.is_spent() || ended == STEP_ENDED_MAX)
    }

    fn tick(
        &self,
        transaction: &Transaction<'_>,
        room: Room,
        now: Timestamp,
        budget: &mut Budget,
    ) -> rusqlite::Result<()> {
        let Room { id, kept, trimmed_to: was, records } = room;
        let history_max = u64::from(self.retention.history_max);
        let excess = kept.saturating_sub(history_max);
        let old = before(now, self.retention.history_ttl);
        let (mut kept, mut trimmed_to) = (kept, was);
        let (trimmed, last) =
            oldest(transaction, MESSAGES, (id, was, i64::MAX as u64), budget.trim, |row| {
                row.rank < excess || row.at < old
            })?;
        if let Some(last) = last {
            budget.trim -= trimmed;
            kept = kept.saturating_sub(trimmed);
            trimmed_to = last;
        }
        let RetentionPolicy { idempotency_window, recovery_window, .. } = self.retention;
        let forgettable = before(now, idempotency_window.max(recovery_window));
        let range = (id, 0, trimmed_to.saturating_add(1));
        let (deleted, last) =
            oldest(transaction, MESSAGES, range, budget.delete, |row| row.at < forgettable)?;
        if let Some(last) = last {
            budget.delete -= deleted;
            index::forget(transaction, id, last)?;
            states::forget(transaction, id, last)?;
            delete(
                transaction,
                "DELETE FROM messages INDEXED BY messages_by_room
                 WHERE room = ?1 AND of_seq IS NULL AND seq <= ?2",
                (id, last),
            )?;
        }
        let excess = records.saturating_sub(history_max);
        let range = (id, 0, i64::MAX as u64);
        let (deleted, last) = oldest(transaction, RECORDS, range, budget.delete, |row| {
            row.at < forgettable && (row.seq <= trimmed_to || row.rank < excess || row.at < old)
        })?;
        if let Some(last) = last {
            budget.delete -= deleted;
            delete(
                transaction,
                "DELETE FROM messages INDEXED BY records_by_room
                 WHERE room = ?1 AND of_seq IS NOT NULL AND seq <= ?2",
                (id, last),
            )?;
        }
        let records = records.saturating_sub(deleted);
        if kept == 0 && is_empty(transaction, id)? {
            transaction
                .prepare_cached("UPDATE log SET forgotten_to = max(forgotten_to, ?1)")?
                .execute([trimmed_to])?;
            transaction.prepare_cached("DELETE FROM rooms WHERE id = ?1")?.execute([id])?;
        } else if trimmed_to != was || deleted > 0 {
            transaction
                .prepare_cached(
                    "UPDATE rooms SET kept = ?2, trimmed_to = ?3, records = ?4 WHERE id = ?1",
                )?
                .execute(params![id, kept, trimmed_to, records])?;
        }
        Ok(())
    }
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.trim == 0 || self.delete == 0
    }
}

/// The time before which something of this age limit is too old, on the log's clock.
fn before(now: Timestamp, limit: std::time::Duration) -> u64 {
    now.0.saturating_sub(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
}

/// The time at which something that lasts this long from now ends.
pub fn after(now: Timestamp, time: std::time::Duration) -> u64 {
    now.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).min(i64::MAX as u64)
}

/// Deletes what has expired. Returns the largest number of rows deleted of one kind.
fn delete_ended(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<usize> {
    let ended = [
        "DELETE FROM sessions WHERE id IN
             (SELECT id FROM sessions WHERE ends <= ?1 ORDER BY ends LIMIT ?2)",
        "DELETE FROM profiles WHERE user IN
             (SELECT user FROM profiles WHERE ends <= ?1 ORDER BY ends LIMIT ?2)",
        "DELETE FROM read_marks WHERE (user, room) IN
             (SELECT user, room FROM read_marks WHERE ends <= ?1 ORDER BY ends LIMIT ?2)",
        "DELETE FROM pictures WHERE name IN
             (SELECT name FROM pictures WHERE ends <= ?1 ORDER BY ends LIMIT ?2)",
    ];
    let mut most = 0;
    for sql in ended {
        let deleted = transaction.prepare_cached(sql)?.execute(params![now.0, STEP_ENDED_MAX])?;
        most = most.max(deleted);
    }
    Ok(most)
}

fn rooms(transaction: &Transaction<'_>, after: i64, limit: u32) -> rusqlite::Result<Vec<Room>> {
    transaction
        .prepare_cached(
            "SELECT id, kept, trimmed_to, records FROM rooms WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?
        .query_map(params![after, limit], |row| {
            let (id, kept) = (row.get(0)?, row.get(1)?);
            Ok(Room { id, kept, trimmed_to: row.get(2)?, records: row.get(3)? })
        })?
        .collect()
}

/// The rows of a room between two sequences, of one kind (messages or records).
const MESSAGES: &str = "
    SELECT seq, at FROM messages INDEXED BY messages_by_room
    WHERE room = ?1 AND of_seq IS NULL AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4";
const RECORDS: &str = "
    SELECT seq, at FROM messages INDEXED BY records_by_room
    WHERE room = ?1 AND of_seq IS NOT NULL AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4";

/// How many of a room's oldest rows between two sequences are too old, and the last of them. It
/// stops at the first row that stays: a row with a time in the future keeps the rows behind it that
/// long.
fn oldest(
    transaction: &Transaction<'_>,
    sql: &str,
    (room, after, until): (i64, u64, u64),
    limit: u64,
    goes: impl Fn(&Old) -> bool,
) -> rusqlite::Result<(u64, Option<u64>)> {
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query(params![room, after, until, limit])?;
    let (mut count, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        let row = Old { rank: count, seq: row.get(0)?, at: row.get(1)? };
        if !goes(&row) {
            break;
        }
        count += 1;
        last = Some(row.seq);
    }
    Ok((count, last))
}

/// Deletes rows of a room up to a sequence. After this the log is no longer complete before it.
fn delete(
    transaction: &Transaction<'_>,
    sql: &str,
    (room, last): (i64, u64),
) -> rusqlite::Result<()> {
    transaction.prepare_cached(sql)?.execute(params![room, last])?;
    transaction
        .prepare_cached("UPDATE log SET deleted_to = max(deleted_to, ?1)")?
        .execute([last])?;
    Ok(())
}

fn is_empty(transaction: &Transaction<'_>, room: i64) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM messages INDEXED BY messages_by_room
                                 WHERE room = ?1 AND of_seq IS NULL)
                 AND NOT EXISTS (SELECT 1 FROM messages INDEXED BY records_by_room
                                 WHERE room = ?1 AND of_seq IS NOT NULL)",
        )?
        .query_row([room], |row| row.get(0))
}
