//! The name of a room, and the kind of room that the name says.
//!
//! This file alone knows the prefixes of reserved names. All other code matches on `RoomKind`.

use std::{fmt, sync::Arc};

use crate::domain::name::{NameError, PublicId, UserId, bounded};

/// Longest room name, in characters.
pub const ROOM_CHARS_MAX: usize = 64;

/// How the names of reserved rooms begin. Stores use them in their queries.
pub const DIRECT_PREFIX: &str = "dm:";
pub const SOCKET_PREFIX: &str = "socket:";
const PERSONAL_PREFIX: &str = "user:";

const LOBBY: &str = "lobby";
const ACCOUNTS: &str = "accounts:online";

/// A room: the unit in which messages are sent, stored and read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// What a room is for. Only a `Named` room is made by joining it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomKind<'a> {
    /// A room that any client may join.
    Named,
    /// The room of two users, `first <= second`. Both are equal when a user writes to itself.
    Direct { first: &'a str, second: &'a str },
    /// The room of all native connections of one user. It receives the user's direct messages.
    Personal { user: &'a str },
    /// The room of one session, by the session's public id.
    Socket { session: &'a str },
    /// The room of all connections that are told which accounts are online. Nobody writes in it.
    Accounts,
    /// A reserved prefix with an invalid rest. Nobody may enter it.
    Malformed,
}

impl RoomName {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        bounded(text, "room", ROOM_CHARS_MAX).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The room that every `plain` client is in.
    pub fn lobby() -> Self {
        Self(Arc::from(LOBBY))
    }

    pub fn accounts() -> Self {
        Self(Arc::from(ACCOUNTS))
    }

    pub fn personal(user: &UserId) -> Self {
        Self::personal_of(user.as_str())
    }

    /// For a user id that a `RoomKind` has.
    pub(super) fn personal_of(user: &str) -> Self {
        Self(Arc::from(format!("{PERSONAL_PREFIX}{user}")))
    }

    /// The direct room of two users, in whatever order they are given. `None`: the ids do not fit
    /// in a room name.
    pub fn direct(one: &UserId, other: &UserId) -> Option<Self> {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let room = Self::parse(&format!("{DIRECT_PREFIX}{first}:{second}")).ok()?;
        let kind = RoomKind::Direct { first: first.as_str(), second: second.as_str() };
        (room.kind() == kind).then_some(room)
    }

    /// The room of one session. `None`: the id does not fit in a room name.
    pub fn socket(session: &PublicId) -> Option<Self> {
        Self::parse(&format!("{SOCKET_PREFIX}{session}")).ok()
    }

    pub fn kind(&self) -> RoomKind<'_> {
        if *self.0 == *ACCOUNTS {
            return RoomKind::Accounts;
        }
        // An id has no space at its ends: `parse` takes them off.
        let is_id = |text: &str| !text.is_empty() && text.trim() == text;
        if let Some(users) = self.0.strip_prefix(DIRECT_PREFIX) {
            return match users.split_once(':') {
                Some((first, second))
                    if is_id(first)
                        && is_id(second)
                        && first <= second
                        && !second.contains(':') =>
                {
                    RoomKind::Direct { first, second }
                }
                _ => RoomKind::Malformed,
            };
        }
        if let Some(user) = self.0.strip_prefix(PERSONAL_PREFIX) {
            return if is_id(user) { RoomKind::Personal { user } } else { RoomKind::Malformed };
        }
        if let Some(session) = self.0.strip_prefix(SOCKET_PREFIX) {
            return if is_id(session) { RoomKind::Socket { session } } else { RoomKind::Malformed };
        }
        RoomKind::Named
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.kind(), RoomKind::Direct { .. })
    }

    pub fn is_personal(&self) -> bool {
        matches!(self.kind(), RoomKind::Personal { .. })
    }

    /// The name that decides which sequence orders the room. Everything that reaches one user or
    /// one session is in one sequence: the lobby's.
    pub fn ordered_by(&self) -> &str {
        match self.kind() {
            RoomKind::Named => self.as_str(),
            RoomKind::Direct { .. }
            | RoomKind::Personal { .. }
            | RoomKind::Socket { .. }
            | RoomKind::Accounts
            | RoomKind::Malformed => LOBBY,
        }
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    #[test]
    fn names_are_trimmed_and_bounded_in_characters() {
        assert_eq!(RoomName::parse("  köln ").map(|room| room.to_string()), Ok("köln".into()));
        assert_eq!(RoomName::parse(&"ö".repeat(64)).map(|_| ()), Ok(()));
        assert_eq!(
            RoomName::parse(&"ö".repeat(65)),
            Err(NameError::TooLong { what: "room", max: 64 })
        );
    }

    #[test]
    fn the_name_of_a_room_says_its_kind() {
        for (name, kind) in [
            ("attic", RoomKind::Named),
            ("dm", RoomKind::Named),
            ("DM:ann:bob", RoomKind::Named),
            ("dm:ann:bob", RoomKind::Direct { first: "ann", second: "bob" }),
            ("dm:ann:ann", RoomKind::Direct { first: "ann", second: "ann" }),
            ("user:ann", RoomKind::Personal { user: "ann" }),
            ("user:a:b", RoomKind::Personal { user: "a:b" }),
            ("socket:0a1b", RoomKind::Socket { session: "0a1b" }),
            ("accounts:online", RoomKind::Accounts),
            ("accounts:on", RoomKind::Named),
        ] {
            assert_eq!(room(name).kind(), kind, "{name}");
        }
        for name in [
            "dm:",
            "dm:ann",
            "dm:bob:ann",
            "dm::ann",
            "dm:ann:",
            "dm:a:b:c",
            "dm:a :b",
            "user:",
            "user: ann",
            "socket:",
            "socket: 0a",
        ] {
            assert_eq!(room(name).kind(), RoomKind::Malformed, "{name}");
        }
    }

    #[test]
    fn two_users_have_one_direct_room() {
        let direct = RoomName::direct(&user("bob"), &user("ann")).unwrap();
        assert_eq!(direct, room("dm:ann:bob"));
        assert_eq!(RoomName::direct(&user("ann"), &user("bob")), Some(direct));
        assert_eq!(RoomName::direct(&user("a:b"), &user("c")), None);
        assert_eq!(RoomName::direct(&user(&"a".repeat(40)), &user(&"b".repeat(40))), None);
    }

    #[test]
    fn a_session_has_one_room_if_its_id_fits() {
        let id = |text: &str| PublicId::parse(text).unwrap();
        assert_eq!(RoomName::socket(&id("0a1b")), Some(room("socket:0a1b")));
        assert_eq!(RoomName::socket(&id(&"a".repeat(64))), None);
    }

    #[test]
    fn reserved_rooms_are_ordered_with_the_lobby() {
        for name in ["lobby", "dm:ann:bob", "user:ann", "socket:0a1b", "dm:"] {
            assert_eq!(room(name).ordered_by(), "lobby", "{name}");
        }
        assert_eq!(room("attic").ordered_by(), "attic");
    }
}
