//! What a client can ask for, in whatever format it asks, and the limits of that.

use std::sync::Arc;

use crate::domain::{
    name::{MessageId, PublicId, UserId, UserName},
    page::Page,
    position::{Epoch, Position},
    record::{Body, Change, SourceEvent},
    room::RoomName,
    search::Search,
    user::Picture,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Send(NewMessage),
    Change(NewChange),
    /// What the rule table makes of a frontend's event. The rule table (docs/events.md) has rows for
    /// each event name; the first row that fits the event becomes this request.
    Event(EventRequest),
    History(PageRequest),
    Search(Search),
    /// `after`: the last position that the client has received.
    Join {
        room: RoomName,
        after: Option<Position>,
    },
    Leave {
        room: RoomName,
    },
    Rooms,
    Typing {
        room: RoomName,
        typing: bool,
    },
    /// The user has read a room up to `seq`.
    MarkRead {
        room: RoomName,
        seq: u64,
    },
    /// A field that is `None` stays as it is.
    SetProfile {
        name: Option<UserName>,
        picture: Option<Picture>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct NewMessage {
    pub to: Destination,
    /// The client's own id, or an id that the server made for it.
    pub id: MessageId,
    /// Whether the client chose the id, and so may send the message again.
    pub repeatable: bool,
    pub body: Body,
    /// Whether the connection that sends it is not told it.
    pub except_me: bool,
    /// Whether only a member of the room may send it.
    pub members_only: bool,
    /// The event that the client sent, where the body does not say all of it.
    pub source: Option<Arc<SourceEvent>>,
    /// The name that a client of a rule table says it has. It is shown beside the name of a guest,
    /// so that it is never taken for a name that a user has.
    pub claimed_name: Option<UserName>,
}

impl NewMessage {
    /// A message for all members of its destination, from one of them.
    pub fn new(to: Destination, id: MessageId, body: Body) -> Self {
        let (repeatable, except_me, members_only) = (false, false, true);
        Self { to, id, repeatable, body, except_me, members_only, source: None, claimed_name: None }
    }
}

/// What one row does. Nothing is delivered if the join or the leave is refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EventRequest {
    /// The JSON value that the session remembers as `$me` from now on.
    pub me: Option<Body>,
    pub join: Option<Destination>,
    pub leave: Option<RoomName>,
    pub delivery: Option<Delivery>,
    /// The answer on success, as JSON. `None`: the answer of the native dialect.
    pub ack: Option<Body>,
}

/// How an event goes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is stored, and delivered like every message.
    Store(NewMessage),
    /// It is delivered to the connections that are there now, and not stored.
    PassOn { to: Destination, source: Arc<SourceEvent>, except_me: bool },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    Room(RoomName),
    User(UserId),
    Connection(PublicId),
}

/// A change of an earlier message.
#[derive(Debug, PartialEq, Eq)]
pub struct NewChange {
    pub room: RoomName,
    /// The epoch in which the earlier message has its `seq`.
    pub epoch: Epoch,
    pub target_seq: u64,
    pub change: Change,
    pub id: MessageId,
    pub repeatable: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub room: RoomName,
    pub page: Page,
    /// Messages at most.
    pub limit: u32,
    /// The epoch of the position in `page`, where the client named one.
    pub epoch: Option<Epoch>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of JSON in one message.
    pub message_bytes_max: usize,
    /// Messages that may wait for their ack.
    pub in_flight_max: u32,
    /// Rooms that one client may be in.
    pub rooms_max: usize,
}
