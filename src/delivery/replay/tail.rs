//! The newest part of a partition's log, with an index by room.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry as Slot},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    dialects::{DialectId, Dialects, offset::RecordOffset},
    domain::{position::Position, record::Record, room::RoomName, visibility::audience},
    transport::packet,
};

/// Bytes kept per partition, including the containers and the encoded frames.
const TAIL_BYTES_MAX: usize = 4 << 20;
/// The limit while clients return that were away for longer.
pub const RECOVERY_BYTES_MAX: usize = 64 << 20;
/// How long that larger limit stays after the last such client.
const RECOVERY_BYTES_FOR: Duration = Duration::from_secs(30);
/// Approximate bytes that a record takes beside its body, including its index entry in a room.
const ENTRY_BYTES: usize = 400;

/// A delivered record, and the frames encoded from it.
#[derive(Debug)]
pub struct ReplayEntry {
    record: Record,
    /// By dialect.
    frames: Box<[OnceLock<Bytes>]>,
}

/// What a client missed, or why this buffer does not have it.
#[derive(Debug)]
pub enum Missed {
    /// All records of these rooms up to `end`.
    Entries { entries: Vec<Arc<ReplayEntry>>, end: Position },
    /// The tail begins after that position.
    Behind,
    /// This node has not delivered that position yet.
    Ahead,
    /// The log has another epoch now.
    OtherEpoch,
}

impl ReplayEntry {
    pub fn new(record: Record, dialects: Dialects) -> Self {
        Self { record, frames: dialects.all().map(|_| OnceLock::new()).collect() }
    }

    fn seq(&self) -> u64 {
        self.record.position.seq
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its events as websocket frames, encoded once for all clients that missed it; empty if the
    /// dialect has no event for it. Its offset is the record's position, which is correct only with
    /// one partition.
    pub fn frames(&self, dialect: DialectId) -> &Bytes {
        let offset = || RecordOffset::from(&self.record.position);
        self.frames[dialect.index()].get_or_init(|| self.frames_with(dialect, &offset(), 0))
    }

    /// The same frames with another client's offset, without the first events.
    pub fn frames_with(&self, dialect: DialectId, offset: &RecordOffset, skipped: usize) -> Bytes {
        let events = dialect.record(&self.record, offset).into_iter().skip(skipped);
        let mut frames =
            events.map(|event| packet::frames(packet::event(&event.name, &event.arguments)));
        match (frames.next(), frames.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only,
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(frames);
                all.collect::<Vec<Bytes>>().concat().into()
            }
        }
    }

    /// What the client wrote counts twice, because its frame contains it again once a client has missed it.
    pub fn bytes(&self) -> usize {
        ENTRY_BYTES + 2 * self.record.bytes()
    }
}

/// The newest part of one partition's log, without a hole.
#[derive(Debug)]
pub struct PartitionTail {
    dialects: Dialects,
    /// The last delivered position; `None` until the log was reached.
    pub end: Option<Position>,
    entries: VecDeque<Arc<ReplayEntry>>,
    /// The sequences that members of each room received. So what a client missed is found without a
    /// scan of other rooms' records.
    seqs_by_room: HashMap<RoomName, VecDeque<u64>>,
    bytes: usize,
    larger_limit_until: Option<Instant>,
}

impl PartitionTail {
    pub fn new(dialects: Dialects) -> Self {
        Self {
            dialects,
            end: None,
            entries: VecDeque::new(),
            seqs_by_room: HashMap::new(),
            bytes: 0,
            larger_limit_until: None,
        }
    }

