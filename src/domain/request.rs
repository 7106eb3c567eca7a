//! What a client can ask for, in whatever format it asks, and the limits of that.

use crate::domain::{
    name::{MessageId, PublicId, UserId, UserName},
    page::Page,
    position::{Epoch, Position},
    record::{Body, Change},
    room::RoomName,
    search::Search,
    user::Picture,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Send(NewMessage),
    Change(NewChange),
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
