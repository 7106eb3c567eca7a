//! What becomes of a message after it was said: it is edited, deleted, reacted to.
//!
//! Each of these is a record of the log, with a position of its own, about an earlier message of
//! its room. Folded in the order of the log they are the message's state, which history shows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::{
    message::{Body, Draft, Message, Timestamp},
    name::{Emoji, UserId},
    session::{Code, Reject},
};

/// Different emoji on one message, and reactions with them. Who reacts at the same moment may pass
/// this by a few.
pub const EMOJI_MAX: usize = 20;
pub const REACTIONS_MAX: usize = 1_000;

/// What a record does to the message that it is about. Its body is the new one of an `Edit`, the
/// emoji of a reaction, and null of a `Delete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Edit,
    Delete,
    React,
    Unreact,
}

impl Change {
    pub const ALL: [Self; 4] = [Self::Edit, Self::Delete, Self::React, Self::Unreact];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edit => "edit",
            Self::Delete => "delete",
            Self::React => "react",
            Self::Unreact => "unreact",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|change| change.as_str() == text)
    }
}

/// Which message of its room a record is about, and what it does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    pub change: Change,
    pub seq: u64,
}

impl About {
    /// As it is stored: a message has neither.
    pub fn new(change: Option<Change>, seq: Option<u64>) -> Option<Self> {
        Some(Self { change: change?, seq: seq? })
    }
}

/// What has become of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub fate: Fate,
    /// Each user's each emoji once, the oldest first.
    pub reactions: Vec<(Emoji, UserId)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    AsSaid,
    Edited {
        at: Timestamp,
        body: Body,
    },
    /// For good, and with its reactions.
    Deleted {
        at: Timestamp,
    },
}

impl State {
    /// The next record about the message. One that makes no sense changes nothing.
    pub fn fold(&mut self, change: Change, from: &UserId, at: Timestamp, body: &Body) {
        if matches!(self.fate, Fate::Deleted { .. }) {
            return;
        }
        match change {
            Change::Edit => self.fate = Fate::Edited { at, body: body.clone() },
            Change::Delete => *self = Self { fate: Fate::Deleted { at }, reactions: Vec::new() },
            Change::React | Change::Unreact => {
                let Some(emoji) = Emoji::from_body(body) else { return };
                let reaction = (emoji, from.clone());
                match self.reactions.iter().position(|known| *known == reaction) {
                    None if change == Change::React => self.reactions.push(reaction),
                    Some(at) if change == Change::Unreact => drop(self.reactions.remove(at)),
                    _ => {}
                }
            }
        }
    }

    /// Whether a reaction changes nothing, or may be one more.
    fn has_room_for(&self, emoji: &Emoji, user: &UserId) -> bool {
        let of_emoji = || self.reactions.iter().filter(|(known, _)| known == emoji);
        if of_emoji().any(|(_, known)| known == user) {
            return true;
        }
        let different: BTreeSet<&Emoji> = self.reactions.iter().map(|(emoji, _)| emoji).collect();
        self.reactions.len() < REACTIONS_MAX
            && (different.len() < EMOJI_MAX || different.contains(emoji))
    }

    /// As the buses store it, and as append.lua folds it: a line that says `said`,
    /// `edited <at> <body>` or `deleted <at>`, then `<emoji>\t<user>` in lines of their own.
    pub fn to_text(&self) -> String {
        let mut text = match &self.fate {
            Fate::AsSaid => "said\n".to_owned(),
            Fate::Edited { at, body } => format!("edited {} {}\n", at.0, body.as_json()),
            Fate::Deleted { at } => format!("deleted {}\n", at.0),
        };
        for (emoji, user) in &self.reactions {
            text.extend([emoji.as_str(), "\t", user.as_str(), "\n"]);
        }
        text
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (fate, reactions) = text.split_once('\n')?;
        let reaction = |line: &str| {
            let (emoji, user) = line.split_once('\t')?;
            Some((Emoji::parse(emoji).ok()?, UserId::parse(user).ok()?))
        };
        let reactions = reactions.lines().map(reaction).collect::<Option<_>>()?;
        Some(Self { fate: Fate::parse(fate)?, reactions })
    }
}

impl Fate {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let (what, at, body) = (parts.next()?, parts.next(), parts.next());
        let at = || Some(Timestamp(at?.parse().ok()?));
        match what {
            "said" => Some(Self::AsSaid),
            "edited" => Some(Self::Edited { at: at()?, body: Body::from_json(body?) }),
            "deleted" => Some(Self::Deleted { at: at()? }),
            _ => None,
        }
    }
}

