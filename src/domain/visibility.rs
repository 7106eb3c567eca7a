//! The one answer to "who is told": who receives a record, and who may enter, read and write a
//! room.
//!
//! Live delivery, replay, recovery, join, history, search, typing and read marks all ask here.
//!
//! | kind of room | receives its records | may enter | may read and write |
//! |---|---|---|---|
//! | named | its members | every user | its members |
//! | direct | every session of both users | both users | both users, without joining |
//! | personal | the user's sessions | nobody by request | nobody by request |
//! | socket | that session | nobody by request | nobody by request |
//! | accounts | its members (nothing is written) | nobody by request | nobody by request |
//! | malformed | nobody | nobody | nobody |
//!
//! "By request" is `join`, `send` to a room by its name, and so on. A session writes to a direct or
//! socket room also by naming the user or the session: then the server makes the room's name.

use crate::domain::{
    name::{PublicId, UserId},
    position::Position,
    record::Record,
    reject::{Code, Reject},
    room::{RoomKind, RoomName},
};

/// A room that a session is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedRoom {
    pub room: RoomName,
    /// Records up to this position are not for the session. `None`: nothing was known of the log
    /// when the session joined.
    pub since: Option<Position>,
}

/// The rooms whose members receive what is written in `room`.
pub fn audience(room: &RoomName) -> impl Iterator<Item = RoomName> + use<> {
    let (one, other) = match room.kind() {
        // Both users receive it in their personal rooms, so neither has to join first.
        RoomKind::Direct { first, second } => {
            let second = (first != second).then(|| RoomName::personal_of(second));
            (Some(RoomName::personal_of(first)), second)
        }
        RoomKind::Named
        | RoomKind::Personal { .. }
        | RoomKind::Socket { .. }
        | RoomKind::Accounts => (Some(room.clone()), None),
        RoomKind::Malformed => (None, None),
    };
    one.into_iter().chain(other)
}

/// Whether a member of `joined` receives what is written in `room`.
///
/// A member of a direct room is one of its users, so it receives everything in it, too.
pub fn hears(joined: &RoomName, room: &RoomName) -> bool {
    match (room.kind(), joined.kind()) {
        (RoomKind::Malformed, _) => false,
        (RoomKind::Direct { first, second }, RoomKind::Personal { user }) => {
            user == first || user == second
        }
        _ => joined == room,
    }
}

/// Whether this is a direct message that a user has sent to another one. Some clients have shown it
/// already and are told only what others send.
pub fn is_own_direct(user: &str, record: &Record) -> bool {
    match record.room.kind() {
        RoomKind::Direct { first, second } => first != second && record.from.as_str() == user,
        _ => false,
    }
}

/// The rooms in which a session receives records: those it is in, and its own room.
pub fn listens_in<'a>(
    session: &PublicId,
    joined: impl Iterator<Item = &'a RoomName>,
) -> Vec<RoomName> {
    let mut rooms: Vec<RoomName> = joined.cloned().collect();
    if has_personal_room(&rooms) {
        rooms.extend(RoomName::socket(session));
    }
    rooms
}

/// Whether a session in these rooms receives what is written to itself alone. Every session is in
/// the personal room of its user, but for one that an older release stored.
pub fn has_personal_room<'a>(rooms: impl IntoIterator<Item = &'a RoomName>) -> bool {
    rooms.into_iter().any(RoomName::is_personal)
}

/// Whether a session that is in these rooms receives the record.
pub fn sees<'a>(
    session: &PublicId,
    mut joined: impl Iterator<Item = &'a JoinedRoom>,
    record: &Record,
) -> bool {
    let is_to_session = match record.room.kind() {
        RoomKind::Socket { session: id } => id == session.as_str(),
        _ => false,
    };
    let is_after =
        |since: &Position| since.epoch != record.position.epoch || since.seq < record.position.seq;
    record.except.as_ref() != Some(session)
        && joined.any(|JoinedRoom { room, since }| {
            (hears(room, &record.room) || is_to_session && room.is_personal())
                && since.as_ref().is_none_or(is_after)
        })
}

/// Whether the user may join the room.
pub fn may_enter(user: &UserId, room: &RoomName) -> Result<(), Reject> {
    let is_open = match room.kind() {
        RoomKind::Named => true,
        RoomKind::Direct { first, second } => [first, second].contains(&user.as_str()),
        RoomKind::Personal { .. }
        | RoomKind::Socket { .. }
        | RoomKind::Accounts
        | RoomKind::Malformed => false,
    };
    if is_open {
        return Ok(());
    }
    Err(Reject::new(Code::Forbidden, format!("the room '{room}' is not open to this user")))
}

/// Whether the user may read and write the room: its history, search, typing and read marks
/// included. `has_joined` says whether the connection is in the room.
pub fn may_use(
    user: &UserId,
    room: &RoomName,
    has_joined: impl FnOnce() -> bool,
) -> Result<(), Reject> {
    may_enter(user, room)?;
    if room.is_direct() || has_joined() { Ok(()) } else { Err(not_joined(room)) }
}

