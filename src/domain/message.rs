//! A message as history and search show it: the stored message with all later changes applied.
//!
//! Changes are applied in the order of the log, so every node shows the same message.

use std::collections::BTreeSet;

use crate::domain::{
    name::{Emoji, MessageId, UserId, UserName},
    position::{Position, Timestamp},
    record::{Body, Change, Draft, Entry, Record},
    reject::{Code, Reject},
    room::RoomName,
};

/// Most different emoji on one message, and most reactions in all. Users who react at the same
/// moment may pass these limits by a few.
pub const EMOJI_MAX: usize = 20;
pub const REACTIONS_MAX: usize = 1_000;

/// A message with all changes of it applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub position: Position,
    pub room: RoomName,
    pub from: UserId,
    pub name: Option<UserName>,
    pub id: MessageId,
    pub at: Timestamp,
    /// The newest body; `null` when the message was deleted.
    pub body: Body,
    pub state: MessageState,
}

/// What the changes of a message add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageState {
    pub status: MessageStatus,
    /// Each pair of emoji and user once, the oldest first.
    pub reactions: Vec<(Emoji, UserId)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MessageStatus {
    #[default]
    Original,
    Edited {
        at: Timestamp,
        body: Body,
    },
    /// Final: later changes have no effect, and the reactions are gone.
    Deleted {
        at: Timestamp,
    },
}

impl MessageState {
    /// Applies the next change of the message.
    pub fn apply(&mut self, change: &Change, from: &UserId, at: Timestamp) {
        if matches!(self.status, MessageStatus::Deleted { .. }) {
            return;
        }
        match change {
            Change::Edit(body) => self.status = MessageStatus::Edited { at, body: body.clone() },
            Change::Delete => {
                *self = Self { status: MessageStatus::Deleted { at }, reactions: Vec::new() };
            }
            Change::React { emoji, on } => {
                let is_same = |(known, user): &(Emoji, UserId)| known == emoji && user == from;
                match self.reactions.iter().position(is_same) {
                    None if *on => self.reactions.push((emoji.clone(), from.clone())),
                    Some(at) if !on => drop(self.reactions.remove(at)),
                    _ => {}
                }
            }
        }
    }

    /// Whether the user may react with the emoji: the reaction is there already, or one more fits.
    fn can_take_reaction(&self, emoji: &Emoji, user: &UserId) -> bool {
        if self.reactions.iter().any(|(known, by)| known == emoji && by == user) {
            return true;
        }
        let different: BTreeSet<&Emoji> = self.reactions.iter().map(|(emoji, _)| emoji).collect();
        self.reactions.len() < REACTIONS_MAX
            && (different.len() < EMOJI_MAX || different.contains(emoji))
    }
}

impl Message {
    /// The message before any change. `None`: the record is a change of another message.
    pub fn original(record: Record) -> Option<Self> {
        let Record { position, room, from, name, id, at, except: _, source: _, entry } = record;
        let Entry::Message(body) = entry else { return None };
        let state = MessageState::default();
        Some(Self { position, room, from, name, id, at, body, state })
    }

    /// The original message with its changes applied.
    pub fn with_state(mut self, state: MessageState) -> Self {
        match &state.status {
            MessageStatus::Original => {}
            MessageStatus::Edited { body, .. } => self.body = body.clone(),
            MessageStatus::Deleted { .. } => self.body = Body::null(),
        }
        self.state = state;
        self
    }

    pub fn is_deleted(&self) -> bool {
        matches!(self.state.status, MessageStatus::Deleted { .. })
    }
}