    pub fn push(&mut self, record: Record) {
        let is_next = |end: &Position| {
            end.epoch == record.position.epoch && end.seq + 1 == record.position.seq
        };
        if !self.end.as_ref().is_some_and(is_next) {
            self.clear();
        }
        self.end = Some(record.position.clone());
        let entry = ReplayEntry::new(record, self.dialects);
        self.bytes += entry.bytes();
        for room in audience(&entry.record.room) {
            self.seqs_by_room.entry(room).or_default().push_back(entry.seq());
        }
        self.entries.push_back(Arc::new(entry));
        let bytes_max = match self.larger_limit_until {
            Some(until) if until > Instant::now() => RECOVERY_BYTES_MAX,
            _ => TAIL_BYTES_MAX,
        };
        while self.bytes > bytes_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.bytes();
            for room in audience(&oldest.record.room) {
                if let Slot::Occupied(mut seqs) = self.seqs_by_room.entry(room) {
                    seqs.get_mut().pop_front();
                    if seqs.get().is_empty() {
                        seqs.remove();
                    }
                }
            }
        }
    }

    /// The next record comes after a hole.
    pub fn restart_after(&mut self, end: Position) {
        self.clear();
        self.end = Some(end);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.seqs_by_room.clear();
        self.bytes = 0;
    }

    /// The position before the first entry.
    fn begin(&self, began: Option<Position>) -> Option<Position> {
        let first = self.entries.front().map(|entry| Position {
            epoch: entry.record.position.epoch.clone(),
            seq: entry.record.position.seq - 1,
        });
        first.or_else(|| self.end.clone()).or(began)
    }

    /// The records after `after` in any of these rooms.
    pub fn missed(&self, began: Option<Position>, after: &Position, rooms: &[RoomName]) -> Missed {
        let Some(begin) = self.begin(began) else { return Missed::Ahead };
        let end = self.end.clone().unwrap_or_else(|| begin.clone());
        if end.epoch != after.epoch {
            return Missed::OtherEpoch;
        }
        if after.seq > end.seq {
            return Missed::Ahead;
        }
        if after.seq < begin.seq {
            return Missed::Behind;
        }
        let mut seqs = BTreeSet::new();
        for in_room in
            rooms.iter().flat_map(audience).filter_map(|room| self.seqs_by_room.get(&room))
        {
            seqs.extend(in_room.range(in_room.partition_point(|seq| *seq <= after.seq)..));
        }
        let entry = |seq: u64| {
            let place = usize::try_from(seq - begin.seq - 1).ok()?;
            self.entries.get(place).cloned()
        };
        Missed::Entries { entries: seqs.into_iter().filter_map(entry).collect(), end }
    }

    /// Adds older records at the front, those that are not there yet. `false`: some records between
    /// them are missing.
    pub fn prepend(&mut self, began: Option<Position>, older: &mut Vec<Arc<ReplayEntry>>) -> bool {
        let (Some(begin), Some(last)) = (self.begin(began), older.last()) else { return false };
        if last.record.position.epoch != begin.epoch || last.record.position.seq < begin.seq {
            return false;
        }
        for entry in older.drain(..).rev() {
            if entry.seq() <= begin.seq {
                self.bytes += entry.bytes();
                for room in audience(&entry.record.room) {
                    self.seqs_by_room.entry(room).or_default().push_front(entry.seq());
                }
                self.entries.push_front(entry);
            }
        }
        self.end.get_or_insert(begin);
        self.larger_limit_until = Some(Instant::now() + RECOVERY_BYTES_FOR);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        name::{MessageId, UserId},
        position::{Epoch, Timestamp},
        record::{Body, Draft},
        visibility::hears,
    };

    const ROOMS: [&str; 5] = ["red", "blue", "dm:ann:bob", "dm:ann:ann", "socket:0a"];

    fn at(seq: u64) -> Position {
        Position { epoch: Epoch::new("e"), seq }
    }

    fn record(seq: u64) -> Record {
        let place = usize::try_from(seq * seq % 7).unwrap() % ROOMS.len();
        let (room, from) = (RoomName::parse(ROOMS[place]), UserId::parse("ann"));
        let id = MessageId::parse("m").unwrap();
        let body = Body::from_json(&format!("\"{}\"", "x".repeat(1_000)));
        Draft::new(room.unwrap(), from.unwrap(), id, Timestamp(1), body).into_record(at(seq))
    }

    fn seqs(tail: &PartitionTail, after: u64, rooms: &[&str]) -> Option<Vec<u64>> {
        let rooms: Vec<RoomName> =
            rooms.iter().map(|room| RoomName::parse(room).unwrap()).collect();
        match tail.missed(None, &at(after), &rooms) {
            Missed::Entries { entries, .. } => {
                Some(entries.iter().map(|entry| entry.seq()).collect())
            }
            _ => None,
        }
    }

    /// The same result from a scan of all records.
    fn scanned(from: u64, to: u64, rooms: &[&str]) -> Vec<u64> {
        let is_received = |seq: &u64| {
            let room = record(*seq).room;
            rooms.iter().any(|name| hears(&RoomName::parse(name).unwrap(), &room))
        };
        (from..=to).filter(is_received).collect()
    }

    #[test]
    fn what_is_missed_is_found_by_room() {
        let dialects = Dialects::builtin();
        let mut tail = PartitionTail::new(dialects);
        for seq in 4_001..=9_000 {
            tail.push(record(seq));
        }
        let mut begin = tail.begin(None).unwrap().seq;
        assert!(begin > 4_001, "the oldest have left");
        let check = |tail: &PartitionTail, begin: u64| {
            for rooms in [
                &["red"][..],
                &["blue", "red"],
                &["red", "user:ann", "socket:0a"],
                &["user:bob"],
                &["dm:ann:bob"],
                &["nowhere"],
                &[],
            ] {
                assert_eq!(seqs(tail, begin - 1, rooms), None, "it does not reach back so far");
                for after in [begin, begin + 1, begin + 700, 8_999, 9_000] {
                    let found = seqs(tail, after, rooms);
                    assert_eq!(found, Some(scanned(after + 1, 9_000, rooms)), "{rooms:?} {after}");
                }
            }
        };
        check(&tail, begin);
        let mut older: Vec<_> = (4_001..=begin + 9)
            .map(|seq| Arc::new(ReplayEntry::new(record(seq), dialects)))
            .collect();
        assert!(tail.prepend(None, &mut older));
        begin = 4_000;
        check(&tail, begin);
        let held: usize = tail.seqs_by_room.values().map(VecDeque::len).sum();
        let received = (4_001..=9_000).flat_map(|seq| audience(&record(seq).room));
        assert_eq!(held, received.count());
        tail.restart_after(at(9_001));
        assert!(tail.seqs_by_room.is_empty());
    }
}
