//! The dialect of plain frontends: `user-message x` comes back to everybody as `message x`.

use serde_json::value::RawValue;

use super::{
    args::{bad, bad_name, history},
    dialect::{Dialect, Features, LiveEvent},
    event::{Arguments, Event},
    json::raw,
    native::requests::NAMES,
    page::PageMessage,
};
use crate::domain::{
    message::Message,
    name::MessageId,
    record::{Body, Entry, Record},
    reject::Reject,
    request::{Destination, NewMessage, Request},
    room::RoomName,
};

#[derive(Debug)]
pub struct Plain;

impl Dialect for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn features(&self) -> Features {
        Features { presence: false, personal_room: false, joins_lobby: true }
    }

    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        fresh_id: fn() -> MessageId,
    ) -> Result<Request, Reject> {
        match event {
            "user-message" => user_message(args, fresh_id),
            "history" => history(args),
            native if NAMES.contains(&native) => {
                Err(bad(format!("'{native}' is for clients that connect with ?dialect=native")))
            }
            unknown => {
                Err(bad(format!("there is no event '{unknown}'; docs/protocol.md lists them")))
            }
        }
    }

    fn record<'a>(&self, record: &'a Record, offset: String) -> Option<Event<'a>> {
        match &record.entry {
            Entry::Message(body) => {
                let arguments = Arguments::Plain(raw(body.as_json()), offset);
                Some(Event { name: "message", arguments })
            }
            Entry::Change { .. } => None,
        }
    }

    fn live<'a>(&self, event: &LiveEvent<'a>) -> Option<Event<'a>> {
        match *event {
            LiveEvent::External(body) => {
                let arguments = Arguments::External(raw(body.as_json()), ());
                Some(Event { name: "message", arguments })
            }
            LiveEvent::Gap { room, epoch, from, to } => Some(Event::gap(room, epoch, from, to)),
            LiveEvent::NewEpoch(epoch) => Some(Event::new_epoch(epoch)),
            LiveEvent::Presence { .. }
            | LiveEvent::Typing { .. }
            | LiveEvent::Read { .. }
            | LiveEvent::Profile(_) => None,
        }
    }

    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a> {
        PageMessage::plain(message)
    }
}

fn user_message(args: &[&RawValue], fresh_id: fn() -> MessageId) -> Result<Request, Reject> {
    let Some(body) = args.first() else {
        return Err(bad("user-message takes the message as its argument"));
    };
    let id = match args.get(1) {
        None => fresh_id(),
        Some(id) => {
            let id: String = serde_json::from_str(id.get())
                .map_err(|_not_a_string| bad("the second argument, the message id, is text"))?;
            MessageId::parse(&id).map_err(bad_name)?
        }
    };
    let body = Body::from_json(body.get());
    let (to, repeatable) = (Destination::Room(RoomName::lobby()), args.len() > 1);
    Ok(Request::Send(NewMessage { repeatable, ..NewMessage::new(to, id, body) }))
}
