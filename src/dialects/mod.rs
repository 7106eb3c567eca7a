//! How different kinds of clients speak: which events they send and get for the same thing.
//!
//! A dialect turns a client's event into a `Request`, and a record of the log or anything else that
//! happens into events. What happens is the same for all dialects.

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

/// The dialects of one node. A set of them is a word of 64 bits.
pub const DIALECTS_MAX: usize = 64;

/// One of the dialects of this node.
#[derive(Clone, Copy)]
pub struct DialectId {
    index: u8,
    dialect: &'static dyn Dialect,
}

/// The dialects that this node speaks, the default one first.
#[derive(Debug, Clone, Copy)]
pub struct Dialects(&'static [DialectId]);

impl Dialects {
    /// The dialects live as long as the process, so a `DialectId` is small and can be copied: each
    /// connection has one. A node makes them once, when it starts.
    pub fn new() -> Self {
        let all: Vec<Box<dyn Dialect>> = vec![Box::new(Plain), Box::new(Native)];
        let numbered = (0..).zip(all);
        let dialects: Vec<DialectId> = numbered
            .map(|(index, dialect)| DialectId { index, dialect: Box::leak(dialect) })
            .collect();
        Self(dialects.leak())
    }

    pub fn all(self) -> impl Iterator<Item = DialectId> {
        self.0.iter().copied()
    }

    pub fn count(self) -> usize {
        self.0.len()
    }

    /// What a client speaks that does not say it.
    pub fn default_one(self) -> DialectId {
        self.0[0]
    }

    /// The dialect that a client names.
    pub fn named(self, name: &str) -> Option<DialectId> {
        self.all().find(|dialect| dialect.name() == name)
    }
}

impl DialectId {
    pub fn get(self) -> &'static dyn Dialect {
        self.dialect
    }

    /// Its place in lists that have one item for each dialect.
    pub fn index(self) -> usize {
        usize::from(self.index)
    }

    /// The Socket.IO room of the members of `room` that speak this dialect. No room name has a
    /// control character, so no two rooms share one.
    pub fn socket_room(self, room: &RoomName) -> Room {
        match self.index {
            0 => room.as_str().to_owned().into(),
            dialect => format!("{room}\n{dialect}").into(),
        }
    }
}

impl PartialEq for DialectId {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Deref for DialectId {
    type Target = dyn Dialect;

    fn deref(&self) -> &Self::Target {
        self.dialect
    }
}

impl fmt::Debug for DialectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
