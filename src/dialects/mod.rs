//! How what the bus delivers looks to a client: one event for each dialect, however it is sent.
//!
//! A client takes a string at the end of an event for its offset, the place from which it later
//! asks for what it missed. So every stored event ends in its offset, and every other event in
//! something that is no string.

mod change;
pub mod offset;

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use socketioxide_core::adapter::Room;

pub use crate::dialects::change::NativeChange;
use crate::domain::{
    message::Message,
    name::{UserId, UserName},
    position::Epoch,
    record::{Body, Entry, Record},
    room::RoomName,
    roster::RosterChange,
    user::{Picture, User},
};

/// What a socket speaks. It has one dialect for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// `message x`: what `user-message x` sent.
    #[default]
    Plain,
    /// `message {room, epoch, seq, id, from, text, at}`.
    Native,
}

/// What a dialect's clients take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// They count as members of their rooms, and are told who comes and goes.
    pub presence: bool,
    /// They are told what is sent to their user, or to their connection alone.
    pub personal_room: bool,
    /// They are in the lobby from the start, and join no other room.
    pub joins_lobby: bool,
}

impl Dialect {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Native];

    pub fn features(self) -> Features {
        let native = self == Self::Native;
        Features { presence: native, personal_room: native, joins_lobby: !native }
    }

    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "plain" => Some(Self::Plain),
            "native" => Some(Self::Native),
            _ => None,
        }
    }

    /// The Socket.IO room of those in `room` who speak this dialect. No room name has a control
    /// character, so none is another's twin.
    pub fn room(self, room: &RoomName) -> Room {
        match self {
            Self::Plain => room.as_str().to_owned().into(),
            Self::Native => format!("{room}\n").into(),
        }
    }
}

/// An event, ready to be encoded.
#[derive(Debug)]
pub struct Event<'a> {
    pub name: &'static str,
    pub arguments: Arguments<'a>,
}

/// socketioxide takes a tuple's elements for arguments, and every other value for the only one.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Arguments<'a> {
    Plain(Box<RawValue>, String),
    External(Box<RawValue>, ()),
    Native(NativeMessage<'a>, String),
    Change(NativeChange<'a>, String),
    Gap(GapEvent<'a>),
    NewEpoch(NoticeEvent<'a>),
    Presence(PresenceEvent<'a>),
    Typing(TypingEvent<'a>),
    Read(ReadEvent<'a>),
    Profile(ProfileEvent<'a>),
}

#[derive(Debug, Serialize)]
pub struct NativeMessage<'a> {
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    id: &'a str,
    from: Sender<'a>,
    text: Text<'a>,
    at: u64,
}

#[derive(Debug, Serialize)]
struct Sender<'a> {
    id: &'a str,
    name: Cow<'a, str>,
}

impl<'a> Sender<'a> {
    fn new(from: &'a UserId, name: Option<&'a UserName>) -> Self {
        let name = match name {
            Some(name) => Cow::Borrowed(name.as_str()),
            None => Cow::Owned(User::guest_name(from)),
        };
        Self { id: from.as_str(), name }
    }
}

/// A person as the native dialect shows him.
#[derive(Debug, Serialize)]
pub struct NativeUser<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub struct PresenceEvent<'a> {
    room: &'a str,
    joined: Vec<NativeUser<'a>>,
    left: Vec<NativeUser<'a>>,
    count: u32,
}

#[derive(Debug, Serialize)]
pub struct TypingEvent<'a> {
    room: &'a str,
    user: NativeUser<'a>,
    typing: bool,
}

#[derive(Debug, Serialize)]
pub struct ReadEvent<'a> {
    room: &'a str,
    user: &'a str,
    seq: u64,
}

#[derive(Debug, Serialize)]
pub struct ProfileEvent<'a> {
    user: NativeUser<'a>,
}

impl<'a> NativeUser<'a> {
    pub fn new(user: &'a User) -> Self {
        Self {
            id: user.id.as_str(),
            name: user.name.as_str(),
            picture: user.picture.as_ref().map(Picture::as_str),
        }
    }
}

impl<'a> NativeMessage<'a> {
    pub fn new(message: &'a Message) -> Self {
        Self {
            room: message.room.as_str(),
            epoch: message.position.epoch.as_str(),
            seq: message.position.seq,
            id: message.id.as_str(),
            from: Sender::new(&message.from, message.name.as_ref()),
            text: Text(message.body.as_json()),
            at: message.at.0,
        }
    }

    /// A message as it was stored, before any change.
    pub fn original(record: &'a Record, body: &'a Body) -> Self {
        Self {
            room: record.room.as_str(),
            epoch: record.position.epoch.as_str(),
            seq: record.position.seq,
            id: record.id.as_str(),
            from: Sender::new(&record.from, record.name.as_ref()),
            text: Text(body.as_json()),
            at: record.at.0,
        }
    }
}

/// A body that is JSON text as it is, nothing where nothing is left, and any other JSON as text.
#[derive(Debug)]
struct Text<'a>(&'a str);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.starts_with('"') {
            raw(self.0).serialize(serializer)
        } else if self.0 == "null" {
            serializer.serialize_str("")
        } else {
            serializer.serialize_str(self.0)
        }
    }
}

