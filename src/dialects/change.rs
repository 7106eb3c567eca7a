//! A change of an earlier message, as the native dialect shows it. No other dialect shows it.

use serde::Serialize;

use crate::dialects::{Sender, Text};
use crate::domain::record::{Change, Record};

#[derive(Debug, Serialize)]
pub struct NativeChange<'a> {
    /// Only in a list: the name of an event says it already.
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
    emoji: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
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
        Self { kind: Some(name(change)), ..Self::new(record, target_seq, change) }
    }
}

/// The name of the event.
pub fn name(change: &Change) -> &'static str {
    match change {
        Change::Edit(_) => "edit",
        Change::Delete => "delete",
        Change::React { .. } => "react",
    }
}
