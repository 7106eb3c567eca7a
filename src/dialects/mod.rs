//! How different kinds of clients speak: which events they send and get for the same thing.
//!
//! A dialect turns a client's event into a `Request`, and a record of the log or anything else that
//! happens into an event. What happens is the same for all dialects.

mod args;
pub mod dialect;
pub mod event;
mod json;
pub mod native;
pub mod offset;
pub mod page;
mod plain;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Deref};

use socketioxide_core::adapter::Room;

use self::{dialect::Dialect, native::Native, plain::Plain};
use crate::domain::room::RoomName;

static BUILT_IN: [&dyn Dialect; DIALECTS] = [&Plain, &Native];
pub const DIALECTS: usize = 2;

/// One of the dialects that this server speaks: a number that stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct DialectId(u8);

impl DialectId {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(DIALECTS)
    }

    /// The dialect that a client names.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|dialect| dialect.name() == name)
    }

    /// Its place in lists that have one item for each dialect.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The Socket.IO room of the members of `room` that speak this dialect. No room name has a
    /// control character, so no two rooms share one.
    pub fn socket_room(self, room: &RoomName) -> Room {
        match self.0 {
            0 => room.as_str().to_owned().into(),
            dialect => format!("{room}\n{dialect}").into(),
        }
    }
}

impl Deref for DialectId {
    type Target = dyn Dialect;

    fn deref(&self) -> &Self::Target {
        BUILT_IN[self.index()]
    }
}

impl fmt::Debug for DialectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