/// A hole that the log could not fill: messages `from ..= to` never reached this node.
#[derive(Debug, Serialize)]
pub struct GapEvent<'a> {
    room: &'a str,
    epoch: &'a str,
    from: u64,
    to: u64,
}

#[derive(Debug, Serialize)]
pub struct NoticeEvent<'a> {
    code: &'a str,
    message: &'a str,
    epoch: &'a str,
}

impl<'a> Event<'a> {
    /// A record of the log, with the offset of a client that has it. `None`: clients of this
    /// dialect are not told of it.
    pub fn stored(record: &'a Record, dialect: Dialect, offset: String) -> Option<Self> {
        let (name, arguments) = match (&record.entry, dialect) {
            (Entry::Message(body), Dialect::Plain) => {
                ("message", Arguments::Plain(raw(body.as_json()), offset))
            }
            (Entry::Message(body), Dialect::Native) => {
                ("message", Arguments::Native(NativeMessage::original(record, body), offset))
            }
            (Entry::Change { .. }, Dialect::Plain) => return None,
            (Entry::Change { target_seq, change }, Dialect::Native) => {
                let event = NativeChange::new(record, *target_seq, change);
                (change::name(change), Arguments::Change(event, offset))
            }
        };
        Some(Self { name, arguments })
    }

    /// What somebody published by hand; it is not stored. For those who speak plainly.
    pub fn external(json: &str) -> Self {
        Self { name: "message", arguments: Arguments::External(raw(json), ()) }
    }

    pub fn gap(room: &'a RoomName, epoch: &'a Epoch, from: u64, to: u64) -> Self {
        let gap = GapEvent { room: room.as_str(), epoch: epoch.as_str(), from, to };
        Self { name: "gap", arguments: Arguments::Gap(gap) }
    }

    pub fn new_epoch(epoch: &'a Epoch) -> Self {
        let notice = NoticeEvent {
            code: "new_epoch",
            message: "the message log began anew; older messages may be gone",
            epoch: epoch.as_str(),
        };
        Self { name: "notice", arguments: Arguments::NewEpoch(notice) }
    }

    pub fn presence(room: &'a RoomName, change: &'a RosterChange) -> Self {
        let presence = PresenceEvent {
            room: room.as_str(),
            joined: change.joined().map(NativeUser::new).collect(),
            left: change.left().map(NativeUser::new).collect(),
            count: change.count(),
        };
        Self { name: "presence", arguments: Arguments::Presence(presence) }
    }

    pub fn typing(room: &'a RoomName, user: &'a User, typing: bool) -> Self {
        let event = TypingEvent { room: room.as_str(), user: NativeUser::new(user), typing };
        Self { name: "typing", arguments: Arguments::Typing(event) }
    }

    pub fn read(room: &'a RoomName, user: &'a UserId, seq: u64) -> Self {
        let event = ReadEvent { room: room.as_str(), user: user.as_str(), seq };
        Self { name: "read", arguments: Arguments::Read(event) }
    }

    pub fn profile(user: &'a User) -> Self {
        let event = ProfileEvent { user: NativeUser::new(user) };
        Self { name: "profile", arguments: Arguments::Profile(event) }
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("a body is one JSON value")
}
