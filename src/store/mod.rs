//! The road between nodes and the log of what travelled it: the only port of the program.
//!
//! The contract, which `tests/it/contract.rs` puts to every bus:
//! - What is submitted is appended in the order of the calls, and announced in the same step.
//! - `settle` is called exactly once for each draft. What is stored settles after the append, in the
//!   order of submission, from the bus's own task or thread; a refusal may come sooner, even inside
//!   the call of `submit`. It must not block.
//! - The same sender and message id within the window give the first position again, and nothing
//!   is announced twice. This holds across nodes and restarts.
//! - Deliveries come in order of position, each once, without a hole: the bus fills holes from
//!   its log by itself, and says `Gap` or `NewEpoch` only where the log cannot.
//! - A draft that is about an earlier message is a record: stored and announced like any other, but
//!   only deliveries and the tail of the log have it. What it does to its message is done in the
//!   same step, if that is in the room's history then, and goes when the message does.
//! - A node that starts hears what is appended from then on.
//! - When the bus is down, drafts settle with an error at once; nothing is kept for later in
//!   secret. `Unavailable` means certainly not stored; `Unconfirmed` means nobody knows.

pub mod presence;
pub mod queue;
pub mod redis;
pub mod search;
pub mod sessions;
pub mod sqlite;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use crate::domain::{
    message::{Body, Draft, Epoch, Message, Position, Stored},
    name::{Emoji, PublicId, RoomName, UserId},
    page::Page,
    search::Search,
    user::{Patch, User},
};
use crate::store::{
    presence::{Members, RoomSummary, Signal, Unread},
    search::Found,
    sessions::{Holder, SessionRecord, Tail},
};

/// Why a draft has no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Certainly not stored: trying again later is safe.
    #[error("the message log cannot be reached; nothing was stored")]
    Unavailable,
    /// It may have been stored: trying again with the same id is safe, with another one is not.
    #[error("the message log did not confirm in time; retry with the same id")]
    Unconfirmed,
    /// Too much is waiting on this node. Certainly not stored.
    #[error("too many messages are waiting to be stored")]
    Busy,
}

/// Told once what became of a draft.
pub type Settle = Box<dyn FnOnce(Result<Stored, SubmitError>) + Send>;

/// What the bus brings to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    Message(Message),
    /// Somebody published onto the lobby's channel by hand: shown, but not stored, so it has no
    /// position.
    External(Body),
    /// The log no longer reaches back to `from ..= to`; this node did not deliver them.
    Gap {
        partition: u16,
        epoch: Epoch,
        from: u64,
        to: u64,
    },
    /// The log was lost or rolled back. Positions of the old epoch are void; what follows is of
    /// the new one, and stands after `last`.
    NewEpoch {
        partition: u16,
        epoch: Epoch,
        last: u64,
    },
    /// Another connection has claimed this node's session; `holder` is the one that has lost it.
    /// Its place among the others means nothing.
    SessionTaken {
        session: PublicId,
        holder: Holder,
    },
    /// Something that nobody keeps. Signals of one partition come in the order they were given, and
    /// their place among the messages means nothing.
    Signal(Signal),
    /// Signals of this partition may have been missed, or its rosters were lost: they must be read
    /// again.
    SignalsLost {
        partition: u16,
    },
}

/// What a node hears, in order, in batches as they arrived. There is one reader: the relay.
pub type Deliveries = mpsc::Receiver<Vec<Delivery>>;

/// How many batches may wait for the relay before the bus stops reading.
pub const DELIVERY_BATCHES_MAX: usize = 64;

/// Messages oldest first, whichever way was paged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Where the log stands now: `seq` of the last message of any room in this partition.
    pub top: Position,
    pub messages: Vec<Message>,
    /// Whether the room has more in the direction asked for.
    pub more: bool,
    /// Whether messages of the room that `Page::After` asked for are already gone.
    pub trimmed: bool,
}

