//! The shapes of events and messages in the native dialect, exactly as docs/protocol.md shows them.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::{
    dialects::{json::raw, text::text_of},
    domain::{
        message::Message,
        name::{UserId, UserName},
        record::{Body, Change, Record},
        room::RoomName,
        roster::RosterChange,
        user::{Picture, User},
    },
};

/// A message, as an event and in lists.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NativeMessage<'a> {
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    id: &'a str,
    from: Sender<'a>,
    #[cfg_attr(test, schema(value_type = String))]
    text: Text<'a>,
    /// Milliseconds since 1970.
    at: u64,
}

/// The user that sent a message, under the name that it had then.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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

/// What others see of a user.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NativeUser<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PresenceEvent<'a> {
    room: &'a str,
    joined: Vec<NativeUser<'a>>,
    left: Vec<NativeUser<'a>>,
    count: u32,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TypingEvent<'a> {
    room: &'a str,
    user: NativeUser<'a>,
    typing: bool,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReadEvent<'a> {
    room: &'a str,
    user: &'a str,
    seq: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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

/// A body that is JSON text as it is, nothing where nothing is left, and the text of any other JSON.
#[derive(Debug)]
struct Text<'a>(&'a str);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.starts_with('"') {
            raw(self.0).serialize(serializer)
        } else if self.0 == "null" {
            serializer.serialize_str("")
        } else {
            serializer.serialize_str(&text_of(self.0))
        }
    }
}

impl<'a> PresenceEvent<'a> {
    pub fn new(room: &'a RoomName, change: &'a RosterChange) -> Self {
        Self {
            room: room.as_str(),
            joined: change.joined().map(NativeUser::new).collect(),
            left: change.left().map(NativeUser::new).collect(),
            count: change.count(),
        }
    }
}

impl<'a> TypingEvent<'a> {
    pub fn new(room: &'a RoomName, user: &'a User, typing: bool) -> Self {
        Self { room: room.as_str(), user: NativeUser::new(user), typing }
    }
}

impl<'a> ReadEvent<'a> {
    pub fn new(room: &'a RoomName, user: &'a UserId, seq: u64) -> Self {
        Self { room: room.as_str(), user: user.as_str(), seq }
    }
}

impl<'a> ProfileEvent<'a> {
    pub fn new(user: &'a User) -> Self {
        Self { user: NativeUser::new(user) }
    }
}

/// A change of an earlier message. No other dialect shows it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NativeChange<'a> {
    /// Only in a list: the name of an event says it already.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    id: &'a str,
    /// The `seq` of the message that changed.
    of: u64,
    from: Sender<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<String>))]
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
    /// Milliseconds since 1970.
    at: u64,
}

impl<'a> NativeChange<'a> {
    pub fn new(record: &'a Record, target_seq: u64, change: &'a Change) -> Self {
        let (text, emoji, on) = match change {
            Change::Edit(body) => (Some(Text(body.as_json())), None, None),
            Change::Delete => (None, None, None),
            Change::React { emoji, on } => (None, Some(emoji.as_str()), Some(*on)),
        };
        Self {
            kind: None,
            room: record.room.as_str(),
            epoch: record.position.epoch.as_str(),
            seq: record.position.seq,
            id: record.id.as_str(),
            of: target_seq,
            from: Sender::new(&record.from, record.name.as_ref()),
            text,
            emoji,
            on,
            at: record.at.0,
        }
    }

    /// The change as it stands in a list of changes.
    pub fn listed(record: &'a Record, target_seq: u64, change: &'a Change) -> Self {
        Self { kind: Some(change_name(change)), ..Self::new(record, target_seq, change) }
    }
}

/// The name of the event.
pub fn change_name(change: &Change) -> &'static str {
    match change {
        Change::Edit(_) => "edit",
        Change::Delete => "delete",
        Change::React { .. } => "react",
    }
}
