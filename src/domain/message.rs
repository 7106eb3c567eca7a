//! A message, before it is stored and after.
//!
//! The body is carried, never interpreted: what a client sent comes out unchanged.

use std::{fmt, sync::Arc};

use crate::domain::{
    changes::{About, State},
    name::{MessageId, PublicId, RoomName, UserId, UserName},
};

/// One life of a log. Sequences of different epochs say nothing about each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a stored message stands. `seq` starts at 1 and has no holes within an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    pub seq: u64,
}

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// One JSON value as text, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(Arc<str>);

impl Body {
    /// `json` must be one valid JSON value. A line break can stand in it only between tokens,
    /// where a space means the same, so replacing it changes nothing a reader could tell.
    pub fn from_json(json: &str) -> Self {
        if json.contains('\n') || json.contains('\r') {
            Self(Arc::from(json.replace(['\n', '\r'], " ")))
        } else {
            Self(Arc::from(json))
        }
    }

    /// What there is to say where nothing is said.
    pub fn null() -> Self {
        Self(Arc::from("null"))
    }

    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// A message on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub room: RoomName,
    pub from: UserId,
    /// What the sender was called then; `None`: he had not said.
    pub name: Option<UserName>,
    /// Unique per sender. The client's own id, or one that was made up for it.
    pub id: MessageId,
    /// Whether the client chose the id, and so may send the message again.
    pub repeatable: bool,
    /// When the node took it.
    pub at: Timestamp,
    /// A connection that is not told.
    pub except: Option<PublicId>,
    /// What is said of an earlier message, if it is no message itself.
    pub about: Option<About>,
    pub body: Body,
}

impl Draft {
    /// A message to everybody in the room, from somebody who has not said his name.
    pub fn new(room: RoomName, from: UserId, id: MessageId, at: Timestamp, body: Body) -> Self {
        let (name, except, about) = (None, None, None);
        Self { room, from, name, id, repeatable: false, at, except, about, body }
    }

    /// What it is once it is in the log.
    pub fn at(self, position: Position) -> Message {
        let Self { room, from, name, id, repeatable: _, at, except, about, body } = self;
        Message { position, room, from, name, id, at, except, about, body, state: None }
    }
}

/// What the log answers for a draft: its place, or the place it already had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub position: Position,
    /// Of the first attempt, when this was a retry.
    pub at: Timestamp,
}

/// A message that is in the log, or what the log says of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub position: Position,
    pub room: RoomName,
    pub from: UserId,
    pub name: Option<UserName>,
    pub id: MessageId,
    pub at: Timestamp,
    pub except: Option<PublicId>,
    pub about: Option<About>,
    pub body: Body,
    /// What has become of it, where that was asked for: only history tells.
    pub state: Option<Box<State>>,
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
