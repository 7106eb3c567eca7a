//! The layout that both stores share: how an entry of the log and the state of a message are
//! written.
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
//! Beside the entry stands the event that it was sent with, if there is one, as a JSON object:
//! `{"profile":"..","event":"..","arguments":[..],"me":..}`. Without `$me` there is no `me`.
//!
//! The state of a message is made of texts that only this file writes and reads: its status, which
//! is `said`, `edited <at> <body>` or `deleted <at>`, and `<emoji>\t<user>` for each reaction, the
//! oldest first.
//!
//! - SQLite has them in one column, a line each.
//! - Redis has them in two fields of the hash of the room's states: the status in the field `<seq>`,
//!   and the reactions in the field `r<seq>`, as a JSON array. Without reactions that field is
//!   absent. `redis/scripts/append.lua` writes both. It compares these texts, but does not cut them:
//!   a change comes to it as the status or the reaction that it writes (`change_text`). It knows two
//!   statuses: `said`, and what begins with `deleted `, after which no change counts.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::domain::{
    message::{MessageState, MessageStatus},
    name::{Emoji, UserId},
    position::Timestamp,
    record::{Body, Change, Draft, Entry, SourceEvent},
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

/// Reads the columns of an entry, whose body must be JSON. `None`: they are not in the layout.
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

/// A source event as it is stored.
#[derive(Deserialize)]
struct SourceLine<'a> {
    #[serde(borrow)]
    profile: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    arguments: &'a RawValue,
    #[serde(borrow, default, deserialize_with = "present")]
    me: Option<&'a RawValue>,
}

/// A value that may be `null`. An `Option` alone would read `null` as absent.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

pub fn source_to_json(source: &SourceEvent) -> String {
    let SourceEvent { profile, event, arguments, me } = source;
    let [profile, event] = [profile, event].map(|text| json_string(text));
    let (profile, event) = (profile.as_json(), event.as_json());
    // Arguments and `me` are JSON on one line already.
    let arguments = arguments.as_json();
    let me = me.as_ref().map_or_else(String::new, |me| format!(",\"me\":{}", me.as_json()));
    format!("{{\"profile\":{profile},\"event\":{event},\"arguments\":{arguments}{me}}}")
}

/// `None`: the text is not in the layout.
pub fn parse_source(json: &str) -> Option<Arc<SourceEvent>> {
    let SourceLine { profile, event, arguments, me } = serde_json::from_str(json).ok()?;
    let body = |json: &RawValue| Body::from_json(json.get());
    Some(Arc::new(SourceEvent {
        profile: profile.into(),
        event: event.into(),
        arguments: Some(arguments).filter(|json| json.get().starts_with('[')).map(body)?,
        me: me.map(body),
    }))
}

/// What tells the content of a draft from another one, beside its id: the beginning of a SHA-256.
pub type ContentMark = [u8; 6];

/// Content is the room, and what came from the client: the source event with its arguments if there
/// is one, or else the entry. Names, times and `except` may differ in a retry.
pub fn content_mark(draft: &Draft) -> ContentMark {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update(text);
        hash.update("\n");
    };
    // Only an event's name may contain a line break, so it comes last.
    field(draft.room.as_str());
    match &draft.source {
        Some(source) => {
            field("event");
            field(source.arguments.as_json());
            field(&source.event);
        }
        None => {
            let EntryColumns { change, target_seq, body } = EntryColumns::new(&draft.entry);
            field(change.unwrap_or("message"));
            field(&target_seq.unwrap_or_default().to_string());
            field(body.as_json());
        }
    }
    let hash = hash.finalize();
    std::array::from_fn(|at| hash[at])
}

/// The status or the reaction that a change writes, or takes back.
pub fn change_text(change: &Change, from: &UserId, at: Timestamp) -> String {
    match change {
        Change::Edit(body) => status_text(&MessageStatus::Edited { at, body: body.clone() }),
        Change::Delete => status_text(&MessageStatus::Deleted { at }),
        Change::React { emoji, .. } => reaction_text(emoji, from),
    }
}

pub fn state_to_lines(state: &MessageState) -> String {
    let reactions = state.reactions.iter().map(|(emoji, user)| reaction_text(emoji, user));
    std::iter::once(status_text(&state.status)).chain(reactions).map(|text| text + "\n").collect()
}

