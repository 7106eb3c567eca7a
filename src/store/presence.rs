//! The port of presence: which users are in which room, and signals that are not stored.

use futures_util::future::BoxFuture;

use super::error::ReadError;
use crate::domain::{name::UserId, record::PassedEvent, room::RoomName, user::User};

pub trait PresenceStore: Send + Sync + std::fmt::Debug + 'static {
    /// This node has at least one connection of this user in this room, until `remove` or until the
    /// node's lease ends. Never waits: the store retries until it succeeds. A call for the same
    /// user with another name or picture changes how `members` shows them, and sends no signal.
    fn add(&self, room: RoomName, user: User);

    /// The last connection of this user in this room has ended on this node.
    fn remove(&self, room: RoomName, user: UserId);

    /// The users in a room, on all nodes. It includes all steps up to its version.
    fn members(&self, room: RoomName, users_max: u32) -> BoxFuture<'_, Result<Members, ReadError>>;

    /// Tells every node, this one too, through the partition of the signal's room; a profile
    /// through partition 0. Never waits. Best effort: a signal can be lost.
    fn publish(&self, signal: Signal);
}

/// What nodes tell each other without storing it: a lost signal is not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    Typing {
        room: RoomName,
        user: User,
        typing: bool,
    },
    /// A user has read a room up to a position.
    Read {
        user: UserId,
        room: RoomName,
        seq: u64,
    },
    /// A user has changed their name or picture.
    Profile {
        user: User,
    },
    /// An event that a client of a rule table sent, and that is not stored.
    Event(Box<PassedEvent>),
    /// The users that joined and left a room in one step of its roster.
    Presence {
        room: RoomName,
        /// One more than at the step before. If it is higher, steps are missing and the roster must
        /// be read, unless `joined` has all `count` users, as after a room was empty. A step with a
        /// version not above one that was read is already included there.
        version: u64,
        joined: Vec<User>,
        left: Vec<UserId>,
        /// Users in the room after this step.
        count: u32,
    },
}

impl Signal {
    /// The room of this signal.
    pub fn room(&self) -> Option<&RoomName> {
        match self {
            Self::Typing { room, .. } | Self::Read { room, .. } | Self::Presence { room, .. } => {
                Some(room)
            }
            Self::Event(passed) => Some(&passed.room),
            Self::Profile { .. } => None,
        }
    }
}

/// A room's roster at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    pub version: u64,
    pub count: u32,
    /// In the order of their ids. Empty when there are more users than asked for.
    pub users: Vec<User>,
}
