//! The content of one frame, encoded draft by draft while the frame before it is in flight. No I/O.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    ops::Range,
};

use sha2::{Digest, Sha256};

use crate::store::redis::frame;
use crate::{
    domain::{
        name::UserId,
        position::Timestamp,
        record::{Change, Draft, Entry, Stored},
        room::{RoomKind, RoomName},
    },
    store::{
        layout::{self, ContentMark},
        log::{AppendError, Settle},
        queue::{BATCH_BYTES_MAX, QueuedDraft},
    },
};

/// Messages of a frame at most. The fixed cost of a script call is shared by its messages.
const MESSAGES_MAX: usize = 512;
/// Bytes of an id, as append.lua cuts them from the retry ids.
const ID_BYTES: usize = 14;
/// The largest time that fits the 13 digits of a time in a retry id: the year 2286.
const RETRY_TIME_MAX: u64 = 9_999_999_999_999;

/// A sender's message id as Redis remembers it. 112 bits of SHA-256 are enough, and a string of 14
/// bytes fits the second smallest allocation of Redis.
type Id = [u8; ID_BYTES];

/// Drafts in the order they came.
#[derive(Default)]
pub struct Batch {
    pub messages: Messages,
    pub settles: Settles,
}

/// The records to store, each once.
#[derive(Default)]
pub struct Messages {
    /// A line per entry, with an end of line between them.
    lines: Vec<u8>,
    entries: Vec<BatchEntry>,
    firsts: HashMap<Id, usize, foldhash::fast::RandomState>,
}

/// The callback of each draft, with the number of its entry and its own content. A draft that has
/// the id of an earlier one has the entry of that one.
#[derive(Default)]
pub struct Settles(Vec<(Settle, usize, Option<ContentMark>)>);

/// Where the entry, or an earlier message with its id, is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    pub stored: Stored,
    /// `None`: it is not known, and not compared.
    pub content: Option<ContentMark>,
}

/// The rooms of some records, in the order they come.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rooms<'a> {
    pub messages: Vec<(&'a RoomName, Vec<usize>)>,
    pub changes: Vec<[String; 5]>,
}

/// A record of the batch.
struct BatchEntry {
    room: RoomName,
    from: UserId,
    at: Timestamp,
    /// `None`: the client cannot send the draft again.
    retry_id: Option<(Id, ContentMark)>,
    line: Range<usize>,
    /// A change is in the frame, but not in the list of its room.
    change: Option<(u64, Change)>,
}

/// The callback of a draft, and what it is called with.
pub type SettledDraft = (Settle, Result<Stored, AppendError>);

impl Batch {
    pub fn push(&mut self, QueuedDraft { draft, settle }: QueuedDraft) {
        let retry_id = draft.repeatable.then(|| (id(&draft), layout::content_mark(&draft)));
        let entry = self.messages.entry(draft, retry_id);
        self.settles.0.push((settle, entry, retry_id.map(|(_, content)| content)));
    }

    pub fn is_empty(&self) -> bool {
        self.settles.0.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.settles.0.len() >= MESSAGES_MAX || self.messages.lines.len() >= BATCH_BYTES_MAX
    }
}

impl Settles {
    /// The outcome of each draft, from the outcome of each entry. Only here are contents compared:
    /// the earlier message may be the first with the id in the batch, or one that Redis knew.
    pub fn settled(
        self,
        outcomes: &[Result<StoredEntry, AppendError>],
    ) -> impl Iterator<Item = SettledDraft> + use<'_> {
        self.0.into_iter().map(|(settle, entry, own)| {
            let outcome = outcomes[entry].clone().and_then(|first| match (first.content, own) {
                (Some(first), Some(own)) if first != own => Err(AppendError::Conflict),
                _ => Ok(first.stored),
            });
            (settle, outcome)
        })
    }

    pub fn refuse(self, error: AppendError) {
        for (settle, ..) in self.0 {
            settle(Err(error));
        }
    }
}

