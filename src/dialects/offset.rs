//! Where a client is in the log, as text that it keeps and gives back when it returns.
//!
//! With one partition an offset is the position of an event: `<epoch>-<seq>`. With several it is a
//! position in each of them, because the next event of the client can be in any: a digest of their
//! epochs, then each one's seq in base 36, for example `1f0c9a3b5d7e-2s_0_1a`. Such a vector is the
//! same for all clients of a node, so that an event is still encoded once.
//!
//! A rule table can tell one record by several events. Each but the last one ends in the record's
//! offset and `.<number>`, the first one in `.1`; behind a vector the record's partition follows:
//! `.1.0`. A client that comes back with it has not seen the later events of that record.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::domain::position::{Epoch, Position};

/// With more partitions than this, offsets would be longer than most messages. Then an offset is a
/// position in one partition, and a client with rooms in several begins a new session.
pub const VECTOR_PARTITIONS_MAX: u16 = 8;
/// Longest vector, in bytes.
pub const VECTOR_BYTES_MAX: usize = 128;
/// Of the digest, in bytes.
const DIGEST_BYTES: usize = 6;

/// What a returning client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offset {
    Position(Position),
    Vector(OffsetVector),
}

/// A position in every partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetVector {
    /// Of the epochs of all partitions, as hex digits.
    digest: String,
    seqs: Vec<u64>,
}

/// The offset that a client comes back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOffset {
    pub offset: Offset,
    /// `None`: it has all events of the record.
    pub shown: Option<ShownEvents>,
}

/// How many events of the record at its offset a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownEvents {
    pub count: usize,
    /// The record's partition, where the offset is a vector.
    pub partition: Option<u16>,
}

/// The offset of one record, for each of its events.
#[derive(Debug, Clone)]
pub struct RecordOffset {
    /// `None`: the client keeps the offset that it has.
    whole: Option<String>,
    /// Of a vector.
    partition: Option<u16>,
    /// Whether the events before the last one have an offset, too.
    has_parts: bool,
}

impl ClientOffset {
    pub fn parse(text: &str) -> Option<Self> {
        let (head, seqs) = text.rsplit_once('-')?;
        let Some((seqs, shown)) = seqs.split_once('.') else {
            return Some(Self { offset: Offset::parse(text)?, shown: None });
        };
        let offset = Offset::parse(&format!("{head}-{seqs}"))?;
        let mut shown = shown.split('.');
        let count = shown.next()?.parse().ok()?;
        let partition = shown.next().map(str::parse).transpose().ok()?;
        let is_vector = matches!(offset, Offset::Vector(_));
        let is_whole = shown.next().is_none() && partition.is_some() == is_vector;
        is_whole.then_some(Self { offset, shown: Some(ShownEvents { count, partition }) })
    }
}

impl RecordOffset {
    /// For an event after which the client keeps the offset that it has.
    pub fn none() -> Self {
        Self { whole: None, partition: None, has_parts: false }
    }

    /// The same for a client that does not go on within the record: only the last event has it.
    pub fn only_last(self) -> Self {
        Self { has_parts: false, ..self }
    }

    /// Of a record's only or last event.
    pub fn last(&self) -> Option<String> {
        self.whole.clone()
    }

    /// Of the event at `index` of `count`.
    pub fn of(&self, index: usize, count: usize) -> Option<String> {
        let whole = self.last()?;
        if index + 1 == count {
            return Some(whole);
        }
        if !self.has_parts {
            return None;
        }
        let partition = self.partition.map(|partition| format!(".{partition}"));
        Some(format!("{whole}.{}{}", index + 1, partition.unwrap_or_default()))
    }
}

impl From<&Position> for RecordOffset {
    fn from(position: &Position) -> Self {
        let whole = Some(Offset::Position(position.clone()).to_string());
        Self { whole, partition: None, has_parts: true }
    }
}

impl Offset {
    fn parse(text: &str) -> Option<Self> {
        let (head, seqs) = text.rsplit_once('-')?;
        if !seqs.contains('_') {
            return Some(Self::Position(Position {
                epoch: Epoch::new(head),
                seq: seqs.parse().ok()?,
            }));
        }
        let seqs = seqs.split('_').map(|seq| u64::from_str_radix(seq, 36).ok());
        let seqs = seqs.collect::<Option<Vec<u64>>>()?;
        let is_short = seqs.len() <= usize::from(VECTOR_PARTITIONS_MAX);
        is_short.then(|| Self::Vector(OffsetVector { digest: head.to_owned(), seqs }))
    }
}

impl OffsetVector {
    /// `positions` has the position of each partition.
    pub fn new(positions: &[Position]) -> Self {
        let mut digest = Sha256::new();
        for Position { epoch, .. } in positions {
            digest.update(epoch.as_str());
            digest.update("\n");
        }
        let digest = digest.finalize();
        let digest = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Self { digest, seqs: positions.iter().map(|position| position.seq).collect() }
    }

