//! The dialect of our own page, of bots and of new frontends: docs/protocol.md is its contract.

pub mod events;
pub mod requests;

use serde_json::value::RawValue;

use self::events::{
    NativeChange, NativeMessage, PresenceEvent, ProfileEvent, ReadEvent, TypingEvent, change_name,
};
use super::{
    dialect::{Dialect, Features, LiveEvent},
    event::{Arguments, Event},
    page::PageMessage,
};
use crate::domain::{
    message::Message,
    name::MessageId,
    record::{Entry, Record},
    reject::Reject,
    request::Request,
};

#[derive(Debug)]
pub struct Native;

impl Dialect for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn features(&self) -> Features {
        Features { presence: true, personal_room: true, joins_lobby: false }
    }

    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        fresh_id: fn() -> MessageId,
    ) -> Result<Request, Reject> {
        requests::decode(event, args, fresh_id)
    }

    fn record<'a>(&self, record: &'a Record, offset: String) -> Option<Event<'a>> {
        let (name, arguments) = match &record.entry {
            Entry::Message(body) => {
                ("message", Arguments::Native(NativeMessage::original(record, body), offset))
            }
            Entry::Change { target_seq, change } => {
                let event = NativeChange::new(record, *target_seq, change);
                (change_name(change), Arguments::Change(event, offset))
            }
        };
        Some(Event { name, arguments })
    }

    fn live<'a>(&self, event: &LiveEvent<'a>) -> Option<Event<'a>> {
        let (name, arguments) = match *event {
            LiveEvent::External(_) => return None,
            LiveEvent::Gap { room, epoch, from, to } => {
                return Some(Event::gap(room, epoch, from, to));
            }
            LiveEvent::NewEpoch(epoch) => return Some(Event::new_epoch(epoch)),
            LiveEvent::Presence { room, change } => {
                ("presence", Arguments::Presence(PresenceEvent::new(room, change)))
            }
            LiveEvent::Typing { room, user, typing } => {
                ("typing", Arguments::Typing(TypingEvent::new(room, user, typing)))
            }
            LiveEvent::Read { room, user, seq } => {
                ("read", Arguments::Read(ReadEvent::new(room, user, seq)))
            }
            LiveEvent::Profile(user) => ("profile", Arguments::Profile(ProfileEvent::new(user))),
        };
        Some(Event { name, arguments })
    }

    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a> {
        PageMessage::native(message)
    }
}