impl Messages {
    /// The number of the draft's entry: a new entry, unless an earlier draft has its id.
    fn entry(&mut self, draft: Draft, retry_id: Option<(Id, ContentMark)>) -> usize {
        let next = self.entries.len();
        match retry_id.map(|(id, _)| self.firsts.entry(id)) {
            Some(Slot::Occupied(first)) => return *first.get(),
            Some(Slot::Vacant(vacant)) => {
                vacant.insert(next);
            }
            None => {}
        }
        if next > 0 {
            self.lines.push(b'\n');
        }
        let start = self.lines.len();
        frame::push_line(&mut self.lines, &draft);
        let line = start..self.lines.len();
        let Draft { room, from, at, entry, .. } = draft;
        let change = match entry {
            Entry::Message(_) => None,
            Entry::Change { target_seq, change } => Some((target_seq, change)),
        };
        self.entries.push(BatchEntry { room, from, at, retry_id, line, change });
        next
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn at(&self, entry: usize) -> Timestamp {
        self.entries[entry].at
    }

    pub fn is_repeatable(&self, entry: usize) -> bool {
        self.entries[entry].retry_id.is_some()
    }

    pub fn content(&self, entry: usize) -> Option<ContentMark> {
        self.entries[entry].retry_id.map(|(_, content)| content)
    }

    /// A frame of the entries `which`, a line each, after a header.
    pub fn frame(&self, header: &str, which: &[usize]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(header.len() + 1 + self.lines.len());
        frame.extend_from_slice(header.as_bytes());
        frame.push(b'\n');
        if which.len() == self.len() {
            frame.extend_from_slice(&self.lines);
        } else {
            frame.extend(self.lines(which));
        }
        frame
    }

    /// What append.lua is told of the rooms of these records: each room with the places of its
    /// messages in `which`, counted from 0, and the arguments of each change.
    pub fn rooms(&self, which: &[usize]) -> Rooms<'_> {
        let mut rooms = Rooms::default();
        let mut known: HashMap<&RoomName, usize, foldhash::fast::RandomState> = HashMap::default();
        for (place, &entry) in which.iter().enumerate() {
            let BatchEntry { room, from, at, change, .. } = &self.entries[entry];
            // A message to one session is read from the log only: it is in no room's history.
            if matches!(room.kind(), RoomKind::Socket { .. }) {
                continue;
            }
            let number = *known.entry(room).or_insert_with(|| {
                rooms.messages.push((room, Vec::new()));
                rooms.messages.len()
            });
            match change {
                None => rooms.messages[number - 1].1.push(place),
                Some((target_seq, change)) => rooms.changes.push([
                    (place + 1).to_string(),
                    number.to_string(),
                    target_seq.to_string(),
                    layout::change_name(change).to_owned(),
                    layout::change_text(change, from, *at),
                ]),
            }
        }
        rooms
    }

    pub fn lines(&self, which: &[usize]) -> Vec<u8> {
        let line = |&entry: &usize| &self.lines[self.entries[entry].line.clone()];
        which.iter().map(line).collect::<Vec<&[u8]>>().join(&b'\n')
    }

    /// The retry ids that append.lua describes: id, place and time of each message that may be
    /// repeated, and then their contents.
    pub fn retry_ids(&self, which: &[usize]) -> Vec<u8> {
        let mut retry_ids = Vec::new();
        let mut contents = Vec::new();
        for (place, &entry) in (1..).zip(which) {
            let BatchEntry { retry_id: Some((id, content)), at, .. } = &self.entries[entry] else {
                continue;
            };
            retry_ids.extend_from_slice(id);
            push_digits::<4>(&mut retry_ids, place);
            push_digits::<13>(&mut retry_ids, at.0.min(RETRY_TIME_MAX));
            contents.extend_from_slice(content);
        }
        retry_ids.append(&mut contents);
        retry_ids
    }
}

/// The last `COUNT` digits of a number.
fn push_digits<const COUNT: usize>(text: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; COUNT];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
    text.extend_from_slice(&digits);
}