pub fn not_joined(room: &RoomName) -> Reject {
    Reject::new(Code::NotJoined, format!("this connection is not in the room '{room}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        name::MessageId,
        position::{Epoch, Timestamp},
        record::{Body, Draft},
    };

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    fn session(id: &str) -> PublicId {
        PublicId::parse(id).unwrap()
    }

    fn at(epoch: &str, seq: u64) -> Position {
        Position { epoch: Epoch::new(epoch), seq }
    }

    fn joined(names: &[&str], since: Option<Position>) -> Vec<JoinedRoom> {
        names.iter().map(|name| JoinedRoom { room: room(name), since: since.clone() }).collect()
    }

    fn record(name: &str, except: Option<&str>) -> Record {
        let id = MessageId::parse("m").unwrap();
        let draft = Draft::new(room(name), user("cem"), id, Timestamp(1), Body::null());
        Draft { except: except.map(session), ..draft }.into_record(at("e", 5))
    }

    const FORBIDDEN: Option<Code> = Some(Code::Forbidden);

    /// Room, audience of live delivery, whether ann's session 0a replays it (it is in attic and
    /// user:ann), and the refusals of ann's join and of ann's use of the room.
    type Row = (&'static str, &'static [&'static str], bool, Option<Code>, Option<Code>);

    const TABLE: [Row; 14] = [
        ("attic", &["attic"], true, None, None),
        ("cellar", &["cellar"], false, None, Some(Code::NotJoined)),
        ("dm:ann:bob", &["user:ann", "user:bob"], true, None, None),
        ("dm:aaa:ann", &["user:aaa", "user:ann"], true, None, None),
        ("dm:ann:ann", &["user:ann"], true, None, None),
        ("dm:bob:cem", &["user:bob", "user:cem"], false, FORBIDDEN, FORBIDDEN),
        ("user:ann", &["user:ann"], true, FORBIDDEN, FORBIDDEN),
        ("user:bob", &["user:bob"], false, FORBIDDEN, FORBIDDEN),
        ("socket:0a", &["socket:0a"], true, FORBIDDEN, FORBIDDEN),
        ("socket:0b", &["socket:0b"], false, FORBIDDEN, FORBIDDEN),
        ("accounts:online", &["accounts:online"], false, FORBIDDEN, FORBIDDEN),
        ("dm:bob:ann", &[], false, FORBIDDEN, FORBIDDEN),
        ("user:", &[], false, FORBIDDEN, FORBIDDEN),
        ("socket:", &[], false, FORBIDDEN, FORBIDDEN),
    ];

    #[test]
    fn each_kind_of_room_has_one_answer_everywhere() {
        let native = joined(&["attic", "user:ann"], None);
        let names: Vec<RoomName> = native.iter().map(|joined| joined.room.clone()).collect();
        let listened = listens_in(&session("0a"), names.iter());
        for (name, told, is_seen, enter, read) in TABLE {
            let audience: Vec<RoomName> = audience(&room(name)).collect();
            assert_eq!(audience, told.iter().map(|name| room(name)).collect::<Vec<_>>(), "{name}");
            let sees =
                |names: &[JoinedRoom]| sees(&session("0a"), names.iter(), &record(name, None));
            assert_eq!(sees(&native), is_seen, "replay of {name}");
            let is_live = audience.iter().any(|room| listened.contains(room));
            assert_eq!(is_live, is_seen, "{name}: live delivery and replay agree");
            let code = |checked: Result<(), Reject>| checked.err().map(|reject| reject.code);
            assert_eq!(code(may_enter(&user("ann"), &room(name))), enter, "join of {name}");
            let used = may_use(&user("ann"), &room(name), || names.contains(&room(name)));
            assert_eq!(code(used), read, "use of {name}");
            if enter.is_none() {
                assert!(sees(&joined(&[name], None)), "the answer to a join of {name}");
            }
        }
    }

    #[test]
    fn a_plain_session_receives_nothing_that_is_written_to_one_user_or_session() {
        let plain = joined(&["lobby"], None);
        assert_eq!(listens_in(&session("0a"), [&room("lobby")].into_iter()), [room("lobby")]);
        for (name, is_seen) in [("lobby", true), ("dm:ann:bob", false), ("socket:0a", false)] {
            let seen = sees(&session("0a"), plain.iter(), &record(name, None));
            assert_eq!(seen, is_seen, "{name}");
        }
    }

    #[test]
    fn a_session_sees_what_comes_after_its_join_unless_it_is_left_out() {
        let sees = |names: &[&str], since, except| {
            let names = joined(names, since);
            sees(&session("0a"), names.iter(), &record("attic", except))
        };
        for (since, is_seen) in [
            (None, true),
            (Some(at("e", 4)), true),
            (Some(at("e", 5)), false),
            (Some(at("other", 9)), true),
        ] {
            assert_eq!(sees(&["attic"], since.clone(), None), is_seen, "{since:?}");
            assert_eq!(sees(&["attic"], since.clone(), Some("0b")), is_seen, "{since:?}");
            assert!(!sees(&["attic"], since.clone(), Some("0a")));
            assert!(!sees(&[], since, None));
        }
    }
}
