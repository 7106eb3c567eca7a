//! What every dialect can do, whatever its events are called.

use std::{fmt, time::Duration};

use serde_json::value::RawValue;

use super::{event::Event, offset::RecordOffset, page::PageMessage};
use crate::domain::{
    message::Message,
    name::{MessageId, PublicId, UserId},
    position::Epoch,
    record::{Body, PassedEvent, Record},
    reject::Reject,
    request::Request,
    room::RoomName,
    roster::RosterChange,
    user::User,
};

/// How the clients of one kind speak. A socket has one dialect for life.
pub trait Dialect: Send + Sync + fmt::Debug {
    /// As a client names it in its handshake.
    fn name(&self) -> &str;

    fn features(&self) -> Features;

    /// A client's event as a request. `None`: clients of this dialect send no such event.
    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        asker: &Asker<'_>,
    ) -> Option<Result<Request, Reject>>;

    /// The events for a record of the log. Empty: clients of this dialect are not told of it.
    fn record<'a>(&'a self, record: &'a Record, offset: &RecordOffset) -> Vec<Event<'a>>;

    /// The events for anything else that happens. Empty: clients of this dialect are not told.
    fn live<'a>(&'a self, event: &LiveEvent<'a>) -> Vec<Event<'a>>;

    /// How often each of the events comes that all its clients get again and again.
    fn ticks(&self) -> Vec<Duration> {
        Vec::new()
    }

    /// A message in a page of history, as it is now.
    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a>;
}

/// The connection that sent an event, as far as a dialect needs it.
#[derive(Debug)]
pub struct Asker<'a> {
    pub user: &'a UserId,
    pub public_id: &'a PublicId,
    /// The JSON value that the session remembers as `$me`.
    pub me: Option<&'a Body>,
    pub wants_ack: bool,
    /// Bytes of JSON in one message.
    pub message_bytes_max: usize,
    /// Gives a message an id where the client gave none.
    pub fresh_id: fn() -> MessageId,
}

/// What a dialect's clients take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// They count as members of their rooms, and are told who joins and leaves.
    pub presence: bool,
    /// They are in the lobby from the start.
    pub joins_lobby: bool,
    /// They are told which accounts are online.
    pub joins_accounts: bool,
    /// They are told the direct messages that their own user has sent to others.
    pub own_direct: bool,
    /// They are told of edits, deletions and reactions. Other clients that return are not shown a
    /// message that was deleted meanwhile.
    pub changes: bool,
    /// The answer to a join has what was said while it was stored. Other clients get it as events.
    pub join_has_missed: bool,
}

/// What happens beside the records of the log.
#[derive(Debug, Clone, Copy)]
pub enum LiveEvent<'a> {
    /// A person or another program published this onto the lobby's channel. It is not stored.
    External(&'a Body),
    /// The log could not fill a hole: records `from ..= to` never reached this node.
    Gap {
        room: &'a RoomName,
        epoch: &'a Epoch,
        from: u64,
        to: u64,
    },
    /// The log was lost or rolled back.
    NewEpoch(&'a Epoch),
    Presence {
        room: &'a RoomName,
        change: &'a RosterChange,
    },
    Typing {
        room: &'a RoomName,
        user: &'a User,
        typing: bool,
    },
    Read {
        room: &'a RoomName,
        user: &'a UserId,
        seq: u64,
    },
    Profile(&'a User),
    /// The accounts that are online, on all nodes.
    OnlineAccounts(&'a [UserId]),
    /// An event that a client of a rule table sent, and that is not stored.
    PassedOn(&'a PassedEvent),
    /// A client has connected, and has got what it missed.
    Hello,
    /// One of the events that come again and again.
    Tick(usize),
}
