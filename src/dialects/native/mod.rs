//! The dialect of our own page, of bots and of new frontends: docs/protocol.md is its contract.

pub mod events;
pub mod requests;

use serde_json::value::RawValue;

use self::events::{
    NativeChange, NativeMessage, PresenceEvent, ProfileEvent, ReadEvent, TypingEvent, change_name,
};
use super::{
    dialect::{Asker, Dialect, Features, LiveEvent},
    event::{Arguments, Event},
    offset::RecordOffset,
    page::PageMessage,
};
use crate::domain::{
    message::Message,
    record::{Entry, Record},
    reject::Reject,
    request::Request,
};

#[derive(Debug)]
pub struct Native;

impl Dialect for Native {
    fn name(&self) -> &str {
        "native"
    }

    fn features(&self) -> Features {
        Features {
            presence: true,
            joins_lobby: false,
            joins_accounts: false,
            own_direct: true,
            changes: true,
            join_has_missed: true,
        }
    }

    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        asker: &Asker<'_>,
    ) -> Option<Result<Request, Reject>> {
        requests::decode(event, args, asker.fresh_id)
    }

    fn record<'a>(&'a self, record: &'a Record, offset: &RecordOffset) -> Vec<Event<'a>> {
        let offset = offset.last();
        vec![match &record.entry {
            Entry::Message(body) => {
                let message = NativeMessage::original(record, body);
                Event::new("message", Arguments::Native(message, offset))
            }
            Entry::Change { target_seq, change } => {
                let event = NativeChange::new(record, *target_seq, change);
                Event::new(change_name(change), Arguments::Change(event, offset))
            }
        }]
    }

    fn live<'a>(&'a self, event: &LiveEvent<'a>) -> Vec<Event<'a>> {
        vec![match *event {
            LiveEvent::External(_)
            | LiveEvent::PassedOn(_)
            | LiveEvent::Hello
            | LiveEvent::OnlineAccounts(_)
            | LiveEvent::Tick(_) => {
                return Vec::new();
            }
            LiveEvent::Gap { room, epoch, from, to } => Event::gap(room, epoch, from, to),
            LiveEvent::NewEpoch(epoch) => Event::new_epoch(epoch),
            LiveEvent::Presence { room, change } => {
                Event::new("presence", Arguments::Presence(PresenceEvent::new(room, change)))
            }
            LiveEvent::Typing { room, user, typing } => {
                Event::new("typing", Arguments::Typing(TypingEvent::new(room, user, typing)))
            }
            LiveEvent::Read { room, user, seq } => {
                Event::new("read", Arguments::Read(ReadEvent::new(room, user, seq)))
            }
            LiveEvent::Profile(user) => {
                Event::new("profile", Arguments::Profile(ProfileEvent::new(user)))
            }
        }]
    }

    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a> {
        PageMessage::native(message)
    }
}
