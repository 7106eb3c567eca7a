//! What the log holds: records, each of which is a message or a change of an earlier message.
//!
//! A body is carried and never interpreted: what a client sent comes out unchanged.

use std::sync::Arc;

use crate::domain::{
    name::{Emoji, MessageId, PublicId, UserId, UserName},
    position::{Position, Timestamp},
    room::RoomName,
};

/// One JSON value as text, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(Arc<str>);

impl Body {
    /// `json` must be one valid JSON value. In valid JSON a line break can only stand between two
    /// tokens. A space means the same there, so replacing the line break changes no value.
    pub fn from_json(json: &str) -> Self {
        // Bytes are searched much faster than characters, and every body comes through here.
        let bytes = json.as_bytes();
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') {
            Self(Arc::from(json.replace(['\n', '\r'], " ")))
        } else {
            Self(Arc::from(json))
        }
    }

    /// The body of a message that was deleted: the JSON value `null`.
    pub fn null() -> Self {
        Self(Arc::from("null"))
    }

    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Message(Body),
    /// A change of the message that stands at `target_seq` in the same room and epoch.
    Change {
        target_seq: u64,
        change: Change,
    },
}

/// What happens to an earlier message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The message gets this body.
    Edit(Body),
    Delete,
    /// The sender of the change reacts with `emoji`, or takes the reaction back (`on: false`).
    React {
        emoji: Emoji,
        on: bool,
    },
}

impl Entry {
    /// Bytes of what a client wrote, for the limits on memory and on message size.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Message(body) | Self::Change { change: Change::Edit(body), .. } => {
                body.as_json().len()
            }
            Self::Change { change: Change::Delete, .. } => 0,
            Self::Change { change: Change::React { emoji, .. }, .. } => emoji.as_str().len(),
        }
    }
}

impl From<Body> for Entry {
    fn from(body: Body) -> Self {
        Self::Message(body)
    }
}

/// The event that a client of a rule table sent. What other clients are shown is rendered from it
/// each time, so it is stored as it came and never as it was rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEvent {
    /// The name of the sender's profile, which is a part of the rule table.
    pub profile: Arc<str>,
    pub event: Arc<str>,
    /// A JSON array.
    pub arguments: Body,
    /// The JSON value that the sender's session remembers as `$me`.
    pub me: Option<Body>,
}

impl SourceEvent {
    /// Bytes of what a client wrote, as in `Entry::bytes`.
    pub fn bytes(&self) -> usize {
        let me = self.me.as_ref().map_or(0, |me| me.as_json().len());
        self.event.len() + self.arguments.as_json().len() + me
    }
}

/// An event that is passed on to the connections that are there now, and not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedEvent {
    pub room: RoomName,
    pub from: UserId,
    pub id: MessageId,
    pub at: Timestamp,
    /// A session that is not told.
    pub except: Option<PublicId>,
    pub source: Arc<SourceEvent>,
}

/// A record that is not stored yet, so it has no position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub room: RoomName,
    pub from: UserId,
    /// The sender's name at this moment. `None`: the sender has not chosen one.
    pub name: Option<UserName>,
    /// Unique for each sender: the client's own id, or an id that the server made for it.
    pub id: MessageId,
    /// Whether the client chose the id, and so may send the same draft again.
    pub repeatable: bool,
    /// When the node took it.
    pub at: Timestamp,
    /// A session that is not told.
    pub except: Option<PublicId>,
    /// `None`: the body says everything that the client sent.
    pub source: Option<Arc<SourceEvent>>,
    pub entry: Entry,
}

impl Draft {
    /// A draft for everybody in the room, from a user without a name.
    pub fn new(
        room: RoomName,
        from: UserId,
        id: MessageId,
        at: Timestamp,
        entry: impl Into<Entry>,
    ) -> Self {
        let entry = entry.into();
        Self {
            room,
            from,
            name: None,
            id,
            repeatable: false,
            at,
            except: None,
            source: None,
            entry,
        }
    }

    /// Bytes of what a client wrote, for the limits on memory.
    pub fn bytes(&self) -> usize {
        bytes(&self.entry, self.source.as_deref())
    }

    /// The record that this draft is once it is stored at `position`.
    pub fn into_record(self, position: Position) -> Record {
        let Self { room, from, name, id, repeatable: _, at, except, source, entry } = self;
        Record { position, room, from, name, id, at, except, source, entry }
    }
}

/// The answer of the log to a draft: the position and time that it has, or already had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub position: Position,
    /// If the draft was a retry, the time of the first attempt.
    pub at: Timestamp,
}

/// One stored record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub position: Position,
    pub room: RoomName,
    pub from: UserId,
    pub name: Option<UserName>,
    pub id: MessageId,
    pub at: Timestamp,
    pub except: Option<PublicId>,
    pub source: Option<Arc<SourceEvent>>,
    pub entry: Entry,
}

impl Record {
    /// Bytes of what a client wrote, for the limits on memory.
    pub fn bytes(&self) -> usize {
        bytes(&self.entry, self.source.as_deref())
    }
}

fn bytes(entry: &Entry, source: Option<&SourceEvent>) -> usize {
    entry.bytes() + source.map_or(0, SourceEvent::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_stays_on_one_line() {
        assert_eq!(Body::from_json("[1,\r\n 2]").as_json(), "[1,   2]");
        assert_eq!(Body::from_json(r#""a\nb""#).as_json(), r#""a\nb""#);
    }
}
