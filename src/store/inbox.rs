//! The port of what each user has read, and which rooms are theirs.

use futures_util::future::BoxFuture;

use super::ReadError;
use crate::domain::{name::UserId, room::RoomName};

/// Unread messages are counted up to this many.
pub const UNREAD_MAX: u32 = 999;
/// Rooms that a user has marks in, per partition. One more, and his oldest mark is forgotten.
pub const MARKS_MAX: u32 = 1_000;

/// A room, up to where a user has read it, and how many messages of others come after that.
pub type Unread = (RoomName, u64, u32);

pub trait Inbox: Send + Sync + std::fmt::Debug + 'static {
    /// Moves a user's mark in a room forward, never back and never past the log's end, and answers
    /// where it is then. All nodes are told when it moved (`Signal::Read`). A mark of 0 says that
    /// the room is theirs, and that they have read nothing. Kept for `history_ttl` after the last
    /// call.
    fn mark_read(
        &self,
        user: UserId,
        room: RoomName,
        seq: u64,
    ) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Whether a mark of the user is kept, at least one in the partition of their personal room.
    fn is_known(&self, user: UserId) -> BoxFuture<'_, Result<bool, ReadError>>;

    /// The rooms of two users (`dm:`) that the user has marks in and that have messages, in no
    /// order: with the seq of the last message.
    fn direct_rooms(&self, user: UserId) -> BoxFuture<'_, Result<Vec<(RoomName, u64)>, ReadError>>;

    /// Of these rooms those that the user has marks in, in the same order: with the mark, and how
    /// many stored messages of others come after it, counted up to `UNREAD_MAX`.
    fn unread(
        &self,
        user: UserId,
        rooms: Vec<RoomName>,
    ) -> BoxFuture<'_, Result<Vec<Unread>, ReadError>>;
}
