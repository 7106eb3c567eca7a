//! What the buses know of people: who is in which room, what they are called, what they have read.

use crate::domain::{
    name::{RoomName, UserId},
    user::User,
};

/// Unread messages are counted up to this many.
pub const UNREAD_MAX: u32 = 999;
/// Rooms that a user has marks in, per partition. One more, and his oldest mark is forgotten.
pub const MARKS_MAX: u32 = 1_000;

/// What nodes tell each other and nobody keeps: lost when it is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    Typing {
        room: RoomName,
        user: User,
        typing: bool,
    },
    /// A user has read a room up to there.
    Read {
        user: UserId,
        room: RoomName,
        seq: u64,
    },
    /// A user has another name or picture.
    Profile {
        user: User,
    },
    /// Who came to a room and who left it, in one step of its roster.
    Presence {
        room: RoomName,
        /// One more than at the step before. Any higher, and steps are missing: the roster has to
        /// be read, unless `joined` is all of `count`, as it is after a room was empty. What is no
        /// higher than a version that was read is part of it already.
        version: u64,
        joined: Vec<User>,
        left: Vec<UserId>,
        /// People in the room after this step.
        count: u32,
    },
}

impl Signal {
    /// The room that it is about.
    pub fn room(&self) -> Option<&RoomName> {
        match self {
            Self::Typing { room, .. } | Self::Read { room, .. } | Self::Presence { room, .. } => {
                Some(room)
            }
            Self::Profile { .. } => None,
        }
    }
}

/// A room, up to where a user has read it, and how many messages of others come after that.
pub type Unread = (RoomName, u64, u32);

/// A room's roster at one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    pub version: u64,
    pub count: u32,
    /// In the order of their ids. Empty when there are more than were asked for.
    pub users: Vec<User>,
}

/// A room as it stands in a list of rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSummary {
    pub room: RoomName,
    /// People in it now.
    pub count: u32,
    /// Of its last message, 0 if none is known.
    pub seq: u64,
}