/// Decides who may edit, delete or react: whether `draft` may change `target`, which is the message
/// that history shows at its `target_seq`. A draft that is a message is always allowed.
///
/// The answer stays valid until the draft is stored, because the sender of a message never changes.
pub fn check_target(draft: &Draft, target: Option<&Message>) -> Result<(), Reject> {
    let Entry::Change { change, .. } = &draft.entry else { return Ok(()) };
    let not_found = || Reject::new(Code::NotFound, "there is no such message in the room");
    let target = target.ok_or_else(not_found)?;
    let is_own = target.from == draft.from;
    // A delete may be the retry of a delete whose answer was lost. The log recognises it by its id.
    let may_be_retry = *change == Change::Delete && is_own && draft.repeatable;
    if target.is_deleted() && !may_be_retry {
        return Err(not_found());
    }
    match change {
        Change::Edit(_) | Change::Delete if !is_own => {
            Err(Reject::new(Code::Forbidden, "somebody else has written this message"))
        }
        Change::React { emoji, on: true }
            if !target.state.can_take_reaction(emoji, &draft.from) =>
        {
            Err(Reject::new(
                Code::TooMany,
                format!("a message has at most {EMOJI_MAX} emoji and {REACTIONS_MAX} reactions"),
            ))
        }
        Change::Edit(_) | Change::Delete | Change::React { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::position::Epoch;

    type Applied = (Change, UserId, Timestamp);

    fn emoji(text: &str) -> Emoji {
        Emoji::parse(text).unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    fn react(text: &str, on: bool) -> Change {
        Change::React { emoji: emoji(text), on }
    }

    fn applied() -> impl Strategy<Value = Applied> {
        let change = prop_oneof![
            1 => any::<u64>().prop_map(|n| Change::Edit(Body::from_json(&n.to_string()))),
            5 => (0..3_usize, any::<bool>()).prop_map(|(n, on)| react(["👍", "+1 a", "👩‍👩‍👧"][n], on)),
            1 => Just(Change::Delete),
        ];
        (change, 0..3_usize, any::<u64>())
            .prop_map(|(change, by, at)| (change, user(["ann", "bob b", "c:d"][by]), Timestamp(at)))
    }

    fn folded<'a>(changes: impl IntoIterator<Item = &'a Applied>) -> MessageState {
        let mut state = MessageState::default();
        for (change, from, at) in changes {
            state.apply(change, from, *at);
        }
        state
    }

    proptest! {
        /// Users react at the same moment on different nodes, so the log may have their reactions
        /// in any order.
        #[test]
        fn the_order_of_different_users_reactions_does_not_matter(
            changes in prop::collection::vec(applied(), 0..16)
        ) {
            let changes: Vec<&Applied> =
                changes.iter().filter(|(change, ..)| *change != Change::Delete).collect();
            let mut by_user = changes.clone();
            by_user.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
            let set = |changes: &[&Applied]| {
                let mut reactions = folded(changes.iter().copied()).reactions;
                reactions.sort();
                reactions
            };
            prop_assert_eq!(set(&changes), set(&by_user));
        }

        #[test]
        fn the_last_change_of_each_kind_counts_and_a_delete_is_final(
            changes in prop::collection::vec(applied(), 0..16)
        ) {
            let state = folded(&changes);
            if let Some((_, _, at)) = changes.iter().find(|(change, ..)| *change == Change::Delete) {
                let status = MessageStatus::Deleted { at: *at };
                prop_assert_eq!(state, MessageState { status, reactions: Vec::new() });
                return Ok(());
            }
            let mut edits = changes.iter().rev().filter_map(|(change, _, at)| match change {
                Change::Edit(body) => Some(MessageStatus::Edited { at: *at, body: body.clone() }),
                Change::Delete | Change::React { .. } => None,
            });
            prop_assert_eq!(state.status, edits.next().unwrap_or_default());
            for (change, by, _) in &changes {
                let Change::React { emoji, .. } = change else { continue };
                let last = changes.iter().rev().find_map(|(change, from, _)| match change {
                    Change::React { emoji: known, on } if known == emoji && from == by => Some(*on),
                    _ => None,
                });
                let is_it = |known: &&(Emoji, UserId)| known.0 == *emoji && known.1 == *by;
                let count = state.reactions.iter().filter(is_it).count();
                prop_assert_eq!(count, usize::from(last == Some(true)));
            }
        }
    }

    fn message(state: MessageState) -> Message {
        let id = MessageId::parse("m").unwrap();
        let draft = Draft::new(RoomName::lobby(), user("ann"), id, Timestamp(1), Body::null());
        let record = draft.into_record(Position { epoch: Epoch::new("e"), seq: 1 });
        Message::original(record).unwrap().with_state(state)
    }

    fn checked(from: &str, change: &Change, target: Option<&Message>) -> Option<Code> {
        let id = MessageId::parse("c").unwrap();
        let entry = Entry::Change { target_seq: 1, change: change.clone() };
        let draft = Draft::new(RoomName::lobby(), user(from), id, Timestamp(2), entry);
        check_target(&draft, target).err().map(|reject| reject.code)
    }

    #[test]
    fn only_the_sender_edits_or_deletes_and_only_what_is_there_is_changed() {
        let original = message(MessageState::default());
        let status = MessageStatus::Deleted { at: Timestamp(2) };
        let deleted = message(MessageState { status, reactions: Vec::new() });
        for (change, others) in [
            (Change::Edit(Body::null()), Some(Code::Forbidden)),
            (Change::Delete, Some(Code::Forbidden)),
            (react("👍", true), None),
            (react("👍", false), None),
        ] {
            assert_eq!(checked("ann", &change, Some(&original)), None);
            assert_eq!(checked("bob", &change, Some(&original)), others);
            for from in ["ann", "bob"] {
                for target in [None, Some(&deleted)] {
                    let code = checked(from, &change, target);
                    assert_eq!(code, Some(Code::NotFound), "{change:?}");
                }
            }
        }
    }

    #[test]
    fn reactions_are_bounded() {
        let with = |reactions| message(MessageState { reactions, ..MessageState::default() });
        let add = |from: &str, n: usize, to: &Message| {
            checked(from, &react(&n.to_string(), true), Some(to))
        };
        let pair = |emoji_number: usize, by: usize| {
            (emoji(&emoji_number.to_string()), user(&by.to_string()))
        };
        let many_emoji = with((0..EMOJI_MAX).map(|n| pair(n, n)).collect());
        assert_eq!(add("0", EMOJI_MAX, &many_emoji), Some(Code::TooMany));
        assert_eq!(add("new", 0, &many_emoji), None);
        let full = with((0..REACTIONS_MAX).map(|n| pair(0, n)).collect());
        assert_eq!(add("new", 0, &full), Some(Code::TooMany));
        assert_eq!(add("0", 1, &full), Some(Code::TooMany));
        assert_eq!(add("0", 0, &full), None, "the reaction is there already");
        assert_eq!(checked("0", &react("0", false), Some(&full)), None);
    }
}