/// Reads a state from its lines. `None`: the text is not in the layout.
pub fn parse_lines(text: &str) -> Option<MessageState> {
    let (status, reactions) = text.split_once('\n')?;
    parse_state(status, reactions.lines())
}

/// Reads a state from its two fields. Absent reactions are empty here. `None`: a text is not in the
/// layout.
pub fn parse_fields(status: &str, reactions: &str) -> Option<MessageState> {
    let reactions: Vec<String> = match reactions {
        "" => Vec::new(),
        json => serde_json::from_str(json).ok()?,
    };
    parse_state(status, reactions.iter().map(String::as_str))
}

fn parse_state<'a>(status: &str, reactions: impl Iterator<Item = &'a str>) -> Option<MessageState> {
    let reaction = |text: &str| {
        let (emoji, user) = text.split_once('\t')?;
        Some((Emoji::parse(emoji).ok()?, UserId::parse(user).ok()?))
    };
    let mut parts = status.splitn(3, ' ');
    let (name, at, body) = (parts.next()?, parts.next(), parts.next());
    let at = || Some(Timestamp(at?.parse().ok()?));
    let body = || body.filter(|body| is_json(body)).map(Body::from_json);
    let status = match name {
        "said" => MessageStatus::Original,
        "edited" => MessageStatus::Edited { at: at()?, body: body()? },
        "deleted" => MessageStatus::Deleted { at: at()? },
        _ => return None,
    };
    Some(MessageState { status, reactions: reactions.map(reaction).collect::<Option<_>>()? })
}

/// Whether a stored body is what it must be. It is not in a damaged store.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn status_text(status: &MessageStatus) -> String {
    match status {
        MessageStatus::Original => "said".to_owned(),
        MessageStatus::Edited { at, body } => format!("edited {} {}", at.0, body.as_json()),
        MessageStatus::Deleted { at } => format!("deleted {}", at.0),
    }
}

fn reaction_text(emoji: &Emoji, user: &UserId) -> String {
    format!("{}\t{}", emoji.as_str(), user.as_str())
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
            let text = state_to_lines(&state);
            let (status, reactions) = text.split_once('\n').unwrap();
            let reactions: Vec<&str> = reactions.lines().collect();
            let reactions = serde_json::to_string(&reactions).unwrap();
            prop_assert_eq!(parse_fields(status, &reactions), Some(state.clone()));
            prop_assert_eq!(parse_lines(&text), Some(state));
        }
    }

    #[test]
    fn a_source_reads_back() {
        let source = |event: &str, arguments: &str, me: Option<&str>| SourceEvent {
            profile: "chat \"x\"".into(),
            event: event.into(),
            arguments: Body::from_json(arguments),
            me: me.map(Body::from_json),
        };
        let plain = source("say", "[1]", None);
        let expected = r#"{"profile":"chat \"x\"","event":"say","arguments":[1]}"#;
        assert_eq!(source_to_json(&plain), expected);
        for source in [
            plain,
            source("\n\u{1f600}", " [ {\"a\":1e400}, null ]", Some("null")),
            source("", "[]", Some("{\"name\":\"Ann\"}")),
        ] {
            let read = parse_source(&source_to_json(&source)).unwrap();
            let arguments = Body::from_json(source.arguments.as_json().trim());
            assert_eq!(*read, SourceEvent { arguments, ..source });
        }
        for bad in [
            "",
            "{}",
            r#"{"profile":"p","event":"e","arguments":{}}"#,
            r#"{"profile":"p","event":1,"arguments":[]}"#,
            r#"{"profile":"p","event":"e","arguments":[}"#,
        ] {
            assert_eq!(parse_source(bad), None, "{bad}");
        }
    }

    #[test]
    fn text_outside_the_layout_is_refused() {
        let bad =
            ["", "said", "edited 7\n", "edited x 1\n", "edited 7 {\n", "gone 7\n", "said\nann\n"];
        for bad in bad {
            assert_eq!(parse_lines(bad), None, "{bad:?}");
        }
        for (status, reactions) in
            [("edited 7 {", ""), ("said", "{}"), ("said", "[\"ann\"]"), ("", "")]
        {
            assert_eq!(parse_fields(status, reactions), None, "{status:?} {reactions:?}");
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
