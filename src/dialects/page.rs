//! A message in a page of history, with what its changes made of it.

use serde::{Serialize, Serializer};

use super::{json::raw, native::events::NativeMessage};
use crate::domain::{
    message::{Message, MessageState, MessageStatus},
    record::Body,
};

/// A message as it is now.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PageMessage<'a> {
    #[serde(flatten)]
    shape: Shape<'a>,
    #[serde(flatten)]
    state: ShownState<'a>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged)]
enum Shape<'a> {
    Plain(PlainMessage<'a>),
    Native(NativeMessage<'a>),
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct PlainMessage<'a> {
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    id: &'a str,
    from: &'a str,
    /// What was sent, which is any JSON; `null` when the message was deleted.
    #[serde(serialize_with = "as_it_is")]
    #[cfg_attr(test, schema(value_type = serde_json::Value))]
    body: &'a Body,
    /// Milliseconds since 1970.
    at: u64,
}

impl<'a> PageMessage<'a> {
    pub fn plain(message: &'a Message) -> Self {
        let shape = Shape::Plain(PlainMessage::new(message));
        Self { shape, state: ShownState::new(&message.state) }
    }

    pub fn native(message: &'a Message) -> Self {
        let shape = Shape::Native(NativeMessage::new(message));
        Self { shape, state: ShownState::new(&message.state) }
    }
}

impl<'a> PlainMessage<'a> {
    fn new(message: &'a Message) -> Self {
        Self {
            room: message.room.as_str(),
            epoch: message.position.epoch.as_str(),
            seq: message.position.seq,
            id: message.id.as_str(),
            from: message.from.as_str(),
            body: &message.body,
            at: message.at.0,
        }
    }
}

/// How history shows the changes of a message, beside its newest text.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct ShownState<'a> {
    /// When the text was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<u64>,
    /// When the message was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<u64>,
    /// The emoji of the oldest reaction comes first. Left out when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schema(required = false))]
    reactions: Vec<Reactions<'a>>,
}

/// Everybody who reacts with one emoji.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Reactions<'a> {
    emoji: &'a str,
    users: Vec<&'a str>,
}

impl<'a> ShownState<'a> {
    fn new(state: &'a MessageState) -> Self {
        let mut shown = Self { edited: None, deleted: None, reactions: Vec::new() };
        match state.status {
            MessageStatus::Original => {}
            MessageStatus::Edited { at, .. } => shown.edited = Some(at.0),
            MessageStatus::Deleted { at } => shown.deleted = Some(at.0),
        }
        for (emoji, user) in &state.reactions {
            let (emoji, user) = (emoji.as_str(), user.as_str());
            match shown.reactions.iter_mut().find(|known| known.emoji == emoji) {
                Some(known) => known.users.push(user),
                None => shown.reactions.push(Reactions { emoji, users: vec![user] }),
            }
        }
        shown
    }
}

fn as_it_is<S: Serializer>(body: &Body, serializer: S) -> Result<S::Ok, S::Error> {
    raw(body.as_json()).serialize(serializer)
}
