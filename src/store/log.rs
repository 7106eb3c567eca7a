//! The port of the message log: append, read, and get an event for each append.
//!
//! The contract, which `tests/it/contract.rs` checks for every implementation:
//! - Drafts are appended in the order of the calls, and announced in the same step.
//! - `settle` is called exactly once for each draft. A stored draft settles after the append, in
//!   the order of the calls, from the store's own task or thread; a refusal may come sooner, even
//!   inside the call of `append`. `settle` must not block.
//! - A draft with the sender, message id and content of an earlier one, within the window, gets the
//!   position of the earlier one, and nothing is announced twice. With other content it settles
//!   with `Conflict`. This holds across nodes and restarts, in one partition. What content is, says
//!   `layout::content_mark`.
//! - Log events come in order of position, each once, without a hole: the store fills holes from
//!   its log, and sends `Gap` or `NewEpoch` only when the log cannot fill them.
//! - A draft that changes an earlier message is stored and announced like any other, but only log
//!   events and the tail of the log contain it. Its effect on the message is applied in the same
//!   step, if that message is in the room's history then, and is deleted with the message.
//! - A node that starts receives the events of what is appended from then on.
//! - When the store is down, drafts settle with an error at once; none is stored later
//!   unnoticed. `Unavailable` means certainly not stored; `Unconfirmed` means unknown.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::error::ReadError;
use crate::domain::{
    message::Message,
    name::{Emoji, UserId},
    page::Page,
    position::{Epoch, Position},
    record::{Body, Draft, Record, Stored},
    room::RoomName,
};

/// Batches of log events that may wait for the relay before the store stops reading.
pub const LOG_EVENT_BATCHES_MAX: usize = 64;

pub trait MessageLog: Send + Sync + std::fmt::Debug + 'static {
    /// Queues a draft for the log. Never waits; when the queue is full it settles with `Busy` at
    /// once.
    fn append(&self, draft: Draft, settle: Settle);

    /// One page of a room, at most `limit` messages, as they are now: with their later changes
    /// applied. The changes themselves are no messages of the room.
    fn history(
        &self,
        room: RoomName,
        page: Page,
        limit: u32,
    ) -> BoxFuture<'_, Result<History, ReadError>>;

    /// Records of all rooms of a partition after a position, oldest first: at most `limit`, and
    /// at most `TAIL_BYTES_MAX`.
    fn tail(
        &self,
        partition: u16,
        after: Position,
        limit: u32,
    ) -> BoxFuture<'_, Result<LogTail, ReadError>>;

    /// Rooms that have members or stored messages, except rooms of two users (`dm:`) and of one
    /// connection (`socket:`): at most `limit`, those with most members first.
    fn rooms(&self, limit: u32) -> BoxFuture<'_, Result<Vec<RoomSummary>, ReadError>>;

    /// The partitions are `0..partitions()`.
    fn partitions(&self) -> u16;

    /// The partition whose sequence orders this room.
    fn partition(&self, room: &RoomName) -> u16;

    /// The position after which this node receives every event. `None`: it has not reached the log
    /// yet.
    fn began(&self, partition: u16) -> Option<Position>;
}

/// Why a draft was not given a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Certainly not stored: a retry is safe.
    #[error("the message log cannot be reached; nothing was stored")]
    Unavailable,
    /// It may have been stored: a retry with the same id is safe, one with another id is not.
    #[error("the message log did not confirm in time; retry with the same id")]
    Unconfirmed,
    /// The sender used the id for another record. Certainly not stored.
    #[error(
        "this id belongs to another message; nothing was stored: send it with an id of its own"
    )]
    Conflict,
    /// Too many drafts are queued on this node. Certainly not stored.
    #[error("too many messages are waiting to be stored")]
    Busy,
}

/// Called once with the result of a draft.
pub type Settle = Box<dyn FnOnce(Result<Stored, AppendError>) + Send>;

/// One event of the log, in order of position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    Record(Record),
    /// A text that a person or another program published to the lobby's Redis channel. It is shown
    /// but not stored, so it has no position.
    External(Body),
    /// The log no longer has `from ..= to`, and this node did not deliver them.
    Gap {
        partition: u16,
        epoch: Epoch,
        from: u64,
        to: u64,
    },
    /// The log was lost or rolled back. Positions of the old epoch are void. Later records belong
    /// to the new epoch, and come after `last`.
    NewEpoch {
        partition: u16,
        epoch: Epoch,
        last: u64,
    },
}

/// Log events in batches as they arrived. The only receiver is the relay.
pub type LogEvents = mpsc::Receiver<Vec<LogEvent>>;

