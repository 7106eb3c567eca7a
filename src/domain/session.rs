//! One client's connection: what it may do, and what it has under way.
//!
//! `step` decides and changes nothing outside; the caller carries out what it answers, and calls
//! `settled` when that is done.

use crate::domain::{
    changes::About,
    message::{Body, Draft, Position, Timestamp},
    name::{MessageId, PublicId, RoomName, UserId, UserName},
    page::Page,
    search::Search,
    user::{Patch, Picture},
};

/// Answers of the log that one connection may be waiting for, other than acks of messages.
const READS_MAX: u32 = 8;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Send {
        room: RoomName,
        id: MessageId,
        repeatable: bool,
        body: Body,
    },
    /// The same, to one person.
    SendTo {
        user: UserId,
        id: MessageId,
        repeatable: bool,
        body: Body,
    },
    /// The same, to one connection.
    SendToSession {
        session: PublicId,
        id: MessageId,
        repeatable: bool,
        body: Body,
    },
    /// Something about an earlier message of the room.
    Change {
        room: RoomName,
        about: About,
        id: MessageId,
        repeatable: bool,
        body: Body,
    },
    ReadHistory {
        room: RoomName,
        page: Page,
        limit: u32,
    },
    Search(Search),
    /// `after`: what the client has of the room already.
    Join {
        room: RoomName,
        after: Option<Position>,
    },
    Leave {
        room: RoomName,
    },
    ListRooms,
    Type {
        room: RoomName,
        typing: bool,
    },
    /// The user has read a room up to there.
    MarkRead {
        room: RoomName,
        seq: u64,
    },
    /// What is `None` stays.
    SetProfile {
        name: Option<UserName>,
        picture: Option<Picture>,
    },
}

/// What is to be done about it. An `Append` that is about an earlier message is done only if
/// `Draft::check_target` allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Append(Draft),
    ReadHistory { room: RoomName, page: Page, limit: u32 },
    Search(Search),
    Join { room: RoomName, after: Option<Position> },
    Leave { room: RoomName },
    ListRooms,
    Type { room: RoomName, typing: bool },
    MarkRead { room: RoomName, seq: u64 },
    PatchProfile(Patch),
}

/// Stable words for programs; clients branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    TooLarge,
    NotJoined,
    /// It is not this user's to do.
    Forbidden,
    NotFound,
    TooMany,
    Taken,
    Busy,
    Unavailable,
    Unconfirmed,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::NotJoined => "not_joined",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::TooMany => "too_many",
            Self::Taken => "taken",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// Why a request is not done, in words for the person who wrote the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: Code,
    pub message: String,
}

impl Reject {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of JSON in one message.
    pub message_bytes_max: usize,
    /// Messages that may wait for their ack.
    pub in_flight_max: u32,
    /// Rooms that one client may be in.
    pub rooms_max: usize,
}

#[derive(Debug)]
pub struct Session {
    user: UserId,
    rooms: Vec<RoomName>,
    limits: Limits,
    appends: u32,
    reads: u32,
}

impl Session {
    pub fn new(user: UserId, rooms: Vec<RoomName>, limits: Limits) -> Self {
        Self { user, rooms, limits, appends: 0, reads: 0 }
    }

    pub fn user(&self) -> &UserId {
        &self.user
    }

    pub fn rooms(&self) -> &[RoomName] {
        &self.rooms
    }

    pub fn step(&mut self, command: Command, now: Timestamp) -> Result<Effect, Reject> {
        match command {
            Command::Send { room, id, repeatable, body } => {
                self.check_inside(&room)?;
                self.append(room, id, repeatable, body, now)
            }
            Command::SendTo { user, id, repeatable, body } => {
                let room = RoomName::direct(&self.user, &user)
                    .ok_or_else(|| Reject::new(Code::NotFound, "there is no such user"))?;
                self.append(room, id, repeatable, body, now)
            }
            Command::SendToSession { session, id, repeatable, body } => {
                let room = RoomName::socket(&session)
                    .ok_or_else(|| Reject::new(Code::NotFound, "there is no such session"))?;
                self.append(room, id, repeatable, body, now)
            }
            Command::Change { room, about, id, repeatable, body } => {
                self.check_inside(&room)?;
                self.begin_append(&body)?;
                let draft = Draft::new(room, self.user.clone(), id, now, body);
                Ok(Effect::Append(Draft { repeatable, about: Some(about), ..draft }))
            }
            Command::ReadHistory { room, page, limit } => {
                self.check_inside(&room)?;
                self.begin_read()?;
                Ok(Effect::ReadHistory { room, page, limit })
            }
            Command::Search(search) => {
                self.check_inside(&search.room)?;
                self.begin_read()?;
                Ok(Effect::Search(search))
            }
            Command::Join { room, after } => self.join(room, after),
            Command::Leave { room } => {
                self.check_allowed(&room)?;
                self.check_joined(&room)?;
                self.rooms.retain(|joined| *joined != room);
                Ok(Effect::Leave { room })
            }
            Command::ListRooms => {
                self.begin_read()?;
                Ok(Effect::ListRooms)
            }
            Command::Type { room, typing } => {
                self.check_inside(&room)?;
                Ok(Effect::Type { room, typing })
            }
            Command::MarkRead { room, seq } => {
                self.check_inside(&room)?;
                self.begin_read()?;
                Ok(Effect::MarkRead { room, seq })
            }
            Command::SetProfile { name, picture } => {
                self.begin_read()?;
                Ok(Effect::PatchProfile(Patch { user: self.user.clone(), name, picture }))
            }
        }
    }

