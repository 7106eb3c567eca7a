//! How different kinds of clients speak: which events they send and get for the same thing.
//!
//! A dialect turns a client's event into a `Request`, and a record of the log or anything else that
//! happens into events. What happens is the same for all dialects.

pub mod args;
pub mod dialect;
pub mod event;
pub mod events;
mod json;
pub mod mern;
pub mod native;
pub mod offset;
pub mod page;
mod rows;
#[cfg(test)]
mod tests;
pub mod text;

use std::{fmt, ops::Deref};

use socketioxide_core::adapter::Room;

use self::{
    dialect::Dialect,
    events::table::{DEFAULT_PROFILE, Table},
    mern::Mern,
    native::Native,
    rows::RowDialect,
};
use crate::domain::room::RoomName;

/// Dialects of one node. A set of them is a word of 64 bits.
const DIALECTS_MAX: usize = 64;

/// One of the dialects of this node.
#[derive(Clone, Copy)]
pub struct DialectId {
    index: u8,
    dialect: &'static dyn Dialect,
}

/// The dialects that this node speaks: native, and one for each profile of its rule table.
#[derive(Debug, Clone, Copy)]
pub struct Dialects(&'static Spoken);

#[derive(Debug)]
struct Spoken {
    table: &'static Table,
    /// The default profile of the table first.
    all: Vec<DialectId>,
    default: DialectId,
    /// What clients with an account speak, and those that do not prove theirs. `None`: there are
    /// no accounts.
    accounts: Option<[DialectId; 2]>,
}

impl Dialects {
    /// The dialects live as long as the process, so a `DialectId` is small and can be copied: each
    /// connection has one. A node makes them once, when it starts. `default_profile` is what a
    /// client speaks that says nothing else. `None`: the table has no such profile.
    pub fn new(table: Table, default_profile: &str, has_accounts: bool) -> Option<Self> {
        let table: &'static Table = Box::leak(Box::new(table));
        let profiles =
            table.profiles().map(|profile| -> Box<dyn Dialect> { Box::new(RowDialect(profile)) });
        let all = profiles.chain([Box::new(Native) as Box<dyn Dialect>]);
        let numbered = (0..).zip(all);
        let all: Vec<DialectId> = numbered
            .map(|(index, dialect)| DialectId { index, dialect: Box::leak(dialect) })
            .collect();
        let mut next = (all.len()..).map_while(|index| u8::try_from(index).ok());
        let mut mern = |is_proven| -> Option<DialectId> {
            Some(DialectId {
                index: next.next()?,
                dialect: Box::leak(Box::new(Mern { is_proven })),
            })
        };
        let accounts = has_accounts.then(|| Some([mern(true)?, mern(false)?]));
        let accounts = accounts.flatten();
        assert!(all.len() <= DIALECTS_MAX, "a rule table has at most 32 profiles");
        let default = all.iter().copied().find(|dialect| dialect.name() == default_profile)?;
        Some(Self(Box::leak(Box::new(Spoken { table, all, default, accounts }))))
    }

    /// What a node speaks that is given no table.
    pub fn builtin() -> Self {
        Self::new(Table::builtin(), DEFAULT_PROFILE, false).expect("the built-in table has it")
    }

    pub fn all(self) -> impl Iterator<Item = DialectId> {
        self.0.all.iter().copied().chain(self.0.accounts.into_iter().flatten())
    }

    pub fn count(self) -> usize {
        self.all().count()
    }

    /// What a client speaks that says nothing else.
    pub fn default_one(self) -> DialectId {
        self.0.default
    }

    /// The dialects that a client may name.
    pub fn nameable(self) -> impl Iterator<Item = DialectId> {
        self.0.all.iter().copied()
    }

    /// The dialect that a client names.
    pub fn named(self, name: &str) -> Option<DialectId> {
        self.nameable().find(|dialect| dialect.name() == name)
    }

    pub fn has_accounts(self) -> bool {
        self.0.accounts.is_some()
    }

    /// What a client with an account speaks. No client can name it: it must prove the account.
    pub fn of_account(self, is_proven: bool) -> Option<DialectId> {
        let [proven, unproven] = self.0.accounts?;
        Some(if is_proven { proven } else { unproven })
    }

    /// The profile that the pages of an origin get.
    pub fn of_origin(self, origin: &str) -> Option<DialectId> {
        self.named(self.0.table.profile_of_origin(origin)?)
    }

    /// Namespaces beside `/` that clients may enter.
    pub fn namespaces(self) -> &'static [String] {
        self.0.table.namespaces()
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
