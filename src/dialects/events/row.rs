//! One row of the rule table: what becomes of an event.
//!
//! A row decides twice. When the event comes in, it says where the event goes and what is stored.
//! When the event goes out, now or from the log, it renders the events that clients get.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{
    template::{Template, Word, array},
    values::{ToldEvent, ToldMessage, Values},
};
use crate::{
    dialects::{
        args::{bad, bad_name},
        dialect::Asker,
        text::{as_text, as_value, quoted, text_of},
    },
    domain::{
        name::{MessageId, PublicId, UserId, UserName},
        position::Timestamp,
        record::{Body, SourceEvent},
        reject::{Code, Reject},
        request::{Delivery, Destination, EventRequest, NewMessage},
        room::RoomName,
    },
};

/// Longest `$me`, in bytes of JSON.
pub const ME_BYTES_MAX: usize = 1024;
/// Hex digits of a public socket id. The form alone says that a name is one.
const PUBLIC_ID_DIGITS: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The row counts only if this is present.
    pub when: Option<Word>,
    pub me: Option<Template>,
    pub join: Option<Template>,
    pub leave: Option<Template>,
    pub room: Option<Template>,
    pub to: Option<Template>,
    /// Whether the event goes to the lobby if `room` is missing in it.
    pub lobby: bool,
    pub except_me: bool,
    /// Whether the event is stored.
    pub keep: bool,
    pub out: Vec<Out>,
    pub id: Option<Template>,
    pub ack: Option<Template>,
    pub text: Option<Template>,
    pub user: Option<Template>,
}

/// An event that goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    pub event: Arc<str>,
    /// `$*` alone stands for all arguments, one by one.
    pub arguments: Vec<Template>,
}

/// An event that came in, and the limits of what it may lead to.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub profile: &'a Arc<str>,
    pub event: &'a Arc<str>,
    pub args: &'a [&'a RawValue],
    pub asker: &'a Asker<'a>,
    pub storing: Storing,
}

/// What is stored of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storing {
    /// The text that others read, and the event beside it.
    Event,
    /// The first argument, as older releases do, and the event beside it.
    FirstArgument,
    /// The first argument alone: it says everything.
    FirstArgumentAlone,
}

impl Row {
    pub fn counts(&self, values: &Values<'_>) -> bool {
        self.when.as_ref().is_none_or(|word| word.is_present(values))
    }

    pub fn decide(&self, incoming: &Incoming<'_>) -> Result<EventRequest, Reject> {
        let before =
            Values { args: incoming.args, me: me_of(incoming.asker.me), ..Values::default() };
        let me = self.remembered(&before, incoming)?;
        let values = Values { me: me_of(me.as_ref()).or(before.me), ..before };
        let join = match &self.join {
            Some(template) => Some(destination(&needed("join", template, &values, incoming)?)?),
            None => None,
        };
        let leave = match &self.leave {
            Some(template) => Some(room(&needed("leave", template, &values, incoming)?)?),
            None => None,
        };
        let me_now = me.clone().or_else(|| incoming.asker.me.cloned());
        let (delivery, id) = match self.out.is_empty() {
            true => (None, None),
            false => {
                let id = self.id(&values, incoming);
                let delivery = self.delivery(&values, me_now, id.clone(), incoming)?;
                (Some(delivery), Some(id.0))
            }
        };
        let to = delivery.as_ref().map(delivery_name).or_else(|| join.as_ref().map(name_of));
        let values = Values { room: to, id: id.as_ref().map(MessageId::as_str), ..values };
        let ack = self.ack.as_ref().map(|template| template.render(&values));
        if ack.as_ref().is_some_and(|ack| ack.len() > incoming.asker.message_bytes_max) {
            return Err(too_large("the ack", incoming));
        }
        let ack = ack.as_deref().map(Body::from_json);
        Ok(EventRequest { me, join, leave, delivery, ack })
    }

    /// The events that clients are told.
    pub fn told(&self, values: &Values<'_>) -> Vec<ToldEvent> {
        self.out.iter().map(|out| out.told(values)).collect()
    }

    /// The name that the client claims to have.
    pub fn claimed_name(&self, values: &Values<'_>) -> Option<UserName> {
        let json = self.user.as_ref()?.render_present(values)?;
        UserName::parse(&text_of(&json)).ok()
    }

    /// What others read, as a JSON string.
    pub fn text(&self, values: &Values<'_>) -> Body {
        let json = match (&self.text, values.args.first()) {
            (Some(template), _) => template.render(values),
            (None, Some(first)) => first.get().to_owned(),
            (None, None) => "\"\"".to_owned(),
        };
        if json.starts_with('"') {
            return Body::from_json(&json);
        }
        Body::from_json(&quoted(&text_of(&json)))
    }

