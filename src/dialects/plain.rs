//! The dialect of plain frontends: `user-message x` comes back to everybody as `message x`.

use serde_json::value::RawValue;

use super::{
    args::{bad, bad_name, history},
    dialect::{Asker, Dialect, Features, LiveEvent},
    event::{Arguments, Event, RowArguments},
    json::raw,
    native::requests::NAMES,
    offset::RecordOffset,
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
    fn name(&self) -> &str {
        "plain"
    }

    fn features(&self) -> Features {
        Features { presence: false, joins_lobby: true, changes: false, join_has_missed: false }
    }

    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        asker: &Asker<'_>,
    ) -> Result<Request, Reject> {
        match event {
            "user-message" => user_message(args, asker.fresh_id),
            "history" => history(args),
            native if NAMES.contains(&native) => {
                Err(bad(format!("'{native}' is for clients that connect with ?dialect=native")))
            }
            unknown => {
                Err(bad(format!("there is no event '{unknown}'; docs/protocol.md lists them")))
            }
        }
    }

    fn record<'a>(&'a self, record: &'a Record, offset: &RecordOffset) -> Vec<Event<'a>> {
        match &record.entry {
            Entry::Message(body) => {
                let arguments =
                    RowArguments { arguments: vec![raw(body.as_json())], offset: offset.last() };
                vec![Event { name: "message".into(), arguments: Arguments::Row(arguments) }]
            }
            Entry::Change { .. } => Vec::new(),
        }
    }

    fn live<'a>(&'a self, event: &LiveEvent<'a>) -> Vec<Event<'a>> {
        vec![match *event {
            LiveEvent::External(body) => {
                let arguments = RowArguments { arguments: vec![raw(body.as_json())], offset: None };
                Event { name: "message".into(), arguments: Arguments::Row(arguments) }
            }
            LiveEvent::Gap { room, epoch, from, to } => Event::gap(room, epoch, from, to),
            LiveEvent::NewEpoch(epoch) => Event::new_epoch(epoch),
            LiveEvent::Presence { .. }
            | LiveEvent::Typing { .. }
            | LiveEvent::Read { .. }
            | LiveEvent::Profile(_)
            | LiveEvent::PassedOn(_)
            | LiveEvent::Hello => return Vec::new(),
        }]
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