impl History {
    /// Leaves out the messages farthest from where the page was asked for, until the rest have at
    /// most `bytes_max`. At least one stays.
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

/// Bytes of a message's body and of its reactions, which are all that can be long.
fn size(message: &Message) -> usize {
    let reactions = message.state.iter().flat_map(|state| &state.reactions);
    let bytes = |(emoji, user): &(Emoji, UserId)| emoji.as_str().len() + user.as_str().len();
    message.body.as_json().len() + reactions.map(bytes).sum::<usize>()
}

/// Why something could not be read, or a session not kept.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the message log cannot be reached: {0}")]
    Unavailable(String),
    #[error("the message log has a record that cannot be read: {0}")]
    Corrupt(String),
}

/// Whether the bus does its work, and in an operator's words why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ready,
    Down { reason: String },
}

/// How long and how much a bus keeps.
#[derive(Debug, Clone)]
pub struct RetentionPolicy {
    /// Messages kept per room.
    pub history_max: u32,
    /// Age after which a room's messages go.
    pub history_ttl: std::time::Duration,
    /// How long a repeated message id gives the first position.
    pub idempotency_window: std::time::Duration,
    /// How long every message stays where nodes catch up from, whatever its room.
    pub recovery_window: std::time::Duration,
}

pub trait Bus: Send + Sync + std::fmt::Debug + 'static {
    /// Queues a draft for the log. Never waits; a full queue settles with `Busy` at once.
    fn submit(&self, draft: Draft, settle: Settle);

    /// One page of a room, at most `limit` messages, as they are now: with what the records about
    /// them came to. The records themselves, and those about anything else, are no messages of the
    /// room.
    fn history(
        &self,
        room: RoomName,
        page: Page,
        limit: u32,
    ) -> BoxFuture<'_, Result<History, ReadError>>;

    /// The newest messages of a room that have the words; whatever history does not show is not
    /// found. One call does a bounded piece of work, so fewer may be found than there are: then
    /// `Found::next` says where to go on. Calls wait for each other, so that few run at a time.
    fn search(&self, search: Search) -> BoxFuture<'_, Result<Found, ReadError>>;

    /// Messages of all rooms of a partition after a position, oldest first: at most `limit`, and at
    /// most `TAIL_BYTES_MAX` of bodies.
    fn tail(
        &self,
        partition: u16,
        after: Position,
        limit: u32,
    ) -> BoxFuture<'_, Result<Tail, ReadError>>;

    /// Stores a session, or what has changed of it, for as long as its connection lives and
    /// `recovery_window` beyond. `false`: another holder has claimed it; nothing was written, and
    /// it may be that nothing else tells of the loss.
    /// After an error it is not stored yet: a bus that many nodes share tries again on its own.
    /// There must be no save by a holder after its `release_session`.
    fn save_session(
        &self,
        session: PublicId,
        holder: Holder,
        record: SessionRecord,
    ) -> BoxFuture<'_, Result<bool, ReadError>>;

    /// Takes a session over: from now on `holder` holds it, and whoever held it before is told
    /// (`Delivery::SessionTaken` on his node). `None`: unknown, expired, or
    /// another user's, and then nothing has changed. The new holder can lose it again at any time, even before this returns. After an error nobody knows whether it was
    /// claimed; trying again with the same holder is safe.
    fn claim_session(
        &self,
        session: PublicId,
        holder: Holder,
        user: UserId,
    ) -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>>;

    /// The holder's connection has ended: the session can be claimed for `recovery_window` from
    /// now. Never waits, and does its best; a session whose release got lost ends a while later.
    fn release_session(&self, session: PublicId, holder: Holder);

    /// What was last saved of a session that lives or can be claimed, without taking it.
    fn session(&self, session: PublicId)
    -> BoxFuture<'_, Result<Option<SessionRecord>, ReadError>>;

    /// Tells every node, this one too, over the partition of its room; a profile over partition 0.
    /// Never waits, and does its best.
    fn signal(&self, signal: Signal);

    /// This node has at least one connection of this user in this room, until `remove_presence` or until
    /// the node's lease ends. Never waits: the bus tries until it is so. The same user again with
    /// another name or picture changes what `members` shows of him, and tells nobody.
    fn add_presence(&self, room: RoomName, user: User);

    /// The last connection of this user in this room has ended on this node.
    fn remove_presence(&self, room: RoomName, user: UserId);

    /// Who is in a room now, on whatever node. It stands for all steps up to its version.
    fn members(&self, room: RoomName, users_max: u32) -> BoxFuture<'_, Result<Members, ReadError>>;

    /// Rooms that have members or stored messages, those of two people (`dm:`) or of one session
    /// (`socket:`) left out: at most `limit`, those with most members first.
    fn rooms(&self, limit: u32) -> BoxFuture<'_, Result<Vec<RoomSummary>, ReadError>>;

    fn profile(&self, user: UserId) -> BoxFuture<'_, Result<Option<User>, ReadError>>;

    /// Changes a profile in one step, so that patches of one user never undo each other, and
    /// answers the whole of it. It is kept for `history_ttl`; a patch that changes nothing counts
    /// as using it, too. `None`: another user has this name (compared by `UserName::key`); nothing
    /// was written. A name is free again when its user takes another one, or has not used it for
    /// that time. All nodes are told when something has changed (`Signal::Profile`).
    fn patch_profile(&self, patch: Patch) -> BoxFuture<'_, Result<Option<User>, ReadError>>;

    /// Moves a user's mark in a room forward, never back and never past the log's end, and answers
    /// where it is then. All nodes are told when it moved (`Signal::Read`). A mark of 0 says that
    /// the room is his, and that he has read nothing. Kept for `history_ttl` after it was last said.
    fn mark_read(
        &self,
        user: UserId,
        room: RoomName,
        seq: u64,
    ) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Whether a mark of the user is kept, at least one in the partition of his personal room.
    fn is_known(&self, user: UserId) -> BoxFuture<'_, Result<bool, ReadError>>;

    /// The rooms of two people (`dm:`) that the user has marks in and that have messages, in no
    /// order: with the seq of the last message.
    fn direct_rooms(&self, user: UserId) -> BoxFuture<'_, Result<Vec<(RoomName, u64)>, ReadError>>;

    /// Of these rooms those that the user has marks in, in the same order: with the mark, and how
    /// many stored messages of others come after it, counted up to `UNREAD_MAX`.
    fn unread(
        &self,
        user: UserId,
        rooms: Vec<RoomName>,
    ) -> BoxFuture<'_, Result<Vec<Unread>, ReadError>>;

    /// The partitions are `0..partitions()`.
    fn partitions(&self) -> u16;

    /// The position after which this node hears everything. `None`: it has not reached the log yet.
    fn began(&self, partition: u16) -> Option<Position>;

    /// The partition whose sequence orders this room.
    fn partition(&self, room: &RoomName) -> u16;

    fn health(&self) -> watch::Receiver<Health>;

    /// Settles what was submitted, then stops. Later submits settle with `Unavailable`.
    fn close(&self) -> BoxFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        changes::State,
        message::Timestamp,
        name::{MessageId, UserId},
    };

    fn history() -> History {
        let (from, id) = (UserId::parse("u").unwrap(), MessageId::parse("m").unwrap());
        let body = Body::from_json("\"12345678\"");
        let draft = Draft::new(RoomName::lobby(), from, id, Timestamp(1), body);
        let message = |seq| draft.clone().at(Position { epoch: Epoch::new("e"), seq });
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
        history.messages.push(newest.with_state(State { reactions, ..State::default() }));
        history.fit(Page::Newest, 49);
        assert_eq!(history.messages.len(), 2);
    }
}
