//! An event as every dialect hands it to delivery: a name, and arguments that can be encoded.
//!
//! A client takes a text at the end of an event for its offset, the place from which it later asks
//! for what it missed. So every stored event ends in its offset, and every other event in something
//! that is no text.

use serde::Serialize;
use serde_json::value::RawValue;

use super::native::events::{
    NativeChange, NativeMessage, PresenceEvent, ProfileEvent, ReadEvent, TypingEvent,
};
use crate::domain::{position::Epoch, room::RoomName};

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
}
