//! The requests of the native dialect: each takes one object.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    dialects::args::{At, bad, bad_name, history, object, page_limit},
    domain::{
        name::{Emoji, MessageId, PublicId, UserId, UserName},
        position::{Epoch, Position},
        record::{Body, Change},
        reject::Reject,
        request::{Destination, NewChange, NewMessage, Request},
        room::RoomName,
        search::{Query, Search},
        user::Picture,
    },
};

/// The events that only clients of this dialect may send.
pub const NAMES: [&str; 11] = [
    "send", "edit", "delete", "react", "join", "leave", "rooms", "typing", "read", "profile",
    "search",
];

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SearchRequest {
    room: String,
    text: String,
    /// Only messages with a smaller `seq` are found.
    before: Option<u64>,
    limit: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SendRequest {
    room: Option<String>,
    /// The id of a user.
    to: Option<String>,
    /// The `socket.id` of a connection.
    socket: Option<String>,
    text: String,
    /// The client's own name for the message: with it, a retry shows once.
    id: Option<String>,
    except: Option<Except>,
}

/// Who is not told a message.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum Except {
    /// The connection that sends it.
    #[serde(rename = "me")]
    Me,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct JoinRequest {
    room: String,
    /// The last position that the client has.
    after: Option<At>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct LeaveRequest {
    room: String,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TypingRequest {
    room: String,
    typing: bool,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReadRequest {
    room: String,
    seq: u64,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ProfileRequest {
    name: Option<String>,
    picture: Option<String>,
}

/// The message to change: the same fields in each of these requests.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Target {
    room: String,
    epoch: String,
    /// The `seq` of the message to change.
    of: u64,
    /// The client's own name for the change: with it, a retry counts once.
    id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Edit {
    text: String,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct React {
    emoji: String,
    on: bool,
}

pub fn decode(
    event: &str,
    args: &[&RawValue],
    fresh_id: fn() -> MessageId,
) -> Option<Result<Request, Reject>> {
    Some(match event {
        "send" => send(args, fresh_id),
        "edit" => edit(args, fresh_id),
        "delete" => delete(args, fresh_id),
        "react" => react(args, fresh_id),
        "join" => join(args),
        "leave" => leave(args),
        "rooms" => Ok(Request::Rooms),
        "typing" => typing(args),
        "read" => read(args),
        "profile" => profile(args),
        "search" => search(args),
        "history" => history(args),
        _ => return None,
    })
}

fn send(args: &[&RawValue], fresh_id: fn() -> MessageId) -> Result<Request, Reject> {
    let shape = "send takes {room | to | socket, text, id?, except?: \"me\"}";
    let asked: SendRequest = object(args, shape)?;
    let repeatable = asked.id.is_some();
    let id = match asked.id {
        Some(id) => MessageId::parse(&id).map_err(bad_name)?,
        None => fresh_id(),
    };
    let text = serde_json::to_string(&asked.text).expect("a text is JSON");
    let body = Body::from_json(&text);
    let to = match (asked.room, asked.to, asked.socket) {
        (Some(room), None, None) => Destination::Room(RoomName::parse(&room).map_err(bad_name)?),
        (None, Some(user), None) => Destination::User(UserId::parse(&user).map_err(bad_name)?),
        (None, None, Some(id)) => Destination::Connection(PublicId::parse(&id).map_err(bad_name)?),
        _ => return Err(bad(format!("{shape}: a room, a user or a socket"))),
    };
    let except_me = matches!(asked.except, Some(Except::Me));
    Ok(Request::Send(NewMessage { repeatable, except_me, ..NewMessage::new(to, id, body) }))
}

fn join(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: JoinRequest = object(args, "join takes {room, after?: {epoch, seq}}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    let position = |at: At| Position { epoch: Epoch::new(&at.epoch), seq: at.seq };
    let after = asked.after.map(position);
    Ok(Request::Join { room, after })
}

fn typing(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: TypingRequest = object(args, "typing takes {room, typing}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    Ok(Request::Typing { room, typing: asked.typing })
}

fn read(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: ReadRequest = object(args, "read takes {room, seq}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    Ok(Request::MarkRead { room, seq: asked.seq })
}

fn profile(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: ProfileRequest = object(args, "profile takes {name?, picture?}")?;
    let name = asked.name.map(|name| UserName::parse(&name)).transpose().map_err(bad_name)?;
    let picture = asked.picture.map(|picture| Picture::parse(&picture)).transpose();
    let picture = picture.map_err(|why| bad(why.to_string()))?;
    Ok(Request::SetProfile { name, picture })
}

fn leave(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: LeaveRequest = object(args, "leave takes {room}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    Ok(Request::Leave { room })
}

fn search(args: &[&RawValue]) -> Result<Request, Reject> {
    let asked: SearchRequest = object(args, "search takes {room, text, before?: seq, limit?}")?;
    let room = RoomName::parse(&asked.room).map_err(bad_name)?;
    let query = Query::parse(&asked.text).map_err(|why| bad(why.to_string()))?;
    let limit = page_limit(asked.limit)?;
    Ok(Request::Search(Search { room, query, before: asked.before, limit }))
}

fn edit(args: &[&RawValue], fresh_id: fn() -> MessageId) -> Result<Request, Reject> {
    let shape = "edit takes {room, epoch, of, text, id?}";
    let target = object(args, shape)?;
    let Edit { text } = object(args, shape)?;
    let text = serde_json::to_string(&text).expect("a text is JSON");
    change(target, Change::Edit(Body::from_json(&text)), fresh_id)
}

fn delete(args: &[&RawValue], fresh_id: fn() -> MessageId) -> Result<Request, Reject> {
    let target = object(args, "delete takes {room, epoch, of, id?}")?;
    change(target, Change::Delete, fresh_id)
}

fn react(args: &[&RawValue], fresh_id: fn() -> MessageId) -> Result<Request, Reject> {
    let shape = "react takes {room, epoch, of, emoji, on, id?}";
    let target = object(args, shape)?;
    let React { emoji, on } = object(args, shape)?;
    let emoji = Emoji::parse(&emoji).map_err(bad_name)?;
    change(target, Change::React { emoji, on }, fresh_id)
}

fn change(target: Target, what: Change, fresh_id: fn() -> MessageId) -> Result<Request, Reject> {
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
        change: what,
        id,
        repeatable,
    }))
}