/// Messages, oldest first, in whichever direction the pages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The end of the log: `seq` of the last message of any room in this partition.
    pub top: Position,
    pub messages: Vec<Message>,
    /// Whether the room has more messages in the requested direction.
    pub more: bool,
    /// Whether messages after the position of `Page::After` were already deleted.
    pub trimmed: bool,
}

impl History {
    /// Drops the messages farthest from the requested position until the rest have at most
    /// `bytes_max`. At least one stays.
    pub fn fit(&mut self, page: Page, bytes_max: usize) {
        let mut bytes: usize = self.messages.iter().map(size).sum();
        while bytes > bytes_max && self.messages.len() > 1 {
            let left_out = match page {
                Page::Newest | Page::Before(_) => self.messages.remove(0),
                Page::After(_) => self.messages.remove(self.messages.len() - 1),
            };
            bytes -= size(&left_out);
            self.more = true;
        }
    }
}

/// Bytes of a message's body and of its reactions. Only these can be long.
pub fn size(message: &Message) -> usize {
    let reactions = message.state.reactions.iter();
    let bytes = |(emoji, user): &(Emoji, UserId)| emoji.as_str().len() + user.as_str().len();
    message.body.as_json().len() + reactions.map(bytes).sum::<usize>()
}

/// A room as an entry in a list of rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSummary {
    pub room: RoomName,
    /// Users in the room.
    pub count: u32,
    /// Position of the room's last message; 0 if none is known.
    pub seq: u64,
}

/// Most bytes of bodies and source events in a `LogTail`, unless its first record alone has more.
pub const TAIL_BYTES_MAX: usize = 256 << 10;

/// Logs that a stored record is damaged, and so is left out of an answer.
pub fn passed_over(seq: u64, why: &str) {
    tracing::error!(seq, why, "a stored record cannot be read; it is skipped");
}

/// The records of a partition's log after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTail {
    /// Oldest first and without a hole. There are more if the last record is not at `top`; an empty
    /// list means that there are none. A record that cannot be read ends them, and the next call,
    /// which begins there, answers `Trimmed`.
    Records { records: Vec<Record>, top: Position },
    /// Records after the position were deleted or cannot be read; `first` is the oldest `seq` that
    /// is still there, or the next one to be stored.
    Trimmed { first: u64 },
    /// The position belongs to another epoch, so nothing can be said about it.
    OtherEpoch,
}

impl LogTail {
    /// The answer if the record at `seq` cannot be read: the records before it, if there are any.
    pub fn damaged(records: Vec<Record>, seq: u64, why: &str, top: Position) -> Self {
        if records.is_empty() {
            passed_over(seq, why);
            return Self::Trimmed { first: seq.saturating_add(1) };
        }
        Self::Records { records, top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        message::MessageState,
        name::{MessageId, UserId},
        position::Timestamp,
    };

    fn history() -> History {
        let (from, id) = (UserId::parse("u").unwrap(), MessageId::parse("m").unwrap());
        let body = Body::from_json("\"12345678\"");
        let draft = Draft::new(RoomName::lobby(), from, id, Timestamp(1), body);
        let record = |seq| draft.clone().into_record(Position { epoch: Epoch::new("e"), seq });
        let message = |seq| Message::original(record(seq)).unwrap();
        let top = Position { epoch: Epoch::new("e"), seq: 9 };
        History { top, messages: (1..=3).map(message).collect(), more: false, trimmed: false }
    }

    fn kept(page: Page, bytes_max: usize) -> (Vec<u64>, bool) {
        let mut history = history();
        history.fit(page, bytes_max);
        let seqs = history.messages.iter().map(|message| message.position.seq).collect();
        (seqs, history.more)
    }

    #[test]
    fn a_page_keeps_what_is_nearest_to_where_it_was_asked_for() {
        assert_eq!(kept(Page::Newest, 30), (vec![1, 2, 3], false));
        assert_eq!(kept(Page::Newest, 29), (vec![2, 3], true));
        assert_eq!(kept(Page::After(0), 29), (vec![1, 2], true));
        assert_eq!(kept(Page::Before(4), 1), (vec![3], true));
    }

    #[test]
    fn reactions_take_their_part_of_a_page() {
        let mut history = history();
        let reaction = (Emoji::parse("+1").unwrap(), UserId::parse("12345678").unwrap());
        let reactions = vec![reaction; 2];
        let newest = history.messages.pop().unwrap();
        history
            .messages
            .push(newest.with_state(MessageState { reactions, ..MessageState::default() }));
        history.fit(Page::Newest, 49);
        assert_eq!(history.messages.len(), 2);
    }
}
