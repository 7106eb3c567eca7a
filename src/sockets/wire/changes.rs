//! Requests that change earlier messages, and how history shows the changes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{
    message::{MessageState, MessageStatus},
    name::{Emoji, MessageId},
    position::Epoch,
    record::{Body, Change},
    reject::Reject,
    request::{NewChange, Request},
    room::RoomName,
};
use crate::sockets::wire::{bad_name, object};

/// The message to change: the same fields in each of these requests.
#[derive(Deserialize)]
struct Target {
    room: String,
    epoch: String,
    of: u64,
    id: Option<String>,
}

#[derive(Deserialize)]
struct Edit {
    text: String,
}

#[derive(Deserialize)]
struct React {
    emoji: String,
    on: bool,
}

pub fn edit(args: &[&RawValue], fresh_id: impl FnOnce() -> MessageId) -> Result<Request, Reject> {
    let shape = "edit takes {room, epoch, of, text, id?}";
    let target = object(args, shape)?;
    let Edit { text } = object(args, shape)?;
    let text = serde_json::to_string(&text).expect("a text is JSON");
    request(target, Change::Edit(Body::from_json(&text)), fresh_id)
}

pub fn delete(args: &[&RawValue], fresh_id: impl FnOnce() -> MessageId) -> Result<Request, Reject> {
    let target = object(args, "delete takes {room, epoch, of, id?}")?;
    request(target, Change::Delete, fresh_id)
}

pub fn react(args: &[&RawValue], fresh_id: impl FnOnce() -> MessageId) -> Result<Request, Reject> {
    let shape = "react takes {room, epoch, of, emoji, on, id?}";
    let target = object(args, shape)?;
    let React { emoji, on } = object(args, shape)?;
    let emoji = Emoji::parse(&emoji).map_err(bad_name)?;
    request(target, Change::React { emoji, on }, fresh_id)
}

fn request(
    target: Target,
    change: Change,
    fresh_id: impl FnOnce() -> MessageId,
) -> Result<Request, Reject> {
    let Target { room, epoch, of, id } = target;
    let repeatable = id.is_some();
    let id = match id {
        Some(id) => MessageId::parse(&id).map_err(bad_name)?,
        None => fresh_id(),
    };
    Ok(Request::Change(NewChange {
        room: RoomName::parse(&room).map_err(bad_name)?,
        epoch: Epoch::new(&epoch),
        target_seq: of,
        change,
        id,
        repeatable,
    }))
}

/// How history shows the changes of a message, beside its newest text.
#[derive(Serialize)]
pub struct ShownState<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reactions: Vec<Reactions<'a>>,
}

/// Everybody who reacts with one emoji.
#[derive(Serialize)]
struct Reactions<'a> {
    emoji: &'a str,
    users: Vec<&'a str>,
}

impl<'a> ShownState<'a> {
    pub fn new(state: &'a MessageState) -> Self {
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