impl Draft {
    /// Whether what it says of an earlier message may be stored; `target` is what history has
    /// there. Who wrote a message never changes, and so this may be asked before the append.
    pub fn check_target(&self, target: Option<&Message>) -> Result<(), Reject> {
        let Some(About { change, .. }) = self.about else { return Ok(()) };
        let unknown = || Reject::new(Code::NotFound, "there is no such message in the room");
        let target = target.ok_or_else(unknown)?;
        let is_own = target.from == self.from;
        // It may have been this one that deleted it, and its answer was lost: the log knows.
        let is_retry = change == Change::Delete && is_own && self.repeatable;
        if target.is_deleted() && !is_retry {
            return Err(unknown());
        }
        match change {
            Change::Edit | Change::Delete if !is_own => {
                Err(Reject::new(Code::Forbidden, "somebody else has written this message"))
            }
            Change::React => self.check_room_on(target),
            Change::Edit | Change::Delete | Change::Unreact => Ok(()),
        }
    }

    fn check_room_on(&self, target: &Message) -> Result<(), Reject> {
        let (Some(state), Some(emoji)) = (&target.state, Emoji::from_body(&self.body)) else {
            return Ok(());
        };
        if state.has_room_for(&emoji, &self.from) {
            return Ok(());
        }
        Err(Reject::new(
            Code::TooMany,
            format!("a message has at most {EMOJI_MAX} emoji and {REACTIONS_MAX} reactions"),
        ))
    }
}

impl Message {
    /// The message as it is now.
    pub fn with_state(mut self, state: State) -> Self {
        match &state.fate {
            Fate::AsSaid => {}
            Fate::Edited { body, .. } => self.body = body.clone(),
            Fate::Deleted { .. } => self.body = Body::null(),
        }
        self.state = Some(Box::new(state));
        self
    }

