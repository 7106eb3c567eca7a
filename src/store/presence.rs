//! The port of presence: which users are in which room, and signals that nothing keeps.

use futures_util::future::BoxFuture;

use super::ReadError;
use crate::domain::{name::UserId, room::RoomName, user::User};

pub trait PresenceStore: Send + Sync + std::fmt::Debug + 'static {
    /// This node has at least one connection of this user in this room, until `remove` or until
    /// the node's lease ends. Never waits: the store tries until it is so. The same user again with
    /// another name or picture changes how `members` shows them, and tells nobody.
    fn add(&self, room: RoomName, user: User);

    /// The last connection of this user in this room has ended on this node.
    fn remove(&self, room: RoomName, user: UserId);

    /// The users in a room now, on whatever node. It includes all steps up to its version.
    fn members(&self, room: RoomName, users_max: u32) -> BoxFuture<'_, Result<Members, ReadError>>;

    /// Tells every node, this one too, over the partition of its room; a profile over partition 0.
    /// Never waits, and does its best.
    fn publish(&self, signal: Signal);
}

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

/// A room's roster at one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    pub version: u64,
    pub count: u32,
    /// In the order of their ids. Empty when there are more than were asked for.
    pub users: Vec<User>,
}