/// A sender and an id contain no line break, so the hashed text is unambiguous.
fn id(draft: &Draft) -> Id {
    let mut hash = Sha256::new();
    hash.update(draft.from.as_str());
    hash.update("\n");
    hash.update(draft.id.as_str());
    let hash = hash.finalize();
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        name::{Emoji, MessageId},
        position::{Epoch, Position},
        record::Body,
    };

    fn draft(room: &str, id: &str, repeatable: bool) -> Draft {
        let (room, from) = (RoomName::parse(room).unwrap(), UserId::parse("ann").unwrap());
        let id = MessageId::parse(id).unwrap();
        let draft = Draft::new(room, from, id, Timestamp(7), Body::from_json("1"));
        Draft { repeatable, ..draft }
    }

    fn batch(drafts: &[Draft]) -> Batch {
        let mut batch = Batch::default();
        for draft in drafts {
            batch.push(QueuedDraft { draft: draft.clone(), settle: Box::new(drop) });
        }
        batch
    }

    #[test]
    fn some_of_a_batch_is_what_a_batch_of_them_would_be() {
        let drafts: Vec<Draft> =
            (0..9).map(|n| draft(["red", "blue"][n % 2], &format!("m{n}"), n % 3 > 0)).collect();
        let which = [1, 2, 3, 6, 7];
        let some: Vec<Draft> = which.iter().map(|&at| drafts[at].clone()).collect();
        let (all, some) = (batch(&drafts).messages, batch(&some).messages);
        let every: Vec<usize> = (0..some.len()).collect();
        assert_eq!(all.frame("h", &which), some.frame("h", &every));
        assert_eq!(all.retry_ids(&which), some.retry_ids(&every));
        assert_eq!(all.rooms(&which), some.rooms(&every));
        assert_eq!(some.rooms(&every).messages[1], (&drafts[2].room, vec![1, 3]));
    }

    #[test]
    fn a_message_to_one_connection_is_in_no_rooms_list() {
        let drafts = [draft("socket:0a", "m1", true), draft("red", "m2", true)];
        let batch = batch(&drafts).messages;
        assert_eq!(batch.rooms(&[0, 1]).messages, [(&drafts[1].room, vec![1])]);
    }

    #[test]
    fn a_change_is_not_in_the_list_of_its_room() {
        let entry = |change| Entry::Change { target_seq: 3, change };
        let emoji = Emoji::parse("+1").unwrap();
        let mut drafts = ["a", "b", "c", "d"].map(|id| draft("red", id, true));
        drafts[1].entry = entry(Change::Delete);
        drafts[2].entry = entry(Change::React { emoji, on: true });
        drafts[3].entry = entry(Change::Edit(Body::from_json("1")));
        let batch = batch(&drafts).messages;
        assert_eq!(batch.rooms(&[1, 2]).messages, [(&drafts[0].room, vec![])]);
        let Rooms { messages, changes } = batch.rooms(&[0, 1, 2, 3]);
        assert_eq!(messages, [(&drafts[0].room, vec![0])]);
        let expected = [
            ["2", "1", "3", "delete", "deleted 7"],
            ["3", "1", "3", "react", "+1\tann"],
            ["4", "1", "3", "edit", "edited 7 1"],
        ];
        assert_eq!(changes, expected.map(|change| change.map(str::to_owned)));
    }

    #[test]
    fn a_retry_id_has_its_place_and_one_length() {
        let mut drafts =
            [draft("red", "a", true), draft("red", "b", false), draft("red", "c", true)];
        drafts[2].at = Timestamp(u64::MAX);
        let retry_ids = batch(&drafts).messages.retry_ids(&[0, 1, 2]);
        let (first, rest) = retry_ids.split_at(31);
        let (second, contents) = rest.split_at(31);
        assert_eq!(first[ID_BYTES..], *b"00010000000000007");
        assert_eq!(second[ID_BYTES..], *b"00039999999999999");
        assert_ne!(first[..ID_BYTES], second[..ID_BYTES]);
        assert_eq!(*contents, [layout::content_mark(&drafts[0]); 2].concat());
    }

    #[test]
    fn a_repeat_takes_no_place_and_is_told_of_the_first() {
        let drafts = [draft("red", "a", true), draft("red", "b", true), draft("red", "a", true)];
        let batch = batch(&drafts);
        assert_eq!(batch.messages.len(), 2);
        let frame = String::from_utf8(batch.messages.frame("", &[0, 1])).unwrap();
        assert_eq!(frame.matches("\"id\":\"a\"").count(), 1);
        let (busy, unconfirmed) = (AppendError::Busy, AppendError::Unconfirmed);
        let outcomes = [Err(busy), Err(unconfirmed)];
        let told: Vec<_> = batch.settles.settled(&outcomes).map(|(_, outcome)| outcome).collect();
        assert_eq!(told, [busy, unconfirmed, busy].map(Err));
    }

    #[test]
    fn of_drafts_with_one_id_each_is_compared_with_what_is_stored() {
        let drafts = [("red", "a"), ("blue", "a"), ("red", "a"), ("red", "b")];
        let drafts = drafts.map(|(room, id)| draft(room, id, true));
        let [red, blue] = [&drafts[0], &drafts[1]].map(layout::content_mark);
        let position = Position { epoch: Epoch::new("e"), seq: 1 };
        let stored = Stored { position, at: Timestamp(7) };
        let (yes, no) = (Ok(stored.clone()), Err(AppendError::Conflict));
        for (content, expected) in [
            (Some(red), [&yes, &no, &yes]),
            (Some(blue), [&no, &yes, &no]),
            (None, [&yes, &yes, &yes]),
        ] {
            let first = Ok(StoredEntry { stored: stored.clone(), content });
            let outcomes = [first, Err(AppendError::Busy)];
            let told: Vec<_> = batch(&drafts).settles.settled(&outcomes).collect();
            let told: Vec<_> = told.iter().map(|(_, outcome)| outcome).collect();
            assert_eq!(told[..3], expected, "{content:?}");
            assert_eq!(told[3], &Err(AppendError::Busy));
        }
    }

    #[test]
    fn an_id_belongs_to_its_sender() {
        let ids = [("ann", "b c"), ("ann b", "c")].map(|(from, name)| {
            id(&Draft { from: UserId::parse(from).unwrap(), ..draft("red", name, true) })
        });
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn a_batch_is_full_of_messages_or_of_bytes() {
        let many: Vec<Draft> =
            (0..MESSAGES_MAX).map(|n| draft("red", &n.to_string(), true)).collect();
        assert!(batch(&many).is_full());
        assert!(!batch(&many[1..]).is_full());
        let body = Body::from_json(&format!("\"{}\"", "x".repeat(BATCH_BYTES_MAX)));
        assert!(batch(&[Draft { entry: body.into(), ..many[0].clone() }]).is_full());
    }
}
