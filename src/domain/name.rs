//! The names people and programs type: rooms, users and what they call themselves, client message
//! ids, sessions' public ids.
//!
//! `parse` is the only way in, so a value of these types is always within its bounds and safe in
//! a key, a log line or a JSON string.

use std::{fmt, sync::Arc};

use unicode_normalization::UnicodeNormalization;

use crate::domain::message::Body;

/// Longest room name, in characters.
pub const ROOM_CHARS_MAX: usize = 64;
/// Longest user id, in characters.
pub const USER_CHARS_MAX: usize = 64;
/// Longest client message id, in characters.
pub const MESSAGE_ID_CHARS_MAX: usize = 64;
/// Longest public id of a session, in characters.
pub const PUBLIC_ID_CHARS_MAX: usize = 64;
/// Longest emoji, in characters: the longest of Unicode has ten, and `:names:` have room.
pub const EMOJI_CHARS_MAX: usize = 32;
/// Longest name of a user, in characters.
pub const USER_NAME_CHARS_MAX: usize = 40;

const LOBBY: &str = "lobby";
/// How the names of rooms begin that are not made by who joins them: of two people, of one
/// person's connections, of one connection.
const RESERVED: [&str; 3] = [DIRECT, PERSONAL, SOCKET];
const DIRECT: &str = "dm:";
const PERSONAL: &str = "user:";
const SOCKET: &str = "socket:";

/// Why a text is no name. The words go to the client as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} is longer than {max} characters")]
    TooLong { what: &'static str, max: usize },
    #[error("{what} has a control character")]
    Control { what: &'static str },
    #[error("{what} has a character that turns the direction of the text around it")]
    Direction { what: &'static str },
}

/// Letters of any script are connect_reply; an end of line or a NUL would break keys and logs.
fn checked(text: &str, what: &'static str, max: usize) -> Result<Arc<str>, NameError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.chars().count() > max {
        return Err(NameError::TooLong { what, max });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control { what });
    }
    Ok(Arc::from(text))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                checked(text, $what, $max).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A room: the unit of who hears what.
    RoomName, "room", ROOM_CHARS_MAX
);
name!(
    /// Who sent a message. The same person keeps it over reconnects.
    UserId, "user", USER_CHARS_MAX
);
name!(
    /// The client's own id of a message: a retry with the same id is the same message.
    MessageId, "id", MESSAGE_ID_CHARS_MAX
);
name!(
    /// What others know a session by: the fingerprint of its key, and no secret.
    PublicId, "public id", PUBLIC_ID_CHARS_MAX
);
name!(
    /// What somebody reacts with: a short text, whether there is a picture for it or not.
    Emoji, "emoji", EMOJI_CHARS_MAX
);

impl Emoji {
    /// As a record of the log carries it.
    pub fn to_body(&self) -> Body {
        Body::from_json(&serde_json::to_string(self.as_str()).expect("a text is JSON"))
    }

    pub fn from_body(body: &Body) -> Option<Self> {
        let text: String = serde_json::from_str(body.as_json()).ok()?;
        Self::parse(&text).ok()
    }
}

impl RoomName {
    /// The room that every `plain` client is in.
    pub fn lobby() -> Self {
        Self(Arc::from(LOBBY))
    }

    /// Where a user is reached wherever he is connected.
    pub fn personal(user: &UserId) -> Self {
        Self::personal_of(user.as_str())
    }

    fn personal_of(user: &str) -> Self {
        Self(Arc::from(format!("{PERSONAL}{user}")))
    }

    /// The room of two people, the same whoever of them asks. `None`: an id does not fit in it.
    pub fn direct(one: &UserId, other: &UserId) -> Option<Self> {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let room = Self::parse(&format!("{DIRECT}{first}:{second}")).ok()?;
        (room.people() == Some([first.as_str(), second.as_str()])).then_some(room)
    }

    pub fn is_personal(&self) -> bool {
        self.0.starts_with(PERSONAL)
    }

    /// Where one session is reached wherever it is connected. `None`: the id does not fit in it.
    pub fn socket(session: &PublicId) -> Option<Self> {
        Self::parse(&format!("{SOCKET}{session}")).ok()
    }

    /// Whose room it is, when it is one of one session.
    pub fn session(&self) -> Option<PublicId> {
        PublicId::parse(self.0.strip_prefix(SOCKET)?).ok()
    }

    /// Whose room it is, when it is one of two people.
    pub fn people(&self) -> Option<[&str; 2]> {
        let (first, second) = self.0.strip_prefix(DIRECT)?.split_once(':')?;
        let is_one = !first.is_empty() && first <= second && !second.contains(':');
        is_one.then_some([first, second])
    }

    /// Whether its name is ours to give: nobody makes such a room by joining it.
    pub fn is_reserved(&self) -> bool {
        RESERVED.iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// Whether who is in this room is told what is said in the other.
    pub fn hears(&self, other: &Self) -> bool {
        let user = self.0.strip_prefix(PERSONAL);
        let is_his = |user| other.people().is_some_and(|people| people.contains(&user));
        self == other || user.is_some_and(is_his)
    }

    /// The rooms in which those are who are told what is said here. Two people are reached in
    /// their own, so that nobody must join first.
    pub fn audience(&self) -> impl Iterator<Item = Self> + use<> {
        let (first, second) = match self.people() {
            Some([one, other]) if one == other => (Self::personal_of(one), None),
            Some([one, other]) => (Self::personal_of(one), Some(Self::personal_of(other))),
            None => (self.clone(), None),
        };
        std::iter::once(first).chain(second)
    }

    /// The name that says in which sequence the room is ordered. What reaches one person, whoever
    /// writes, is in one sequence, and where there are several it is the lobby's.
    pub fn ordered_by(&self) -> &str {
        if self.is_reserved() { LOBBY } else { self.as_str() }
    }
}

/// What others call a user, and see beside what he says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName(Arc<str>);

impl UserName {
    const WHAT: &'static str = "name";

