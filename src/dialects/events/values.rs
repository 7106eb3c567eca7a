//! What the engine of the rule table is given, and the events that it makes.

use std::{borrow::Cow, sync::Arc};

use serde_json::value::RawValue;

use crate::{
    dialects::text::{quoted, text_of},
    domain::{
        name::{MessageId, UserId, UserName},
        position::Timestamp,
        record::{Body, SourceEvent},
        room::RoomName,
        user::User,
    },
};

/// A message that is told to clients of a profile.
#[derive(Debug, Clone, Copy)]
pub struct ToldMessage<'a> {
    pub room: &'a RoomName,
    pub id: &'a MessageId,
    pub from: &'a UserId,
    pub name: Option<&'a UserName>,
    pub at: Timestamp,
    pub body: &'a Body,
    pub source: Option<&'a SourceEvent>,
}

/// An event for clients, without the offset that the caller appends.
#[derive(Debug, Clone)]
pub struct ToldEvent {
    pub name: Arc<str>,
    pub arguments: Vec<Box<RawValue>>,
}

/// The values that the words of a template stand for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    pub args: &'a [&'a RawValue],
    pub me: Option<&'a RawValue>,
    pub room: Option<&'a str>,
    pub id: Option<&'a str>,
    /// `None`: the event is not a message yet.
    pub message: Option<&'a ToldMessage<'a>>,
}

impl<'a> ToldMessage<'a> {
    pub fn values(&'a self, args: &'a [&'a RawValue], me: Option<&'a RawValue>) -> Values<'a> {
        let (room, id) = (Some(self.room.as_str()), Some(self.id.as_str()));
        Values { args, me, room, id, message: Some(self) }
    }

    /// What others read of the message, as a JSON string.
    pub fn text(&self) -> Cow<'a, str> {
        let body = self.body.as_json();
        if body.starts_with('"') { Cow::Borrowed(body) } else { Cow::Owned(quoted(&text_of(body))) }
    }

    /// The name that the sender has chosen, or its name as a guest.
    pub fn sender(&self) -> Cow<'a, str> {
        match self.name {
            Some(name) => Cow::Borrowed(name.as_str()),
            None => Cow::Owned(User::guest_name(self.from)),
        }
    }
}
