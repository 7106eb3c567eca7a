//! The dialects of the rule table: one for each profile.
//!
//! `events/` says which events come from which; here they become events of a connection, each with
//! its offset.

use std::time::Duration;

use serde_json::value::RawValue;

use super::{
    args::history,
    dialect::{Asker, Dialect, Features, LiveEvent},
    event::{Arguments, Event, RowArguments},
    events::{
        table::Profile,
        values::{ToldEvent, ToldMessage},
    },
    offset::RecordOffset,
    page::PageMessage,
};
use crate::domain::{
    message::Message,
    name::{MessageId, UserId},
    position::Timestamp,
    record::{Body, Entry, PassedEvent, Record},
    reject::Reject,
    request::Request,
    room::RoomName,
};

/// Who is said to have published a text onto the lobby's Redis channel.
const EXTERNAL: &str = "external";

#[derive(Debug)]
pub struct RowDialect(pub &'static Profile);

impl Dialect for RowDialect {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn features(&self) -> Features {
        Features {
            presence: false,
            joins_lobby: true,
            joins_accounts: false,
            own_direct: true,
            changes: false,
            join_has_missed: false,
        }
    }

    fn decode(
        &self,
        event: &str,
        args: &[&RawValue],
        asker: &Asker<'_>,
    ) -> Option<Result<Request, Reject>> {
        match self.0.decide(event, args, asker) {
            Some(decided) => Some(decided.map(Request::Event)),
            None if event == "history" => Some(history(args)),
            None => None,
        }
    }

    fn record<'a>(&'a self, record: &'a Record, offset: &RecordOffset) -> Vec<Event<'a>> {
        match &record.entry {
            Entry::Message(body) => {
                let Record { room, id, from, at, .. } = record;
                let (name, source) = (record.name.as_ref(), record.source.as_deref());
                let message = ToldMessage { room, id, from, name, at: *at, body, source };
                let told = self.0.told(&message);
                let count = told.len();
                let told = told.into_iter().enumerate();
                told.map(|(index, told)| event(told, offset.of(index, count))).collect()
            }
            Entry::Change { .. } => Vec::new(),
        }
    }

    fn live<'a>(&'a self, live: &LiveEvent<'a>) -> Vec<Event<'a>> {
        let told = match *live {
            LiveEvent::External(body) => self.external(body),
            LiveEvent::PassedOn(passed) => self.passed_on(passed),
            LiveEvent::Hello => self.0.hello(),
            LiveEvent::Tick(index) => {
                self.0.every().nth(index).map(|(_, told)| told).into_iter().collect()
            }
            // Such a client knows nothing of the room of its user.
            LiveEvent::Gap { room, .. } if room.is_personal() => return Vec::new(),
            LiveEvent::Gap { room, epoch, from, to } => {
                return vec![Event::gap(room, epoch, from, to)];
            }
            LiveEvent::NewEpoch(epoch) => return vec![Event::new_epoch(epoch)],
            LiveEvent::Presence { .. }
            | LiveEvent::Typing { .. }
            | LiveEvent::Read { .. }
            | LiveEvent::Profile(_)
            | LiveEvent::OnlineAccounts(_) => return Vec::new(),
        };
        told.into_iter().map(|told| event(told, None)).collect()
    }

    fn ticks(&self) -> Vec<Duration> {
        self.0.every().map(|(period, _)| period).collect()
    }

    fn page_message<'a>(&self, message: &'a Message) -> PageMessage<'a> {
        PageMessage::plain(message)
    }
}

impl RowDialect {
    fn external(&self, body: &Body) -> Vec<ToldEvent> {
        let id = MessageId::parse(EXTERNAL).expect("a short word");
        let from = UserId::parse(EXTERNAL).expect("a short word");
        self.0.told(&ToldMessage {
            room: &RoomName::lobby(),
            id: &id,
            from: &from,
            name: None,
            at: Timestamp(0),
            body,
            source: None,
        })
    }

    fn passed_on(&self, passed: &PassedEvent) -> Vec<ToldEvent> {
        let PassedEvent { room, from, id, at, except: _, source } = passed;
        let message = ToldMessage {
            room,
            id,
            from,
            name: None,
            at: *at,
            body: &Body::null(),
            source: Some(source),
        };
        self.0.passed_on(source, &message)
    }
}

fn event(told: ToldEvent, offset: Option<String>) -> Event<'static> {
    let ToldEvent { name, arguments } = told;
    let arguments = Arguments::Row(RowArguments { arguments, offset });
    Event { name: name.to_string().into(), arguments }
}