    /// White space within becomes one space each: a line break or a long gap would fake a page.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let name = checked(&text, Self::WHAT, USER_NAME_CHARS_MAX).map(Self)?;
        if name.0.chars().any(turns_direction) {
            return Err(NameError::Direction { what: Self::WHAT });
        }
        if name.key().trim().is_empty() {
            return Err(NameError::Empty { what: Self::WHAT });
        }
        Ok(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What two names may not share: the name without what hardly shows, such as case, width, how an
    /// accent is composed, and characters that nobody sees.
    pub fn key(&self) -> String {
        let seen: String = self.0.chars().filter(|c| !is_invisible(*c)).nfkc().collect();
        let folded: String = seen.to_lowercase().nfkc().collect();
        folded.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Embeddings, overrides and isolates: what is written after the name would be turned as well.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Takes no place and draws nothing by itself: joiners, marks, selectors, tags.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_empty_name_or_a_control_character_is_refused() {
        assert_eq!(MessageId::parse(" "), Err(NameError::Empty { what: "id" }));
        assert_eq!(UserId::parse("a\nb"), Err(NameError::Control { what: "user" }));
    }

    #[test]
    fn a_room_of_two_people_is_theirs_alone() {
        let user = |id: &str| UserId::parse(id).unwrap();
        let room = |name: &str| RoomName::parse(name).unwrap();
        let direct = RoomName::direct(&user("bob"), &user("ann")).unwrap();
        assert_eq!(direct.as_str(), "dm:ann:bob");
        assert_eq!(Some(&direct), RoomName::direct(&user("ann"), &user("bob")).as_ref());
        assert_eq!(direct.people(), Some(["ann", "bob"]));
        let names = |room: &RoomName| room.audience().map(|r| r.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&direct), ["user:ann", "user:bob"]);
        assert_eq!(names(&room("dm:ann:ann")), ["user:ann"]);
        assert_eq!(names(&room("attic")), ["attic"]);
        for (one, hears) in [("ann", true), ("bob", true), ("an", false), ("ann:bob", false)] {
            assert_eq!(RoomName::personal(&user(one)).hears(&direct), hears, "{one}");
        }
        assert!(room("attic").hears(&room("attic")) && !room("attic").hears(&direct));
        for none in ["dm:", "dm:ann", "dm:bob:ann", "dm::ann", "dm:ann:", "dm:a:b:c", "attic"] {
            assert_eq!(room(none).people(), None, "{none}");
        }
        assert_eq!(RoomName::direct(&user("a:b"), &user("c")), None);
        assert_eq!(RoomName::direct(&user(&"a".repeat(40)), &user(&"b".repeat(40))), None);
    }

    #[test]
    fn a_room_of_one_session_says_whose_it_is() {
        let id = |text: &str| PublicId::parse(text).unwrap();
        let room = RoomName::socket(&id("0a1b")).unwrap();
        assert_eq!((room.as_str(), room.session()), ("socket:0a1b", Some(id("0a1b"))));
        assert_eq!((room.people(), room.is_reserved()), (None, true));
        assert_eq!(room.ordered_by(), RoomName::lobby().as_str());
        assert_eq!(RoomName::socket(&id(&"a".repeat(64))), None);
        for none in ["socket:", "attic", "user:0a1b"] {
            assert_eq!(RoomName::parse(none).unwrap().session(), None, "{none}");
        }
    }

    #[test]
    fn a_users_name_stays_on_its_line_and_in_its_direction() {
        let name = |text: &str| UserName::parse(text).map(|name| name.to_string());
        assert_eq!(name(" Ada \t\n  L\u{a0}"), Ok("Ada L".into()));
        assert_eq!(name(&"ö".repeat(40)), Ok("ö".repeat(40)));
        assert_eq!(name(&"ö".repeat(41)), Err(NameError::TooLong { what: "name", max: 40 }));
        for nothing in ["", " ", "\u{200b}", "\u{3164} \u{200d}"] {
            assert_eq!(name(nothing), Err(NameError::Empty { what: "name" }), "{nothing:?}");
        }
        assert_eq!(name("a\0b"), Err(NameError::Control { what: "name" }));
        for turned in ["a\u{202e}b", "a\u{2066}b\u{2069}"] {
            assert_eq!(name(turned), Err(NameError::Direction { what: "name" }), "{turned:?}");
        }
        let family = "\u{1f469}\u{200d}\u{1f467}";
        assert_eq!(name(family), Ok(family.into()), "a joiner has its place");
    }

    #[test]
    fn names_that_look_alike_have_one_key() {
        let key = |text: &str| UserName::parse(text).unwrap().key();
        for (one, other) in [
            ("Ada", "ada"),
            ("ada", "a\u{200b}d\u{ad}a"),
            ("ada", "\u{ff21}da"),
            ("é", "e\u{301}"),
            ("É", "e\u{301}"),
            ("ﬁn", "FIN"),
            ("a b", "a\u{3000}b"),
            ("İ", "i\u{307}"),
        ] {
            assert_eq!(key(one), key(other), "{one:?} {other:?}");
        }
        for (one, other) in [("ada", "adb"), ("e", "é"), ("ab", "a b")] {
            assert_ne!(key(one), key(other), "{one:?} {other:?}");
        }
    }
}
