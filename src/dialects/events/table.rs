//! The rule table: what becomes of the events of frontends, profile by profile.
//!
//! A table does not change once it is parsed. It awaits nothing and has no clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::value::RawValue;

use super::{
    row::{Incoming, Out, Row, Storing},
    template::{Template, Word},
    values::{ToldEvent, ToldMessage, Values},
};
use crate::{
    dialects::{args::bad, dialect::Asker, text::as_value},
    domain::{
        record::{Body, SourceEvent},
        reject::Reject,
        request::EventRequest,
    },
};

/// The name of the default profile.
pub const DEFAULT_PROFILE: &str = "plain";
/// The event of which the body alone is stored, as older releases did.
const CLASSIC_EVENT: &str = "user-message";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub(super) default: Profile,
    pub(super) others: BTreeMap<Arc<str>, Profile>,
    /// Which profile the pages of an origin get.
    pub(super) origins: BTreeMap<String, Arc<str>>,
    pub(super) namespaces: Vec<String>,
}

/// A table of its own. A connection has one profile for life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub(super) name: Arc<str>,
    /// How messages that no row of this profile has made are told.
    pub(super) say: Out,
    pub(super) on: BTreeMap<Arc<str>, Vec<Row>>,
    pub(super) hello: Vec<Out>,
    pub(super) every: Vec<Tick>,
}

/// An event that all connections get again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    pub period: Duration,
    pub out: Out,
}

impl Table {
    /// The default profile first, the others by name.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        std::iter::once(&self.default).chain(self.others.values())
    }

    /// The name of the profile that pages of `origin` get, such as `http://localhost:3000`.
    pub fn profile_of_origin(&self, origin: &str) -> Option<&str> {
        self.origins.get(origin).map(AsRef::as_ref)
    }

    /// Namespaces beside `/` that are accepted.
    pub fn namespaces(&self) -> &[String] {
        &self.namespaces
    }

    /// Rows of all profiles.
    pub fn rows(&self) -> usize {
        self.profiles().flat_map(|profile| profile.on.values()).map(Vec::len).sum()
    }
}

impl Profile {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What becomes of an event. `None`: this profile has no row for it. The limit of a message's
    /// bytes holds for the JSON of the arguments, and for that of all events that go out, each
    /// counted once.
    pub fn decide(
        &self,
        event: &str,
        args: &[&RawValue],
        asker: &Asker<'_>,
    ) -> Option<Result<EventRequest, Reject>> {
        let (event, rows) = self.on.get_key_value(event)?;
        let me = asker.me.and_then(|me| as_value(me.as_json()));
        let values = Values { args, me, ..Values::default() };
        let Some(row) = rows.iter().find(|row| row.counts(&values)) else {
            return Some(Err(no_row_counts(event, rows)));
        };
        let (profile, storing) = (&self.name, self.storing(event, rows));
        let incoming = Incoming { profile, event, args, asker, storing };
        Some(row.decide(&incoming))
    }

    /// The events by which clients of this profile are told a stored message: by the row of its
    /// source event, if the source has this profile's name and the row still exists, else by `say`.
    pub fn told(&self, message: &ToldMessage<'_>) -> Vec<ToldEvent> {
        let by_row = match message.source {
            Some(source) => self.by_row_of(source, message, true),
            None => self.by_classic_row(message),
        };
        by_row.unwrap_or_else(|| vec![self.say.told(&message.values(&[], None))])
    }

    /// The events by which clients of this profile are told what is passed on and not stored. There
    /// are none for an event of another profile.
    pub fn passed_on(&self, source: &SourceEvent, message: &ToldMessage<'_>) -> Vec<ToldEvent> {
        let text = self.with_row(source, Row::text).unwrap_or_else(Body::null);
        let message = ToldMessage { body: &text, ..*message };
        self.by_row_of(source, &message, false).unwrap_or_default()
    }

    /// The events that a new connection gets.
    pub fn hello(&self) -> Vec<ToldEvent> {
        self.hello.iter().map(|out| out.told(&Values::default())).collect()
    }

    /// The events that all connections get again and again, with their period.
    pub fn every(&self) -> impl Iterator<Item = (Duration, ToldEvent)> {
        self.every.iter().map(|tick| (tick.period, tick.out.told(&Values::default())))
    }

    fn is_default(&self) -> bool {
        &*self.name == DEFAULT_PROFILE
    }

    fn by_row_of(
        &self,
        source: &SourceEvent,
        message: &ToldMessage<'_>,
        is_stored: bool,
    ) -> Option<Vec<ToldEvent>> {
        self.with_row(source, |row, values| {
            let values = message.values(values.args, values.me);
            (row.keep == is_stored && !row.out.is_empty()).then(|| row.told(&values))
        })?
    }

    /// Calls `then` with the row that counts for a source event of this profile.
    fn with_row<T>(
        &self,
        source: &SourceEvent,
        then: impl FnOnce(&Row, &Values<'_>) -> T,
    ) -> Option<T> {
        if source.profile != self.name {
            return None;
        }
        let rows = self.on.get(&source.event)?;
        let args: Vec<&RawValue> = serde_json::from_str(source.arguments.as_json()).ok()?;
        let me = source.me.as_ref().and_then(|me| as_value(me.as_json()));
        let values = Values { args: &args, me, ..Values::default() };
        let row = rows.iter().find(|row| row.counts(&values))?;
        Some(then(row, &values))
    }

    /// A body without a source that is no text can only have come with the classic event.
    fn by_classic_row(&self, message: &ToldMessage<'_>) -> Option<Vec<ToldEvent>> {
        let body = message.body.as_json();
        if body.starts_with('"') || !self.is_default() {
            return None;
        }
        let args = [as_value(body)?];
        let values = message.values(&args, None);
        let row = self.on.get(CLASSIC_EVENT)?.iter().find(|row| row.counts(&values))?;
        (row.keep && !row.out.is_empty()).then(|| row.told(&values))
    }

    /// The body of the classic event says everything if its one row tells it just as `say` would.
    fn storing(&self, event: &str, rows: &[Row]) -> Storing {
        if event != CLASSIC_EVENT || !self.is_default() {
            return Storing::Event;
        }
        let [row] = rows else { return Storing::FirstArgument };
        let first = Template::Value(Word::Argument { index: 0, path: Vec::new() });
        let text = Template::Value(Word::Text);
        let is_echo = row.keep
            && row.when.is_none()
            && row.user.is_none()
            && matches!(&*row.out, [out] if out.event == self.say.event && out.arguments == [first])
            && self.say.arguments == [text];
        if is_echo { Storing::FirstArgumentAlone } else { Storing::FirstArgument }
    }
}

fn no_row_counts(event: &str, rows: &[Row]) -> Reject {
    let wanted: Vec<String> =
        rows.iter().filter_map(|row| row.when.as_ref()).map(ToString::to_string).collect();
    bad(format!("'{event}' needs {}, and it is missing or empty", wanted.join(" or ")))
}
