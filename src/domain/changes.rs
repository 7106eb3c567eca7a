//! What becomes of a message after it was said: it is edited, deleted, reacted to.
//!
//! Each of these is a record of the log, with a position of its own, about an earlier message of
//! its room. Folded in the order of the log they are the message's state, which history shows.

use serde::{Deserialize, Serialize};

use super::{
    message::{Body, Message, Timestamp},
    name::{Emoji, UserId},
};

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

    #[test]
    fn what_is_no_state_is_refused() {
        for bad in ["", "said", "edited 7\n", "edited x 1\n", "gone 7\n", "said\nann\n"] {
            assert_eq!(State::parse(bad), None, "{bad:?}");
        }
    }
}
