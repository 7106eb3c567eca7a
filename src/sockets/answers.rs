//! The answers to requests, exactly as docs/protocol.md shows them.

use serde::Serialize;

use crate::{
    chat::Sent,
    dialects::{
        DialectId,
        native::events::{NativeChange, NativeMessage, NativeUser},
        page::PageMessage,
    },
    domain::{
        position::Position,
        record::{Entry, Record},
        reject::Reject,
        room::RoomName,
        roster::LISTED_MAX,
        user::User,
    },
    store::{
        inbox::Unread,
        log::{History, RoomSummary},
        search::Found,
    },
};

/// The answer to a request that stores something: a message, or a change of one.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SentAck<'a> {
    ok: bool,
    id: &'a str,
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    /// Milliseconds since 1970.
    at: u64,
}

impl<'a> SentAck<'a> {
    pub fn new(sent: &'a Sent) -> Self {
        Self {
            ok: true,
            id: sent.id.as_str(),
            room: sent.room.as_str(),
            epoch: sent.position.epoch.as_str(),
            seq: sent.position.seq,
            at: sent.at.0,
        }
    }
}

/// The answer to a request that was refused or failed.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RejectAck<'a> {
    ok: bool,
    error: RejectEvent<'a>,
}

/// The same as an `error` event, for a client that asked for no ack.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RejectEvent<'a> {
    #[cfg_attr(test, schema(value_type = crate::domain::reject::Code))]
    code: &'a str,
    message: &'a str,
}

impl<'a> RejectEvent<'a> {
    pub fn new(reject: &'a Reject) -> Self {
        Self { code: reject.code.as_str(), message: &reject.message }
    }
}

impl<'a> RejectAck<'a> {
    pub fn new(reject: &'a Reject) -> Self {
        Self { ok: false, error: RejectEvent::new(reject) }
    }
}

/// The answer to `history`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct HistoryAck<'a> {
    ok: bool,
    room: &'a str,
    epoch: &'a str,
    /// The end of the log: later messages come as events.
    seq: u64,
    messages: Vec<PageMessage<'a>>,
    more: bool,
    trimmed: bool,
}

impl<'a> HistoryAck<'a> {
    pub fn new(room: &'a RoomName, history: &'a History, dialect: DialectId) -> Self {
        let message = |message| dialect.page_message(message);
        Self {
            ok: true,
            room: room.as_str(),
            epoch: history.top.epoch.as_str(),
            seq: history.top.seq,
            messages: history.messages.iter().map(message).collect(),
            more: history.more,
            trimmed: history.trimmed,
        }
    }
}

/// The answer to `search`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SearchAck<'a> {
    ok: bool,
    room: &'a str,
    epoch: &'a str,
    messages: Vec<PageMessage<'a>>,
    more: bool,
    /// Where the next search must go on: messages before it were not searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

impl<'a> SearchAck<'a> {
    pub fn new(room: &'a RoomName, found: &'a Found, dialect: DialectId) -> Self {
        let message = |message| dialect.page_message(message);
        Self {
            ok: true,
            room: room.as_str(),
            epoch: found.epoch.as_str(),
            messages: found.messages.iter().map(message).collect(),
            more: found.next.is_some(),
            next: found.next,
        }
    }
}

/// The answer to `join`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct JoinAck<'a> {
    ok: bool,
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    /// Whether `messages` and `changes` are everything between the client's position and this one.
    recovered: bool,
    messages: Vec<NativeMessage<'a>>,
    /// Changes of messages, of these and of earlier ones. Left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schema(required = false))]
    changes: Vec<NativeChange<'a>>,
    /// Users in the room; left out while the number is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    /// The users, unless there are too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<NativeUser<'a>>>,
}

impl<'a> JoinAck<'a> {
    pub fn new(
        room: &'a RoomName,
        end: &'a Position,
        recovered: bool,
        missed: impl Iterator<Item = &'a Record>,
        people: Option<&'a (u32, Vec<User>)>,
    ) -> Self {
        let (mut messages, mut changes) = (Vec::new(), Vec::new());
        for missed in missed {
            match &missed.entry {
                Entry::Message(body) => messages.push(NativeMessage::original(missed, body)),
                Entry::Change { target_seq, change } => {
                    changes.push(NativeChange::listed(missed, *target_seq, change));
                }
            }
        }
        let listed = people.filter(|(count, _)| *count <= LISTED_MAX);
        Self {
            ok: true,
            room: room.as_str(),
            epoch: end.epoch.as_str(),
            seq: end.seq,
            recovered,
            messages,
            changes,
            count: people.map(|(count, _)| *count),
            members: listed.map(|(_, users)| users.iter().map(NativeUser::new).collect()),
        }
    }
}

/// The answer to `rooms`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RoomsAck<'a> {
    ok: bool,
    rooms: Vec<ListedRoom<'a>>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct ListedRoom<'a> {
    room: &'a str,
    count: u32,
    seq: u64,
    /// The user's read mark, and how many messages of others come after it. Left out when the user
    /// is not in the room or has no mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u32>,
}

impl<'a> RoomsAck<'a> {
    pub fn new(rooms: &'a [RoomSummary], marks: &[Unread]) -> Self {
        let listed = |summary: &'a RoomSummary| {
            let mark = marks.iter().find(|(room, ..)| *room == summary.room);
            ListedRoom {
                room: summary.room.as_str(),
                count: summary.count,
                seq: summary.seq,
                read: mark.map(|(_, read, _)| *read),
                unread: mark.map(|(.., unread)| *unread),
            }
        };
        Self { ok: true, rooms: rooms.iter().map(listed).collect() }
    }
}

/// The answer to `read`: where the mark is now.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReadAck<'a> {
    ok: bool,
    room: &'a str,
    seq: u64,
}

impl<'a> ReadAck<'a> {
    pub fn new(room: &'a RoomName, seq: u64) -> Self {
        Self { ok: true, room: room.as_str(), seq }
    }
}

/// The answer to `profile`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ProfileAck<'a> {
    ok: bool,
    user: NativeUser<'a>,
    /// The secret that makes a client the same user on every connection.
    token: &'a str,
}

impl<'a> ProfileAck<'a> {
    pub fn new(user: &'a User, token: &'a str) -> Self {
        Self { ok: true, user: NativeUser::new(user), token }
    }
}

/// The answer to `typing`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DoneAck {
    ok: bool,
}

impl DoneAck {
    pub fn new() -> Self {
        Self { ok: true }
    }
}

/// The answer to `leave`.
#[derive(Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct LeaveAck<'a> {
    ok: bool,
    room: &'a str,
}

impl<'a> LeaveAck<'a> {
    pub fn new(room: &'a RoomName) -> Self {
        Self { ok: true, room: room.as_str() }
    }
}