    fn remembered(
        &self,
        values: &Values<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Option<Body>, Reject> {
        let Some(template) = &self.me else { return Ok(None) };
        let json = template.render(values);
        if json.len() > ME_BYTES_MAX {
            let event = incoming.event;
            let message =
                format!("'{event}': what is remembered has more than {ME_BYTES_MAX} bytes");
            return Err(Reject::new(Code::TooLarge, message));
        }
        Ok((json != "null").then(|| Body::from_json(&json)))
    }

    fn delivery(
        &self,
        values: &Values<'_>,
        me: Option<Body>,
        (id, repeatable): (MessageId, bool),
        incoming: &Incoming<'_>,
    ) -> Result<Delivery, Reject> {
        let to = self.destination(values, incoming)?;
        let body = match incoming.storing {
            Storing::Event => self.text(values),
            Storing::FirstArgument | Storing::FirstArgumentAlone => {
                let missing =
                    || bad(format!("{} takes the message as its argument", incoming.event));
                Body::from_json(incoming.args.first().ok_or_else(missing)?.get())
            }
        };
        let source = match incoming.storing {
            Storing::FirstArgumentAlone => None,
            Storing::Event | Storing::FirstArgument => {
                Some(self.source(values, me, &to, &id, &body, incoming)?)
            }
        };
        let except_me = self.except_me;
        match source {
            Some(source) if !self.keep => Ok(Delivery::PassOn { to, source, except_me }),
            source => {
                let (members_only, claimed_name) = (false, self.claimed_name(values));
                Ok(Delivery::Store(NewMessage {
                    to,
                    id,
                    repeatable,
                    body,
                    except_me,
                    members_only,
                    source,
                    claimed_name,
                }))
            }
        }
    }

    fn destination(
        &self,
        values: &Values<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Destination, Reject> {
        if let Some(template) = &self.to {
            let user = needed("to", template, values, incoming)?;
            return UserId::parse(&user).map(Destination::User).map_err(bad_name);
        }
        match &self.room {
            None => Ok(Destination::Room(RoomName::lobby())),
            Some(template) => match named(template, values)? {
                Some(name) => destination(&name),
                None if self.lobby => Ok(Destination::Room(RoomName::lobby())),
                None => Err(missing("room", template, incoming)),
            },
        }
    }

    /// The client's id of the message and `true`, or an id that is made up.
    fn id(&self, values: &Values<'_>, incoming: &Incoming<'_>) -> (MessageId, bool) {
        let own = || {
            let json = self.id.as_ref().filter(|_| incoming.asker.wants_ack)?.render(values);
            let id = as_text(&json).filter(|id| is_message_id(id))?;
            MessageId::parse(&id).ok()
        };
        own().map_or_else(|| ((incoming.asker.fresh_id)(), false), |id| (id, true))
    }

    /// The event, if what clients are told of it is within the limit.
    fn source(
        &self,
        values: &Values<'_>,
        me: Option<Body>,
        to: &Destination,
        id: &MessageId,
        body: &Body,
        incoming: &Incoming<'_>,
    ) -> Result<Arc<SourceEvent>, Reject> {
        let arguments = Body::from_json(&array(incoming.args));
        let longest = [arguments.as_json(), body.as_json()].map(str::len);
        let me_bytes = me.as_ref().map_or(0, |me| me.as_json().len());
        let value_bytes = longest.into_iter().max().unwrap_or_default().max(me_bytes);
        let mut bytes_max = arguments.as_json().len();
        if self.bytes_max(value_bytes) > incoming.asker.message_bytes_max {
            let lobby = RoomName::lobby();
            let (from, at) = (incoming.asker.user, Timestamp(u64::MAX));
            let message =
                ToldMessage { room: &lobby, id, from, name: None, at, body, source: None };
            let values =
                Values { room: Some(name_of(to)), ..message.values(values.args, values.me) };
            let told = self.told(&values);
            bytes_max = bytes_max.max(told.iter().map(ToldEvent::bytes).sum());
        }
        if bytes_max > incoming.asker.message_bytes_max {
            return Err(too_large("the message", incoming));
        }
        let (profile, event) = (Arc::clone(incoming.profile), Arc::clone(incoming.event));
        Ok(Arc::new(SourceEvent { profile, event, arguments, me }))
    }

    /// Bytes that the events cannot exceed.
    fn bytes_max(&self, value_bytes: usize) -> usize {
        let arguments = self.out.iter().flat_map(|out| &out.arguments);
        let names: usize = self.out.iter().map(|out| out.event.len()).sum();
        arguments.map(|template| template.bytes_max(value_bytes)).fold(names, usize::saturating_add)
    }
}

impl Out {
    pub fn told(&self, values: &Values<'_>) -> ToldEvent {
        // The caller appends an offset.
        let mut arguments = Vec::with_capacity(self.arguments.len() + 1);
        for template in &self.arguments {
            if *template == Template::Value(Word::All) {
                arguments.extend(values.args.iter().map(|value| RawValue::to_owned(value)));
            } else {
                arguments.push(template.argument(values));
            }
        }
        ToldEvent { name: Arc::clone(&self.event), arguments }
    }
}

impl ToldEvent {
    fn bytes(&self) -> usize {
        self.name.len() + self.arguments.iter().map(|argument| argument.get().len()).sum::<usize>()
    }
}

fn me_of(me: Option<&Body>) -> Option<&RawValue> {
    as_value(me?.as_json())
}

/// The name in a field that needs one.
fn needed(
    field: &str,
    template: &Template,
    values: &Values<'_>,
    incoming: &Incoming<'_>,
) -> Result<String, Reject> {
    named(template, values)?.ok_or_else(|| missing(field, template, incoming))
}

/// The name that a template gives: a text, or a number as its JSON. `None`: there is none.
fn named(template: &Template, values: &Values<'_>) -> Result<Option<String>, Reject> {
    let Some(json) = template.render_present(values) else { return Ok(None) };
    let name = match as_text(&json) {
        Some(text) => text.trim().to_owned(),
        None if json.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => json,
        None => return Err(bad(format!("{template} is a name, so it is text or a number"))),
    };
    Ok((!name.is_empty()).then_some(name))
}

fn missing(field: &str, template: &Template, incoming: &Incoming<'_>) -> Reject {
    bad(format!("'{}' needs {template} for its {field}, and it is missing", incoming.event))
}

fn too_large(what: &str, incoming: &Incoming<'_>) -> Reject {
    let Incoming { event, asker, .. } = incoming;
    let bytes_max = asker.message_bytes_max;
    Reject::new(Code::TooLarge, format!("'{event}': {what} has more than {bytes_max} bytes"))
}

fn room(name: &str) -> Result<RoomName, Reject> {
    RoomName::parse(name).map_err(bad_name)
}

/// A room, or a connection if the name has the form of a public socket id.
fn destination(name: &str) -> Result<Destination, Reject> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if name.len() == PUBLIC_ID_DIGITS && name.bytes().all(is_hex) {
        return PublicId::parse(name).map(Destination::Connection).map_err(bad_name);
    }
    room(name).map(Destination::Room)
}

fn name_of(destination: &Destination) -> &str {
    match destination {
        Destination::Room(room) => room.as_str(),
        Destination::User(user) => user.as_str(),
        Destination::Connection(id) => id.as_str(),
    }
}

fn delivery_name(delivery: &Delivery) -> &str {
    match delivery {
        Delivery::Store(NewMessage { to, .. }) | Delivery::PassOn { to, .. } => name_of(to),
    }
}

/// Whether a text has the form of an id: a UUID, 16 or more hex digits, or the client offset of
/// Socket.IO's tutorial, `<20 to 36 of A-Z a-z 0-9 _ ->-<digits>`. Any other text may be what a
/// frontend sends for its own reasons, such as the name of a room.
fn is_message_id(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let parts: Vec<&str> = text.split('-').collect();
    let is_uuid = parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| is_hex(part));
    let is_offset = text.rsplit_once('-').is_some_and(|(start, number)| {
        (20..=36).contains(&start.len())
            && start.bytes().all(is_word)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    is_uuid || is_offset || (text.len() >= 16 && is_hex(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_of_three_forms() {
        for id in [
            "550e8400-e29b-41d4-a716-446655440000",
            "0123456789ABCDEF",
            &"a".repeat(64),
            "3f29b05d640dc64c6fb5ed7089238fb7-0",
            "Zx_9-aaaaaaaaaaaaaaa-17",
        ] {
            assert!(is_message_id(id), "{id}");
        }
        for other in [
            "",
            "general",
            "m1",
            "0123456789abcde",
            "0123456789abcdeg",
            "short-1",
            "3f29b05d640dc64c6fb5ed7089238fb7-",
            "3f29b05d640dc64c6fb5ed7089238fb7-x",
            "a room with a long name-12",
            "550e8400-e29b-41d4-a716",
        ] {
            assert!(!is_message_id(other), "{other}");
        }
    }
}
