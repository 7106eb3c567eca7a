//! What a client can ask for, whatever format it asks in.

use super::{
    changes::About,
    message::{Body, Epoch, Position},
    name::{MessageId, PublicId, RoomName, UserId, UserName},
    page::Page,
    search::Search,
    user::Picture,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Send(NewMessage),
    Change(NewChange),
    History(PageRequest),
    Search(Search),
    /// `after`: what the client has of the room already.
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
    /// What is `None` stays.
    SetProfile {
        name: Option<UserName>,
        picture: Option<Picture>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct NewMessage {
    pub to: Destination,
    /// The client's own id, or one that was made up for it.
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
    pub about: About,
    pub id: MessageId,
    pub repeatable: bool,
    pub body: Body,
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