    /// The seq of `partition` in an offset that a client sent back. `None`: it was made when
    /// the log had other epochs.
    pub fn seq_of(&self, sent_back: &Self, partition: u16) -> Option<u64> {
        let is_same = self.digest == sent_back.digest && self.seqs.len() == sent_back.seqs.len();
        sent_back.seqs.get(usize::from(partition)).copied().filter(|_| is_same)
    }
}

/// Makes the offsets of events that are emitted one after the other.
#[derive(Debug, Clone)]
pub struct OffsetCursor(Option<OffsetVector>);

impl OffsetCursor {
    /// `None`: an offset is the position of its event.
    pub fn new(vector: Option<OffsetVector>) -> Self {
        Self(vector)
    }

    /// Whether all clients that return are given the same offsets.
    pub fn is_shared(&self) -> bool {
        self.0.is_none()
    }

    /// Everything in this partition up to `seq` has been emitted.
    pub fn set(&mut self, partition: u16, seq: u64) {
        if let Some(known) =
            self.0.iter_mut().find_map(|it| it.seqs.get_mut(usize::from(partition)))
        {
            *known = seq;
        }
    }

    /// The offset of what is emitted next.
    pub fn pass(&mut self, partition: u16, position: &Position) -> RecordOffset {
        self.set(partition, position.seq);
        match &self.0 {
            Some(vector) => RecordOffset {
                whole: Some(vector.to_string()),
                partition: Some(partition),
                has_parts: true,
            },
            None => RecordOffset::from(position),
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(Position { epoch, seq }) => write!(f, "{epoch}-{seq}"),
            Self::Vector(vector) => write!(f, "{vector}"),
        }
    }
}

impl fmt::Display for OffsetVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digest)?;
        for (place, seq) in self.seqs.iter().enumerate() {
            f.write_str(if place == 0 { "-" } else { "_" })?;
            write_base_36(f, *seq)?;
        }
        Ok(())
    }
}

fn write_base_36(f: &mut fmt::Formatter<'_>, number: u64) -> fmt::Result {
    if number >= 36 {
        write_base_36(f, number / 36)?;
    }
    let digit = u32::try_from(number % 36).ok().and_then(|digit| char::from_digit(digit, 36));
    write!(f, "{}", digit.expect("a digit of base 36"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = Position> {
        ("[0-9a-f-]{1,32}", any::<u64>())
            .prop_map(|(epoch, seq)| Position { epoch: Epoch::new(&epoch), seq })
    }

    proptest! {
        #[test]
        fn an_offset_is_read_as_it_was_written(
            positions in prop::collection::vec(position(), 1..=usize::from(VECTOR_PARTITIONS_MAX)),
        ) {
            let mut cursors = vec![OffsetCursor::new(None)];
            let vector = OffsetVector::new(&positions);
            if positions.len() > 1 {
                cursors.push(OffsetCursor::new(Some(vector.clone())));
            }
            for mut cursor in cursors {
                let (offset, partition) = match cursor.is_shared() {
                    true => (Offset::Position(positions[0].clone()), None),
                    false => (Offset::Vector(vector.clone()), Some(0)),
                };
                let written = cursor.pass(0, &positions[0]);
                for index in 0..3 {
                    let shown = Some(ShownEvents { count: index + 1, partition });
                    let shown = shown.filter(|shown| shown.count < 3);
                    let read = ClientOffset::parse(&written.of(index, 3).unwrap());
                    prop_assert_eq!(read, Some(ClientOffset { offset: offset.clone(), shown }));
                }
            }
        }
    }

    #[test]
    fn what_is_no_offset_is_refused() {
        for bad in [
            "",
            "hello",
            "e-",
            "e-x",
            "e-1_",
            "e-1_é",
            "e-1_2_3_4_5_6_7_8_9",
            "e-1.",
            "e-1.x",
            "e-1.1.0",
            "e-1_2.1",
            "e-1_2.1.0.0",
        ] {
            assert_eq!(ClientOffset::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_vector_of_other_epochs_says_nothing() {
        let at = |epoch: &str, seq| Position { epoch: Epoch::new(epoch), seq };
        let own = OffsetVector::new(&[at("a", 7), at("b", 8)]);
        let said = |positions: &[Position]| own.seq_of(&OffsetVector::new(positions), 1);
        assert_eq!(said(&[at("a", 1), at("b", 2)]), Some(2));
        assert_eq!(said(&[at("a", 1), at("c", 2)]), None);
        assert_eq!(said(&[at("a", 1), at("b", 2), at("c", 3)]), None);
    }

    #[test]
    fn an_offset_names_the_event_and_what_was_emitted_before_it() {
        let at = |epoch: &str, seq| Position { epoch: Epoch::new(epoch), seq };
        let mut cursor = OffsetCursor::new(Some(OffsetVector::new(&[at("a", 7), at("b", 35)])));
        let last = |offset: RecordOffset| offset.last().unwrap();
        assert!(last(cursor.pass(0, &at("a", 46_655))).ends_with("-zzz_z"));
        assert!(last(cursor.pass(1, &at("b", 36))).ends_with("-zzz_10"));
        assert_eq!(last(OffsetCursor::new(None).pass(1, &at("b", 36))), "b-36");
    }
}
