//! What every dialect can do, whatever its events are called.

use std::fmt;

use serde_json::value::RawValue;

use super::{event::Event, page::PageMessage};
use crate::domain::{
    message::Message,
    name::{MessageId, UserId},
    position::Epoch,
    record::{Body, Record},
    reject::Reject,
    request::Request,
    room::RoomName,
    roster::RosterChange,
    user::User,
};

/// How the clients of one kind speak. A socket has one dialect for life.
pub trait Dialect: Send + Sync + fmt::Debug {
    /// As a client names it in its handshake.
    fn name(&self) -> &'static str;

    fn features(&self) -> Features;

    /// A client's event as a request. `fresh_id` gives a message an id where the client gave none.
    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        fresh_id: fn() -> MessageId,
    ) -> Result<Request, Reject>;

    /// A record of the log, with the offset of a client that has it. `None`: clients of this
    /// dialect are not told of it.
    fn record<'a>(&self, record: &'a Record, offset: String) -> Option<Event<'a>>;

    /// Anything else that happens. `None`: clients of this dialect are not told of it.
    fn live<'a>(&self, event: &LiveEvent<'a>) -> Option<Event<'a>>;

    /// A message in a page of history, as it is now.
    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a>;
}

/// What a dialect's clients take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// They count as members of their rooms, and are told who joins and leaves.
    pub presence: bool,
    /// They are told what is sent to their user, or to their connection alone.
    pub personal_room: bool,
    /// They are in the lobby from the start, and join no other room.
    pub joins_lobby: bool,
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
}
