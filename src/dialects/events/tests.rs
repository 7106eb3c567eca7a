//! The built-in table, row by row, and what holds for every table.

mod built_in;
mod engine;
mod files;

use serde_json::value::RawValue;

use super::{
    table::{Profile, Table},
    values::{ToldEvent, ToldMessage},
};
use crate::dialects::dialect::Asker;
use crate::domain::{
    name::{MessageId, PublicId, UserId},
    position::Timestamp,
    record::{Body, SourceEvent},
    reject::Reject,
    request::{Delivery, Destination, EventRequest, NewMessage},
    room::RoomName,
};

const BYTES_MAX: usize = 32 << 10;
/// An id that counts as the client's own.
const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";
const SOCKET: &str = "3f29b05d640dc64c6fb5ed7089238fb7";

fn decided_by(
    profile: &Profile,
    packet: &str,
    me: Option<&str>,
) -> Option<Result<EventRequest, Reject>> {
    decided(profile, packet, me, true)
}

fn decided(
    profile: &Profile,
    packet: &str,
    me: Option<&str>,
    wants_ack: bool,
) -> Option<Result<EventRequest, Reject>> {
    let parts: Vec<&RawValue> = serde_json::from_str(packet).unwrap();
    let (name, args) = parts.split_first().unwrap();
    let name: String = serde_json::from_str(name.get()).unwrap();
    let user = UserId::parse("ann").unwrap();
    let public_id = PublicId::parse("0a").unwrap();
    let me = me.map(Body::from_json);
    let asker = Asker {
        user: &user,
        me: me.as_ref(),
        public_id: &public_id,
        wants_ack,
        message_bytes_max: BYTES_MAX,
        fresh_id: || MessageId::parse("fresh").unwrap(),
    };
    profile.decide(&name, args, &asker)
}

/// The profile with this name in the built-in table, with the rows of `file` added.
fn profile(file: &str, name: &str) -> Profile {
    let table = Table::parse(file, "rules.toml").unwrap_or_else(|error| panic!("{error}"));
    table.profiles().find(|profile| profile.name() == name).unwrap().clone()
}

fn name_of(to: &Destination) -> String {
    match to {
        Destination::Room(room) => room.to_string(),
        Destination::User(user) => format!("user {user}"),
        Destination::Connection(id) => format!("connection {id}"),
    }
}

/// What a row decides, in words: `me`, `join`, `leave`, what is stored or passed on, and the ack.
fn in_words(request: &EventRequest) -> String {
    let mut words = Vec::new();
    words.extend(request.me.as_ref().map(|me| format!("me {}", me.as_json())));
    words.extend(request.join.as_ref().map(|room| format!("join {}", name_of(room))));
    words.extend(request.leave.as_ref().map(|room| format!("leave {room}")));
    words.extend(request.delivery.as_ref().map(|delivery| match delivery {
        Delivery::Store(NewMessage { to, body, except_me, .. }) => {
            let others = if *except_me { " for others" } else { "" };
            format!("store in {}{others}: {}", name_of(to), body.as_json())
        }
        Delivery::PassOn { to, except_me, .. } => {
            format!("pass on in {}{}", name_of(to), if *except_me { " for others" } else { "" })
        }
    }));
    words.extend(request.ack.as_ref().map(|ack| format!("ack {}", ack.as_json())));
    words.join("; ")
}

/// The events as JSON arrays, one after the other.
fn as_json(events: &[ToldEvent]) -> String {
    let events = events.iter().map(|event| {
        let mut packet = vec![format!("{:?}", &*event.name)];
        packet.extend(event.arguments.iter().map(|argument| argument.get().to_owned()));
        format!("[{}]", packet.join(","))
    });
    events.collect::<Vec<_>>().join(" ")
}

fn told(profile: &Profile, body: &str, source: Option<&SourceEvent>) -> String {
    let (room, from) = (RoomName::lobby(), UserId::parse("ee8d0123").unwrap());
    let (id, body) = (MessageId::parse("m1").unwrap(), Body::from_json(body));
    let message = ToldMessage {
        room: &room,
        id: &id,
        from: &from,
        name: None,
        at: Timestamp(1_795),
        body: &body,
        source,
    };
    as_json(&profile.told(&message))
}

/// What others with `listener` are told when somebody with `sender` has sent `packet`.
fn heard(sender: &Profile, listener: &Profile, packet: &str, me: Option<&str>) -> String {
    let request = decided_by(sender, packet, me).unwrap().unwrap();
    match request.delivery {
        Some(Delivery::Store(message)) => {
            told(listener, message.body.as_json(), message.source.as_deref())
        }
        Some(Delivery::PassOn { source, .. }) => {
            let (room, from) = (RoomName::lobby(), UserId::parse("ee8d0123").unwrap());
            let (id, body) = (MessageId::parse("m1").unwrap(), Body::null());
            let (name, at) = (None, Timestamp(1_795));
            let message = ToldMessage {
                room: &room,
                id: &id,
                from: &from,
                name,
                at,
                body: &body,
                source: Some(&source),
            };
            as_json(&listener.passed_on(&source, &message))
        }
        None => String::new(),
    }
}
