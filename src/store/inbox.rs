//! The port of read marks, and of the rooms that each user takes part in.

use futures_util::future::BoxFuture;

use super::error::ReadError;
use crate::domain::{name::UserId, room::RoomName};

/// Unread messages are counted up to this many.
pub const UNREAD_MAX: u32 = 999;
/// Rooms per partition in which a user has marks. With one more, the user's oldest mark is deleted.
pub const MARKS_MAX: u32 = 1_000;

/// A room, up to where a user has read it, and how many messages of others come after that.
pub type Unread = (RoomName, u64, u32);

pub trait Inbox: Send + Sync + std::fmt::Debug + 'static {
    /// Moves a user's mark in a room forward, never back and never past the log's end, and returns
    /// its position. All nodes are told when it moved (`Signal::Read`). A mark of 0 lists the room
    /// for the user, who has read nothing there. A mark is kept for `history_ttl` after the last
    /// call.
    fn mark_read(
        &self,
        user: UserId,
        room: RoomName,
        seq: u64,
    ) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Whether the user has any mark, at least in the partition of their personal room.
    fn is_known(&self, user: UserId) -> BoxFuture<'_, Result<bool, ReadError>>;

    /// The rooms of two users (`dm:`) that have messages and the user's mark, each with the seq of
    /// the last message, in no order.
    fn direct_rooms(&self, user: UserId) -> BoxFuture<'_, Result<Vec<(RoomName, u64)>, ReadError>>;

    /// Those of the given rooms that have the user's mark, in the same order: with the mark and the
    /// number of stored messages of others after it, counted up to `UNREAD_MAX`.
    fn unread(
        &self,
        user: UserId,
        rooms: Vec<RoomName>,
    ) -> BoxFuture<'_, Result<Vec<Unread>, ReadError>>;
}