    /// Whether nothing is left of it but its place.
    pub fn is_deleted(&self) -> bool {
        self.state.as_ref().is_some_and(|state| matches!(state.fate, Fate::Deleted { .. }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        message::{Epoch, Position},
        name::{MessageId, RoomName},
    };

    type Record = (Change, UserId, Timestamp, Body);

    fn record() -> impl Strategy<Value = Record> {
        let change = prop::sample::select(&[
            Change::Edit,
            Change::React,
            Change::React,
            Change::React,
            Change::Unreact,
            Change::Unreact,
            Change::Delete,
        ]);
        (change, 0..3_usize, 0..3_usize, 0..u64::MAX, any::<String>()).prop_map(
            |(change, user, emoji, at, text)| {
                let user = UserId::parse(["ann", "bob b", "c:d"][user]).unwrap();
                let body = match change {
                    Change::Edit => Body::from_json(&serde_json::to_string(&text).unwrap()),
                    Change::Delete => Body::null(),
                    _ => Emoji::parse(["👍", "+1 a", "👩‍👩‍👧"][emoji]).unwrap().to_body(),
                };
                (change, user, Timestamp(at), body)
            },
        )
    }

    fn folded<'a>(records: impl IntoIterator<Item = &'a Record>) -> State {
        let mut state = State::default();
        for (change, from, at, body) in records {
            state.fold(*change, from, *at, body);
        }
        state
    }

    proptest! {
        #[test]
        fn a_state_is_stored_whole(records in prop::collection::vec(record(), 0..12)) {
            let state = folded(&records);
            prop_assert_eq!(State::parse(&state.to_text()), Some(state));
        }

        /// Reactions of different users are made without each other, so two orders of them are both
        /// possible; what is there in the end does not depend on which one it was.
        #[test]
        fn who_reacts_with_what_depends_on_nobody_else(
            records in prop::collection::vec(record(), 0..16)
        ) {
            let deletes = |record: &&Record| record.0 == Change::Delete;
            let records: Vec<&Record> = records.iter().filter(|one| !deletes(one)).collect();
            let mut by_user = records.clone();
            by_user.sort_by(|one, other| one.1.cmp(&other.1));
            let set = |records: &[&Record]| {
                let mut reactions = folded(records.iter().copied()).reactions;
                reactions.sort();
                reactions
            };
            prop_assert_eq!(set(&records), set(&by_user));
        }

        /// Nobody stands there twice, the last word of each counts, and nothing comes after the end.
        #[test]
        fn the_last_word_counts(records in prop::collection::vec(record(), 0..16)) {
            let state = folded(&records);
            let end = records.iter().position(|record| record.0 == Change::Delete);
            if let Some(end) = end {
                let fate = Fate::Deleted { at: records[end].2 };
                prop_assert_eq!(state, State { fate, reactions: Vec::new() });
                return Ok(());
            }
            let edit = records.iter().rfind(|record| record.0 == Change::Edit);
            let fate = edit.map_or(Fate::AsSaid, |(_, _, at, body)| {
                Fate::Edited { at: *at, body: body.clone() }
            });
            prop_assert_eq!(state.fate, fate);
            for (_, user, _, body) in records.iter().filter(|record| record.0 != Change::Edit) {
                let same = |record: &&Record| {
                    record.0 != Change::Edit && record.1 == *user && record.3 == *body
                };
                let last = records.iter().rfind(same).unwrap().0;
                let reaction = (Emoji::from_body(body).unwrap(), user.clone());
                let count = state.reactions.iter().filter(|known| **known == reaction).count();
                prop_assert_eq!(count, usize::from(last == Change::React));
            }
        }
    }

    fn message(state: State) -> Message {
        let user = UserId::parse("ann").unwrap();
        let id = MessageId::parse("m").unwrap();
        let draft = Draft::new(RoomName::lobby(), user, id, Timestamp(1), Body::null());
        draft.at(Position { epoch: Epoch::new("e"), seq: 1 }).with_state(state)
    }

    fn checked(user: &str, change: Change, body: Body, target: Option<&Message>) -> Option<Code> {
        let user = UserId::parse(user).unwrap();
        let id = MessageId::parse("c").unwrap();
        let draft = Draft::new(RoomName::lobby(), user, id, Timestamp(2), body);
        let draft = Draft { about: Some(About { change, seq: 1 }), ..draft };
        draft.check_target(target).err().map(|reject| reject.code)
    }

    #[test]
    fn only_ones_own_is_changed_and_only_what_is_there() {
        let emoji = Emoji::parse("👍").unwrap().to_body();
        let body = |change| match change {
            Change::React | Change::Unreact => emoji.clone(),
            Change::Edit | Change::Delete => Body::null(),
        };
        let said = message(State::default());
        let fate = Fate::Deleted { at: Timestamp(2) };
        let deleted = message(State { fate, reactions: Vec::new() });
        for change in Change::ALL {
            let is_anybodys = matches!(change, Change::React | Change::Unreact);
            let others = (!is_anybodys).then_some(Code::Forbidden);
            assert_eq!(checked("ann", change, body(change), Some(&said)), None);
            assert_eq!(checked("bob", change, body(change), Some(&said)), others);
            for user in ["ann", "bob"] {
                for none in [None, Some(&deleted)] {
                    let code = checked(user, change, body(change), none);
                    assert_eq!(code, Some(Code::NotFound), "{change:?}");
                }
            }
        }
    }

    #[test]
    fn reactions_are_bounded() {
        let emoji = |n: usize| Emoji::parse(&n.to_string()).unwrap();
        let user = |n: usize| UserId::parse(&n.to_string()).unwrap();
        let react = |user: &str, n, to: &Message| {
            checked(user, Change::React, emoji(n).to_body(), Some(to))
        };
        let reactions = (0..EMOJI_MAX).map(|n| (emoji(n), user(n))).collect();
        let colourful = message(State { reactions, ..State::default() });
        assert_eq!(react("0", EMOJI_MAX, &colourful), Some(Code::TooMany));
        assert_eq!(react("new", 0, &colourful), None);
        let reactions = (0..REACTIONS_MAX).map(|n| (emoji(0), user(n))).collect();
        let full = message(State { reactions, ..State::default() });
        assert_eq!(react("new", 0, &full), Some(Code::TooMany));
        assert_eq!(react("0", 1, &full), Some(Code::TooMany));
        assert_eq!(react("0", 0, &full), None, "it is there");
        let back = checked("0", Change::Unreact, emoji(0).to_body(), Some(&full));
        assert_eq!(back, None);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for bad in ["", "said", "edited 7\n", "edited x 1\n", "gone 7\n", "said\nann\n"] {
            assert_eq!(State::parse(bad), None, "{bad:?}");
        }
    }
}