    fn join(&mut self, room: RoomName, after: Option<Position>) -> Result<Effect, Reject> {
        self.check_allowed(&room)?;
        let is_new = !self.rooms.contains(&room);
        if is_new && self.rooms.len() == self.limits.rooms_max {
            return Err(Reject::new(
                Code::TooMany,
                format!("this connection is in {} rooms; leave one", self.rooms.len()),
            ));
        }
        self.begin_read()?;
        if is_new {
            self.rooms.push(room.clone());
        }
        Ok(Effect::Join { room, after })
    }

    fn append(
        &mut self,
        room: RoomName,
        id: MessageId,
        repeatable: bool,
        body: Body,
        now: Timestamp,
    ) -> Result<Effect, Reject> {
        self.begin_append(&body)?;
        let draft = Draft::new(room, self.user.clone(), id, now, body);
        Ok(Effect::Append(Draft { repeatable, ..draft }))
    }

    fn begin_append(&mut self, body: &Body) -> Result<(), Reject> {
        let bytes = body.as_json().len();
        if bytes > self.limits.message_bytes_max {
            return Err(Reject::new(
                Code::TooLarge,
                format!(
                    "the message has {bytes} bytes; at most {} are allowed",
                    self.limits.message_bytes_max
                ),
            ));
        }
        if self.appends == self.limits.in_flight_max {
            return Err(Reject::new(
                Code::Busy,
                format!("{} messages wait for their ack; wait for some", self.appends),
            ));
        }
        self.appends += 1;
        Ok(())
    }

    fn begin_read(&mut self) -> Result<(), Reject> {
        if self.reads == READS_MAX {
            return Err(Reject::new(
                Code::Busy,
                format!("{READS_MAX} reads are under way on this connection; wait for one"),
            ));
        }
        self.reads += 1;
        Ok(())
    }

    /// An `Append` has its position, or has failed.
    pub fn append_settled(&mut self) {
        self.appends -= 1;
    }

    /// Anything else that waited for the log has its answer, or has failed.
    pub fn read_settled(&mut self) {
        self.reads -= 1;
    }

    /// In a room, or one of the two people whose room it is.
    fn check_inside(&self, room: &RoomName) -> Result<(), Reject> {
        self.check_allowed(room)?;
        if room.people().is_some() { Ok(()) } else { self.check_joined(room) }
    }

    fn check_allowed(&self, room: &RoomName) -> Result<(), Reject> {
        let is_own = |people: [&str; 2]| people.contains(&self.user.as_str());
        if !room.is_reserved() || room.people().is_some_and(is_own) {
            return Ok(());
        }
        Err(Reject::new(Code::Forbidden, format!("the room '{room}' is not open to this user")))
    }

