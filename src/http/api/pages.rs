//! How the API shows messages: one that was stored, a page of a room, and those that were found.

use std::{collections::HashMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de::Visitor};
use utoipa::ToSchema;

use crate::{
    chat::{Neighbourhood, Sent},
    dialects::text::text_of,
    domain::{
        message::{Message, MessageStatus},
        page::Page,
        position::Position,
        record::Body,
        room::RoomName,
        user::User,
    },
    store::{log::History, search::Found},
};

/// The message is stored. A retry with the same id gets the same answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StoredMessage)]
pub struct StoredAnswer<'a> {
    id: &'a str,
    room: &'a str,
    /// `<epoch>-<seq>`.
    position: String,
    epoch: &'a str,
    seq: u64,
    /// Milliseconds since 1970.
    at: u64,
}

/// A message as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
struct ListedMessage<'a> {
    /// `<epoch>-<seq>`.
    position: String,
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    id: &'a str,
    from: ListedAuthor<'a>,
    /// Empty, when the message was deleted. Of a body that is not text it is what people
    /// read of it, as in the native dialect.
    text: String,
    /// Milliseconds since 1970.
    at: u64,
    /// When the text was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    edited: Option<u64>,
    /// When the message was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    deleted: Option<u64>,
    /// The emoji of the oldest reaction comes first. Left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    reactions: Vec<ListedReaction<'a>>,
}

/// Who has sent a message, under the name that it had then.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Author)]
struct ListedAuthor<'a> {
    id: &'a str,
    name: String,
}

/// The users that react with one emoji.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reaction)]
struct ListedReaction<'a> {
    emoji: &'a str,
    users: Vec<&'a str>,
}

/// Messages of one room, oldest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Messages)]
pub struct MessagesAnswer<'a> {
    room: &'a str,
    messages: Vec<ListedMessage<'a>>,
    /// `before=<prev>` has the messages before these. Left out when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    prev: Option<String>,
    /// `after=<next>` has the messages after these. Left out when there are none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
    /// The end of the log: when there is no `next`, `after=<end>` has what is sent later.
    end: String,
    /// Messages after the position are gone, or the position is of an earlier log. In the second
    /// case these are the newest messages.
    trimmed: bool,
}

/// Messages that were found, oldest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Found)]
pub struct FoundAnswer<'a> {
    room: &'a str,
    messages: Vec<ListedMessage<'a>>,
    /// Messages before this position were not searched: `before=<prev>` goes on there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    prev: Option<String>,
}

impl<'a> StoredAnswer<'a> {
    pub fn new(sent: &'a Sent) -> Self {
        Self {
            id: sent.id.as_str(),
            room: sent.room.as_str(),
            position: sent.position.to_string(),
            epoch: sent.position.epoch.as_str(),
            seq: sent.position.seq,
            at: sent.at.0,
        }
    }
}

impl<'a> MessagesAnswer<'a> {
    pub fn page(room: &'a RoomName, page: Page, history: &'a History) -> Self {
        let History { top, messages, more, trimmed } = history;
        // Nothing was read on the other side of the position, so there may be more messages.
        let (older, newer) = match page {
            Page::Newest => (*more, false),
            Page::Before(_) => (*more, true),
            Page::After(_) => (true, *more),
        };
        Self::new(room, messages, older, newer, top, *trimmed)
    }

    pub fn around(room: &'a RoomName, found: &'a Neighbourhood) -> Self {
        let Neighbourhood { top, messages, older, newer, trimmed } = found;
        Self::new(room, messages, *older, *newer, top, *trimmed)
    }

    fn new(
        room: &'a RoomName,
        messages: &'a [Message],
        older: bool,
        newer: bool,
        top: &Position,
        trimmed: bool,
    ) -> Self {
        let at = |message: Option<&Message>| message.map(|message| message.position.to_string());
        Self {
            room: room.as_str(),
            messages: messages.iter().map(ListedMessage::new).collect(),
            prev: at(messages.first().filter(|_| older)),
            next: at(messages.last().filter(|_| newer)),
            end: top.to_string(),
            trimmed,
        }
    }
}

impl<'a> FoundAnswer<'a> {
    pub fn new(room: &'a RoomName, found: &'a Found) -> Self {
        let prev = |seq| Position { epoch: found.epoch.clone(), seq }.to_string();
        Self {
            room: room.as_str(),
            messages: found.messages.iter().map(ListedMessage::new).collect(),
            prev: found.next.map(prev),
        }
    }
}

impl<'a> ListedMessage<'a> {
    fn new(message: &'a Message) -> Self {
        let (edited, deleted) = match message.state.status {
            MessageStatus::Original => (None, None),
            MessageStatus::Edited { at, .. } => (Some(at.0), None),
            MessageStatus::Deleted { at } => (None, Some(at.0)),
        };
        let name = match &message.name {
            Some(name) => name.to_string(),
            None => User::guest_name(&message.from),
        };
        Self {
            position: message.position.to_string(),
            room: message.room.as_str(),
            epoch: message.position.epoch.as_str(),
            seq: message.position.seq,
            id: message.id.as_str(),
            from: ListedAuthor { id: message.from.as_str(), name },
            text: text(&message.body),
            at: message.at.0,
            edited,
            deleted,
            reactions: reactions(message),
        }
    }
}

fn reactions(message: &Message) -> Vec<ListedReaction<'_>> {
    let mut listed: Vec<ListedReaction<'_>> = Vec::new();
    let mut places = HashMap::new();
    for (emoji, user) in &message.state.reactions {
        let place = *places.entry(emoji).or_insert_with(|| {
            listed.push(ListedReaction { emoji: emoji.as_str(), users: Vec::new() });
            listed.len() - 1
        });
        if let Some(reaction) = listed.get_mut(place) {
            reaction.users.push(user.as_str());
        }
    }
    listed
}

/// What people read of a body, as in the native dialect.
fn text(body: &Body) -> String {
    let json = body.as_json();
    if !json.starts_with('"') {
        return text_of(json).into_owned();
    }
    let JsonText(bytes) = serde_json::from_str(json).expect("a body is one JSON value");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The bytes of a JSON text. JSON allows half of a surrogate pair, which is no text: many clients
/// could not read the page in which it stands.
struct JsonText(Vec<u8>);

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Self(Vec::new()))
    }
}

impl Visitor<'_> for JsonText {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self, E> {
        Ok(Self(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_shown_as_text() {
        for (json, shown) in [
            (r#""a\n\u00e9\ud83d\ude00""#, "a\né😀"),
            (r#""a\ud800b""#, "a\u{fffd}\u{fffd}\u{fffd}b"),
            (r#""""#, ""),
            ("null", ""),
            (r#"{"a":[1,"\ud800"]}"#, r#"{"a":[1,"\ud800"]}"#),
            (r#"{"text":"hello"}"#, "hello"),
            ("7", "7"),
        ] {
            assert_eq!(text(&Body::from_json(json)), shown, "{json}");
        }
    }
}
