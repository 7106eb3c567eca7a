//! An event as every dialect hands it to delivery: a name, and arguments that can be encoded.
//!
//! A client takes a text at the end of an event for its offset, the place from which it later asks
//! for what it missed. So every stored event ends in its offset, and every other event in something
//! that is no text.

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeTuple as _};
use serde_json::value::RawValue;

use super::mern::message::AccountMessage;
use super::native::events::{
    NativeChange, NativeMessage, PresenceEvent, ProfileEvent, ReadEvent, TypingEvent,
};
use crate::domain::{position::Epoch, room::RoomName};

/// An event, ready to be encoded.
#[derive(Debug)]
pub struct Event<'a> {
    pub name: Cow<'a, str>,
    pub arguments: Arguments<'a>,
}

/// socketioxide takes a tuple's elements for arguments, and every other value for the only one.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Arguments<'a> {
    Row(RowArguments),
    Native(NativeMessage<'a>, Option<String>),
    Change(NativeChange<'a>, Option<String>),
    Gap(GapEvent<'a>),
    NewEpoch(NoticeEvent<'a>),
    Presence(PresenceEvent<'a>),
    Typing(TypingEvent<'a>),
    Read(ReadEvent<'a>),
    Profile(ProfileEvent<'a>),
    AccountMessage(AccountMessage<'a>, Option<String>),
    /// One argument, which is a list.
    OnlineAccounts((Vec<&'a str>,)),
}

/// The arguments that a rule table gives an event, and what stands behind them.
#[derive(Debug)]
pub struct RowArguments {
    pub arguments: Vec<Box<RawValue>>,
    /// `None` in an event that is not stored.
    pub offset: Option<String>,
}

impl Serialize for RowArguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // An event without arguments ends in its name, which is a text.
        let ends_in_text = self.arguments.last().is_none_or(|last| last.get().starts_with('"'));
        let needs_end = self.offset.is_some() || ends_in_text;
        let length = self.arguments.len() + usize::from(needs_end);
        let mut tuple = serializer.serialize_tuple(length)?;
        for argument in &self.arguments {
            tuple.serialize_element(argument)?;
        }
        if needs_end {
            tuple.serialize_element(&self.offset)?;
        }
        tuple.end()
    }
}

/// A hole that the log could not fill: messages `from ..= to` never reached this node.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct GapEvent<'a> {
    room: &'a str,
    epoch: &'a str,
    from: u64,
    to: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NoticeEvent<'a> {
    code: &'a str,
    message: &'a str,
    epoch: &'a str,
}

impl<'a> Event<'a> {
    /// An event of the native dialect.
    pub fn new(name: &'static str, arguments: Arguments<'a>) -> Self {
        Self { name: Cow::Borrowed(name), arguments }
    }

    pub fn gap(room: &'a RoomName, epoch: &'a Epoch, from: u64, to: u64) -> Self {
        let gap = GapEvent { room: room.as_str(), epoch: epoch.as_str(), from, to };
        Self::new("gap", Arguments::Gap(gap))
    }

    pub fn new_epoch(epoch: &'a Epoch) -> Self {
        let notice = NoticeEvent {
            code: "new_epoch",
            message: "the message log began anew; older messages may be gone",
            epoch: epoch.as_str(),
        };
        Self::new("notice", Arguments::NewEpoch(notice))
    }
}
