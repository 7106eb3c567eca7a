//! The text layout that both stores share: how an entry of the log and the state of a message are
//! written. `redis/scripts/append.lua` reads and writes the same layout.
//!
//! An entry is three columns, or fields of a JSON line. `of` is the seq of the changed message.
//!
//! | entry | `change` | `of` | `body` |
//! |---|---|---|---|
//! | message | none | none | its JSON |
//! | edit | `edit` | seq | the new JSON |
//! | delete | `delete` | seq | `null` |
//! | reaction | `react`, or `unreact` to take it back | seq | the emoji, a JSON string |
//!
//! The state of a message is one line, `said`, `edited <at> <body>` or `deleted <at>`, and then one
//! line `<emoji>\t<user>` for each reaction, the oldest first.

use crate::domain::{
    message::{MessageState, MessageStatus},
    name::{Emoji, UserId},
    position::Timestamp,
    record::{Body, Change, Entry},
};

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryColumns {
    pub change: Option<&'static str>,
    pub target_seq: Option<u64>,
    pub body: Body,
}

impl EntryColumns {
    pub fn new(entry: &Entry) -> Self {
        match entry {
            Entry::Message(body) => Self { change: None, target_seq: None, body: body.clone() },
            Entry::Change { target_seq, change } => {
                let body = match change {
                    Change::Edit(body) => body.clone(),
                    Change::Delete => Body::null(),
                    Change::React { emoji, .. } => json_string(emoji.as_str()),
                };
                Self { change: Some(change_name(change)), target_seq: Some(*target_seq), body }
            }
        }
    }
}

/// The stored name of a change.
pub fn change_name(change: &Change) -> &'static str {
    match change {
        Change::Edit(_) => "edit",
        Change::Delete => "delete",
        Change::React { on: true, .. } => "react",
        Change::React { on: false, .. } => "unreact",
    }
}

/// Reads the columns of an entry. `None`: they are not in the layout.
pub fn parse_entry(change: Option<&str>, target_seq: Option<u64>, body: &str) -> Option<Entry> {
    let (change, target_seq) = match (change, target_seq) {
        (None, None) => return Some(Entry::Message(Body::from_json(body))),
        (Some(change), Some(target_seq)) => (change, target_seq),
        (None, Some(_)) | (Some(_), None) => return None,
    };
    let react = |on| {
        let text: String = serde_json::from_str(body).ok()?;
        Some(Change::React { emoji: Emoji::parse(&text).ok()?, on })
    };
    let change = match change {
        "edit" => Change::Edit(Body::from_json(body)),
        "delete" => Change::Delete,
        "react" => react(true)?,
        "unreact" => react(false)?,
        _ => return None,
    };
    Some(Entry::Change { target_seq, change })
}

pub fn state_to_text(state: &MessageState) -> String {
    let mut text = match &state.status {
        MessageStatus::Original => "said\n".to_owned(),
        MessageStatus::Edited { at, body } => format!("edited {} {}\n", at.0, body.as_json()),
        MessageStatus::Deleted { at } => format!("deleted {}\n", at.0),
    };
    for (emoji, user) in &state.reactions {
        text.extend([emoji.as_str(), "\t", user.as_str(), "\n"]);
    }
    text
}

/// Reads a state. `None`: the text is not in the layout.
pub fn parse_state(text: &str) -> Option<MessageState> {
    let (status, reactions) = text.split_once('\n')?;
    let reaction = |line: &str| {
        let (emoji, user) = line.split_once('\t')?;
        Some((Emoji::parse(emoji).ok()?, UserId::parse(user).ok()?))
    };
    let reactions = reactions.lines().map(reaction).collect::<Option<_>>()?;
    Some(MessageState { status: parse_status(status)?, reactions })
}

fn parse_status(line: &str) -> Option<MessageStatus> {
    let mut parts = line.splitn(3, ' ');
    let (name, at, body) = (parts.next()?, parts.next(), parts.next());
    let at = || Some(Timestamp(at?.parse().ok()?));
    match name {
        "said" => Some(MessageStatus::Original),
        "edited" => Some(MessageStatus::Edited { at: at()?, body: Body::from_json(body?) }),
        "deleted" => Some(MessageStatus::Deleted { at: at()? }),
        _ => None,
    }
}

fn json_string(text: &str) -> Body {
    Body::from_json(&serde_json::to_string(text).expect("a text is JSON"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn emoji(text: &str) -> Emoji {
        Emoji::parse(text).unwrap()
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            any::<String>().prop_map(|text| Change::Edit(json_string(&text))),
            Just(Change::Delete),
            (0..3_usize, any::<bool>()).prop_map(|(n, on)| Change::React {
                emoji: emoji(["👍", "+1 \"a\"", "👩‍👩‍👧"][n]),
                on
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_reads_back(change in change(), target_seq in any::<u64>()) {
            let entry = Entry::Change { target_seq, change };
            let EntryColumns { change, target_seq, body } = EntryColumns::new(&entry);
            prop_assert_eq!(parse_entry(change, target_seq, body.as_json()), Some(entry));
        }

        #[test]
        fn a_state_reads_back(
            changes in prop::collection::vec((change(), 0..3_usize, any::<u64>()), 0..12)
        ) {
            let mut state = MessageState::default();
            for (change, by, at) in changes {
                let from = UserId::parse(["ann", "bob b", "c:d"][by]).unwrap();
                state.apply(&change, &from, Timestamp(at));
            }
            prop_assert_eq!(parse_state(&state_to_text(&state)), Some(state));
        }
    }

    #[test]
    fn text_outside_the_layout_is_refused() {
        for bad in ["", "said", "edited 7\n", "edited x 1\n", "gone 7\n", "said\nann\n"] {
            assert_eq!(parse_state(bad), None, "{bad:?}");
        }
        for (change, target_seq, body) in [
            (Some("edit"), None, "1"),
            (None, Some(1), "1"),
            (Some("move"), Some(1), "1"),
            (Some("react"), Some(1), "[]"),
            (Some("unreact"), Some(1), "\"\""),
        ] {
            assert_eq!(parse_entry(change, target_seq, body), None, "{change:?}");
        }
    }
}
