//! What is said of an earlier message, as the native dialect shows it; no other has it.

use serde::Serialize;

use crate::dialects::{Sender, Text};
use crate::domain::{
    changes::{About, Change},
    message::Message,
};

#[derive(Debug, Serialize)]
pub struct NativeChange<'a> {
    /// Where the event's name does not say it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    id: &'a str,
    of: u64,
    from: Sender<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
    at: u64,
}

impl<'a> NativeChange<'a> {
    pub fn new(record: &'a Message, about: About) -> Self {
        let body = || Text(record.body.as_json());
        let (text, emoji, on) = match about.change {
            Change::Edit => (Some(body()), None, None),
            Change::Delete => (None, None, None),
            Change::React => (None, Some(body()), Some(true)),
            Change::Unreact => (None, Some(body()), Some(false)),
        };
        Self {
            kind: None,
            room: record.room.as_str(),
            epoch: record.position.epoch.as_str(),
            seq: record.position.seq,
            id: record.id.as_str(),
            of: about.seq,
            from: Sender::of(record),
            text,
            emoji,
            on,
            at: record.at.0,
        }
    }

    /// The same in a list, where no event's name says what it is.
    pub fn listed(record: &'a Message, about: About) -> Self {
        Self { kind: Some(name(about.change)), ..Self::new(record, about) }
    }
}

/// The event's.
pub fn name(change: Change) -> &'static str {
    match change {
        Change::Edit => "edit",
        Change::Delete => "delete",
        Change::React | Change::Unreact => "react",
    }
}