    fn check_joined(&self, room: &RoomName) -> Result<(), Reject> {
        if self.rooms.contains(room) {
            return Ok(());
        }
        Err(Reject::new(Code::NotJoined, format!("this connection is not in the room '{room}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{changes::Change, search::Query};

    const NOW: Timestamp = Timestamp(1);

    fn session() -> Session {
        let user = UserId::parse("ada").unwrap();
        let limits = Limits { message_bytes_max: 10, in_flight_max: 2, rooms_max: 2 };
        Session::new(user, vec![RoomName::lobby()], limits)
    }

    fn send(room: &str, json: &str) -> Command {
        Command::Send {
            room: RoomName::parse(room).unwrap(),
            id: MessageId::parse("m1").unwrap(),
            repeatable: true,
            body: Body::from_json(json),
        }
    }

    fn change(room: &str, json: &str) -> Command {
        Command::Change {
            room: RoomName::parse(room).unwrap(),
            about: About { change: Change::Edit, seq: 1 },
            id: MessageId::parse("m2").unwrap(),
            repeatable: true,
            body: Body::from_json(json),
        }
    }

    fn code(outcome: Result<Effect, Reject>) -> Option<Code> {
        outcome.err().map(|reject| reject.code)
    }

    #[test]
    fn a_send_becomes_a_draft_from_this_user() {
        let effect = session().step(send("lobby", "\"hi\""), NOW).unwrap();
        let Effect::Append(draft) = effect else { panic!("expected an append") };
        assert_eq!((draft.from.as_str(), draft.at, draft.body.as_json()), ("ada", NOW, "\"hi\""));
    }

    #[test]
    fn size_and_membership_are_checked() {
        assert_eq!(code(session().step(send("lobby", "12345678901"), NOW)), Some(Code::TooLarge));
        assert_eq!(code(session().step(send("lobby", "1234567890"), NOW)), None);
        assert_eq!(code(session().step(send("attic", "1"), NOW)), Some(Code::NotJoined));
        assert_eq!(code(session().step(change("lobby", "12345678901"), NOW)), Some(Code::TooLarge));
        assert_eq!(code(session().step(change("attic", "1"), NOW)), Some(Code::NotJoined));
    }

    #[test]
    fn rooms_are_joined_left_and_bounded() {
        let mut session = session();
        let room = |name| RoomName::parse(name).unwrap();
        let join = |name| Command::Join { room: room(name), after: None };
        for _ in 0..2 {
            assert!(matches!(session.step(join("attic"), NOW), Ok(Effect::Join { .. })));
        }
        assert_eq!(session.rooms().len(), 2);
        assert_eq!(code(session.step(join("cellar"), NOW)), Some(Code::TooMany));
        assert_eq!(code(session.step(send("attic", "1"), NOW)), None);
        assert_eq!(code(session.step(Command::Leave { room: room("attic") }, NOW)), None);
        assert_eq!(code(session.step(send("attic", "1"), NOW)), Some(Code::NotJoined));
        assert_eq!(code(session.step(join("cellar"), NOW)), None);
    }

    #[test]
    fn a_room_of_two_people_is_open_to_them_alone() {
        let mut session = session();
        let room = |name| RoomName::parse(name).unwrap();
        let of = |name| {
            [
                send(name, "1"),
                change(name, "1"),
                Command::ReadHistory { room: room(name), page: Page::Newest, limit: 1 },
                Command::Type { room: room(name), typing: true },
                Command::MarkRead { room: room(name), seq: 1 },
                Command::Search(Search {
                    room: room(name),
                    query: Query::parse("hello").unwrap(),
                    before: None,
                    limit: 1,
                }),
                Command::Join { room: room(name), after: None },
                Command::Leave { room: room(name) },
            ]
        };
        for command in of("dm:ada:bob") {
            assert_eq!(code(session.step(command, NOW)), None);
        }
        for name in ["dm:bob:cem", "dm:bob:ada", "dm:x", "user:ada", "socket:1"] {
            for command in of(name) {
                assert_eq!(code(session.step(command, NOW)), Some(Code::Forbidden), "{name}");
            }
        }
    }

    #[test]
    fn a_message_to_one_person_is_one_in_their_room() {
        let to = |id: &str| Command::SendTo {
            user: UserId::parse(id).unwrap(),
            id: MessageId::parse("m1").unwrap(),
            repeatable: true,
            body: Body::from_json("1"),
        };
        let effect = session().step(to("aaa"), NOW).unwrap();
        assert!(matches!(effect, Effect::Append(draft) if draft.room.as_str() == "dm:aaa:ada"));
        assert_eq!(code(session().step(to("a:b"), NOW)), Some(Code::NotFound));
    }

    #[test]
    fn a_message_to_one_session_is_one_in_its_room() {
        let to = |id: &str| Command::SendToSession {
            session: PublicId::parse(id).unwrap(),
            id: MessageId::parse("m1").unwrap(),
            repeatable: true,
            body: Body::from_json("1"),
        };
        let effect = session().step(to("0a1b"), NOW).unwrap();
        assert!(matches!(effect, Effect::Append(draft) if draft.room.as_str() == "socket:0a1b"));
        assert_eq!(code(session().step(to(&"a".repeat(64)), NOW)), Some(Code::NotFound));
    }

    #[test]
    fn what_is_under_way_is_bounded_and_comes_free_again() {
        let mut session = session();
        assert_eq!(code(session.step(send("lobby", "1"), NOW)), None);
        assert_eq!(code(session.step(send("lobby", "2"), NOW)), None);
        assert_eq!(code(session.step(send("lobby", "3"), NOW)), Some(Code::Busy));
        assert_eq!(code(session.step(change("lobby", "3"), NOW)), Some(Code::Busy));
        session.append_settled();
        assert_eq!(code(session.step(send("lobby", "3"), NOW)), None);
    }
}
